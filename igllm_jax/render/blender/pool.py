"""Several Blender processes at once, with results in the order of the jobs."""

import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from igllm_jax.render.blender.process import Worker, WorkerOptions

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 3  # items in work or waiting for their turn, for each worker


def imap(
    function: Callable[[Worker, Item], Result], items: Iterable[Item], options: WorkerOptions, *, workers: int
) -> Iterator[Result]:
    """`function(worker, item)` for every item, in order, by so many workers at once.

    An exception of the function ends the iteration, and with it all workers, as closing the iterator does.
    """
    everyone = [Worker(options) for _ in range(workers)]
    free: queue.Queue[Worker] = queue.Queue()
    for worker in everyone:
        free.put(worker)

    def run(item: Item) -> Result:
        worker = free.get()
        try:
            return function(worker, item)
        finally:
            free.put(worker)

    pending: deque[Future[Result]] = deque()
    threads = ThreadPoolExecutor(workers, thread_name_prefix="blender")
    try:
        for item in items:
            pending.append(threads.submit(run, item))
            if len(pending) >= AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        threads.shutdown(wait=True)  # at most one job each is in work
        for worker in everyone:
            worker.close()
