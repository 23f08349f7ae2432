"""Answers for the images of a source: batch after batch, read ahead."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from igllm_jax import progress
from igllm_jax.data.eval_images import image_batches, reader
from igllm_jax.data.tars import ImageSource
from igllm_jax.decoding import ngram_drafts
from igllm_jax.decoding.answer import Answer
from igllm_jax.decoding.answers import AnswerGenerator
from igllm_jax.decoding.journal import Journal
from igllm_jax.parallel.distributed import Stopped, never


def predict(
    generator: AnswerGenerator,
    prepared: dict[str, Any],
    source: ImageSource,
    *,
    batch_size: int,
    limit: int = 0,
    stops: Callable[[], bool] = never,
    journal: Journal | None = None,
    shows_progress: bool = True,
) -> dict[str, Answer]:
    """Image name -> answer, for the first `limit` images (0: all) of an image source.

    prepared: weights, from the generator's `prepare`. batch_size: answers at a time; of several an
    image, images are fewer, and rounded up to what the layout can shard evenly.
    stops: asked before each batch. journal: what was answered before is taken from there, and what is answered now is
    added; of several processes, the first alone has those answers. shows_progress: on the first one's stderr.

    Raises: Stopped where `stops` says so; UserError naming the image that can't be read.
    """
    size = generator.batch_size(max(1, batch_size // generator.options.num_samples))
    names = list(source.names)[: limit or None]
    answers, to_do = _resumed(generator, journal, names)
    read, rows = reader(source, generator.data), list(generator.layout.rows(size))
    found: Iterable[np.ndarray] = image_batches(
        lambda index: read(to_do[index]), len(to_do), size, generator.data.image_size, rows
    )
    if shows_progress and jax.process_index() == 0:
        found = progress.track(found, total=-(-len(to_do) // size), label="generate", unit="batch")
    for start, images in zip(range(0, len(to_do), size), found, strict=True):
        if stops():
            raise Stopped
        here = [names[index] for index in to_do[start : start + size]]
        new = dict(zip(here, generator(prepared, images, size, here), strict=True))
        if journal is not None and jax.process_index() == 0:
            journal.add(new, generator.table)
        answers |= new
    return {name: answers[name] for name in names if name in answers}


def _resumed(
    generator: AnswerGenerator, journal: Journal | None, names: Sequence[str]
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
