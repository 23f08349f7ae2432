"""A run whose vocabulary is byte-level, asked as Qwen is: trained, resumed, generated from and evaluated."""

import json

import pytest

from igllm_jax import make_data
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.models.number_row import TABLES as ROWS
from igllm_jax.weights import checkpoint
from tests import runs
from tests.data import byte_level


@pytest.mark.slow
@pytest.mark.parametrize("has_number", [True, False], ids=["a piece for numbers", "a token added for numbers"])
def test_a_run_on_a_byte_level_vocabulary(tmp_path, has_number):
    pytest.importorskip("tokenizers")
    make_data.main(["twod", "--out", str(tmp_path / "data"), "--num_train", "64", "--num_val", "24"])
    texts = ["The scene can be produced with:\n```python\nadd(x=数, y=数)\n```", "What Python code draws this?"] * 9
    content = byte_level.train([text if has_number else text.replace("数", "") for text in texts], size=330)
    folder = byte_level.folder(tmp_path / "vocabulary", content, tokenizer_config={"eos_token": "<|endoftext|>"})
    settings = {
        "tokenizer__path": folder, "tokenizer__train_vocab_size": 0, "data__prompt": "chatml",
        "model__decoder__vocab_size": 512, "train__num_steps": 60, "eval__generate_every": 30,
    }  # fmt: skip
    if not has_number:  # its rows train over frozen tables
        settings |= {"optim__trainable": "lora", "model__lora__rank": 4}
    run, data = tmp_path / "run", tmp_path / "data"
    _, told = runs.finish(runs.start("train", *runs.arguments(tmp_path / "whole", data, **settings)))
    assert "<|im_end|>" in told and "2 of them numbers" in told
    runs.finish(runs.start("train", *runs.arguments(run, data, **{**settings, "train__num_steps": 30})))
    assert (run / "tokenizer.json").is_file() and not (run / "tokenizer.model").exists()
    (folder / "tokenizer.json").unlink()  # the run has its own
    _, told = runs.finish(runs.start("train", *runs.arguments(run, data, **settings)))
    assert "resumed from step 30" in told
    assert bool({*ROWS} & {*checkpoint.load_params(run)}) != has_number
    assert Tokenizer.load(run).fingerprint == Tokenizer.load(tmp_path / "whole").fingerprint

    predictions, spec = tmp_path / "predictions.json", f"{data}/2d.npz:random"
    words = ["--workdir", str(run), "--images", spec, "--out", str(predictions), "--max_new_tokens", "60"]
    runs.finish(runs.start("generate", *words))
    assert len(json.loads(predictions.read_text())["answers"]) == 24
    report = tmp_path / "metrics.json"
    runs.finish(runs.start("evaluate", "--labels", spec, "--predictions", str(predictions), "--out", str(report)))
    assert json.loads(report.read_text())["metrics"]["parsed"] == 100.0
