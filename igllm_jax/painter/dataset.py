"""Whole data sets in the layout of the released ones: pictures and labels of every split, painted by several processes.

An image is a function of (task, options, seed, split, index) alone, and files are written in the order of the index by
one process, so the number of workers changes nothing but the time.
"""

import dataclasses
import io
import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image

from igllm_jax import progress
from igllm_jax.painter import clevr, poses, shapenet
from igllm_jax.painter.output import TarWriter, finished_outputs
from igllm_jax.painter.recipe import Recipe

PNG_LEVEL = 1  # the quickest: 5 ms instead of 14 for half as many bytes again
CHUNK = 8  # images that a worker takes at a time


@dataclass(frozen=True)
class Painter:
    """How a task's own data are made.

    splits: the first one trains. make: (random generator, recipe, split) -> the picture and the label's entries.
    image_size: width and height in pixels, if nothing else is asked for. num_objects: fewest and most of a scene, as
    defaults, or None where it is always one. rotation_unit: of the labels' `rotation`. prefix: of image names.
    """

    splits: tuple[str, ...]
    make: Callable[[np.random.Generator, Recipe, str], tuple[Image.Image, dict[str, Any]]]
    image_size: tuple[int, int]
    num_objects: tuple[int, int] | None
    rotation_unit: str
    prefix: str


PAINTERS: dict[str, Painter] = {
    "clevr": Painter(tuple(clevr.CONDITIONS), clevr.make, (480, 320), (3, 10), "deg", "CLEVR"),
    "so3": Painter(poses.SPLITS, poses.make_so3, (336, 336), None, "rad", "SO3"),
    "sixdof": Painter(poses.SPLITS, poses.make_sixdof, (480, 320), None, "rad", "6DoF"),
    "shapenet": Painter(shapenet.SPLITS, shapenet.make, (480, 320), (2, 4), "rad", "ShapeNet"),
}


def image_paths(splits: tuple[str, ...]) -> list[str]:
    """The files of a data set, labels last: they are what says that a split is complete."""
    return [f"images/{split}.tar" for split in splits] + [f"labels/{split}.json" for split in splits]


def make_example(recipe: Recipe, split: str, index: int) -> tuple[Image.Image, dict[str, Any]]:
    """One picture and its entry in the label file."""
    rng = np.random.default_rng([recipe.seed, crc32(f"{recipe.task}/{split}".encode()), index])
    painter = PAINTERS[recipe.task]
    image, label = painter.make(rng, recipe, split)
    name = f"{painter.prefix}_{split}_{index:06d}.png"
    return image, {"image_index": index, "image_filename": name, "split": split, **label}


def _work(job: tuple[Recipe, str, int]) -> tuple[bytes, dict[str, Any]]:
    image, label = make_example(*job)
    png = io.BytesIO()
    image.save(png, "PNG", compress_level=PNG_LEVEL)
    return png.getvalue(), label


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and stops its workers


def _examples(recipe: Recipe, counts: dict[str, int], workers: int) -> Iterator[tuple[bytes, dict[str, Any]]]:
    jobs = ((recipe, split, index) for split, count in counts.items() for index in range(count))
    workers = min(workers, -(-sum(counts.values()) // CHUNK))
    if workers <= 1:
        yield from map(_work, jobs)
        return
    # spawn: a caller may have threads (JAX does), and those do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(workers, _ignore_interrupts) as pool:
        yield from pool.imap(_work, jobs, chunksize=CHUNK)


def write_dataset(
    folder: Path, recipe: Recipe, *, num_train: int, num_val: int, workers: int, overwrite: bool
) -> list[Path]:
    """Writes images/SPLIT.tar and labels/SPLIT.json into `folder` for every split of the task; returns their paths.

    num_val: images of each split but train.
    Raises: UserError when outputs exist and `overwrite` is false, or a scene can't be drawn up.
    """
    counts = {split: num_train if split == "train" else num_val for split in PAINTERS[recipe.task].splits}
    names = image_paths(tuple(counts))
    with finished_outputs(folder, names, overwrite=overwrite) as partial:
        examples = progress.track(
            _examples(recipe, counts, workers),
            total=sum(counts.values()),
            label=f"painting {recipe.task}",
            unit="image",
        )
        for split, count in counts.items():
            scenes = []
            with TarWriter(partial / f"images/{split}.tar") as tar:
                for _ in range(count):
                    png, label = next(examples)
                    tar.add(label["image_filename"], png)
                    scenes.append(label)
            # No date, which CLEVR has here: the same command leaves the same bytes.
            unit = PAINTERS[recipe.task].rotation_unit
            info = {"split": split, "version": "flat", "rotation_unit": unit, **dataclasses.asdict(recipe)}
            content = {"info": info, "scenes": scenes}
            (partial / f"labels/{split}.json").write_text(json.dumps(content))
        next(examples, None)  # lets progress and workers come to their end
    return [folder / name for name in names]
