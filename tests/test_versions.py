"""What older versions wrote is read for ever: renamed and added keys, and a run and bases that format 1 left.

tests/golden/format_1.tar.xz was written by the last version of format 1: `base`, imported from a vision tower and a
decoder; `whole`, with adapter, projector and float head besides; `data`, of `igllm make-data twod`; `run`, on `base`,
of 6 steps, whose checkpoint 3 was kept; and what `generate` wrote with the run's step 3 and with `whole`. Never change
it.
"""

import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from igllm_jax import config as configs
from igllm_jax import versions
from igllm_jax.errors import UserError
from igllm_jax.interop import exporting
from igllm_jax.models.vlm import skeleton
from igllm_jax.weights import base_folder, checkpoint
from tests import runs

# as the run was begun; `head_width` is `head_dim` now
BEGUN = {
    "batch_size": 4, "model.base": "base", "tokenizer.train_vocab_size": 0, "optim.trainable": "lora",
    "model.vision.image_size": 21, "model.vision.patch_size": 7, "model.vision.width": 22, "model.vision.num_layers": 2,
    "model.vision.num_heads": 2, "model.vision.mlp_width": 29, "model.vision.layer_norm_epsilon": 1e-05,
    "model.vision.activation": "quick_gelu", "model.vision.feature_layer": -2, "data.image_size": 21,
    "model.decoder.vocab_size": 331, "model.decoder.width": 26, "model.decoder.num_layers": 2,
    "model.decoder.num_heads": 4, "model.decoder.num_kv_heads": 2, "model.decoder.head_dim": 6,
    "model.decoder.mlp_width": 31, "model.decoder.rms_norm_epsilon": 1e-05, "model.decoder.rope_theta": 5000.0,
    "model.decoder.tie_embeddings": False, "model.lora.rank": 3, "model.lora.alpha": 5.0, "train.num_steps": 6,
    "train.log_every": 1, "train.checkpoint_every": 3, "train.keep_checkpoints": 2, "train.tensorboard": False,
    "eval.loss_every": 3, "eval.loss_samples": 8, "eval.generate_every": 0, "eval.generate_samples": 4,
    "eval.max_new_tokens": 20, "optim.warmup": 0.0,
    **{f"data.train.{key}": "data/2d.npz:checkerboard_sparse" for key in ("images", "labels")},
    **{f"data.val.{key}": "data/2d.npz:random" for key in ("images", "labels")},
}  # fmt: skip


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(runs.ROOT / "tests" / "golden" / "format_1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_a_run_of_format_1_is_read_under_todays_keys(golden, monkeypatch):
    monkeypatch.chdir(golden)
    config = configs.read(golden / "run")
    assert config.model.decoder.head_dim == 6 and "head_width" not in config.model.decoder
    assert configs.model_config(config).decoder.head_dim == 6
    params = checkpoint.load_params("run")
    assert params["decoder/layers/q/lora_b"].shape == (2, 3, 24) and np.any(params["decoder/layers/q/lora_b"])


def test_a_run_of_format_1_is_exported(golden, monkeypatch):
    pytest.importorskip("torch")  # a PEFT folder holds a torch file
    monkeypatch.chdir(golden)
    exporting.export(exporting.from_run(golden / "run", "last"), "peft", golden / "peft")
    assert (golden / "peft" / "non_lora_trainables.bin").is_file()


def test_a_base_of_format_1_is_read_and_exported(golden):
    config = base_folder.read_config(golden / "whole")
    assert config.decoder.head_dim == 6 and config.head == "tanh_mlp_gelu"
    stored = base_folder.restore(golden / "whole", base_folder.paths(golden / "whole"))
    assert {path: x.shape for path, x in stored.items()} == {p: x.shape for p, x in skeleton(config).shapes.items()}
    exporting.export(exporting.from_folder(golden / "whole"), "llava-hf", golden / "llava")
    assert json.loads((golden / "llava" / "config.json").read_text())["text_config"]["head_dim"] == 6


@pytest.mark.slow
def test_a_run_of_format_1_generates_and_goes_on_as_it_did(golden):
    """Resumed from step 3, steps 4 to 6 have the losses that they had when the run was not interrupted."""
    wanted = runs.losses(golden / "run")
    train = [f"--config={runs.ROOT}/configs/tiny.py:task=twod", "--workdir", "run"]
    train += [f"--config.{key}={value}" for key, value in BEGUN.items()]
    shared = [
        "--images",
        "data/2d.npz:random",
        "--limit",
        "4",
        "--max_new_tokens",
        "20",
        "--batch_size",
        "4",
        "--num_drafts",
        "0",
        "--grammar",
        "none",
        "--out",
    ]
    of_run = ["--workdir", "run", "--step", "3", *shared, "run.json"]
    of_base = ["--model", "whole", "--task", "twod", "--prompt", "short", *shared, "whole.json"]
    code = "import sys, json; from igllm_jax import generate, train; given = json.loads(sys.argv[1])\n"
    code += "for name, words in given: {'train': train, 'generate': generate}[name].main(words)"
    asked = json.dumps([("generate", of_run), ("generate", of_base), ("train", train)])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(runs.ROOT), **runs.cache()}
    done = subprocess.run(
        [sys.executable, "-c", code, asked], cwd=golden, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name in ("run", "whole"):
        found, before = (
            json.loads((golden / file).read_text()) for file in (f"{name}.json", f"predictions-{name}.json")
        )
        texts = {name: answer["outputs"] for name, answer in found["answers"].items()}
        assert texts == {name: answer["outputs"] for name, answer in before["answers"].items()}
    assert "resumed from step 3" in done.stderr
    found = runs.losses(golden / "run")
    assert list(found) == list(wanted) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([*found.values()], [*wanted.values()], rtol=1e-5)
    assert json.loads((golden / "run" / "config.json").read_text())["format"] == 1  # what it was begun with


def test_every_row_explains_a_key_of_today():
    known = versions.flatten(configs.shipped("common"))
    assert {*versions.RENAMED, *versions.ADDED} <= set(known)
    assert all(1 < since <= versions.FORMAT for since, _ in [*versions.RENAMED.values(), *versions.ADDED.values()])


def test_a_config_of_format_3_is_read(tmp_path):
    """golden/config_format_3.json is what a run of configs/tiny.py kept then. Never change it."""
    (tmp_path / "config.json").write_bytes((runs.ROOT / "tests" / "golden" / "config_format_3.json").read_bytes())
    config = configs.read(tmp_path)
    assert config.tokenizer.number_token == "piece" and config.model.second_vision.width == 0
    assert configs.run_options(config).data.augment.crop == 0.0


def test_a_later_key_means_in_an_old_run_what_the_code_did_then(tmp_path, monkeypatch):
    config = configs.load(["--config=tiny"])[0]
    configs.write(config, tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    assert values["format"] == versions.FORMAT
    del values["format"], values["optim"]["epsilon"], values["eval"]["loss_samples"]
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"the config key 'optim.epsilon' is absent"):
        configs.read(tmp_path)
    monkeypatch.setattr(versions, "ADDED", {"optim.epsilon": (2, 0.5), "eval.loss_samples": (2, 7)})
    assert configs.read(tmp_path).optim.epsilon == 0.5
    for _ in range(2):  # also once the run was written again
        again = configs.load(["--config=tiny"])[0]
        assert configs.keep_meaning(again, tmp_path) == ["optim.epsilon=0.5"]
        assert again.eval.loss_samples == config.eval.loss_samples  # that may change
        configs.check_resume(again, configs.read(tmp_path))
        configs.write(again, tmp_path)


@pytest.mark.parametrize("damage, message", [
    (b"[]", "holds no config"),
    (b"\xff{}", "is not JSON"),
    (b"[" * 100_000, "is not JSON"),
    (b"", "is not JSON"),
    (b'{"format": 999}', f"has format 999; this version reads formats 1 to {versions.FORMAT}: update igllm_jax"),
    (b'{"format": true}', "its format is True"),
    (b"{}", "does not describe a run of this version: the config key 'batch_size' is absent|'seed' is absent"),
])  # fmt: skip
def test_a_damaged_config_is_one_line(tmp_path, damage, message):
    (tmp_path / "config.json").write_bytes(damage)
    with pytest.raises(UserError, match=message) as error:
        configs.read(tmp_path)
    assert "\n" not in str(error.value)


def test_one_value_after_the_other_of_another_type_is_refused_or_read(tmp_path):
    """Whatever stands instead of a value or of a group: a config whose parts can be built, or one line."""
    configs.write(configs.load(["--config=tiny"])[0], tmp_path)
    path, refused = tmp_path / "config.json", 0
    whole = path.read_text()
    groups = ["model", "model.vision", "data", "data.train", "optim", "mesh", "tokenizer"]
    for key in [*versions.flatten(json.loads(whole)), *groups]:
        for value in (None, "x", -1, 0, 0.5, [], [1], {}, {"a": 1}, True, 10**400):
            values = json.loads(whole)
            *names, last = key.split(".")
            holder = values
            for name in names:
                holder = holder[name]
            holder[last] = value
            path.write_text(json.dumps(values))
            try:
                config = configs.read(tmp_path)
                configs.model_config(config), configs.data_options(config), configs.optim_options(config)
            except UserError as error:
                refused += 1
                assert "\n" not in str(error)
    assert refused > 500
