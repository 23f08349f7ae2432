"""Images in order, read ahead on threads: for validation and for generation."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from igllm_jax.data.images import preprocess
from igllm_jax.data.options import DataOptions
from igllm_jax.data.tars import ImageSource

AHEAD = 2  # batches read while the device is busy with one
FEWEST_THREADS = 8  # decoding keeps a core each busy, but a bucket answers many requests at once


def reader(source: ImageSource, options: DataOptions) -> Callable[[int], np.ndarray]:
    """Number -> image uint8 [S, S, 3] of a source, decoded and made square as `options` say."""

    def read(index: int) -> np.ndarray:
        image = source.read(index, options.pixel_options)
        return preprocess(image, options.image_size, options.image_aspect_ratio, options.image_mean)

    return read


def image_batches(
    read: Callable[[int], np.ndarray],
    count: int,
    batch_size: int,
    image_size: int,
    rows: Sequence[int] | None = None,
    *,
    ahead: int = AHEAD,
) -> Iterator[np.ndarray]:
    """uint8 [R, S, S, 3] of each of the batches that `count` images make; images beyond the last are zeros.

    read: number -> image uint8 [S, S, 3]; called on several threads, in order, for at most `ahead` batches before
        they are asked for. What it raises is raised here, when that batch's turn comes.
    batch_size: B of the global batch. rows: those of each batch that are read here, default all (R = B).

    Example: 5 images in batches of 4, rows (2, 3): images 2 and 3, then zeros.
    """
    wanted = list(range(batch_size) if rows is None else rows)
    starts = iter(range(0, count, batch_size))
    pool = ThreadPoolExecutor(max(FEWEST_THREADS, os.cpu_count() or 1))
    waiting: deque[list[Future[np.ndarray] | None]] = deque()

    def ask(start: int) -> list[Future[np.ndarray] | None]:
        return [pool.submit(read, start + row) if start + row < count else None for row in wanted]

    try:
        for start in starts:
            waiting.append(ask(start))
            if len(waiting) > ahead:
                yield _stacked(waiting.popleft(), image_size)
        while waiting:
            yield _stacked(waiting.popleft(), image_size)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _stacked(futures: Sequence[Future[np.ndarray] | None], image_size: int) -> np.ndarray:
    images = np.zeros((len(futures), image_size, image_size, 3), np.uint8)
    for row, future in enumerate(futures):
        if future is not None:
            images[row] = future.result()
    return images
