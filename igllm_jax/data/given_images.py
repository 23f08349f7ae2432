"""Images that a program holds already: Pillow's, arrays, and paths of image files, as a source of images by number."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from PIL import Image

from igllm_jax.data.images import decode_image, to_rgb
from igllm_jax.data.names import HeldImages, digest
from igllm_jax.data.options import EXACT, PixelOptions
from igllm_jax.data.tars import ImageSource, open_images
from igllm_jax.errors import BadSampleError, UserError
from igllm_jax.paths import to_path

CHANNELS = (3, 4)  # red, green, blue, and how opaque


class GivenImages(HeldImages):
    """Pillow images, arrays and paths, in order. Paths keep their names; other images are called `image 0`, by number,
    unless `names` says more. A name that comes again is followed by ` (2)`.

    Arrays: uint8 [H, W] (grey), [H, W, 3] or [H, W, 4]. Raises: UserError for anything else.
    """

    def __init__(self, images: Iterable[Any], names: Sequence[str] | None = None):
        self.origin = "the images given"
        self._images = [_checked(number, image) for number, image in enumerate(images)]
        wanted = [str(image) if _is_path(image) else f"image {n}" for n, image in enumerate(self._images)]
        repeats: Counter[str] = Counter()
        found: dict[str, None] = {}
        for name in wanted if names is None else names:
            own = name
            while own in found:
                repeats[name] += 1
                own = f"{name} ({repeats[name] + 1})"
            found[own] = None
        self.names = list(found)

    def read(self, index: int, pixels: PixelOptions = EXACT) -> Image.Image:
        image, where = self._images[index], self.names[index]
        if isinstance(image, Image.Image):
            return to_rgb(image, where, pixels)
        try:
            content = to_path(image).read_bytes()
        except OSError as error:
            raise BadSampleError(f"image {image}: cannot be read ({error.strerror}); check the path") from None
        return decode_image(content, where, pixels)

    @property
    def fingerprint(self) -> str:
        pixels = (np.asarray(self.read(index)) for index in range(len(self)))
        return digest("pixels", [(x.shape, hashlib.sha256(x.tobytes()).hexdigest()) for x in pixels])


def image_source(images: Any) -> ImageSource:
    """A source of whatever images were given: what `open_images` opens, one image, or several; see `GivenImages`.

    An array [N, H, W, C] is N images. Raises: UserError.
    """
    if isinstance(images, ImageSource):
        return images
    if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
        return GivenImages([images])
    if _is_path(images):
        return open_images(images)
    try:
        several = list(images)
    except TypeError:
        raise UserError(f"images: expected images or paths, got {type(images).__name__}") from None
    return open_images(several) if several and all(map(_is_path, several)) else GivenImages(several)


def _is_path(image: Any) -> TypeGuard[str | Path]:
    return isinstance(image, str | Path)


def _checked(number: int, image: Any) -> Image.Image | str | Path:
    if isinstance(image, Image.Image) or _is_path(image):
        return image
    try:
        array = np.asarray(image)
    except Exception:  # whatever the object does when it is asked for numbers
        array = np.zeros(0)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in CHANNELS):
        found = f"{array.dtype}{list(array.shape)}" if array.size else type(image).__name__
        raise UserError(
            f"image {number}: expected a path, a Pillow image, or an array uint8 [H, W], [H, W, 3] or [H, W, 4], "
            f"got {found}"
        )
    if 0 in array.shape:
        raise UserError(f"image {number}: has no pixels, its shape is {list(array.shape)}")
    return Image.fromarray(array)
