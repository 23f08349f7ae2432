"""Adapters that differ from module to module, that lack their other half, and weights that are no numbers."""

import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.interop import formats, hf_config
from igllm_jax.interop.adapter_config import read_adapter_config
from igllm_jax.interop.files import open_weights
from igllm_jax.interop.importing import run
from igllm_jax.interop.sources import ImportRequest
from igllm_jax.weights import base_folder
from tests.interop import made

MODEL = made.model()
KERNEL = "decoder/layers/{}/kernel"


def folders(tmp_path, arrays, **changes):
    """vision, decoder and adapter folders. changes: of adapter_config.json."""
    adapter = made.adapter(tmp_path / "a", MODEL, arrays)
    made.put_json(adapter / "adapter_config.json", {**hf_config.lora_to_json(MODEL.lora, base_model="x"), **changes})
    plain = {
        "vision": made.vision(tmp_path / "v", MODEL, arrays),
        "decoder": made.decoder(tmp_path / "d", MODEL, arrays),
    }
    return {**plain, "adapter": adapter}


def kernels(tmp_path, **sources):
    run(ImportRequest(out=tmp_path / "base", **sources))
    return {name: base_folder.read_array(tmp_path / "base", KERNEL.format(name)) for name in "qkv"}


def test_layers_ranks_and_scales_of_their_own_merge(tmp_path):
    """Layer 1 has no LoRA, k none anywhere, q of layer 2 another rank, v another alpha."""
    arrays = made.params(MODEL)
    changes = {
        "layers_to_transform": [0, 2],
        "rank_pattern": {"k_proj": 0, r"layers\.2\.self_attn\.q_proj": 2},
        "alpha_pattern": {"v_proj": 11.0},
    }
    sources = folders(tmp_path, arrays, **changes)
    named = made.tensors(formats.peft("none", "none"), arrays)
    kept = {n: a for n, a in named.items() if ".layers.1." not in n and "k_proj" not in n}
    for side, cut in (("A", np.s_[:2]), ("B", np.s_[:, :2])):
        name = f"base_model.model.model.layers.2.self_attn.q_proj.lora_{side}.weight"
        kept[name] = kept[name][cut]
    made.save(kept, sources["adapter"] / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"of different ranks or scales, or on some layers only.*--merge_lora"):
        run(ImportRequest(out=tmp_path / "apart", **sources))
    found = kernels(tmp_path, merge_lora=True, **sources)
    for name in "qkv":
        base = arrays[KERNEL.format(name)]
        for layer in range(3):
            rank = {"q": 2 if layer == 2 else 3, "k": 0, "v": 3}[name] if layer != 1 else 0
            alpha = 11.0 if name == "v" else 5.0
            a, b = (arrays[f"decoder/layers/{name}/lora_{side}"][layer] for side in "ab")
            expected = base[layer] + (a[:, :rank] @ b[:rank] * (alpha / rank) if rank else 0)
            np.testing.assert_allclose(found[name][layer], expected, atol=1e-6)


def test_a_tensor_where_the_config_says_none_is_told(tmp_path):
    sources = folders(tmp_path, made.params(MODEL), layers_to_transform=[0, 2])
    with pytest.raises(UserError, match=r"14 tensors are unknown: .*layers\.1\.self_attn\.q_proj\.lora_A"):
        run(ImportRequest(out=tmp_path / "base", merge_lora=True, **sources))


def test_an_adapter_without_its_other_half_is_an_error(tmp_path):
    sources = folders(tmp_path, made.params(MODEL))
    (sources["adapter"] / "non_lora_trainables.safetensors").unlink()
    (sources["adapter"] / "config.json").unlink()
    with pytest.raises(UserError, match=r"/a holds LoRA alone: the projector trained with it is missing.*--lora_only"):
        run(ImportRequest(out=tmp_path / "base", **sources))
    run(ImportRequest(out=tmp_path / "base", lora_only=True, **sources))
    assert base_folder.read_config(tmp_path / "base").head == "none"


@pytest.mark.parametrize("wrapped", ["", ".modules_to_save.default"])
def test_hugging_faces_projector_saved_whole_by_peft(tmp_path, wrapped):
    arrays = made.params(MODEL)
    both = {**arrays, **made.params(made.model(projector="mlp2x_gelu"))}
    sources = folders(tmp_path, arrays, modules_to_save=["multi_modal_projector"])
    named = made.tensors(formats.peft("mlp2x_gelu", "none", in_llava=True), both)
    named = {n.replace("multi_modal_projector.", f"multi_modal_projector{wrapped}."): a for n, a in named.items()}
    made.save(named, sources["adapter"] / "adapter_model.safetensors")
    (sources["adapter"] / "non_lora_trainables.safetensors").unlink()
    (sources["adapter"] / "config.json").unlink()
    run(ImportRequest(out=tmp_path / "base", **sources))
    assert base_folder.read_config(tmp_path / "base").projector == "mlp2x_gelu"
    for path in ("projector/linear1/kernel", "projector/linear2/bias"):
        np.testing.assert_array_equal(base_folder.read_array(tmp_path / "base", path), both[path])


@pytest.mark.parametrize(
    ("path", "value", "settings", "told"),
    [
        ("decoder/layers/up/kernel", np.nan, {}, r"layers\.\d\.mlp\.up_proj\.weight holds values that are not finite"),
        ("vision/class_embedding", np.inf, {}, "embeddings.class_embedding holds values that are not finite"),
        ("decoder/layers/q/lora_a", 1e38, {"merge_lora": True}, "q_proj.weight, merged with its LoRA, holds values"),
        ("decoder/embedding", 1e9, {"dtype": "float16"}, "embed_tokens.weight has values that float16 can't hold"),
    ],
)
def test_weights_that_are_not_finite_are_named(tmp_path, path, value, settings, told):
    arrays = dict(made.params(MODEL))
    arrays[path] = np.full_like(arrays[path], value)
    if path.endswith("lora_a"):
        arrays["decoder/layers/q/lora_b"] = np.full_like(arrays["decoder/layers/q/lora_b"], value)
    with pytest.raises(UserError, match=told):
        run(ImportRequest(out=tmp_path / "base", **settings, **folders(tmp_path, arrays)))
    assert not list(tmp_path.glob("base*"))


def test_a_torch_tensor_without_values_is_named(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"x": torch.ones(3, dtype=torch.complex64), "y": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    assert open_weights(tmp_path).read("y").tolist() == [1, 1, 1]
    assert not open_weights(tmp_path).infos["x"].is_float


@pytest.mark.parametrize(
    "rows", [{"embed_tokens": [5, 6]}, {"embed_tokens": [5], "lm_head": [6]}, {"q_proj": [5]}, "x"]
)
def test_rows_of_one_token_alone(rows):
    described = hf_config.lora_to_json(MODEL.lora, base_model="x", rows=rows)
    with pytest.raises(UserError, match="one token of both tables is expected"):
        read_adapter_config(described, "here")
    assert read_adapter_config({**described, "trainable_token_indices": [7]}, "here").number_row == 7


def test_rows_of_a_token_far_beyond_the_decoder(tmp_path):
    sources = folders(tmp_path, made.params(MODEL), trainable_token_indices={"embed_tokens": [9999]})
    with pytest.raises(UserError, match="has rows of token 9999, and the decoder 331 rows"):
        run(ImportRequest(out=tmp_path / "base", **sources))
