"""Importing folders made from our own parameters by the tables; tests/parity holds the tables against torch."""

import os
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.interop import formats as tables
from igllm_jax.interop import hf_config, hf_decoder
from igllm_jax.interop.importing import find_tokenizer, run
from igllm_jax.interop.sources import ImportPlan, ImportRequest
from igllm_jax.models import lora
from igllm_jax.models.lora import NO_LORA
from igllm_jax.weights import base_folder
from tests.bases import read_arrays
from tests.interop import made


@pytest.fixture(scope="module")
def model():
    return made.model()


@pytest.fixture(scope="module")
def folders(tmp_path_factory, model):
    """vision, decoder and adapter folders of one model."""
    folder, arrays = tmp_path_factory.mktemp("sources"), made.params(model)
    kinds = {"vision": made.vision, "decoder": made.decoder, "adapter": made.adapter}
    return {name: make(folder / name, model, arrays) for name, make in kinds.items()}


def assert_same(folder, expected):
    found = read_arrays(folder)
    assert set(found) == set(expected)
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


def test_everything_comes_back_where_it_belongs(tmp_path, folders, model):
    account = run(ImportRequest(out=tmp_path / "base", **folders))
    assert_same(tmp_path / "base", made.params(model))
    read = base_folder.read_config(tmp_path / "base")
    assert replace(read, decoder=replace(read.decoder, remat="none")) == model
    assert account.written == account.tensors
    assert account.bytes == sum(array.nbytes for array in made.params(model).values())
    assert account.left_out == {"vision post-layernorm, which the features skip": 1, "position numbers": 1}


def test_config_tokenizer_and_licence_come_along(tmp_path, folders):
    run(ImportRequest(out=tmp_path / "base", vision=folders["vision"], decoder=folders["decoder"]))
    names = {str(path.relative_to(tmp_path / "base")) for path in (tmp_path / "base").rglob("*") if path.is_file()}
    assert {"tokenizer.model", "model.json", "sources/decoder/LICENSE.txt", "sources/vision/config.json"} <= names


def test_licences_of_every_source_come_along_however_they_are_spelt(tmp_path, folders, model):
    arrays = made.params(model)
    tower = made.vision(tmp_path / "v", model, arrays)
    projector = tmp_path / "p"
    made.save(made.tensors(tables.non_lora("linear", "none"), arrays), projector / "mm_projector.safetensors")
    for folder, names in ((tower, ("license.md", "README.md")), (projector, ("MODEL_LICENCE", "Notice.txt"))):
        for name in names:
            (folder / name).write_text("x")
    run(ImportRequest(out=tmp_path / "base", vision=tower, decoder=folders["decoder"], projector=projector))
    found = {str(path.relative_to(tmp_path / "base")) for path in (tmp_path / "base" / "sources").rglob("*")}
    wanted = {"decoder/LICENSE.txt", "vision/license.md", "projector/MODEL_LICENCE", "projector/Notice.txt"}
    assert {f"sources/{name}" for name in wanted} <= found
    assert not any("README" in name for name in found)


def test_a_plain_base_has_no_lora_head_or_projector(tmp_path, folders, model):
    account = run(ImportRequest(out=tmp_path / "base", vision=folders["vision"], decoder=folders["decoder"]))
    assert_same(tmp_path / "base", made.base_arrays(made.params(model)))
    config = base_folder.read_config(tmp_path / "base")
    assert (config.head, config.lora) == ("none", NO_LORA)
    assert account.notes == ("no projector came along: training starts it from the seed",)


