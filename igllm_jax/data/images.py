"""An image file as the vision tower sees it: red, green and blue, square, resized as CLIP's preprocessing does."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from igllm_jax.data.options import EXACT, PixelOptions
from igllm_jax.errors import BadSampleError, UserError

ASPECT_RATIOS = ("pad", "square")
DISC_IMAGE_SIZE = 336
DISC_RADIUS = 5
_WHITE, _RED = (255, 255, 255), (255, 0, 0)
_STRIP = 1 << 22  # pixels that are padded at once


def decode_image(content: bytes, where: str, options: PixelOptions = EXACT) -> Image.Image:
    """The image in a file's bytes, RGB. Raises: BadSampleError that says `where`, for what can't be shown right."""
    return _told(lambda: _rgb(Image.open(io.BytesIO(content)), options), where)


def to_rgb(image: Image.Image, where: str, options: PixelOptions = EXACT) -> Image.Image:
    """An open image as `decode_image` makes it of a file's bytes. Raises: BadSampleError that says `where`."""
    return _told(lambda: _rgb(image, options), where)


def _rgb(image: Image.Image, options: PixelOptions) -> Image.Image:
    _check_size(image, options)
    if options.pixels == "exact" and image.mode not in _MODES:
        raise UserError(f"its mode is {image.mode}, whose numbers mean no colours to us; save it as RGB")
    if options.exif == "apply":
        image = _upright(image)
    return image.convert("RGB") if options.pixels == "legacy" else _MODES[image.mode](image, options)


def _told(decode: Callable[[], Image.Image], where: str) -> Image.Image:
    try:
        return decode()
    except UserError as error:
        raise BadSampleError(f"{where}: {error}") from None
    except MemoryError:
        raise BadSampleError(f"{where}: takes more memory than there is; scale it down, or drop its scene") from None
    except Exception as error:  # PIL raises many kinds on broken files
        raise BadSampleError(f"{where}: cannot be decoded ({error}); replace the file, or drop its scene") from None


def _check_size(image: Image.Image, options: PixelOptions) -> None:
    width, height = image.size
    long, short = max(width, height), max(1, min(width, height))
    for key, value, limit in (
        ("side", long, options.max_image_side),
        ("aspect", long / short, options.max_image_aspect),
        ("pixels", width * height, options.max_image_pixels),
    ):
        if limit and value > limit:
            raise UserError(
                f"is {width} x {height} pixels, above data.max_image_{key}={limit:g}; scale it down, drop its scene, "
                "or raise that"
            )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:
        image.load()  # fails where it is the image that is damaged
        raise UserError(
            f"its EXIF data are damaged ({error}); data.exif=ignore takes images as they are stored"
        ) from None


def _plain(image: Image.Image, options: PixelOptions) -> Image.Image:
    return _on_white(image, options) if "transparency" in image.info else image.convert("RGB")


def _on_white(image: Image.Image, options: PixelOptions) -> Image.Image:
    """What a viewer shows: the colours of transparent pixels are whatever the program that wrote them left there."""
    for step in {"La": ("LA", "RGBA"), "RGBa": ("RGBA",)}.get(image.mode, ("RGBA",)):
        image = image.convert(step)
    white = Image.new("RGBA", image.size, (*_WHITE, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _grey16(image: Image.Image, options: PixelOptions) -> Image.Image:
    values = np.asarray(image).astype(np.uint16)
    grey = _grey(values, 0, 65535)
    hidden = image.info.get("transparency")  # of a PNG: the one grey that is
    return Image.fromarray(np.where(values == hidden, np.uint8(255), grey)).convert("RGB")


def _grey32(image: Image.Image, options: PixelOptions) -> Image.Image:
    if image.format == "PNG":  # which has no 32 bits: older Pillow calls its 16 so
        return _grey16(image, options)
    if len(options.pixel_range) != 2 or not options.pixel_range[0] < options.pixel_range[1]:
        raise UserError(
            f"its mode is {image.mode}, whose numbers have no range; set data.pixel_range=(BLACK, WHITE), or save it "
            "in 8 bits"
        )
    values = np.asarray(image, np.float64)
    if not np.isfinite(values).all():
        raise UserError("some of its numbers are not finite; save it in 8 bits, or drop its scene")
    return Image.fromarray(_grey(values, *options.pixel_range)).convert("RGB")


def _grey(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """uint8: 0 for `black` and below, 255 for `white` and above, rounded."""
    share = (values.astype(np.float64) - black) / (white - black)
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


# Pillow's modes that have a meaning as colours. CMYK and YCbCr, which JPEG and TIFF files come in, are converted as
# Pillow does it, without a colour profile; LAB and HSV are refused, since files rarely say in which of their kinds.
_MODES: dict[str, Callable[[Image.Image, PixelOptions], Image.Image]] = {
    **dict.fromkeys(("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"), _plain),
    **dict.fromkeys(("LA", "La", "PA", "RGBA", "RGBa"), _on_white),
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), _grey16),
    **dict.fromkeys(("I", "F"), _grey32),
}


def preprocess(image: Image.Image, size: int, aspect_ratio: str, mean: Sequence[float]) -> np.ndarray:
    """uint8 [size, size, 3].

    aspect_ratio: "pad" pads to a square with the mean colour, then resizes; "square" resizes the short side, then crops
        out the centre. Resizing is bicubic. Scaled to [0, 1] and normalised by mean and standard deviation, the result
        equals the pixel values of transformers' CLIPImageProcessor.
    mean: of red, green and blue, in [0, 1].
    """
    if image.mode != "RGB":
        image = image.convert("RGB")
    if aspect_ratio == "pad":
        return np.asarray(_padded(image, size, tuple(int(channel * 255) for channel in mean)))
    if aspect_ratio != "square":
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


def _padded(image: Image.Image, size: int, color: tuple[int, ...]) -> Image.Image:
    """Source: `expand2square` of LLaVA: the image in the middle of a square, an odd rest after it, then resized.

    The square is never there as a whole. Pillow resizes rows first and columns then, so rows may be padded and resized
    a strip at a time, and rows of nothing but padding need no resizing: the same bytes, in memory of side times `size`.
    """
    width, height = image.size
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    narrow = Image.new("RGB", (size, side), color)
    rows = max(1, _STRIP // side)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        strip = image.crop((0, start, width, stop))
        if width < side:
            strip = Image.new("RGB", (side, stop - start), color)
            strip.paste(image.crop((0, start, width, stop)), (left, 0))
        if side != size:
            strip = strip.resize((size, stop - start), Image.Resampling.BICUBIC)
        narrow.paste(strip, (0, top + start))
    return narrow if side == size else narrow.resize((size, size), Image.Resampling.BICUBIC)


def draw_disc(x: float, y: float) -> Image.Image:
    """The image of a 2D example: white, 336 pixels a side, with a red disc of radius 5 pixels around (x·336, y·336)."""
    image = Image.new("RGB", (DISC_IMAGE_SIZE, DISC_IMAGE_SIZE), _WHITE)
    column, row = x * DISC_IMAGE_SIZE, y * DISC_IMAGE_SIZE
    box = (column - DISC_RADIUS, row - DISC_RADIUS, column + DISC_RADIUS, row + DISC_RADIUS)
    ImageDraw.Draw(image).ellipse(box, fill=_RED)
    return image
