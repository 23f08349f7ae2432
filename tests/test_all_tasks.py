"""All five tasks from nothing to scores: make data, train, generate, evaluate, as a newcomer would on a CPU.

By default with a very small model for a few steps. With IGLLM_FULL=1 as the commands themselves, on configs/tiny.py for
200 steps, with a held-out loss that falls: `IGLLM_FULL=1 pytest -s tests/test_all_tasks.py` (about half an hour on two
cores; -s shows the losses).
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from igllm_jax import config as configs
from igllm_jax.__main__ import COMMANDS
from igllm_jax.config_files import shipped_names
from igllm_jax.parallel.sharding import MeshOptions
from igllm_jax.scene.language import SHIPPED, find_language
from igllm_jax.training import metrics_log

IS_FULL = os.environ.get("IGLLM_FULL", "0") not in ("", "0")
ROOT = Path(__file__).parents[1]
# Each task with another head or way to write rotations.
ARGUMENTS = {
    "clevr": "head=tanh_mlp_gelu",
    "twod": "head=none",
    "so3": "head=linear,rotation_rep=quat",
    "sixdof": "head=tanh_mlp_gelu,rotation_rep=6d",
    "shapenet": "head=tanh_mlp_gelu,rotation_rep=euler_int",
}
NUM_IMAGES = 8  # generated and evaluated
SMALL = {
    "data.image_size": 24,
    "model.vision.image_size": 24,
    "model.vision.patch_size": 12,
    "model.vision.width": 16,
    "model.vision.num_layers": 1,
    "model.vision.num_heads": 2,
    "model.vision.mlp_width": 16,
    "model.decoder.width": 32,
    "model.decoder.num_layers": 1,
    "model.decoder.num_heads": 2,
    "model.decoder.num_kv_heads": 2,
    "model.decoder.head_dim": 16,
    "model.decoder.mlp_width": 32,
    "data.buckets": 1,
    "batch_size": 8,
    "optim.lr": 5e-3,
    "train.num_steps": 10,
    "train.log_every": 5,
    "train.tensorboard": False,
    "eval.loss_every": 2,
    "eval.loss_samples": 8,
    "eval.generate_every": 0,
}
FULL = {
    "batch_size": 32,
    "optim.lr": 1e-3,
    "train.num_steps": 200,
    "eval.loss_every": 10,
    "eval.loss_samples": 64,
    "eval.generate_every": 0,
}


def igllm(command: str, *arguments: object) -> None:
    """`igllm COMMAND ...`: in a process of its own, as users have it, or, which is quicker, here."""
    words = [str(argument) for argument in arguments]
    if IS_FULL:
        own = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
        subprocess.run([sys.executable, "-m", "igllm_jax", command, *words], cwd=ROOT, env=own, check=True)
    else:
        assert importlib.import_module(COMMANDS[command][0]).main(words) == 0


def make_data(task: str, folder: Path) -> dict[str, str]:
    """Makes own data of a task; gives the config keys that say where they are, and checks them against the preset."""
    counts = ["--num_train", 512 if IS_FULL else 16, "--num_val", 64 if IS_FULL else NUM_IMAGES]
    size = [] if task == "twod" else ["--image_size", "96x96" if IS_FULL else "32x32", "--workers", 1 + IS_FULL]
    few = ["--min_objects", 1, "--max_objects", 3] if task in ("clevr", "shapenet") else []  # short rows train quickly
    igllm("make-data", task, "--out", folder, *counts, *size, *few)
    preset, _ = configs.load([f"--config={ROOT}/configs/tiny.py:task={task}"])
    keys = [f"data.{split}.{part}" for split in ("train", "val") for part in ("images", "labels")]
    paths = {key: configs.flatten(preset)[key].replace(f"data/tiny/{task}", str(folder)) for key in keys}
    assert all(Path(path.partition(":")[0]).is_file() for path in paths.values())
    return paths


# one language in the plane and one in space in every run of the tests
MANY = [task if task in ("twod", "clevr") else pytest.param(task, marks=pytest.mark.slow) for task in SHIPPED]


@pytest.mark.parametrize("task", MANY)
def test_from_nothing_to_scores(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGLLM_CACHE", str(tmp_path / "cache"))
    one = jax.devices()[:1]  # of the tests' eight fake ones, for which everything compiles longer
    on = MeshOptions.on
    monkeypatch.setattr(MeshOptions, "on", lambda options: on(options, one))
    paths = make_data(task, tmp_path / "data")
    workdir, predictions, scores = tmp_path / "run", tmp_path / "predictions.json", tmp_path / "scores.json"
    settings = {**paths, **(FULL if IS_FULL else SMALL)}
    changes = [f"--config.{key}={value}" for key, value in settings.items()]
    config = f"--config={ROOT}/configs/tiny.py:task={task},{ARGUMENTS[task]}"
    igllm("train", config, *changes, "--workdir", workdir)

    lines = metrics_log.read(workdir / metrics_log.METRICS_FILE)
    trained = [line["loss"] for line in lines if "loss" in line]
    held_out = {line["step"]: line["val/loss"] for line in lines if "val/loss" in line}
    print(f"\n{task}: " + ", ".join(f"step {step} {loss:.3f}" for step, loss in held_out.items()), flush=True)
    losses = list(held_out.values())
    assert np.isfinite(trained).all() and np.isfinite(losses).all()
    assert trained[-1] < 0.9 * trained[0] and losses[-1] < 0.95 * losses[0]
    if IS_FULL:
        quarter = len(losses) // 4
        means = [np.mean(losses[start : start + quarter]) for start in range(0, len(losses), quarter)]
        assert (np.diff(means) < 0).all(), "the held-out loss does not keep falling"

    val_images, val_labels = paths["data.val.images"], paths["data.val.labels"]
    tokens = 512 if IS_FULL else 16
    options = ["--grammar", "none", "--limit", NUM_IMAGES, "--batch_size", NUM_IMAGES, "--max_new_tokens", tokens]
    igllm("generate", "--workdir", workdir, "--images", val_images, "--out", predictions, *options)
    igllm("evaluate", "--labels", val_labels, "--predictions", predictions, "--out", scores, "--bootstrap", 20)

    written = json.loads(predictions.read_text())
    assert len(written["answers"]) == NUM_IMAGES and written["task"] == task
    found = json.loads(scores.read_text())
    assert found["num_scenes"] == NUM_IMAGES and found["task"] == task
    assert found["rotation_rep"] == dict(part.split("=") for part in ARGUMENTS[task].split(",")).get("rotation_rep", "")
    assert found["metrics"]["ace"] is not None
    if IS_FULL:
        print(f"{task}: " + ", ".join(f"{name} {value}" for name, value in found["metrics"].items()), flush=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_names())
def test_every_preset_trains(name: str, tmp_path: Path) -> None:
    """Two steps at the sizes above; all other settings are the preset's: types, LoRA, remat, kernels, schedule."""
    preset, _ = configs.load([f"--config={name}"])
    paths = make_data(preset.task, tmp_path / "data")
    own = {"model.decoder.vocab_size": 512, "tokenizer.train_vocab_size": 512, "data.train.num_samples": 0}
    own |= {"data.max_length": 512, "data.num_workers": 0, "train.num_steps": 2, "eval.loss_every": 0}
    given = {**SMALL, **paths, **own, "optim.lr": preset.optim.lr}
    changes = [f"--config.{key}={value}" for key, value in given.items()]
    igllm("train", f"--config={name}", *changes, "--workdir", tmp_path / "run")
    lines = metrics_log.read(tmp_path / "run" / metrics_log.METRICS_FILE)
    assert np.isfinite([line["loss"] for line in lines if "loss" in line]).all() and lines[-1]["step"] == 2


