"""Images varied in training: what is drawn at a visit is a function of seed and visit, like the row's words.

Light, colours, noise, blur and JPEG's artefacts leave the scene as it is; what moves things is for languages that say
what becomes of their numbers.
"""

import io
from dataclasses import dataclass, fields

import numpy as np
from PIL import Image, ImageChops, ImageFilter
from scipy.special import ndtri

from igllm_jax.errors import UserError
from igllm_jax.scene.language import Language

_GREY = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue in brightness. Source: ITU-R BT.601
_MIDDLE = 127.5
_ZERO = 128  # the level of noise that changes nothing
_SHARE = 0.125  # of the visits that have each of noise, blur and JPEG, which cost the most
# A byte as a number of a normal distribution: 256 quantiles, which cost a look-up where a true draw costs a logarithm.
_NORMAL = ndtri((np.arange(256) + 0.5) / 256).astype(np.float32)


@dataclass(frozen=True)
class AugmentOptions:
    """How far images may be varied; 0 leaves each as it is.

    brightness, contrast: up to this share more or less. color: saturation, and each of red, green and blue, up to this
    share more or less. noise: standard deviation, up to this share of white. blur: standard deviation, up to so many
    pixels. jpeg: quality, from here to 100. Noise, blur and JPEG are each for every eighth visit. flip: every
    second one sees image and scene mirrored, left and right. shift: content is moved by up to this share of the side.
    crop: up to this share of the side is left out, anywhere, and the rest enlarged.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    color: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    jpeg: int = 0
    flip: bool = False
    shift: float = 0.0
    crop: float = 0.0

    @property
    def is_on(self) -> bool:
        """Whether anything is varied."""
        return any(getattr(self, field.name) for field in fields(self))

    @property
    def moves(self) -> bool:
        """Whether anything is done that not every language allows."""
        return bool(self.flip or self.shift or self.crop)


AS_IS = AugmentOptions()


def augment(image: np.ndarray, options: AugmentOptions, rng: np.random.Generator) -> np.ndarray:
    """uint8 [S, S, 3], varied as `rng` draws. Each visit draws as many numbers, whatever is on, so that switching one
    thing off leaves the others as they were."""
    signs, shares, is_applied = rng.uniform(-1, 1, 8), rng.random(3), rng.random(3) < _SHARE
    picture = Image.fromarray(_moved(image, np.rint(options.shift * len(image) * signs[6:]).astype(int)))
    if options.crop:  # draws apart, so that what is drawn below stays as it was
        picture = _cropped(picture, options.crop, rng.spawn(1)[0].random(3))
    if options.brightness or options.contrast or options.color:
        picture = picture.convert("RGB", _color_matrix(options, signs))
    if options.blur and is_applied[0]:
        picture = picture.filter(ImageFilter.GaussianBlur(float(options.blur * shares[0])))
    if options.noise and is_applied[1]:
        picture = _noisy(picture, 255 * options.noise * shares[1], rng)
    if options.jpeg and is_applied[2]:
        picture = _as_jpeg(picture, int(options.jpeg + shares[2] * (100 - options.jpeg)))
    return np.asarray(picture)


def _moved(image: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The image's content moved by (rows, columns); its border's colours fill what comes free."""
    rows, columns = (np.clip(np.arange(len(image)) - step, 0, len(image) - 1) for step in by)
    return image[rows[:, None], columns] if by.any() else image


def _cropped(picture: Image.Image, share: float, draws: np.ndarray) -> Image.Image:
    """A square part, enlarged to the whole. draws: in [0, 1): how much of `share` is left out, and how much of that
    left of the part and above it."""
    left_out = share * draws[0] * picture.width
    left, top = (float(left_out * draw) for draw in draws[1:])
    size = float(picture.width - left_out)
    return picture.resize(picture.size, Image.Resampling.BILINEAR, box=(left, top, left + size, top + size))


def check_language(options: AugmentOptions, language: Language) -> None:
    """Raises: UserError where the language does not say that, or how, its scenes stay right."""
    for key, is_allowed in (("flip", language.flips), ("shift", language.shifts), ("crop", language.crops)):
        if getattr(options, key) and not is_allowed:
            raise UserError(
                f"data.augment.{key} is on, but the language {language.name} does not say what its numbers become in "
                f"such an image ({key} in docs/languages.md); leave it off"
            )


def _color_matrix(options: AugmentOptions, signs: np.ndarray) -> tuple[float, ...]:
    """Twelve numbers: for red, green and blue, the weights of the three, and what is added.

    signs: from -1 to 1: of brightness, contrast, saturation, red, green and blue.
    """
    saturation = 1 + options.color * signs[2]
    mixed = saturation * np.eye(3) + (1 - saturation) * _GREY
    gains = (1 + options.color * signs[3:6]) * (1 + options.brightness * signs[0])
    contrast = 1 + options.contrast * signs[1]
    matrix = np.column_stack([contrast * gains[:, None] * mixed, np.full(3, (1 - contrast) * _MIDDLE)])
    return tuple(map(float, matrix.ravel()))


def _noisy(picture: Image.Image, deviation: float, rng: np.random.Generator) -> Image.Image:
    levels = np.clip(np.rint(_ZERO + deviation * _NORMAL), 0, 255).astype(np.uint8).tobytes()
    noise = Image.frombytes("RGB", picture.size, rng.bytes(3 * picture.width * picture.height).translate(levels))
    return ImageChops.add(picture, noise, offset=-_ZERO)


def _as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")
