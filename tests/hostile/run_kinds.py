"""Kinds of input that runs and converters read: a run's config, overrides, vocabularies."""

import json
import random
from pathlib import Path
from typing import Any

from igllm_jax import config as configs
from igllm_jax.data.tokens import Tokenizer, train_small
from tests.data import byte_level, samples
from tests.hostile import mutate
from tests.hostile.kinds import Kind, files_below
from tests.hostile.mutate import Files

_CONFIG = f"--config={Path(__file__).parents[2] / 'configs' / 'tiny.py'}:task=clevr"
_TEXT = "add(size='large', rotation=[1.5])\n"


# a run's config


def _run(folder: Path) -> Files:
    configs.write(configs.load([_CONFIG])[0], folder)
    return files_below(folder)


def _parts(config: Any) -> Any:
    """Everything that a config is made into."""
    return configs.model_config(config), configs.data_options(config), configs.optim_options(config)


def _read_run(folder: Path) -> Any:
    config = configs.read(folder)
    _parts(config), configs.loss_options(config)
    configs.check_resume(configs.load([_CONFIG])[0], config)
    return config


def _run_differs(folder: Path, config: Any) -> str:
    """What it says of learning is what the file says, since it passed for the same run."""
    values = json.loads((folder / "config.json").read_bytes())
    ours, theirs = config.to_dict()["optim"], values.get("optim", {})
    return "" if all(ours[key] == value for key, value in theirs.items()) else "other settings"


# overrides of the command line

_VALUES = (
    "", "0", "-1", "1e400", "nan", "inf", "1e9", "True", "None", "x", "(1,2)", "()", "[", "'", "9" * 400, "0.5", "é",
    "\ud800",
)  # fmt: skip


def _overrides(folder: Path) -> Files:
    return {"overrides.json": json.dumps([]).encode()}


def _draw_overrides(rng: random.Random, files: Files) -> Files:
    keys = [*configs.flatten(configs.load([_CONFIG])[0]), "optim", "nothing", "", "data.train", "optim.lr.x"]
    drawn = [f"--config.{rng.choice(keys)}={rng.choice(_VALUES)}" for _ in range(rng.choice((1, 1, 2)))]
    return {"overrides.json": json.dumps(drawn).encode()}


def _load(folder: Path) -> Any:
    config, others = configs.load([_CONFIG, *json.loads((folder / "overrides.json").read_bytes())])
    assert not others
    _parts(config), configs.loss_options(config)
    return config


# vocabularies


def _vocabulary(folder: Path) -> Files:
    train_small([*samples.texts(), _TEXT], folder)
    return files_below(folder)


def _byte_level(folder: Path) -> Files:
    content = byte_level.train([*samples.texts()[:9], _TEXT], size=300)
    ends = {"tokenizer_config": {"eos_token": "<|im_end|>"}, "generation_config": {"eos_token_id": [2, 0]}}
    return files_below(byte_level.folder(folder, content, **ends))


def _tokenize(folder: Path) -> Any:
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode(_TEXT, bos=True)
    _ = tokenizer.float_id, tokenizer.splits_digits, tokenizer.splits_lines
    tokenizer.forbidden_sequences(), tokenizer.float_token_in_bytes()
    return tokenizer.decode(ids)


RUN_KINDS = {
    "run config": Kind(_run, _read_run, mutate.of_json, _run_differs, lambda name: name == "config.json"),
    "overrides": Kind(_overrides, _load, _draw_overrides),
    "tokenizer": Kind(_vocabulary, _tokenize),
    "tokenizer.json": Kind(_byte_level, _tokenize, mutate.of_json),
}
