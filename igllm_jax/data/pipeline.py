"""Batches for training and evaluation.

The global order is a function of (seed, step) alone, so a run may be resumed at any step, with other hosts and another
number of workers, and sees the same examples, written the same way.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NoReturn

import grain
import jax
import numpy as np
from absl import flags

from igllm_jax import progress
from igllm_jax.batch import Batch
from igllm_jax.data.augment import augment
from igllm_jax.data.eval_images import image_batches
from igllm_jax.data.examples import Examples, load_examples
from igllm_jax.data.manifest import Manifest, manifest
from igllm_jax.data.names import digest
from igllm_jax.data.options import DataOptions, Source
from igllm_jax.data.order import Order, Visits, augment_rng, choose_lengths, draw_rng, is_flipped
from igllm_jax.data.rows import RowMaker, padding_share, prompt_layout, prompt_tokens, stack, too_long
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.errors import BadSampleError, DataError, UserError
from igllm_jax.scene.scene import Scene, mirrored

__all__ = [
    "BatchStream",
    "DataOptions",
    "EvalData",
    "Source",
    "TrainPipeline",
    "padding_share",
    "prompt_layout",
    "prompt_tokens",
]

_NO_END = 1 << 40  # steps: Grain wants a length
_SHARED_FROM = 1 << 16  # bytes: smaller arrays reach us faster through the workers' pipe than in shared memory


class TrainPipeline:
    """Endless training batches of the global batch's `rows`, by step.

    lengths: every T that a batch can have, ascending; the model compiles once per length.
    fingerprint: stands for the data (labels, names, sizes, how many samples, weights), to be checked when resuming.
    """

    def __init__(
        self,
        sources: Sequence[Source | tuple[Source, float]],
        options: DataOptions,
        tokenizer: Tokenizer,
        *,
        seed: int,
        batch_size: int,
        rows: Sequence[int] | None = None,
    ):
        """sources: with several, each with its weight. batch_size: global B. rows: those built here, default all.

        Raises: UserError for data that is missing, or an example whose row is longer than `options.max_length`.
        """
        weighted = [entry if isinstance(entry, tuple) else (entry, 1.0) for entry in sources]
        if not weighted:
            raise UserError("data.sources: is empty; name at least one source of training data")
        self.options = options
        self.prompt = prompt_layout(options, tokenizer)
        self._pad_id = tokenizer.eos_id
        self._seed, self._batch_size = seed, batch_size
        self._rows = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
        self._maker = RowMaker(options, tokenizer)
        self._parts = [load_examples(source, options) for source, _ in weighted]
        self._starts = np.cumsum([0, *map(len, self._parts)])
        self.num_examples = int(self._starts[-1])
        weights = [float(weight) for _, weight in weighted]
        self.fingerprint = digest([part.fingerprint for part in self._parts], weights)
        bounds = np.concatenate([_bounds(part, self._maker) for part in self._parts])
        seen = np.concatenate([np.full(len(part), w / len(part)) for part, w in zip(self._parts, weights, strict=True)])
        self.lengths = _lengths(bounds, options, options.buckets, seen)
        visits = Visits([len(part) for part in self._parts], weights, seed)
        self._order = Order(visits, bounds, self.lengths, batch_size=batch_size, seed=seed)

    def batch(self, step: int) -> Batch:
        """The batch of a step; T is the same on all hosts."""
        visits, examples, length = self._order.step(step)
        visits, examples = visits[self._rows], examples[self._rows]
        parts = np.searchsorted(self._starts, examples, side="right") - 1
        rows, images, is_read = [], [], []
        for visit, example, part in zip(visits, examples, parts, strict=True):
            own = int(example - self._starts[part])
            scene = self._scene(self._parts[part].scenes[own], visit)
            rows.append(self._maker.row_within(scene, draw_rng(self._seed, visit), length))
            images.append(self._image(self._parts[part], own, visit))
            is_read.append(images[-1] is not None)
        empty = np.zeros((self.options.image_size, self.options.image_size, 3), np.uint8)
        shown = np.stack([empty if image is None else image for image in images])
        return stack(rows, shown, length, len(rows), self._pad_id, is_read)

    def _scene(self, scene: Scene, visit: int) -> Scene:
        """As it is seen at a visit."""
        is_mirrored = self.options.augment.flip and is_flipped(self._seed, visit)
        return mirrored(scene, self.options.task) if is_mirrored else scene

    def _image(self, part: Examples, index: int, visit: int) -> np.ndarray | None:
        """As it is seen at a visit; None for one that cannot be read, where such are skipped."""
        try:
            image = part.image(index)
        except BadSampleError:
            if self.options.on_bad_sample != "skip":
                raise
            return None
        varied = self.options.augment
        if varied.flip and is_flipped(self._seed, visit):
            image = image[:, ::-1]
        return augment(image, varied, augment_rng(self._seed, visit)) if varied.is_on else image

    def why_bad(self, example: int) -> str:
        """Why the image of an example, numbered through all sources, cannot be read; "" where it can."""
        part = int(np.searchsorted(self._starts, example, side="right")) - 1
        try:
            self._parts[part].image(example - int(self._starts[part]))
        except BadSampleError as error:
            return str(error)
        return ""

    @cached_property
    def content(self) -> str:
        """Stands for what is in the image files, too: `fingerprint` knows their names and sizes only."""
        return digest([part.content for part in self._parts])

    def manifest(self) -> Manifest:
        """What the data are, so that a later run can say what changed."""
        return manifest(self._parts)

    def examples(self, step: int) -> np.ndarray:
        """int64 [rows]: the examples of a step, numbered through all sources."""
        return self._order.step(step)[1][self._rows]

    def iterate(self, start_step: int = 0) -> "BatchStream":
        """The batches from `start_step` on, prepared ahead by `options.num_workers` processes, or threads for 0."""
        return BatchStream(self, start_step)


class BatchStream(Iterator[Batch]):
    """Batches prepared ahead. Close it (or use it in `with`), so that its workers end."""

    def __init__(self, pipeline: TrainPipeline, start_step: int):
        options = pipeline.options
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads flags, which nobody parses outside absl's own main
        threads = 1 if options.num_workers else max(1, min(os.cpu_count() or 1, options.prefetch))
        read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(options.prefetch, threads))
        steps = grain.MapDataset.source(_Steps(pipeline, start_step)).to_iter_dataset(read)
        self._is_shared = options.num_workers > 0
        if self._is_shared:
            small = grain.experimental.DatasetOptions(min_shm_size=_SHARED_FROM)
            steps = grain.experimental.WithOptionsIterDataset(steps, small).mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=options.num_workers, per_worker_buffer_size=max(1, options.prefetch)
                )
            )
        self._batches = iter(steps)
        self._pipeline, self._step = pipeline, start_step
        self._bad: dict[int, str] = {}  # example -> why it was left out

    def __next__(self) -> Batch:
        try:
            batch = next(self._batches)
        except (RuntimeError, OSError, EOFError) as error:  # Grain's of a process that is gone, and of its pipe
            self.close()
            if not self._is_shared:
                raise
            raise DataError(
                f"a process that prepares batches failed ({type(error).__name__}: {_first_line(error)}); often "
                "memory or shared memory (/dev/shm) is used up: give more of it, or set data.num_workers=0"
            ) from error
        if not isinstance(batch, Batch):
            self.close()
            _raise(batch)
        if self._is_shared:
            # Out of the workers' shared memory: what is still there when the process ends is reported as leaked.
            batch = jax.tree.map(np.array, batch)
        if not batch.weight.all():
            self._count_bad(batch)
        self._step += 1
        return batch

    def _count_bad(self, batch: Batch) -> None:
        """Names what was left out, once. Raises: DataError where it is too much."""
        pipeline, bad = self._pipeline, self._bad
        for example in map(int, pipeline.examples(self._step)[batch.weight == 0]):
            if example not in bad:
                bad[example] = pipeline.why_bad(example)
                why = bad[example] or f"example {example} can be read now, but could not before"
                progress.note(f"step {self._step + 1}, left out ({len(bad)} of {pipeline.num_examples} so far): {why}")
        most = pipeline.options.max_bad_share * pipeline.num_examples
        if len(bad) > most:
            self.close()
            raise DataError(
                f"{len(bad)} of {pipeline.num_examples} images cannot be read, above data.max_bad_share="
                f"{pipeline.options.max_bad_share:g} of them; the last: {why}"
            )

    def close(self) -> None:
        """Ends workers and threads."""
        self._batches.close()

    def __enter__(self) -> "BatchStream":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Steps:
    """The steps from `start` on as Grain's source. Errors travel as text: Grain would wrap them beyond recognition."""

    def __init__(self, pipeline: TrainPipeline, start: int):
        self._pipeline = pipeline
        self._start = start

    def __len__(self) -> int:
        return _NO_END

    def __getitem__(self, index: int) -> Batch | dict[str, np.ndarray]:
        try:
            return self._pipeline.batch(self._start + index)
        except UserError as error:
            return {"error": np.frombuffer(str(error).encode(), np.uint8)}

    def __setstate__(self, state: dict[str, Any]) -> None:  # called in a worker process
        self.__dict__.update(state)
        _end_with_parent()

    def __repr__(self) -> str:
        return f"_Steps(start={self._start})"


