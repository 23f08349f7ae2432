"""Small real runs for tests: the tiny config, smaller still, as a command in a process of its own."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMPILED = "IGLLM_TESTS_COMPILED"  # the folder where processes of all workers find what another compiled
if COMPILED not in os.environ:
    os.environ[COMPILED] = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, os.environ[COMPILED], ignore_errors=True)
SMALLER = {
    "batch_size": 8,
    "model.vision.width": 32,
    "model.vision.num_layers": 1,
    "model.vision.mlp_width": 48,
    "model.decoder.width": 32,
    "model.decoder.num_layers": 2,
    "model.decoder.num_heads": 2,
    "model.decoder.num_kv_heads": 2,
    "model.decoder.head_dim": 16,
    "model.decoder.mlp_width": 48,
    "train.num_steps": 60,
    "train.log_every": 1,
    "train.checkpoint_every": 4,
    "train.tensorboard": False,
    "eval.loss_every": 30,
    "eval.loss_samples": 16,
    "eval.generate_every": 0,
    "eval.generate_samples": 8,
    "eval.max_new_tokens": 40,
}


def arguments(workdir, data, *, task="twod", head="tanh_mlp_gelu", **overrides):
    """Arguments of `igllm train`; `overrides` with __ for the dots of a key."""
    values = {**SMALLER, **{key.replace("__", "."): value for key, value in overrides.items()}}
    if task == "twod":
        for split, name in (("train", "checkerboard_sparse"), ("val", "random")):
            values[f"data.{split}.images"] = values[f"data.{split}.labels"] = f"{data}/2d.npz:{name}"
    config = [f"--config={ROOT}/configs/tiny.py:task={task},head={head}"]
    return [*config, "--workdir", str(workdir), *(f"--config.{key}={value}" for key, value in values.items())]


def cache():
    """The environment in which processes find what another compiled."""
    return {"JAX_COMPILATION_CACHE_DIR": os.environ[COMPILED], "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def start(command, *words, **options):
    """`igllm COMMAND WORDS...` as a process."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **cache(), **options.pop("environment", {})}
    line = [sys.executable, "-m", "igllm_jax", command, *words]
    return subprocess.Popen(
        line, cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **options
    )


def finish(process, code=0, timeout=300):
    """Waits; returns stdout and stderr. The exit code must be `code`."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    return out, err


def losses(workdir):
    """Step -> training loss, exactly as written."""
    lines = map(json.loads, (Path(workdir) / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def measured(folder, lines, *words):
    """A run's folder with a config and these lines of metrics, and nothing else. words: of `igllm train`."""
    from igllm_jax import config as configs

    Path(folder).mkdir()
    configs.write(configs.load(["--config=tiny", *words])[0], Path(folder))
    (Path(folder) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def untrained(workdir, data, *, task="clevr", **overrides):
    """A run whose only checkpoint is its start: nothing is compiled. data: as `igllm make-data` leaves it."""
    from igllm_jax import config as configs
    from igllm_jax import train

    if task != "twod":
        for split, name in (("train", "train"), ("val", "val_ID")):
            overrides[f"data__{split}__images"] = f"{data}/images/{name}.tar"
            overrides[f"data__{split}__labels"] = f"{data}/labels/{name}.json"
    words = [word for word in arguments("", data, task=task, **overrides) if word.startswith("--config")]
    run = train.Run(configs.load(words)[0], workdir)
    run.checkpoints.save(run.state, run._meta(), None)
    run.checkpoints.close()
