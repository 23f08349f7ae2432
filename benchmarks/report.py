"""What every benchmark prints: the machine, the versions, and figures that were taken in turns."""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.worker import ROOT, Side, SideError

PACKAGES = ("jax", "flax", "numpy", "grain", "pillow", "torch", "transformers", "peft")
SETTLE_SECONDS = 1.0  # between turns: threads of the last side still spin for a while, waiting for work


def heading(title: str) -> None:
    """Command, machine, load, date and versions."""
    cpu = next(
        (line.split(":")[1].strip() for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    total = next((line.split()[1] for line in _read("/proc/meminfo").splitlines() if "MemTotal" in line), "0")
    print(f"# {title}")
    print(f"command: python {' '.join(sys.argv)}")
    print(f"machine: {os.cpu_count()} x {cpu}, {int(total) / 2**20:.0f} GiB; load before {os.getloadavg()[0]:.2f}")
    print(f"date: {time.strftime('%Y-%m-%d %H:%M')}; Python {platform.python_version()}, {', '.join(_versions())}")


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield f"{name} absent"


@contextmanager
def work_folder(arguments: Sequence[str]) -> Iterator[Path]:
    """A temporary folder with the weights and the batch of these --config arguments; see work.py."""
    with tempfile.TemporaryDirectory(prefix="igllm-bench-") as name:
        folder = Path(name) / "work"
        script = str(ROOT / "benchmarks" / "work.py")
        subprocess.run([sys.executable, script, str(folder), *arguments], check=True)
        yield folder


@contextmanager
def sides(scripts: Mapping[str, tuple[str, Sequence[str]]]) -> Iterator[dict[str, Side]]:
    """Worker processes by name; closed in the end."""
    opened: dict[str, Side] = {}
    try:
        for name, (script, arguments) in scripts.items():
            opened[name] = Side(name, script, *arguments)
        yield opened
    finally:
        for side in opened.values():
            side.close()


def in_turns(names: Sequence[str], rounds: int, once: Callable[[str], Any]) -> dict[str, list[Any]]:
    """`once(name)` for A B A B ..., a second apart; a side that fails is said and left out.

    Who trains or decodes never rests, but a side does while the others have their turn, and is slower at first: its
    memory has gone back to the kernel, and from a virtual machine to its host. Where that counts, `once` does the work
    once before it measures it.
    """
    found: dict[str, list[Any]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in [name for name in names if name in found]:
            time.sleep(SETTLE_SECONDS)
            try:
                found[name].append(once(name))
            except SideError as error:
                print(f"left out: {error}")
                del found[name]
    return found


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """median (min-max)."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints a Markdown table; the first row's keys are its head."""
    head = list(rows[0])
    lines = [head, *[[str(row.get(key, "")) for key in head] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for number, line in enumerate(lines):
        print("| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    sys.stdout.flush()