def test_merged_lora_is_the_sum(tmp_path, folders, model):
    run(ImportRequest(out=tmp_path / "base", merge_lora=True, **folders))
    expected = lora.merge({path: jnp.asarray(array) for path, array in made.params(model).items()}, model.lora)
    found = read_arrays(tmp_path / "base")
    assert set(found) == set(expected) and base_folder.read_config(tmp_path / "base").lora.rank == 0
    for path, array in expected.items():
        np.testing.assert_allclose(found[path], array, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_dtype_asked_for_is_written(tmp_path, folders, dtype):
    run(ImportRequest(out=tmp_path / "base", dtype=dtype, **folders))
    assert {shape.dtype.name for shape in base_folder.paths(tmp_path / "base").values()} == {dtype}
    assert base_folder.read_config(tmp_path / "base").dtype == ("float32" if dtype == "float32" else "bfloat16")


@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu"])
@pytest.mark.parametrize("head", ["none", "linear", "tanh_mlp_gelu"])
def test_every_projector_and_head(tmp_path, projector, head):
    model = made.model(projector=projector, head=head)
    arrays = made.params(model)
    folders = {
        "vision": made.vision(tmp_path / "v", model, arrays),
        "decoder": made.decoder(tmp_path / "d", model, arrays),
        "adapter": made.adapter(tmp_path / "a", model, arrays),
    }
    run(ImportRequest(out=tmp_path / "base", **folders))
    assert_same(tmp_path / "base", arrays)
    config = base_folder.read_config(tmp_path / "base")
    assert (config.projector, config.head) == (projector, head)


WRAPPED = "base_model.model.model.mm_projector.modules_to_save.default."
RENAMINGS = {  # how the reference's checkpoints spell one and the same thing
    "bare": lambda name: name.removeprefix("base_model.model.").removeprefix("model."),
    "base_model": lambda name: name,
    "base_model_twice": lambda name: name.replace("base_model.model.", "base_model."),
    "default": lambda name: name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."),
    "modules_to_save": lambda name: name.replace("mm_projector.", "mm_projector.modules_to_save.").replace(
        "float_head.", "float_head.modules_to_save."
    ),
    "modules_to_save.default": lambda name: name.replace(
        "mm_projector.", "mm_projector.modules_to_save.default."
    ).replace("float_head.", "float_head.modules_to_save.default."),
}


@pytest.mark.parametrize("variant", RENAMINGS)
@pytest.mark.parametrize(("projector", "head"), [("linear", "linear"), ("mlp2x_gelu", "tanh_mlp_gelu")])
def test_every_spelling_of_the_references_keys(tmp_path, variant, projector, head):
    model = made.model(projector=projector, head=head)
    arrays = made.params(model)
    folder = made.adapter(tmp_path / "a", model, arrays)
    rename = RENAMINGS[variant]
    lora_names = {rename(name): array for name, array in made.tensors(tables.peft("none", "none"), arrays).items()}
    beside = {rename(name): array for name, array in made.tensors(tables.non_lora(projector, head), arrays).items()}
    if "modules_to_save" in variant:  # PEFT keeps the untrained copy beside it
        beside |= {
            "base_model.model.float_head.original_module.weight": np.zeros(3, np.float32),
            "base_model.model.model.mm_projector.original_module.0.weight": np.zeros(3, np.float32),
        }
    made.save(lora_names, folder / "adapter_model.safetensors")
    made.save(beside, folder / "non_lora_trainables.safetensors")
    base_folders = {
        "vision": made.vision(tmp_path / "v", model, arrays),
        "decoder": made.decoder(tmp_path / "d", model, arrays),
    }
    run(ImportRequest(out=tmp_path / "base", adapter=folder, **base_folders))
    assert_same(tmp_path / "base", arrays)


def test_projector_and_head_may_stand_in_the_adapter(tmp_path, folders, model):
    arrays = made.params(model)
    folder = made.adapter(tmp_path / "a", model, arrays)
    (folder / "non_lora_trainables.safetensors").unlink()
    named = made.tensors(tables.peft(model.projector, model.head), arrays)
    made.save(named, folder / "adapter_model.safetensors")
    run(ImportRequest(out=tmp_path / "base", vision=folders["vision"], decoder=folders["decoder"], adapter=folder))
    assert_same(tmp_path / "base", arrays)


def test_llavas_projector_file_and_the_one_trained_after_it(tmp_path, folders, model):
    arrays = made.params(model)
    before = {
        "model.mm_projector.weight": np.zeros((26, 22), np.float32),
        "model.mm_projector.bias": np.zeros(26, np.float32),
    }
    file = made.save(before, tmp_path / "mm_projector.safetensors")
    plain = {"vision": folders["vision"], "decoder": folders["decoder"], "projector": file}
    run(ImportRequest(out=tmp_path / "before", **plain))
    assert not read_arrays(tmp_path / "before")["projector/linear1/kernel"].any()
    account = run(ImportRequest(out=tmp_path / "after", adapter=folders["adapter"], **plain))
    assert_same(tmp_path / "after", arrays)
    assert account.notes == (f"the projector is the one in {folders['adapter']}",)


def llava_folder(folder: Path, model, arrays, *, has_tower: bool) -> Path:
    kept = {path: a for path, a in arrays.items() if has_tower or not path.startswith("vision/")}
    made.save(made.tensors(tables.llava(model.projector, model.head), kept), folder / "model.safetensors")
    described = hf_config.reference_to_json(model, vision_tower="clip", dtype="float32")
    made.put_json(folder / "config.json", described)
    made.tokenizer(folder)
    return folder


@pytest.mark.parametrize(("has_tower", "head"), [(True, "none"), (False, "tanh_mlp_gelu"), (False, "linear")])
def test_merged_llava_in_its_own_layout(tmp_path, has_tower, head):
    model = made.model(projector="mlp2x_gelu", head=head, rank=0)
    arrays = made.params(model)
    folder = llava_folder(tmp_path / "llava", model, arrays, has_tower=has_tower)
    with pytest.raises(UserError, match="give the folder of the tower as --vision"):
        run(ImportRequest(out=tmp_path / "base", llava=folder))
    tower = made.vision(tmp_path / "v", model, arrays)
    run(ImportRequest(out=tmp_path / "base", llava=folder, vision=tower))
    assert_same(tmp_path / "base", arrays)


def test_tied_embeddings_need_no_head(tmp_path):
    model = made.model(tied=True, rank=0, head="none")
    arrays = {path: a for path, a in made.params(model).items() if path.startswith(("vision/", "decoder/"))}
    folders = {
        "vision": made.vision(tmp_path / "v", model, arrays),
        "decoder": made.decoder(tmp_path / "d", model, arrays),
    }
    named = made.tensors(tables.LLAMA, arrays)
    assert "lm_head.weight" not in named
    made.save({**named, "lm_head.weight": named["model.embed_tokens.weight"]}, folders["decoder"] / "model.safetensors")
    account = run(ImportRequest(out=tmp_path / "base", **folders))
    assert_same(tmp_path / "base", arrays)
    assert account.left_out["head that is tied to the embedding"] == 1


# errors; each leaves nothing behind


def fails(tmp_path, message, **request):
    with pytest.raises(UserError, match=message) as error:
        run(ImportRequest(out=tmp_path / "base", **request))
    assert "\n" not in str(error.value)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("base")]


