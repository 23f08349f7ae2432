"""Progress with an ETA: a tqdm bar on a terminal, plain lines otherwise."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

from igllm_jax.errors import shown

Item = TypeVar("Item")
LINE_EVERY_SECONDS = 10.0


def track(iterable: Iterable[Item], *, total: int | None = None, label: str, unit: str = "it") -> Iterator[Item]:
    """Yields the items of `iterable` and shows how far it is, on stderr.

    total: number of items (default: `len(iterable)` where it has one).
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if sys.stderr.isatty():
        yield from tqdm(iterable, total=total, desc=label, unit=unit, dynamic_ncols=True)
        return
    start = last = time.monotonic()
    for done, item in enumerate(iterable, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LINE_EVERY_SECONDS or done == total:
            last = now
            note(line(label, done, total, now - start, unit))


def note(text: str) -> None:
    """One line on stderr; what a terminal should not get is escaped."""
    print(shown(text), file=sys.stderr, flush=True)


def result(text: str) -> None:
    """One line on stdout, of what a command leaves; what a terminal should not get is escaped."""
    print(shown(text), flush=True)


def line(label: str, done: int, total: int | None, seconds: float, unit: str = "it") -> str:
    """One plain line of progress: `label: 10/40 it, 2.0 it/s, ETA 15 s`."""
    rate = done / max(seconds, 1e-9)
    text = f"{label}: {done}{f'/{total}' if total else ''} {unit}, {rate:.3g} {unit}/s"
    return f"{text}, ETA {max(total - done, 0) / rate:.0f} s" if total else text
