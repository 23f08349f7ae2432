"""The same function for many jobs, in several processes, in order."""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
CHUNK = 8  # jobs that a worker takes at a time


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and stops its workers


def run_all(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, count: int, workers: int, chunk: int = CHUNK
) -> Iterator[Result]:
    """Yields `function(job)` for each of `count` jobs, in order. function: of a module, so that it can be sent."""
    workers = min(workers, -(-count // chunk))
    if workers <= 1:
        yield from map(function, jobs)
        return
    # spawn: a caller may have threads (JAX does), and those do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(workers, _ignore_interrupts) as pool:
        yield from pool.imap(function, jobs, chunksize=chunk)