def test_a_llava_of_another_kind_is_refused_by_name(tmp_path):
    """Its tensors are LLaVA's, but its images come in tiles."""
    made.put_json(tmp_path / "next" / "config.json", {"model_type": "llava_next", "vision_config": {}})
    made.save(
        {"multi_modal_projector.linear_1.weight": np.ones((2, 2), np.float32)}, tmp_path / "next" / "model.safetensors"
    )
    fails(tmp_path, "model_type is 'llava_next'; supported: llava", llava=tmp_path / "next")


def test_files_that_do_not_belong_together(tmp_path, folders):
    fails(tmp_path, "give --vision DIR and --decoder DIR, or --llava DIR", vision=folders["vision"])
    fails(tmp_path, "leave out --decoder", llava=folders["decoder"], decoder=folders["decoder"])
    only_base = {"vision": folders["vision"], "decoder": folders["decoder"]}
    fails(tmp_path, "--merge_lora needs --adapter", merge_lora=True, **only_base)
    file = folders["decoder"] / "model.safetensors"
    fails(tmp_path, "--decoder .* is a file: give the folder that it came in", vision=folders["vision"], decoder=file)
    fails(
        tmp_path,
        r"vision/config.json: model_type is 'clip_vision_model'",
        vision=folders["vision"],
        decoder=folders["vision"],
    )


