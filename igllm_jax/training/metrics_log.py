"""Where a run's metrics go: metrics.jsonl always, TensorBoard and W&B where asked for and installed."""

import contextlib
import importlib
import json
from pathlib import Path
from typing import Any

from igllm_jax import files
from igllm_jax.errors import UserError

METRICS_FILE = "metrics.jsonl"


class MetricsWriter:
    """One JSON object a line: {"step": N, name: value, ...}.

    first_step: lines from a later step (of a run that was cut off after its last checkpoint) are dropped.
    """

    def __init__(self, workdir: Path, *, first_step: int, tensorboard: bool, wandb: bool, config: dict[str, Any]):
        self.path = workdir / METRICS_FILE
        keep = [line for line in read(self.path) if line["step"] <= first_step]
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
    """The lines of a metrics.jsonl; a last line that was cut off is left out."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


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
