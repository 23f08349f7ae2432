"""What the paper claims, shown by small models that anyone can train: runs, tables and plots.

    python benchmarks/claims.py --claim float_head cogent rotations shifts --seeds 3 --jobs 2 --out build/claims
    python benchmarks/claims.py --claim cogent rotations shifts --seeds 3 --out build/claims --refine
    python benchmarks/claims.py --report
    python benchmarks/claims.py --claim cogent --size paper --data data --base weights/vicuna-7b --out runs/claims

Makes the data, trains, generates without the grammar, evaluates, and keeps one JSON file a run in docs/results; then
docs/results.md and its plots are made of all that are there. The same command goes on where it was stopped; runs that
have their JSON are done. What a claim trains is in claims_cells.py, the settings are in configs/claims.py.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import claims_report
from benchmarks.claims_cells import CLAIMS, MAKE_DATA, RELEASED, SIZES, Cell, cells_of
from igllm_jax import flags
from igllm_jax.errors import UserError

if TYPE_CHECKING:
    from benchmarks.claims_run import Setting

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "docs" / "results", ROOT / "docs" / "results.md"
ONE_CORE = "--xla_cpu_multi_thread_eigen=false"  # each job has a core of its own
STOPPED = 3  # exit code of a run that a signal stopped in training
TERMINATED = 128 + signal.SIGTERM  # ... and elsewhere
ENDS = {0: "done", STOPPED: "stopped", TERMINATED: "stopped", -signal.SIGTERM: "stopped"}


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = flags.Parser(prog="claims.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claim", nargs="+", choices=list(CLAIMS), default=[], help="in this order")
    parser.add_argument("--seeds", type=flags.whole(1, 1000), default=1, help="runs of each cell: seeds 1 to N")
    parser.add_argument("--minutes", type=flags.whole(1, 10**6), help="stop after so long; the same command goes on")
    parser.add_argument("--jobs", type=flags.WORKERS, default=1, help="runs side by side, a core each at size tiny")
    parser.add_argument("--size", choices=SIZES, default="tiny", help="paper: the reference's settings and data")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "claims", help="runs and own data")
    parser.add_argument("--data", type=Path, help="with --size paper: the folder of the released data")
    parser.add_argument("--base", default="", help="with --size paper: model.base, a folder of imported weights")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON files (default: docs/results)")
    parser.add_argument("--page", type=Path, default=PAGE, help="what is made of them (default: docs/results.md)")
    parser.add_argument("--refine", action="store_true", help="look again at the answers of runs that are done")
    parser.add_argument("--report", action="store_true", help="make the page alone")
    parser.add_argument("--list", action="store_true", help="say which runs are done and which are not")
    parser.add_argument("--cell", help="one run by its name, in this process, and no page")
    parser.add_argument("--core", type=flags.whole(0, 1_000_000), help="with --cell: on this core alone")
    parser.add_argument("override", nargs="*", help="more --config.KEY=VALUE, after --; needs --results")
    options = parser.parse_args(arguments)
    if options.override and options.results == RESULTS:
        parser.error("with other settings than the claim's, give --results a folder of its own")
    if options.size == "paper" and (options.claim or options.cell) and not (options.data and options.base):
        parser.error("--size paper needs --data, the released data, and --base, the imported weights")
    if not (options.claim or options.report):
        parser.error("give --claim or --report")
    options.out, options.results = options.out.absolute(), options.results.absolute()
    return options


def setting_of(options: argparse.Namespace):
    """Where cells run, as these flags say it."""
    from benchmarks.claims_run import Setting

    data = options.data.absolute() if options.data else options.out / "data"
    return Setting(options.size, options.out, data, options.results, options.base, tuple(options.override))


def make_data(names: list[str], options: argparse.Namespace) -> None:
    """Own data sets, those that are not there. Raises: CalledProcessError where one cannot be made."""
    for name in names:
        folder = options.out / "data" / name
        if (folder / "2d.npz").exists() or (folder / "labels" / "train.json").exists():
            continue
        words = ["make-data", *MAKE_DATA[name], "--out", str(folder)]
        words += [] if name == "twod" else ["--workers", str(options.jobs)]
        subprocess.run(
            [sys.executable, "-m", "igllm_jax", *words],
            cwd=ROOT,
            check=True,
            env=_environment(options.size, options.out),
        )


def check_released(tasks: list[str], data: Path) -> None:
    """Raises: UserError where the released data of a task are missing."""
    for task in tasks:
        if not (data / RELEASED[task]).is_dir():
            raise UserError(f"--data {data} has no {RELEASED[task]}, the released data of {task}: bring them there")


def run_all(cells: list[Cell], options: argparse.Namespace) -> list[str]:
    """Runs the cells, --jobs of them at a time; names of those that failed. What is stopped goes on another time."""
    deadline = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    waiting, running, failed = list(cells), {}, []
    free = sorted(_cores()) * -(-options.jobs // len(_cores()))
    try:
        while (waiting and time.monotonic() < deadline) or running:
            if time.monotonic() >= deadline:
                _stop(running)
            elif waiting and len(running) < options.jobs:
                cell, core = waiting.pop(0), free.pop(0)
                running[cell.name] = (_start(cell, core, options), core)
                continue
            time.sleep(0.5)
            for name, (process, core) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    free.insert(0, core)
                    told = ENDS.get(process.returncode, "failed")
                    failed += [name] if told == "failed" else []
                    print(f"{name}: {told}", flush=True)
                    if process.returncode == 0:
                        claims_report.write_page(options.results, options.page)
    except BaseException:
        _stop(running)
        raise
    return failed


def _cores() -> set[int]:
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _environment(size: str, out: Path) -> dict[str, str]:
    environment = dict(os.environ)
    if size == "tiny":
        environment["JAX_PLATFORMS"] = "cpu"
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {ONE_CORE}".strip()
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(out / "cache" / "jax"))  # seeds share programs
        environment.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # a tenth quicker, see the Makefile
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
    return environment


def _start(cell: Cell, core: int, options: argparse.Namespace) -> subprocess.Popen:
    """The cell in a process of its own, on one core at size tiny; what it prints goes to a file in its folder."""
    words = [sys.executable, __file__, "--claim", cell.claim, "--cell", cell.name, "--seeds", str(options.seeds)]
    for name in ("size", "out", "data", "base", "results"):
        words += [f"--{name}", str(getattr(options, name))] if getattr(options, name) else []
    words += ["--core", str(core)] if options.size == "tiny" else []
    log = setting_of(options).workdir(cell) / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{cell.name}: {log}", flush=True)
    with log.open("a") as file:
        return subprocess.Popen(
            [*words, "--", *options.override],
            stdout=file,
            stderr=file,
            env=_environment(options.size, options.out),
            cwd=ROOT,
        )


def _stop(running: dict[str, tuple[subprocess.Popen, int]]) -> None:
    for process, _ in running.values():
        process.terminate()
    for process, _ in running.values():
        process.wait()


def refine(cells: list[Cell], setting: "Setting", options: argparse.Namespace) -> int:
    """Adds to the JSON files of cells what looking again makes of their answers; the exit code."""
    from benchmarks.claims_refine import add_refined

    for cell in cells:
        if setting.result(cell).exists() and "refined" not in json.loads(setting.result(cell).read_text()):
            print(f"{cell.name}: {'refined' if add_refined(cell, setting) else 'its run is not in --out'}", flush=True)
    claims_report.write_page(options.results, options.page)
    return 0


def main(arguments: list[str]) -> int:
    """The command."""
    options = parse(arguments)
    cells = cells_of(options.claim, options.size, options.seeds)
    if options.cell:
        if options.core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, [options.core])  # before JAX counts the cores
        from benchmarks.claims_run import run_cell

        (cell,) = [cell for cell in cells if cell.name == options.cell]
        return 0 if run_cell(cell, setting_of(options)) else STOPPED
    setting = setting_of(options)
    if options.refine:
        return refine(cells, setting, options)
    if options.list:
        for cell in cells:
            print("done    " if setting.result(cell).exists() else "to do   ", cell.name)
        return 0
    to_do = [cell for cell in cells if not setting.result(cell).exists()]
    names = list(dict.fromkeys(cell.data for cell in to_do))
    check_released(names, options.data) if options.size == "paper" else make_data(names, options)
    if any(cell.weights for cell in to_do):
        from benchmarks.real_weights import prepare

        prepare(setting.real)
    failed = run_all(to_do, options)
    claims_report.write_page(options.results, options.page)
    done = sum(setting.result(cell).exists() for cell in cells)
    print(options.page if options.report else f"{options.page}: {done} of {len(cells)} runs are done")
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