def _end_with_parent() -> None:
    """Ends this worker when its parent is killed; it would wait for ever otherwise, holding memory and open files."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def end_after_parent() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=end_after_parent, daemon=True).start()


def _raise(failure: dict[str, np.ndarray]) -> NoReturn:
    raise DataError(failure["error"].tobytes().decode())


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _bounds(examples: Examples, maker: RowMaker) -> np.ndarray:
    """int64 [N]: every row's length. Raises: UserError for one above `max_length`; answers are never truncated."""
    bounds = np.array([maker.bound(scene) for scene in examples.scenes], np.int64)
    if maker.options.augment.flip:
        turned = (mirrored(scene, maker.options.task) for scene in examples.scenes)
        bounds = np.maximum(bounds, [maker.bound(scene) for scene in turned])
    longest = int(bounds.argmax())
    if problem := too_long(examples.scenes[longest].image, int(bounds[longest]), maker.options):
        raise UserError(problem)
    return bounds


def _readable(examples: Examples) -> Examples:
    """The examples whose images can be read. Raises: DataError where too few can."""
    options, bad = examples.options, {}
    for index in range(len(examples)):
        try:
            examples.image(index)
        except BadSampleError as error:
            bad[index] = str(error)
            progress.note(f"left out of {examples.images.origin}: {error}")
    if len(bad) > options.max_bad_share * len(examples) or len(bad) == len(examples):
        raise DataError(
            f"{len(bad)} of {len(examples)} images cannot be read, above data.max_bad_share={options.max_bad_share:g} "
            f"of them; the last: {list(bad.values())[-1]}"
        )
    return examples.without(bad) if bad else examples


