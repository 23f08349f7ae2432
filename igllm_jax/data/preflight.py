"""Data looked through before a run: labels against images and back, and all that is wrong, not the first alone."""

import os
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from igllm_jax import progress
from igllm_jax.data.options import DataOptions, PixelOptions, Source
from igllm_jax.data.records import Records
from igllm_jax.data.rows import RowMaker, too_long
from igllm_jax.data.stores import is_remote, read_whole
from igllm_jax.data.tars import ImageSource, open_images
from igllm_jax.errors import BadSampleError, UserError, shown
from igllm_jax.scene.labels import check_label_kind, entries, stream_labels
from igllm_jax.scene.language import Language, find_language
from igllm_jax.scene.scene import Scene, label_problems

Item = TypeVar("Item")
_NAMED = 5  # of images without a label, so many are called by name
_ALL = 1 << 62  # scenes: more than there are
_AHEAD = 256  # images that are decoded at once


@dataclass(frozen=True)
class Depth:
    """How much is looked at. scenes: of the first labels, 0 for all. images: decoded, evenly spread, 0 for all.
    is_quick: rows are counted as they are written plainly, not in all the ways of training; no progress is shown."""

    scenes: int
    images: int
    is_quick: bool = False


QUICK = Depth(scenes=500, images=4, is_quick=True)  # a moment, before a run starts
SAMPLE = Depth(scenes=0, images=64)
ALL = Depth(scenes=0, images=0)


@dataclass
class Looked:
    """What was found in one source.

    tell: takes each problem, as a line. limit: scenes that are used, 0 for all. images: None where none can be opened.
    scenes: those that can be read and are used, with their numbers. num_scenes: labels seen. longest: row, T, without
    its image. images_of: image -> the scene that describes it, both by number. notes: no problems, but maybe news.
    """

    source: Source
    options: DataOptions
    depth: Depth
    tell: Callable[[str], None]
    limit: int
    images: ImageSource | None = None
    scenes: list[tuple[int, Scene]] = field(default_factory=list)
    num_scenes: int = 0
    longest: int = 0
    num_decoded: int = 0
    images_of: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def labels(self) -> str:
        return self.source.labels or self.source.images

    @property
    def is_whole(self) -> bool:
        """Whether all labels were seen, and all of them are used."""
        return not self.depth.scenes and not self.limit and not self.source.num_samples

    def track(self, items: Iterable[Item], what: str, unit: str, total: int | None = None) -> Iterable[Item]:
        return items if self.depth.is_quick else progress.track(items, total=total, label=what, unit=unit)


def look(source: Source, options: DataOptions, depth: Depth, tell: Callable[[str], None], *, limit: int = 0) -> Looked:
    """Reads labels and finds their images; `check_lengths` and `check_images` look further.

    tell: takes each problem, as a line; looking goes on after it. limit: scenes that are used, 0 for all of them.
    """
    looked = Looked(source, options, depth, tell, limit)
    try:
        looked.images = open_images(source.images)
    except UserError as error:
        tell(str(error))
    used = min(count for count in (source.num_samples, limit, _ALL) if count)
    try:
        _look_at_labels(looked, used)
    except UserError as error:  # the file itself cannot be read, or not to its end
        tell(str(error))
        return looked
    if not looked.num_scenes:
        tell(f"labels {looked.labels}: hold no scenes; choose another split")
    if not depth.scenes and source.num_samples > looked.num_scenes:
        tell(f"labels {looked.labels}: hold {looked.num_scenes} scenes, fewer than num_samples={source.num_samples}")
    return looked


def _look_at_labels(looked: Looked, used: int) -> None:
    language, where = find_language(looked.options.task), looked.labels
    owners: dict[str, int] = {}
    labels = islice(_labels(looked, language), looked.depth.scenes or None)
    for index, label in enumerate(looked.track(labels, f"labels {where}", "scene")):
        looked.num_scenes = index + 1
        scene = label if isinstance(label, Scene) else _read(looked, index, label, language)
        if scene is None:
            continue
        owner = owners.setdefault(scene.image, index)
        if owner != index:
            looked.tell(f"labels {where}: scenes {owner} and {index} both describe image {scene.image}; keep one")
        elif index < used:
            _find(looked, index, scene)
            looked.scenes.append((index, scene))


