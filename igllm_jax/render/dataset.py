"""Whole data sets in the layout of the released ones: pictures and labels of every split, drawn by several processes.

An image is a function of (task, options, seed, split, index) alone, and what is done is kept example by example until
all are there (see `unfinished`). So neither the number of workers or machines nor a crash changes more than the time.
"""

import dataclasses
import functools
import io
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from igllm_jax import progress
from igllm_jax.paths import FilePath
from igllm_jax.render.compose.composers import COMPOSERS, compose
from igllm_jax.render.compose.shifts import MATERIALS
from igllm_jax.render.flat.draw import visible_pixels
from igllm_jax.render.labels import RENDERING, stage_entry
from igllm_jax.render.output import TarWriter, check_outputs, finished_outputs, interruptible
from igllm_jax.render.recipe import Recipe, VisiblePixels
from igllm_jax.render.renderers import FlatRenderer, Renderer, RendererOptions, run_jobs
from igllm_jax.render.spec import FILE, SceneSpec
from igllm_jax.render.unfinished import Unfinished

Work = Callable[[Renderer, tuple[str, int]], tuple[str, int, bytes, dict[str, Any]]]

PNG_LEVEL = 1  # the quickest: 5 ms instead of 14 for half as many bytes again
HOPELESS_SHARE = 100 / (480 * 320)  # of the image: what `flat` shows so little of need not be asked of another renderer


def image_paths(splits: tuple[str, ...]) -> list[str]:
    """The files of a data set, labels last: they are what says that a split is complete."""
    return [f"images/{split}.tar" for split in splits] + [f"labels/{split}.json" for split in splits]


def compose_example(
    recipe: Recipe, split: str, index: int, visible_pixels: VisiblePixels = visible_pixels
) -> SceneSpec:
    """Scene number `index` of a split; its `label` is its entry in the label file, all but the rendering."""
    rng = np.random.default_rng([recipe.seed, zlib.crc32(f"{recipe.task}/{split}".encode()), index])
    spec = compose(rng, recipe, split, visible_pixels)
    name = f"{COMPOSERS[recipe.task].prefix}_{split}_{index:06d}.png"
    label = {"image_index": index, "image_filename": name, "split": split, **spec.label}
    return dataclasses.replace(spec, label=label)


def label_entry(spec: SceneSpec, recipe: Recipe) -> dict[str, Any]:
    """A composed scene's entry in the label file: the released keys, then camera, lights and paint as `rendering`."""
    has_materials = COMPOSERS[recipe.task].has_materials or recipe.domain_shift == MATERIALS
    return {**spec.label, RENDERING: stage_entry(spec, has_materials=has_materials)}


def make_example(
    recipe: Recipe, split: str, index: int, renderer: Renderer | None = None
) -> tuple[Image.Image, dict[str, Any]]:
    """One picture, by default of `flat`, and its entry in the label file."""
    renderer = renderer or FlatRenderer()

    def count(spec: SceneSpec) -> np.ndarray:
        if any(part.kind == FILE for thing in spec.objects for part in thing.parts):
            return renderer.visible_pixels(spec)
        quick = visible_pixels(spec)
        if isinstance(renderer, FlatRenderer) or quick.min() < HOPELESS_SHARE * recipe.width * recipe.height:
            return quick
        return renderer.visible_pixels(spec)

    spec = compose_example(recipe, split, index, count)
    seed = zlib.crc32(f"{recipe.seed}/{recipe.task}/{split}/{index}".encode()) >> 1  # Blender's numbers are signed
    return renderer.draw(spec, seed=seed).image, label_entry(spec, recipe)


def png_bytes(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    png = io.BytesIO()
    image.save(png, "PNG", compress_level=PNG_LEVEL)
    return png.getvalue()


def _work(renderer: Renderer, job: tuple[str, int], *, recipe: Recipe) -> tuple[str, int, bytes, dict[str, Any]]:
    image, label = make_example(recipe, *job, renderer)
    return *job, png_bytes(image), label


@dataclass(frozen=True)
class Shard:
    """The part of a data set's examples that one of several runs draws: those with index = number modulo `of`."""

    number: int = 0
    of: int = 1


def write_dataset(
    folder: FilePath,
    recipe: Recipe,
    *,
    num_train: int,
    num_val: int,
    workers: int,
    overwrite: bool,
    options: RendererOptions | None = None,
    shard: Shard | None = None,
) -> list[FilePath]:
    """Writes images/SPLIT.tar and labels/SPLIT.json into `folder` for every split of the task; returns their paths.

    What is done stays in `folder` when the run is stopped, and the next one with the same options goes on from there.
    num_val: images of each split but train. shard: what to draw of it; the run that finds all examples done writes the
    files, any other returns [].
    Raises: UserError when outputs exist and `overwrite` is false, or a scene can't be drawn up or drawn.
    """
    options = options or RendererOptions()
    composer = COMPOSERS[recipe.task]
    counts = {split: num_train if split == "train" else num_val for split in composer.splits}
    info = {**dataclasses.asdict(recipe), "rotation_unit": recipe.rotation_unit or composer.rotation_unit}
    work = functools.partial(_work, recipe=recipe)
    return write_examples(
        folder, work, counts, info, options, workers=workers, overwrite=overwrite, shard=shard or Shard()
    )


def write_examples(
    folder: FilePath,
    work: Work,
    counts: Mapping[str, int],
    info: Mapping[str, Any],
    options: RendererOptions,
    *,
    workers: int,
    overwrite: bool,
    shard: Shard,
) -> list[FilePath]:
    """`write_dataset` of any examples: counts: split -> how many. info: all that they depend on, beside the renderer.

    work: (renderer, (split, index)) -> split, index, PNG and label of the example.
    """
    names = image_paths(tuple(counts))
    check_outputs(folder, names, overwrite=overwrite)
    info = {"version": options.name, **info}  # no date, which CLEVR has here: the same command leaves the same bytes
    if options.name != "flat":  # not where Blender is, or on what device it draws: that changes rounding alone
        info.update(samples=options.samples, clevr_assets=options.clevr_assets is not None)
    unfinished = Unfinished(folder, info, restart=overwrite)
    jobs = [job for job in unfinished.missing(counts) if job[1] % shard.of == shard.number]
    with interruptible():
        results = run_jobs(work, jobs, options, count=len(jobs), workers=workers) if jobs else iter(())
        for done in progress.track(results, total=len(jobs), label=f"drawing {info['task']}", unit="image"):
            unfinished.put(*done)
    if next(unfinished.missing(counts), None) is not None:
        return []
    with finished_outputs(folder, names, overwrite=overwrite) as partial:
        for split, count in counts.items():
            _assemble(unfinished, partial, split, count, info)
    unfinished.remove()
    return [folder / name for name in names]


def _assemble(unfinished: Unfinished, partial: Path, split: str, count: int, info: dict[str, Any]) -> None:
    """images/SPLIT.tar and labels/SPLIT.json from examples that are done."""
    scenes = []
    with TarWriter(partial / f"images/{split}.tar") as tar:
        for index in range(count):
            png, label = unfinished.read(split, index)
            tar.add(label["image_filename"], png)
            scenes.append(label)
    content = {"info": {"split": split, **info}, "scenes": scenes}
    (partial / f"labels/{split}.json").write_text(json.dumps(content))
