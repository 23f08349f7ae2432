"""Whole data sets in the layout of the released ones: pictures and labels of every split, drawn by several processes.

An image is a function of (task, options, seed, split, index) alone, and files are written in the order of the index by
one process, so the number of workers changes nothing but the time.
"""

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image

from igllm_jax import progress
from igllm_jax.render.compose.composers import COMPOSERS, compose
from igllm_jax.render.flat.draw import draw, visible_pixels
from igllm_jax.render.labels import RENDERING, stage_entry
from igllm_jax.render.output import TarWriter, finished_outputs
from igllm_jax.render.pool import run_all
from igllm_jax.render.recipe import Recipe, VisiblePixels
from igllm_jax.render.spec import SceneSpec

PNG_LEVEL = 1  # the quickest: 5 ms instead of 14 for half as many bytes again


def image_paths(splits: tuple[str, ...]) -> list[str]:
    """The files of a data set, labels last: they are what says that a split is complete."""
    return [f"images/{split}.tar" for split in splits] + [f"labels/{split}.json" for split in splits]


def compose_example(
    recipe: Recipe, split: str, index: int, visible_pixels: VisiblePixels = visible_pixels
) -> SceneSpec:
    """Scene number `index` of a split; its `label` is its entry in the label file, all but the rendering."""
    rng = np.random.default_rng([recipe.seed, crc32(f"{recipe.task}/{split}".encode()), index])
    spec = compose(rng, recipe, split, visible_pixels)
    name = f"{COMPOSERS[recipe.task].prefix}_{split}_{index:06d}.png"
    label = {"image_index": index, "image_filename": name, "split": split, **spec.label}
    return dataclasses.replace(spec, label=label)


def label_entry(spec: SceneSpec, task: str) -> dict[str, Any]:
    """A composed scene's entry in the label file: the released keys, then camera, lights and paint as `rendering`."""
    return {**spec.label, RENDERING: stage_entry(spec, has_materials=COMPOSERS[task].has_materials)}


def make_example(recipe: Recipe, split: str, index: int) -> tuple[Image.Image, dict[str, Any]]:
    """One picture by the renderer `flat`, and its entry in the label file."""
    spec = compose_example(recipe, split, index)
    return draw(spec).image, label_entry(spec, recipe.task)


def _work(job: tuple[Recipe, str, int]) -> tuple[bytes, dict[str, Any]]:
    image, label = make_example(*job)
    png = io.BytesIO()
    image.save(png, "PNG", compress_level=PNG_LEVEL)
    return png.getvalue(), label


def _examples(recipe: Recipe, counts: dict[str, int], workers: int) -> Iterator[tuple[bytes, dict[str, Any]]]:
    jobs = ((recipe, split, index) for split, count in counts.items() for index in range(count))
    return run_all(_work, jobs, count=sum(counts.values()), workers=workers)


def write_dataset(
    folder: Path, recipe: Recipe, *, num_train: int, num_val: int, workers: int, overwrite: bool
) -> list[Path]:
    """Writes images/SPLIT.tar and labels/SPLIT.json into `folder` for every split of the task; returns their paths.

    num_val: images of each split but train.
    Raises: UserError when outputs exist and `overwrite` is false, or a scene can't be drawn up.
    """
    counts = {split: num_train if split == "train" else num_val for split in COMPOSERS[recipe.task].splits}
    names = image_paths(tuple(counts))
    with finished_outputs(folder, names, overwrite=overwrite) as partial:
        examples = progress.track(
            _examples(recipe, counts, workers),
            total=sum(counts.values()),
            label=f"drawing {recipe.task}",
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
            unit = COMPOSERS[recipe.task].rotation_unit
            info = {"split": split, "version": "flat", "rotation_unit": unit, **dataclasses.asdict(recipe)}
            content = {"info": info, "scenes": scenes}
            (partial / f"labels/{split}.json").write_text(json.dumps(content))
        next(examples, None)  # lets progress and workers come to their end
    return [folder / name for name in names]
