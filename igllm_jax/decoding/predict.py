"""Answers for the images of a source: batch after batch, read ahead, with progress."""

from collections.abc import Callable, Iterable

import jax
import numpy as np

from igllm_jax import progress
from igllm_jax.data.eval_images import image_batches, reader
from igllm_jax.data.tars import ImageSource
from igllm_jax.decoding.answers import Answer, AnswerGenerator
from igllm_jax.models.params import Params
from igllm_jax.parallel.distributed import Stopped, never


def predict(
    generator: AnswerGenerator,
    params: Params,
    source: ImageSource,
    *,
    batch_size: int,
    limit: int = 0,
    stops: Callable[[], bool] = never,
) -> dict[str, Answer]:
    """Image name -> answer, for the first `limit` images (0: all) of an image source, with progress on stderr.

    params: of the generator's model, sharded as its layout says. batch_size is rounded up to what it can shard evenly.
    stops: asked before each batch. Raises: Stopped where it says so.
    """
    prepared = generator.prepare(params)
    size = generator.batch_size(batch_size)
    count = min(len(source), limit or len(source))
    names, read, rows = list(source.names)[:count], reader(source, generator.data), list(generator.layout.rows(size))
    found: Iterable[np.ndarray] = image_batches(read, count, size, generator.data.image_size, rows)
    if jax.process_index() == 0:
        found = progress.track(found, total=-(-count // size), label="generate", unit="batch")
    answers: dict[str, Answer] = {}
    for start, images in zip(range(0, count, size), found, strict=True):
        if stops():
            raise Stopped
        here = names[start : start + size]
        answers.update(zip(here, generator(prepared, images, size, here), strict=True))
    return answers
