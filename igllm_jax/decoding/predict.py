"""Answers for the images of a source, read ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from igllm_jax import progress
from igllm_jax.data.eval_images import AHEAD, image_batches, reader
from igllm_jax.data.tars import ImageSource
from igllm_jax.decoding import ngram_drafts
from igllm_jax.decoding.answer import Answer
from igllm_jax.decoding.answers import AnswerGenerator
from igllm_jax.decoding.journal import Journal
from igllm_jax.decoding.stream import Stream, group_size, windows
from igllm_jax.parallel.distributed import Stopped, never


def predict(
    generator: AnswerGenerator,
    prepared: dict[str, Any],
    source: ImageSource,
    *,
    batch_size: int,
    limit: int = 0,
    stops: Callable[[], bool] = never,
    journal: Journal[Answer] | None = None,
    shows_progress: bool = True,
) -> dict[str, Answer]:
    """Image name -> answer, for the first `limit` images (0: all) of an image source.

    prepared: weights, from the generator's `prepare`. batch_size: answers at a time; of several an
    image, images are fewer, and rounded up to what the layout can shard evenly.
    stops: asked as `finished` says. journal: what was answered before is taken from there, and what is answered now is
    added; of several processes, the first alone has those answers. shows_progress: on the first one's stderr.

    Raises: Stopped where `stops` says so; UserError naming the image that can't be read.
    """
    size = generator.batch_size(max(1, batch_size // generator.options.num_samples))
    names = list(source.names)[: limit or None]
    answers, to_do = _resumed(generator, journal, names)
    found = finished(generator, prepared, source, to_do, size, stops)

    def kept() -> Iterator[str]:
        for new, goes_on in found:
            if journal is not None and jax.process_index() == 0:
                journal.add(new, generator.table, goes_on=goes_on)
            answers.update(new)
            yield from new

    done: Iterable[str] = kept()
    if shows_progress and jax.process_index() == 0:
        done = progress.track(done, total=len(to_do), label="generate", unit="image")
    deque(done, maxlen=0)
    return {name: answers[name] for name in names if name in answers}


def finished(
    generator: AnswerGenerator,
    prepared: dict[str, Any],
    source: ImageSource,
    indices: Sequence[int],
    size: int,
    stops: Callable[[], bool] = never,
) -> Iterator[tuple[dict[str, Answer], bool]]:
    """Images' answers as they finish, and whether their window goes on, see stream.py; what fits in one batch is one.

    prepared: what `generator.prepare` made. indices: of the source's images. size: images of a batch, see
    `generator.batch_size`. stops: asked before each batch, or whenever images finished. Raises: Stopped where it says
    so; UserError as the generator does.
    """
    read = reader(source, generator.data)

    def ahead(window: list[int], together: int) -> Iterator[np.ndarray]:
        """Images of a window, so many at a time, as many read ahead as of whole batches."""
        rows, most = list(generator.layout.rows(together)), AHEAD * max(1, size // together)

        def own(number: int) -> np.ndarray:
            return read(window[number])

        return image_batches(own, len(window), together, generator.data.image_size, rows, ahead=most)

    for window in windows(indices, size):
        names = [source.names[index] for index in window]
        if len(window) <= size:
            if stops():
                raise Stopped
            found = generator(prepared, next(ahead(window, size)), size, names)
            yield dict(zip(names, found, strict=True)), False
            continue
        left = len(window)
        for new in Stream(generator, prepared, names, ahead(window, group_size(generator, size)), size).answers(stops):
            left -= len(new)
            yield new, left > 0


def _resumed(
    generator: AnswerGenerator, journal: Journal[Answer] | None, names: Sequence[str]
) -> tuple[dict[str, Answer], list[int]]:
    """The answers that a journal has, and which images are still to be done; what to guess from goes on, too."""
    answers: dict[str, Answer] = {}
    table = None
    if journal is not None and jax.process_index() == 0:
        answers, table = journal.open()
    is_done = np.array([name in answers for name in names])
    if journal is not None and jax.process_count() > 1:
        known = ngram_drafts.empty() if table is None else table
        is_done, table = multihost_utils.broadcast_one_to_all((is_done, known))
    if table is not None:
        generator.guess_from(table)
    return answers, np.flatnonzero(~np.asarray(is_done)).tolist()
