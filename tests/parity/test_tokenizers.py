"""Tokenizers of exports, read by transformers."""

import json

import numpy as np
import pytest

from igllm_jax.interop import exporting
from igllm_jax.models.params import unnest
from tests.interop.test_exporting import make_run
from tests.weights.test_number_row import begun, folder  # noqa: F401  a fixture

transformers = pytest.importorskip("transformers")
CODE = "The scene can be produced with:\n```python\nadd(x=数, loc=(数, 数, 0.125))\n```"


def test_a_tokenizer_json_with_an_added_token(folder, tmp_path):  # noqa: F811
    config, tokenizer, run_model = begun(folder / "base")
    config.data.prompt = "chatml"
    trained = unnest(run_model.initial_state().params)
    workdir = make_run(tmp_path / "run", config, {1: {path: np.asarray(value) for path, value in trained.items()}})
    (workdir / "tokenizer.model").unlink()
    tokenizer.save(workdir)
    exporting.export(exporting.from_run(workdir, "last"), "llava-hf", tmp_path / "hf")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "hf")
    assert theirs(CODE)["input_ids"] == tokenizer.encode(CODE)
    described = json.loads((tmp_path / "hf" / "config.json").read_text())
    image, end = (theirs.convert_tokens_to_ids(name) for name in ("<image>", "<|im_end|>"))
    assert image == described["image_token_index"] == tokenizer.float_id + 1
    assert theirs.eos_token_id == end == described["text_config"]["eos_token_id"][0]
    before, after = tokenizer.encode("a"), tokenizer.encode("\nb")
    assert theirs("a<image>\nb")["input_ids"] == [*before, image, *after]
