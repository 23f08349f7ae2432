"""Images varied in training: what is drawn at a visit is a function of seed and visit, like the row's words.

Only what leaves the scene's numbers as they are: light, colours, noise, blur and JPEG's artefacts.
"""

import io
from dataclasses import dataclass, fields

import numpy as np
from PIL import Image, ImageFilter
from scipy.special import ndtri

_GREY = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue in brightness. Source: ITU-R BT.601
_MIDDLE = 127.5
# A byte as a number of a normal distribution: 256 quantiles, which cost a look-up where a true draw costs a logarithm.
_NORMAL = ndtri((np.arange(256) + 0.5) / 256).astype(np.float32)


@dataclass(frozen=True)
class AugmentOptions:
    """How far images may be varied; 0 leaves each as it is.

    brightness, contrast: up to this share more or less. color: saturation, and each of red, green and blue, up to this
    share more or less. noise: standard deviation, up to this share of white. blur: standard deviation, up to so many
    pixels. jpeg: quality, from here to 100. Noise, blur and JPEG are for every second visit.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    color: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    jpeg: int = 0

    @property
    def is_on(self) -> bool:
        """Whether anything is varied."""
        return any(getattr(self, field.name) for field in fields(self))


AS_IS = AugmentOptions()


def augment(image: np.ndarray, options: AugmentOptions, rng: np.random.Generator) -> np.ndarray:
    """uint8 [S, S, 3], varied as `rng` draws. Each visit draws as many numbers, whatever is on, so that switching one
    thing off leaves the others as they were."""
    signs, shares, is_applied = rng.uniform(-1, 1, 6), rng.random(3), rng.random(3) < 0.5
    picture = Image.fromarray(image)
    if options.brightness or options.contrast or options.color:
        picture = picture.convert("RGB", _color_matrix(options, signs))
    if options.blur and is_applied[0]:
        picture = picture.filter(ImageFilter.GaussianBlur(float(options.blur * shares[0])))
    if options.noise and is_applied[1]:
        picture = Image.fromarray(_noisy(np.asarray(picture), 255 * options.noise * shares[1], rng))
    if options.jpeg and is_applied[2]:
        picture = _as_jpeg(picture, int(options.jpeg + shares[2] * (100 - options.jpeg)))
    return np.asarray(picture)


def _color_matrix(options: AugmentOptions, signs: np.ndarray) -> tuple[float, ...]:
    """Twelve numbers: for red, green and blue, the weights of the three, and what is added.

    signs: [6], from -1 to 1: of brightness, contrast, saturation, red, green and blue.
    """
    saturation = 1 + options.color * signs[2]
    mixed = saturation * np.eye(3) + (1 - saturation) * _GREY
    gains = (1 + options.color * signs[3:6]) * (1 + options.brightness * signs[0])
    contrast = 1 + options.contrast * signs[1]
    matrix = np.column_stack([contrast * gains[:, None] * mixed, np.full(3, (1 - contrast) * _MIDDLE)])
    return tuple(map(float, matrix.ravel()))


def _noisy(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    steps = np.rint(deviation * _NORMAL).astype(np.int16)
    noise = steps[np.frombuffer(rng.bytes(image.size), np.uint8)].reshape(image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def _as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")
