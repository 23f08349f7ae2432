"""Where a run's metrics go: metrics.jsonl always, TensorBoard and W&B where asked for and installed."""

import importlib
import itertools
import json
import tempfile
from typing import Any

from igllm_jax import files, line_log, paths
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath
from igllm_jax.training.monitor import log_line

METRICS_FILE = "metrics.jsonl"


class MetricsWriter:
    """One JSON object a line: {"step": N, name: value, ...}.

    first_step: lines from a later step (of a run that was cut off after its last checkpoint) are dropped.
    """

    def __init__(self, workdir: FilePath, *, first_step: int, tensorboard: bool, wandb: bool, config: dict[str, Any]):
        self.path = workdir / METRICS_FILE
        lines, has_damage = _read(self.path)
        if has_damage:
            aside = _free_name(self.path)
            files.write_bytes(aside, line_log.read(self.path) or b"")
            log_line(f"{self.path} has lines that can't be read; it is kept as {aside.name}, and the others go on")
        keep = [line for line in lines if line["step"] <= first_step]
        is_same = len(keep) == len(lines) and not has_damage and paths.is_remote(self.path)
        self.log = line_log.open_log(self.path, None if is_same else "".join(json.dumps(line) + "\n" for line in keep))
        board = _module("tensorboardX") if tensorboard else None
        self.board_folder = files.MirroredFolder(workdir / "tensorboard") if board else None
        self.board = board.SummaryWriter(str(self.board_folder.here)) if board and self.board_folder else None
        here = tempfile.gettempdir() if paths.is_remote(workdir) else str(workdir)
        self.wandb = _wandb().init(config=config, dir=here) if wandb else None

    def write(self, step: int, values: dict[str, float]) -> None:
        self.log.write(json.dumps({"step": step, **values}) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(values, step=step)

    def sync(self) -> None:
        """What was written so far outlives this process."""
        self.log.sync()

    def close(self) -> None:
        self.log.close()
        if self.board is not None and self.board_folder is not None:
            self.board.close()
            self.board_folder.close()
        if self.wandb is not None:
            self.wandb.finish()


class NullMetricsWriter:
    """What every process but the first logs to."""

    def write(self, step: int, values: dict[str, float]) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def load_metrics(workdir: str | FilePath) -> list[dict[str, Any]]:
    """What a run has measured, on a disk or in a bucket: a dictionary for each line of its metrics, with `step`.

    Raises: UserError where they cannot be read.
    """
    return read(paths.to_path(workdir) / METRICS_FILE)


def read(path: FilePath) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl that can be read, each with its `step`."""
    return _read(path)[0]


def _read(path: FilePath) -> tuple[list[dict[str, Any]], bool]:
    """The lines, and whether others are damaged. A last line that was cut off is none: a killed run leaves it."""
    try:
        content = line_log.read(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None
    if content is None:
        return [], False
    lines, has_damage = [], False
    *whole, last = content.split(b"\n")
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


def _free_name(path: FilePath) -> FilePath:
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
