"""Where a run's metrics go: metrics.jsonl always, TensorBoard and W&B where asked for and installed."""

import contextlib
import importlib
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

from igllm_jax import files
from igllm_jax.errors import UserError
from igllm_jax.training.monitor import log_line

METRICS_FILE = "metrics.jsonl"


class MetricsWriter:
    """One JSON object a line: {"step": N, name: value, ...}.

    first_step: lines from a later step (of a run that was cut off after its last checkpoint) are dropped.
    """

    def __init__(self, workdir: Path, *, first_step: int, tensorboard: bool, wandb: bool, config: dict[str, Any]):
        self.path = workdir / METRICS_FILE
        lines, has_damage = _read(self.path)
        if has_damage:
            aside = _free_name(self.path)
            shutil.copyfile(self.path, aside)
            log_line(f"{self.path} has lines that can't be read; it is kept as {aside.name}, and the others go on")
        keep = [line for line in lines if line["step"] <= first_step]
        files.write_text(self.path, "".join(json.dumps(line) + "\n" for line in keep))
        self.file = self.path.open("a", buffering=1)
        board = _module("tensorboardX") if tensorboard else None
        self.board = board.SummaryWriter(str(workdir / "tensorboard")) if board else None
        self.wandb = _wandb().init(config=config, dir=str(workdir)) if wandb else None

    def write(self, step: int, values: dict[str, float]) -> None:
        try:
            self.file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            files.refuse(self.path, error)
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(values, step=step)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a line that did not fit was an error when it was written
            self.file.close()
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


class NullMetricsWriter:
    """What every process but the first logs to."""

    def write(self, step: int, values: dict[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl that can be read, each with its `step`."""
    return _read(path)[0]


def _read(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The lines, and whether others are damaged. A last line that was cut off is none: a killed run leaves it."""
    if not path.is_file():
        return [], False
    lines, has_damage = [], False
    *whole, last = path.read_bytes().split(b"\n")
    for index, line in enumerate([*whole, last]):
        try:
            found = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            has_damage |= index < len(whole)
            continue
        if isinstance(found, dict) and type(found.get("step")) is int:
            lines.append(found)
        else:
            has_damage = True
    return lines, has_damage


def _free_name(path: Path) -> Path:
    return next(
        free for number in itertools.count(1) if not (free := path.with_name(f"{path.name}.damaged-{number}")).exists()
    )


def _wandb() -> Any:
    """W&B was asked for by name, so its absence is an error."""
    found = _module("wandb")
    if found is None:
        raise UserError("train.wandb is on, but wandb is not installed: pip install wandb, or set train.wandb=False")
    return found


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