def _read(looked: Looked, index: int, label: Any, language: Language) -> Scene | None:
    """The scene of a label; None, once told, where there is something wrong with it."""
    try:
        return Scene.from_label(label, language)
    except UserError:
        for problem in label_problems(label, language):
            looked.tell(f"labels {looked.labels}, scene {index}: {problem}")
        return None


def _find(looked: Looked, index: int, scene: Scene) -> None:
    if looked.images is None:
        return
    try:
        image = looked.images.find(scene.image)
    except UserError as error:
        looked.tell(f"labels {looked.labels}, scene {index}: {error}")
        return
    owner = looked.images_of.setdefault(image, index)
    if owner != index:
        called = looked.images.names[image]
        looked.tell(f"labels {looked.labels}: scenes {owner} and {index} both describe image {called}; keep one")


def _labels(looked: Looked, language: Language) -> Iterator[Any]:
    """A source's labels as JSON values, or as scenes where they are points."""
    labels, images = looked.labels, looked.images
    if check_label_kind(labels, language) is not None:
        yield from stream_labels(labels, language)
    elif isinstance(images, Records) and labels == images.spec:
        yield from images.labels
    elif is_remote(labels):
        yield from entries(read_whole(labels), labels, language.image_key)
    elif looked.source.labels or Path(labels).is_file():
        yield from stream_labels(labels, language)


def check_lengths(looked: Looked, maker: RowMaker) -> None:
    """Tells every scene that cannot be said, or whose row is too long; keeps the longest."""
    for index, scene in looked.track(looked.scenes, f"rows of {looked.labels}", "scene"):
        try:
            length = maker.bound(scene) if not looked.depth.is_quick else len(maker.row(scene, None))
        except UserError as error:
            looked.tell(f"labels {looked.labels}, scene {index}: {error}")
            continue
        looked.longest = max(looked.longest, length)
        if problem := too_long(scene.image, length, maker.options):
            looked.tell(f"labels {looked.labels}, scene {index}: {problem}")


def check_images(looked: Looked) -> None:
    """Tells every image, of those that are looked at, that cannot be decoded; notes images without a label."""
    images, options = looked.images, looked.options
    if images is None:
        return
    used = sorted(looked.images_of)
    if looked.is_whole:
        looked.notes += _unlabelled(images, looked.images_of)
    if looked.depth.images and used:
        used = [used[n] for n in np.unique(np.linspace(0, len(used) - 1, looked.depth.images).astype(int))]
    bad = 0
    problems = _decode(images, options.pixel_options, used)
    looked.num_decoded = len(used)
    for image, problem in looked.track(problems, f"images {images.origin}", "image", len(used)):
        if not problem:
            continue
        bad += 1
        told = f"labels {looked.labels}, scene {looked.images_of[image]}: {problem}"
        looked.notes.append(told) if options.on_bad_sample == "skip" else looked.tell(told)
    if options.on_bad_sample == "skip" and bad > options.max_bad_share * len(looked.images_of):
        share = f"data.max_bad_share={options.max_bad_share:g}"
        looked.tell(f"{images.origin}: {bad} images cannot be read, above {share} of them")


def _decode(images: ImageSource, pixels: PixelOptions, numbers: list[int]) -> Iterator[tuple[int, str]]:
    """(image, what is wrong with it or ""), in order; several are decoded at once."""

    def problem(number: int) -> str:
        try:
            images.read(number, pixels)
        except BadSampleError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(numbers), _AHEAD):
            some = numbers[start : start + _AHEAD]
            yield from zip(some, pool.map(problem, some), strict=True)


def _unlabelled(images: ImageSource, used: Container[int]) -> list[str]:
    """A line about the images that no label describes, where there are such."""
    unlabelled = [name for number, name in enumerate(images.names) if number not in used]
    if not unlabelled:
        return []
    named = ", ".join(shown(name) for name in unlabelled[:_NAMED])
    more = ", ..." if len(unlabelled) > _NAMED else ""
    count = f"{len(unlabelled)} of {len(images)} images"
    return [f"{images.origin}: {count} have no label, so they are not used ({named}{more})"]
