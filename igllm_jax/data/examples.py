"""The examples of one source: scenes, where their images are, and the images as arrays."""

import hashlib
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from igllm_jax.data.cache import CachedImages
from igllm_jax.data.images import preprocess
from igllm_jax.data.names import digest
from igllm_jax.data.options import DataOptions, Source
from igllm_jax.data.records import Records
from igllm_jax.data.stores import is_remote, read_whole
from igllm_jax.data.tars import ImageSource, open_images
from igllm_jax.errors import BadSampleError, UserError
from igllm_jax.scene.labels import npz_spec, parse_labels, read_labels, read_points
from igllm_jax.scene.language import Language
from igllm_jax.scene.scene import Scene


@dataclass
class Examples:
    """N scenes, and `image(n)`: uint8 [S, S, 3].

    source: where they come from. fingerprint: stands for labels, names and sizes.
    """

    scenes: list[Scene]
    images: ImageSource
    image_indices: np.ndarray  # int64 [N]: which of the images each scene describes
    fingerprint: str
    options: DataOptions
    source: Source
    cached: CachedImages | None = None

    def __len__(self) -> int:
        return len(self.scenes)

    def image(self, index: int) -> np.ndarray:
        """uint8 [S, S, 3]. Raises: BadSampleError where it cannot be read."""
        return self.cached[index] if self.cached is not None else self.fresh_image(index)

    def fresh_image(self, index: int) -> np.ndarray:
        """The image, decoded now."""
        options = self.options
        image = self.images.read(int(self.image_indices[index]), options.pixel_options)
        try:
            return preprocess(image, options.image_size, options.image_aspect_ratio, options.image_mean)
        except MemoryError:
            raise BadSampleError(
                f"{self.images.origin}: image {self.scenes[index].image}: resizing its {image.width} x {image.height} "
                "pixels takes more memory than there is; scale it down, or drop its scene"
            ) from None

    def without(self, left_out: Container[int]) -> "Examples":
        """The same, but for the scenes of these numbers; their images are decoded anew."""
        chosen = [index for index in range(len(self)) if index not in left_out]
        return replace(
            self, scenes=[self.scenes[i] for i in chosen], image_indices=self.image_indices[chosen], cached=None
        )

    @property
    def content(self) -> str:
        """Stands for what is in the image files, wherever they are; reads some of them."""
        return self.images.content


def load_examples(source: Source, options: DataOptions, limit: int = 0) -> Examples:
    """Opens a source; with `options.cache` its images are decoded once and for all first.

    limit: take at most so many of the first scenes, 0 for all.
    Raises: UserError that names the file, for what is missing, empty, unreadable or does not belong together.
    """
    images = open_images(source.images)
    labels = source.labels or source.images
    scenes, label_digest = _read_scenes(images, labels, options.task)
    if not scenes:
        raise UserError(f"labels {labels}: hold no scenes; choose another split")
    if source.num_samples > len(scenes):
        raise UserError(
            f"labels {labels}: hold {len(scenes)} scenes, fewer than num_samples={source.num_samples}; "
            "set num_samples=0 to take all"
        )
    scenes = scenes[: source.num_samples or len(scenes)]
    scenes = scenes[: limit or len(scenes)]
    try:
        image_indices = np.array([images.find(scene.image) for scene in scenes], np.int64)
    except UserError as error:
        raise UserError(f"{error} (labels {labels})") from None
    check_one_scene_each([scene.image for scene in scenes], image_indices, labels)
    fingerprint = digest(images.fingerprint, label_digest, len(scenes))
    examples = Examples(scenes, images, image_indices, fingerprint, options, source)
    if options.cache:
        examples.cached = CachedImages.open(options.cache, examples)
    return examples


def check_one_scene_each(names: Sequence[str], image_indices: Sequence[int] | np.ndarray, labels: str) -> list[int]:
    """The indices, once no two scenes have the same: both can't be right, and their image would be learned twice.

    names, image_indices: [N], how each scene calls its image, and which one that is. labels: their file, for messages.
    Raises: UserError that names the image and both scenes.
    """
    owners: dict[int, int] = {}
    for index, image in enumerate(map(int, image_indices)):
        owner = owners.setdefault(image, index)
        if owner != index:
            called = "" if names[owner] == names[index] else f" (the second calls it {names[index]})"
            raise UserError(
                f"labels {labels}: scenes {owner} and {index} both describe image {names[owner]}{called}; keep one"
            )
    return list(owners)


def _read_scenes(images: ImageSource, labels: str, task: Language | str) -> tuple[list[Scene], str]:
    """The scenes of a label file, and a digest of its content."""
    if isinstance(images, Records) and labels == images.spec:
        return images.scenes(task), images.label_digest
    npz = npz_spec(labels)
    if npz is not None:
        return read_labels(labels, task), hashlib.sha256(read_points(*npz).tobytes()).hexdigest()
    if isinstance(images, Records) and not (is_remote(labels) or Path(labels).exists()):
        raise UserError(
            f"labels {labels}: do not exist; {images.spec} brings its own, which an empty `labels` asks for "
            '(--config.data.train.labels="")'
        )
    content = read_whole(labels)
    return parse_labels(content, task, where=labels), hashlib.sha256(content).hexdigest()