REFERENCE_STEPS = {"clevr": 40_000, "twod": 40_000, "so3": 40_000, "sixdof": 200_000, "shapenet": 500_000}
REFERENCE_SETTINGS = {
    "data.image_aspect_ratio": "pad",
    "data.image_size": 336,
    "data.max_length": 2048,
    "data.prompt": "vicuna_v1",
    "data.rotation_unit": "deg",
    "data.shuffle_attributes": True,
    "data.use_synonyms": True,
    "batch_size": 32,
    "eval.loss_every": 100,
    "eval.max_new_tokens": 1024,
    "model.decoder.remat": "full",
    "model.dtype": "bfloat16",
    "model.lora.alpha": 256.0,
    "model.lora.dropout": 0.05,
    "model.lora.rank": 128,
    "model.projector": "linear",
    "model.vision.feature_layer": -2,
    "optim.beta1": 0.9,
    "optim.beta2": 0.999,
    "optim.clip_norm": 1.0,
    "optim.epsilon": 1e-8,
    "optim.float_head_lr": 2e-4,
    "optim.lr": 2e-5,
    "optim.projector_lr": 2e-5,
    "optim.trainable": "lora",
    "optim.warmup": 0.03,
    "optim.weight_decay": 0.0,
    "train.checkpoint_every": 500,
    "train.float_weight": 1.0,
    "train.keep_checkpoints": 2,
}


@pytest.mark.parametrize("task", SHIPPED)
def test_every_task_has_its_config_at_the_references_settings(task: str) -> None:
    reps = [rep for rep in find_language(task).rotation_reps if rep != "yaw"]
    for rep in reps:
        argument = f":rotation_rep={rep},head=linear" if rep else ":head=linear"
        config, _ = configs.load([f"--config={ROOT}/configs/{task}.py{argument}"])
        assert (config.task, config.rotation_rep, config.head) == (task, rep, "linear")
    flat = configs.flatten(config)
    assert {key: flat[key] for key in REFERENCE_SETTINGS} == REFERENCE_SETTINGS
    assert config.train.num_steps == REFERENCE_STEPS[task]
    assert config.data.train.num_samples == (4000 if task == "clevr" else 0)
    training, held_out = ("checkerboard_sparse", "random") if task == "twod" else ("train", "val_ID")
    for split, name in (("train", training), ("val", held_out)):
        assert name in config.data[split].images and name in config.data[split].labels
    assert task == "twod" or "/labels/" in config.data.train.labels
