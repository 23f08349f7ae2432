"""An image as the vision tower sees it: square, resized as CLIP's own preprocessing does, not yet normalised."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from igllm_jax.errors import UserError

ASPECT_RATIOS = ("pad", "square")
DISC_IMAGE_SIZE = 336
DISC_RADIUS = 5
_WHITE, _RED = (255, 255, 255), (255, 0, 0)


def decode_image(content: bytes, where: str) -> Image.Image:
    """The image in a file's bytes, RGB. Raises: UserError that says `where` it was."""
    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except Exception as error:  # PIL raises many kinds on broken files
        raise UserError(f"{where}: cannot be decoded ({error}); replace the file, or drop its scene") from None


def preprocess(image: Image.Image, size: int, aspect_ratio: str, mean: Sequence[float]) -> np.ndarray:
    """uint8 [size, size, 3].

    aspect_ratio: "pad" pads to a square with the mean colour, then resizes; "square" resizes the short side, then cuts
        out the centre. Resizing is bicubic. Scaled to [0, 1] and normalised by mean and standard deviation, the result
        equals the pixel values of transformers' CLIPImageProcessor.
    mean: of red, green and blue, in [0, 1].
    """
    if image.mode != "RGB":
        image = image.convert("RGB")
    if aspect_ratio == "pad":
        image = _padded(image, tuple(int(channel * 255) for channel in mean))
    elif aspect_ratio != "square":
        raise UserError(
            f"data.image_aspect_ratio={aspect_ratio!r} is unknown; choose one of {', '.join(ASPECT_RATIOS)}"
        )
    width, height = image.size
    short = min(width, height)
    if short != size:
        width, height = int(size * width / short), int(size * height / short)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    if (width, height) != (size, size):
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)


def _padded(image: Image.Image, color: tuple[int, ...]) -> Image.Image:
    """Source: `expand2square` of LLaVA: the image in the middle of a square, an odd rest after it."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), color)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def draw_disc(x: float, y: float) -> Image.Image:
    """The image of a 2D example: white, 336 pixels a side, with a red disc of radius 5 pixels around (x·336, y·336)."""
    image = Image.new("RGB", (DISC_IMAGE_SIZE, DISC_IMAGE_SIZE), _WHITE)
    column, row = x * DISC_IMAGE_SIZE, y * DISC_IMAGE_SIZE
    box = (column - DISC_RADIUS, row - DISC_RADIUS, column + DISC_RADIUS, row + DISC_RADIUS)
    ImageDraw.Draw(image).ellipse(box, fill=_RED)
    return image