def test_another_size_than_the_config_says(tmp_path, folders, model):
    decoder = made.decoder(tmp_path / "d", model, made.params(model))
    described = hf_decoder.decoder_to_json(replace(model.decoder, num_layers=4), vocab_size=made.VOCAB, dtype="float32")
    made.put_json(decoder / "config.json", {**described, "intermediate_size": 37})
    fails(
        tmp_path, r"9 tensors are missing: model.layers.3.self_attn.q_proj.weight,.*9 tensors are of another shape",
        vision=folders["vision"], decoder=decoder,
    )  # fmt: skip


def test_what_is_wrong_in_several_files_is_listed_together(tmp_path, folders, model):
    arrays = made.params(model)
    decoder, tower = made.decoder(tmp_path / "d", model, arrays), made.vision(tmp_path / "v", model, arrays)
    named = made.tensors(tables.LLAMA, arrays)
    made.save({**named, "x": np.ones(1)}, decoder / "model.safetensors")
    tensors = made.tensors(tables.CLIP, arrays)
    del tensors["vision_model.pre_layrnorm.bias"]
    made.save(tensors, tower / "model.safetensors")
    fails(
        tmp_path, r"/v is not the CLIP.*1 tensor is missing: vision_model.pre_layrnorm.bias; and .*/d is not the "
        r"decoder that its config describes: 1 tensor is unknown: x", vision=tower, decoder=decoder,
    )  # fmt: skip


def test_a_projector_file_without_one(tmp_path, folders):
    file = made.save({"x": np.ones(1)}, tmp_path / "mm_projector.safetensors")
    only_base = {"vision": folders["vision"], "decoder": folders["decoder"]}
    fails(tmp_path, "mm_projector.safetensors holds no mm_projector: --projector takes", projector=file, **only_base)


def test_a_partial_adapter_only_merges(tmp_path, folders, model):
    arrays = {p: a for p, a in made.params(model).items() if "/lora_" not in p or "/q/" in p or "/v/" in p}
    folder = made.adapter(tmp_path / "a", model, arrays)
    only_base = {"vision": folders["vision"], "decoder": folders["decoder"]}
    fails(tmp_path, "has no LoRA on k, o, gate, up, down.* add --merge_lora", adapter=folder, **only_base)
    run(ImportRequest(out=tmp_path / "merged", adapter=folder, merge_lora=True, **only_base))
    expected = lora.merge({path: jnp.asarray(array) for path, array in arrays.items()}, model.lora)
    np.testing.assert_allclose(
        read_arrays(tmp_path / "merged")["decoder/layers/v/kernel"],
        expected["decoder/layers/v/kernel"],
        atol=1e-6,
    )


def test_a_config_that_says_another_head(tmp_path, folders, model):
    folder = made.adapter(tmp_path / "a", model, made.params(model))
    made.put_json(folder / "config.json", {"float_head_type": "linear"})
    fails(
        tmp_path, "float_head_type is 'linear', but the float head in the files is 'tanh_mlp_gelu'",
        vision=folders["vision"], decoder=folders["decoder"], adapter=folder,
    )  # fmt: skip


