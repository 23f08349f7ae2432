"""`igllm sweep`: a run for every combination of settings, as processes of this machine, or as commands for a cluster.

Everything else on the command line is given to every `igllm train`. The same command goes on where it was stopped: runs
that are done are left out, others resume.
"""

import fcntl
import itertools
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from igllm_jax import config as configs
from igllm_jax import files, flags, progress
from igllm_jax.endings import INTERRUPTED
from igllm_jax.errors import UserError
from igllm_jax.weights import checkpoint

SWEEP_FILE, LOG_FILE, LOCK_FILE = "sweep.json", "train.log", ".running"
TRAIN = (sys.executable, "-m", "igllm_jax", "train")
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Cell:
    """One run of the grid. words: arguments of `igllm train`. num_steps: at which it is done."""

    folder: Path
    words: tuple[str, ...]
    num_steps: int

    @property
    def is_done(self) -> bool:
        return checkpoint.count(self.folder) > 0 and checkpoint.find_step(self.folder, "last") >= self.num_steps


def main(arguments: list[str]) -> int:
    """The command."""
    own, others = configs.split(arguments)
    parser = flags.Parser(prog="igllm sweep", description=__doc__)
    configs.add_arguments(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=A,B", help="a config key and its values (repeatable)"
    )
    parser.add_argument("--out", type=flags.local_path, required=True, help="a folder, with one for each run in it")
    parser.add_argument("--jobs", type=flags.PROCESSES, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--dry_run", action="store_true", help="print the commands, and start none")
    options = parser.parse_args(others)
    cells = grid(own, [parse_set(text) for text in options.set], options.out)
    if options.dry_run:
        for cell in cells:
            progress.result(shlex.join(["igllm", "train", *cell.words]))
        return 0
    files.try_folder(options.out)
    keep_settings(options.out / SWEEP_FILE, own)
    return run_all(cells, options.jobs)


def parse_set(text: str) -> tuple[str, list[str]]:
    """KEY=A,B,C as a key and its values; commas inside of brackets or quotes split nothing. Raises: UserError."""
    key, separator, values = text.partition("=")
    parts = re.findall(r"""(?:\([^()]*\)|'[^']*'|"[^"]*"|[^,])+""", values)
    if not separator or not key or not parts or len(set(parts)) < len(parts):
        raise UserError(f"--set {text}: expected KEY=VALUE,VALUE with different values; for example optim.lr=1e-4,2e-4")
    return key, parts


def grid(own: Sequence[str], sets: Sequence[tuple[str, list[str]]], out: Path) -> list[Cell]:
    """A cell for every combination. own: the config arguments of all. Raises: UserError for one that can't be."""
    keys = [key for key, _ in sets]
    if not sets or len(set(keys)) < len(keys):
        raise UserError("give --set KEY=VALUE,VALUE, each key once; for one run, igllm train does")
    cells: list[Cell] = []
    for values in itertools.product(*(values for _, values in sets)):
        pairs = list(zip(keys, values, strict=True))
        words = [*own, *(f"--config.{key}={value}" for key, value in pairs)]
        config = configs.load(words)[0]
        name = re.sub(r"[^\w.,=+-]", "_", ",".join(f"{key}={value}" for key, value in pairs))
        folder = out / name
        if folder in [cell.folder for cell in cells]:
            raise UserError(f"--set: two combinations would both be {folder}; give them apart, to two --out")
        cells.append(Cell(folder, (*words, "--workdir", str(folder)), config.train.num_steps))
    return cells


def keep_settings(path: Path, own: Sequence[str]) -> None:
    """Notes what all runs share. Raises: UserError where the folder has runs of something else; a grid may grow."""
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if sorted(before) != sorted(own):
            raise UserError(
                f"{path.parent} holds a sweep of {shlex.join(before)}; take another --out, or those settings"
            )
    files.write_text(path, json.dumps(list(own), indent=1) + "\n")


def run_all(cells: Sequence[Cell], jobs: int) -> int:
    """Runs what is not done, `jobs` at a time; returns the exit code. Once stopped, runs save what they have."""
    waiting, failed = [cell for cell in cells if not cell.is_done], []
    running: dict[subprocess.Popen[bytes], Cell] = {}
    progress.note(f"{len(cells)} runs, {len(cells) - len(waiting)} of them done")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                running[start(cell)] = cell
                progress.note(f"started {cell.folder}")
            for process in [process for process in running if process.poll() is not None]:
                cell = running.pop(process)
                failed += [cell] if process.returncode else []
                progress.note(_told(cell, process.returncode))
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        progress.note("stopped; runs save what they have, and the same command goes on")
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
        _end(running)
    progress.result(f"{len(cells) - len(failed)} of {len(cells)} runs are done: {cells[0].folder.parent}")
    return 1 if failed else 0


def start(cell: Cell) -> "subprocess.Popen[bytes]":
    """The run as a process, which holds a lock on its folder for as long as it lives. Raises: UserError where another
    process holds it, as a run does whose sweep was killed."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    with (cell.folder / LOCK_FILE).open("w") as lock, (cell.folder / LOG_FILE).open("ab") as log:
        _take(lock, cell.folder)
        return subprocess.Popen(
            [*TRAIN, *cell.words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[lock.fileno()]
        )


def _take(lock: IO[Any], folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(f"{folder} is still being trained; wait for that process, or end it, and start again") from None


def _told(cell: Cell, code: int) -> str:
    if not code:
        return f"ended {cell.folder}"
    lines = (cell.folder / LOG_FILE).read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"{cell.folder} failed with exit code {code}: {last} ({cell.folder / LOG_FILE})"


def _end(running: dict["subprocess.Popen[bytes]", Cell]) -> None:
    """Asks what still runs to save and end, and waits for it."""
    for process in running:
        with suppress(ProcessLookupError):
            process.terminate()
    for process in running:
        process.wait()
