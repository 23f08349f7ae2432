"""Other files of the same weights: CLIPModel, sharded `.bin`, PEFT's own wrappers; and hostile ones."""

import os

import numpy as np
import peft
import pytest
import torch
import transformers
from torch import nn

from igllm_jax import endings
from igllm_jax.interop.importing import run
from igllm_jax.interop.sources import ImportRequest
from igllm_jax.weights import base_folder
from tests.bases import read_arrays
from tests.interop import made
from tests.parity import reference


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of one model and the base imported from them."""
    folder = tmp_path_factory.mktemp("model")
    reference.build(folder, projector_kind="mlp2x_gelu", head_kind="tanh_mlp_gelu", seed=4)
    reference.imported(folder)
    return folder


def assert_same(first, second):
    first, second = read_arrays(first), read_arrays(second)
    assert set(first) == set(second)
    for path, array in first.items():
        np.testing.assert_array_equal(array, second[path], err_msg=path)


def test_the_vision_tower_of_a_whole_clip(tmp_path, folder):
    tower = transformers.CLIPVisionModel.from_pretrained(folder / "vision")
    text = transformers.CLIPTextConfig(
        vocab_size=37, hidden_size=22, intermediate_size=31, num_hidden_layers=2, num_attention_heads=2
    )
    config = transformers.CLIPConfig(text_config=text.to_dict(), vision_config=reference.vision_config().to_dict())
    whole = transformers.CLIPModel(config)
    whole.vision_model.load_state_dict(tower.state_dict())
    whole.save_pretrained(tmp_path / "clip")
    means = {"image_mean": reference.MEAN, "image_std": reference.STD}
    made.put_json(tmp_path / "clip" / "preprocessor_config.json", means)
    run(
        ImportRequest(
            out=tmp_path / "base", vision=tmp_path / "clip", decoder=folder / "decoder", adapter=folder / "adapter"
        )
    )
    assert_same(tmp_path / "base", folder / "base")
    assert base_folder.read_config(tmp_path / "base") == base_folder.read_config(folder / "base")


def sharded_bin(folder, target):
    """The decoder as two `.bin` shards with an index, in bfloat16, and with the rotary frequencies of old files."""
    target.mkdir()
    tensors = transformers.LlamaForCausalLM.from_pretrained(folder / "decoder").state_dict()
    tensors = {name: tensor.bfloat16().clone() for name, tensor in tensors.items()}
    tensors |= {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(3) for layer in range(3)}
    names = sorted(tensors)
    files = {name: f"pytorch_model-{1 + (number > 9)}.bin" for number, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({name: tensors[name] for name in names if files[name] == file}, target / file)
    made.put_json(target / "pytorch_model.bin.index.json", {"weight_map": files})
    for name in ("config.json", "tokenizer.model"):
        (target / name).write_bytes((folder / "decoder" / name).read_bytes())
    return target


def test_sharded_torch_files_in_bfloat16(tmp_path, folder):
    decoder = sharded_bin(folder, tmp_path / "decoder")
    account = run(ImportRequest(out=tmp_path / "base", vision=folder / "vision", decoder=decoder))
    assert account.left_out["rotary frequencies, which follow from the config"] == 3
    found, expected = read_arrays(tmp_path / "base"), read_arrays(folder / "base")
    assert found["decoder/layers/q/kernel"].dtype.name == "bfloat16"
    for path in (path for path in found if path.startswith("decoder/")):
        np.testing.assert_array_equal(found[path], expected[path].astype(found[path].dtype), err_msg=path)


def test_an_adapter_that_peft_saved_as_a_torch_file(tmp_path, folder):
    decoder = transformers.LlamaForCausalLM.from_pretrained(folder / "decoder")
    peft.PeftModel.from_pretrained(decoder, folder / "adapter").save_pretrained(
        tmp_path / "adapter", safe_serialization=False
    )
    assert (tmp_path / "adapter" / "adapter_model.bin").is_file()
    for name in ("non_lora_trainables.bin", "config.json"):
        (tmp_path / "adapter" / name).write_bytes((folder / "adapter" / name).read_bytes())
    reference.imported(folder, "from_bin", adapter=tmp_path / "adapter")
    assert_same(folder / "from_bin", folder / "base")
    assert base_folder.read_config(folder / "from_bin") == base_folder.read_config(folder / "base")


def test_a_missing_torch_shard_is_one_line(tmp_path, folder, capsys):
    decoder = sharded_bin(folder, tmp_path / "decoder")
    (decoder / "pytorch_model-2.bin").unlink()
    assert import_fails(tmp_path, folder / "vision", decoder, capsys).startswith(
        f"error: {decoder / 'pytorch_model.bin.index.json'} names files that are not there: pytorch_model-2.bin"
    )


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_a_shard_that_runs_code_is_one_line(tmp_path, folder, capsys):
    decoder = sharded_bin(folder, tmp_path / "decoder")
    tensors = torch.load(decoder / "pytorch_model-2.bin", weights_only=True)
    torch.save({**tensors, "x": RunsCode(str(tmp_path / "ran"))}, decoder / "pytorch_model-2.bin")
    error = import_fails(tmp_path, folder / "vision", decoder, capsys)
    assert "pytorch_model-2.bin is refused: it wants to run code" in error
    assert not (tmp_path / "ran").exists()


def import_fails(tmp_path, vision, decoder, capsys):
    """The one line that a failing import prints; it leaves nothing."""
    out = tmp_path / "base"
    capsys.readouterr()
    words = ["import", "--vision", str(vision), "--decoder", str(decoder), "--out", str(out)]
    assert endings.run("igllm_jax.interop.command", words) == 2
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("base")]
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


class Whole(nn.Module):
    """Projector and float head under the names that the reference's model has, beside LoRA's target."""

    def __init__(self):
        super().__init__()
        self.model = nn.Module()
        self.model.mm_projector = reference.projector("mlp2x_gelu")
        self.model.q_proj = nn.Linear(5, 5)
        self.float_head = reference.float_head("tanh_mlp_gelu")


def test_names_that_pefts_own_wrappers_give(tmp_path, folder):
    """The state of modules that PEFT trains whole, saved the way the reference saves what is not LoRA."""
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["mm_projector", "float_head"])
    whole = peft.get_peft_model(Whole(), config)
    names = {name: value.detach().clone() for name, value in whole.named_parameters() if "lora_" not in name}
    kept = {name: value for name, value in names.items() if "q_proj" not in name}
    assert any(".modules_to_save.default." in name for name in kept)
    assert any(".original_module." in name for name in kept)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for file in (folder / "adapter").iterdir():
        (adapter / file.name).write_bytes(file.read_bytes())
    torch.save(kept, adapter / "non_lora_trainables.bin")
    run(ImportRequest(out=tmp_path / "base", vision=folder / "vision", decoder=folder / "decoder", adapter=adapter))
    found = read_arrays(tmp_path / "base")
    trained = {name: value for name, value in kept.items() if ".modules_to_save." in name}
    second = next(value for name, value in trained.items() if "mm_projector" in name and name.endswith(".2.weight"))
    bias = next(value for name, value in trained.items() if "float_head" in name and name.endswith(".1.bias"))
    np.testing.assert_array_equal(found["projector/linear2/kernel"], second.T)
    np.testing.assert_array_equal(found["float_head/hidden/bias"], bias)