def test_marks_around_the_image_are_told(tmp_path, folders, model):
    folder = made.adapter(tmp_path / "a", model, made.params(model))
    described = hf_config.reference_to_json(model, vision_tower="clip", dtype="float32")
    made.put_json(folder / "config.json", {**described, "mm_use_im_start_end": True})
    request = ImportRequest(out=tmp_path / "base", vision=folders["vision"], decoder=folders["decoder"], adapter=folder)
    assert [f"{folder / 'config.json'}: mm_use_im_start_end is set" in note for note in run(request).notes] == [True]


def test_without_a_tokenizer_there_is_a_note(tmp_path, folders, model):
    decoder = made.decoder(tmp_path / "d", model, made.params(model))
    (decoder / "tokenizer.model").unlink()
    account = run(ImportRequest(out=tmp_path / "base", vision=folders["vision"], decoder=decoder))
    assert any("no tokenizer came along: set tokenizer.path" in note for note in account.notes)
    absent = {"vision": folders["vision"], "decoder": decoder, "tokenizer": tmp_path / "absent"}
    with pytest.raises(UserError, match="absent: cannot be read"):
        run(ImportRequest(out=tmp_path / "other", **absent))


def test_tokenizers_that_do_not_fit(tmp_path, folders, model):
    big = replace(model, decoder=replace(model.decoder, vocab_size=53))
    small = made.params(made.model())
    cut = {path: a[:53] if path == "decoder/embedding" else a for path, a in small.items()}
    cut["decoder/head/kernel"] = small["decoder/head/kernel"][:, :53]
    other = made.decoder(tmp_path / "e", big, cut)
    made.put_json(other / "config.json", hf_decoder.decoder_to_json(big.decoder, vocab_size=53, dtype="float32"))
    fails(tmp_path, r"pieces and the embedding 53 rows", vision=folders["vision"], decoder=other)


def test_a_vocabulary_that_splits_the_float_token(tmp_path, folders, monkeypatch):
    from igllm_jax.data import tokens

    monkeypatch.setattr(tokens, "FLOAT_TOKEN", "象牙")
    base = {"vision": folders["vision"], "decoder": folders["decoder"]}
    with_head = {**base, "adapter": folders["adapter"]}
    fails(tmp_path, "splits the float token .* use a vocabulary that has it .* add --numbers_as_text", **with_head)
    run(ImportRequest(out=tmp_path / "text", numbers_as_text=True, **with_head))
    assert any(
        "splits the float token: a run adds one" in n for n in run(ImportRequest(out=tmp_path / "a", **base)).notes
    )


def test_llamas_own_vocabulary(tmp_path, model):
    shared = Path(os.environ.get("IGLLM_SHARED", Path(__file__).parents[3] / "shared"))
    file = shared / "tokenizer" / "llama.model"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    plan = ImportPlan(replace(model, decoder=replace(model.decoder, vocab_size=32000)), {}, NO_LORA)
    assert find_tokenizer(ImportRequest(out=tmp_path, decoder=tmp_path, tokenizer=file), plan).float_id == 30354


def test_mixed_dtypes_ask_for_one(tmp_path, folders, model):
    decoder = made.decoder(tmp_path / "d", model, made.params(model))
    named = made.tensors(tables.LLAMA, made.params(model))
    name = "model.layers.1.mlp.up_proj.weight"
    made.save({**named, name: named[name].astype(np.float16)}, decoder / "model.safetensors")
    only_base = {"vision": folders["vision"], "decoder": decoder}
    fails(tmp_path, r"up/kernel can't keep its dtype \(.* in float32, .* in float16; 1 such\): choose one", **only_base)
    run(ImportRequest(out=tmp_path / "cast", dtype="float32", **only_base))


def test_a_file_that_shrinks_while_it_is_read_leaves_nothing(tmp_path, folders, model, monkeypatch):
    from igllm_jax.interop import files

    def short(*args, **kwargs):
        return np.zeros(0, np.float32)

    monkeypatch.setattr(files.np, "fromfile", short)
    fails(tmp_path, "was cut short while it was read", vision=folders["vision"], decoder=folders["decoder"])
