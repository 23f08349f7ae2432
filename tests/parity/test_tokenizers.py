"""Added tokens and tokenizers of exports, as transformers and PEFT have them."""

import json

import numpy as np
import pytest

from igllm_jax.interop import exporting
from igllm_jax.interop.files import open_weights
from igllm_jax.models.params import unnest
from tests.interop.test_exporting import make_run
from tests.weights.test_number_row import begun, folder  # noqa: F401  a fixture

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
CODE = "The scene can be produced with:\n```python\nadd(x=数, loc=(数, 数, 0.125))\n```"


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):  # noqa: F811
    """A run with an added token, and its tokenizer."""
    config, tokenizer, run_model = begun(folder / "base")
    config.data.prompt = "chatml"
    trained = unnest(run_model.initial_state().params)
    workdir = tmp_path_factory.mktemp("runs") / "run"
    make_run(workdir, config, {1: {path: np.asarray(value) for path, value in trained.items()}})
    (workdir / "tokenizer.model").unlink()
    tokenizer.save(workdir)
    return workdir, tokenizer


def test_an_adapter_has_pefts_names(run, tmp_path):
    """Those that PEFT itself writes for LoRA and the rows of one token."""
    exporting.export(exporting.from_run(run[0], "last"), "peft", tmp_path / "peft")
    config = peft.LoraConfig.from_pretrained(tmp_path / "peft")
    sizes = {
        "vocab_size": 384,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    names = peft.get_peft_model_state_dict(peft.get_peft_model(model, config))
    found = open_weights(tmp_path / "peft" / "adapter_model.safetensors").infos
    assert set(found) == set(names)
    assert any("trainable_tokens_delta" in name for name in names)
    for name, tensor in names.items():
        assert len(found[name].shape) == tensor.ndim
        assert "trainable_tokens" not in name or found[name].shape[0] == len(tensor) == 1


def test_a_tokenizer_json_with_an_added_token(run, tmp_path):
    workdir, tokenizer = run
    exporting.export(exporting.from_run(workdir, "last"), "llava-hf", tmp_path / "hf")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "hf")
    assert theirs(CODE)["input_ids"] == tokenizer.encode(CODE)
    described = json.loads((tmp_path / "hf" / "config.json").read_text())
    image, end = (theirs.convert_tokens_to_ids(name) for name in ("<image>", "<|im_end|>"))
    assert image == described["image_token_index"] == tokenizer.float_id + 1
    assert theirs.eos_token_id == end == described["text_config"]["eos_token_id"][0]
    before, after = tokenizer.encode("a"), tokenizer.encode("\nb")
    assert theirs("a<image>\nb")["input_ids"] == [*before, image, *after]