def _lengths(bounds: np.ndarray, options: DataOptions, count: int, seen: np.ndarray | None = None) -> list[int]:
    lengths = choose_lengths(bounds, count, options.length_multiple, options.num_image_tokens, seen)
    longest = options.max_length - options.num_image_tokens  # which rounding up must not pass
    return sorted({min(length, longest) for length in lengths})


class EvalData:
    """The first examples of a source, opened once: `batches` may be asked for again and again.

    scenes: in the labels' order. length: T of all batches, so that the model compiles once.
    """

    def __init__(self, source: Source, options: DataOptions, tokenizer: Tokenizer, *, limit: int = 0):
        """limit: at most so many of the first scenes, 0 for all. Raises: UserError as TrainPipeline does."""
        # What varies in training is written plainly here, so that two evaluations differ by the model alone.
        self._options = replace(options, shuffle_attributes=False, use_synonyms=False)
        self._examples = load_examples(source, self._options, limit)
        if options.on_bad_sample == "skip":
            self._examples = _readable(self._examples)
        self._maker = RowMaker(self._options, tokenizer)
        self._pad_id = tokenizer.eos_id
        self.scenes = self._examples.scenes
        self.length = _lengths(_bounds(self._examples, self._maker), self._options, 1)[0]

    def batches(self, batch_size: int, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """Every example once, in order; the last batch is filled up with rows of weight 0.

        batch_size: global B. rows: those of each global batch built here, ascending, default all.
        """
        wanted = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
        count, ahead = len(self._examples), max(1, self._options.prefetch)
        read, side = self._examples.image, self._options.image_size
        found = image_batches(read, count, batch_size, side, wanted.tolist(), ahead=ahead)
        for start, images in zip(range(0, count, batch_size), found, strict=True):
            here = [int(index) for index in start + wanted if index < count]
            made = [self._maker.row(self.scenes[index], None) for index in here]
            yield stack(made, images[: len(here)], self.length, len(wanted), self._pad_id)
