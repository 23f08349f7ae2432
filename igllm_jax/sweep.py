"""`igllm sweep`: a run for every combination of settings, as processes of this machine, or as commands for a cluster.

Everything else on the command line is given to every `igllm train`. The same command goes on where it was stopped: runs
that are done are left out, others resume. Of runs in a bucket this machine keeps locks and logs meanwhile; a log is
uploaded when its run ends.
"""

import fcntl
import hashlib
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from igllm_jax import config as configs
from igllm_jax import files, flags, paths, progress
from igllm_jax.endings import INTERRUPTED
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath
from igllm_jax.training.patience import Patience
from igllm_jax.weights import checkpoint

SWEEP_FILE, LOG_FILE, LOCK_FILE = "sweep.json", "train.log", ".running"
TRAIN = (sys.executable, "-m", "igllm_jax", "train")
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Cell:
    """One run of the grid. words: arguments of `igllm train`. num_steps: at which it is done. patience: of
    measurements, after which it ends before (0: never)."""

    folder: FilePath
    words: tuple[str, ...]
    num_steps: int
    patience: int = 0

    @property
    def here(self) -> Path:
        """Its folder on this machine, for its lock and its log."""
        if not paths.is_remote(self.folder):
            return Path(self.folder)
        name = hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"igllm-sweep-{os.getuid()}" / name

    @property
    def is_done(self) -> bool:
        """Whether its last checkpoint is of the last step, or of one at which it ended early, and all is measured."""
        if checkpoint.count(self.folder) == 0:
            return False
        meta, counted = checkpoint.read_meta(self.folder), Patience(self.patience)
        counted.restore(meta)
        return bool(meta["is_evaluated"]) and (meta["step"] >= self.num_steps or counted.is_over)


def main(arguments: list[str]) -> int:
    """The command."""
    own, others = configs.split(arguments)
    parser = flags.Parser(prog="igllm sweep", description=__doc__)
    configs.add_arguments(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=A,B", help="a config key and its values (repeatable)"
    )
    parser.add_argument("--out", type=flags.path, required=True, help="a folder, with one for each run in it")
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


def grid(own: Sequence[str], sets: Sequence[tuple[str, list[str]]], out: FilePath) -> list[Cell]:
    """A cell for every combination. own: the config arguments of all. Raises: UserError for one that can't be."""
    keys = [key for key, _ in sets]
    if not sets or len(set(keys)) < len(keys):
        raise UserError("give --set KEY=VALUE,VALUE, each key once; for one run, igllm train does")
    cells: list[Cell] = []
    seen: dict[str, str] = {}  # a config -> the name of its run
    for values in itertools.product(*(values for _, values in sets)):
        pairs = list(zip(keys, values, strict=True))
        words = [*own, *(f"--config.{key}={value}" for key, value in pairs)]
        config = configs.load(words)[0]
        name = re.sub(r"[^\w.,=+-]", "_", ",".join(f"{key}={value}" for key, value in pairs))
        if (before := seen.setdefault(config.to_json(sort_keys=True), name)) != name:
            raise UserError(f"--set: {before} and {name} are the same run; give each value once")
        folder = out / name
        if folder in [cell.folder for cell in cells]:
            raise UserError(f"--set: two combinations would both be {folder}; give them apart, to two --out")
        steps, patience = config.train.num_steps, config.eval.patience
        cells.append(Cell(folder, (*words, "--workdir", str(folder)), steps, patience))
    return cells


def keep_settings(path: FilePath, own: Sequence[str]) -> None:
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
    elsewhere: set[FilePath] = set()
    progress.note(f"{len(cells)} runs, {len(cells) - len(waiting)} of them done")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while waiting or running:
            _start_some(waiting, running, elsewhere, jobs)
            for process in [process for process in running if process.poll() is not None]:
                cell = running.pop(process)
                failed += [cell] if process.returncode else []
                progress.note(_told(cell, process.returncode))
                _keep_log(cell)
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        progress.note("stopped; runs save what they have, and the same command goes on")
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
        _end(running)
        for cell in running.values():
            _keep_log(cell)
    progress.result(f"{len(cells) - len(failed)} of {len(cells)} runs are done: {cells[0].folder.parent}")
    return 1 if failed else 0


def _start_some(
    waiting: list[Cell], running: dict["subprocess.Popen[bytes]", Cell], elsewhere: set[FilePath], jobs: int
) -> None:
    """Moves runs from `waiting` to `running`, to `jobs` at a time. A run that another process trains, as one does whose
    sweep was killed, counts among them and goes on waiting; `elsewhere`: those that were told."""
    taken = 0
    for cell in [*waiting]:
        if len(running) + taken >= jobs:
            return
        if cell.folder in elsewhere and cell.is_done:
            waiting.remove(cell)
            progress.note(f"ended {cell.folder}")
            continue
        process = start(cell)
        if process is None:
            taken += 1
            if cell.folder not in elsewhere:
                progress.note(f"{cell.folder} is still being trained by another process; waiting for its end")
                elsewhere.add(cell.folder)
            continue
        waiting.remove(cell)
        running[process] = cell
        progress.note(f"started {cell.folder}")


def start(cell: Cell) -> "subprocess.Popen[bytes] | None":
    """The run as a process, which holds a lock on its folder for as long as it lives; None where another holds it."""
    cell.here.mkdir(parents=True, exist_ok=True)
    with (cell.here / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return None
        with (cell.here / LOG_FILE).open("ab") as log:
            return subprocess.Popen(
                [*TRAIN, *cell.words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[lock.fileno()]
            )


def _told(cell: Cell, code: int) -> str:
    if not code:
        return f"ended {cell.folder}"
    lines = (cell.here / LOG_FILE).read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"{cell.folder} failed with exit code {code}: {last} ({cell.folder / LOG_FILE})"


def _keep_log(cell: Cell) -> None:
    if paths.is_remote(cell.folder):
        with suppress(UserError):  # the run has told what it could not write
            files.copy(cell.here / LOG_FILE, cell.folder / LOG_FILE)


def _end(running: dict["subprocess.Popen[bytes]", Cell]) -> None:
    """Asks what still runs to save and end, and waits for it."""
    for process in running:
        with suppress(ProcessLookupError):
            process.terminate()
    for process in running:
        process.wait()
