"""The smallest real run: what kills and soaks start again and again, as a user would start it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SIZES = {
    "batch_size": 8, "data.image_size": 28, "model.vision.image_size": 28, "model.vision.width": 32,
    "model.vision.num_layers": 1, "model.vision.mlp_width": 48, "model.decoder.width": 32,
    "model.decoder.num_layers": 2, "model.decoder.num_heads": 2, "model.decoder.num_kv_heads": 2,
    "model.decoder.head_dim": 16, "model.decoder.mlp_width": 48, "train.log_every": 1, "train.tensorboard": False,
    "eval.loss_every": 0, "eval.generate_every": 0,
}  # fmt: skip
SPLITS = ("train", "val")


def make_points(file: Path, count: int) -> Path:
    """A 2D file with `count` points in each split; the images are drawn from them."""
    rng = np.random.default_rng(0)
    np.savez(file, **{split: rng.random((count, 2)) for split in SPLITS})
    return file


def train_words(workdir: Path, points: Path, **overrides: Any) -> list[str]:
    """Arguments of `igllm train`; `overrides` with __ for the dots of a key."""
    values = {**SIZES, **{key.replace("__", "."): value for key, value in overrides.items()}}
    for split in SPLITS:
        values[f"data.{split}.images"] = values[f"data.{split}.labels"] = f"{points}:{split}"
    config = [f"--config={ROOT}/configs/tiny.py:task=twod", "--workdir", str(workdir)]
    return [*config, *(f"--config.{key}={value}" for key, value in values.items())]


def start(command: str, *words: str, compiled: Path, log: Path) -> subprocess.Popen:
    """`igllm COMMAND WORDS...` as a process of its own; what it prints is appended to `log`.

    compiled: where processes find what an earlier one compiled.
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    line = [sys.executable, "-m", "igllm_jax", command, *words]
    with log.open("ab") as out:
        return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen, log: Path) -> None:
    """Waits. Raises: SystemExit with the end of the log where the command failed."""
    if process.wait():
        tail = log.read_text(errors="replace").splitlines()[-20:]
        raise SystemExit("\n".join([*tail, f"exit code {process.returncode}, see {log}"]))
