"""How a picture is compared with an image: blurred, less a part of its surroundings, large differences counting less.

Light that is everywhere wrong then counts little, and a shadow or texture that is somewhere wrong has a limit.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from PIL import Image

from igllm_jax.render.flat.rays import Array

LONGER = 240  # pixels: of the sides of the pictures that are compared
GROUND_STEP = 2  # of these pixels: shadows nearly as sharp as those of the image that they explain
LEAST_NOISE, MOST_NOISE = 0.05, 0.4  # of a pixel, 0 to 1: outlines are jagged, and light differs
SURROUNDINGS = 0.12  # of the longer side: what counts as around a pixel
LOCAL = 0.5  # how much of the mean around a pixel does not count


class Lens(NamedTuple):
    """One way to compare pictures of H x W pixels.

    rows [H, H], columns [W, W]: take the mean around each pixel, far_rows and far_columns that of its surroundings.
    outlier: differences from here on count less and less. area: pixels whose differences say the same. least_noise: of
    a pixel, 0 to 1, however well a picture explains the image.
    """

    rows: Array
    columns: Array
    far_rows: Array
    far_columns: Array
    outlier: Array
    area: Array
    least_noise: Array


def lens(size: tuple[int, int], blur: float, outlier: float, least_noise: float = LEAST_NOISE) -> Lens:
    """blur: standard deviation, in pixels of a picture whose longer side has LONGER. size: width and height."""
    width, height = size
    blur *= max(size) / LONGER
    far = SURROUNDINGS * max(size)
    near, around = ((_smoothing(height, d), _smoothing(width, d)) for d in (blur, far))
    numbers = outlier, 1 + 4 * np.pi * blur**2, least_noise
    return Lens(*near, *around, *(np.float32(number) for number in numbers))


@functools.cache
def _smoothing(count: int, deviation: float) -> np.ndarray:
    """float32 [count, count]: the Gaussian mean around each of a row's pixels."""
    away = np.arange(count)[:, None] - np.arange(count)
    weights = np.exp(-0.5 * (away / max(deviation, 1e-3)) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def picture_size(width: int, height: int, longer: int = LONGER) -> tuple[int, int]:
    """Width and height of the pictures that are compared with an image of a size, never larger than it."""
    scale = min(1.0, longer / max(width, height))
    return max(8, round(width * scale)), max(8, round(height * scale))


def target_of(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """An image to be explained: float32 [3, P], sRGB, 0 to 1."""
    small = image.convert("RGB").resize(size, Image.Resampling.BOX)
    return np.asarray(small, np.float32).reshape(-1, 3).T / np.float32(255)


def shrunk(pictures: Array, size: tuple[int, int], smaller: tuple[int, int]) -> Array:
    """Pictures [..., P] of a size (width and height) as smaller ones: means of the areas of their pixels."""
    if size == smaller:
        return pictures
    columns, rows = (_areas(*pair) for pair in zip(size, smaller, strict=True))
    grid = pictures.reshape(*pictures.shape[:-1], size[1], size[0])
    return (rows @ grid @ columns.T).reshape(*pictures.shape[:-1], smaller[0] * smaller[1])


@functools.cache
def _areas(count: int, fewer: int) -> np.ndarray:
    """float32 [fewer, count]: how much of each of few pixels each of many takes."""
    width = count / fewer
    begins = np.arange(fewer)[:, None] * width
    pixels = np.arange(count)
    shares = np.minimum(begins + width, pixels + 1) - np.maximum(begins, pixels)
    return (np.maximum(shares, 0) / width).astype(np.float32)


def srgb(linear: Array) -> Array:
    """Linear light to what an image holds, 0 to 1. Source: IEC 61966-2-1."""
    linear = jnp.clip(linear, 0, 1)
    return jnp.where(linear <= 0.0031308, 12.92 * linear, 1.055 * jnp.maximum(linear, 1e-4) ** (1 / 2.4) - 0.055)


def features(difference: Array, lens: Lens) -> Array:
    """What is compared of differences of pictures [..., P]: linear, of the same shape."""
    grid = difference.reshape(*difference.shape[:-1], len(lens.rows), len(lens.columns))
    near, far = (
        rows @ grid @ columns.T for rows, columns in ((lens.rows, lens.columns), (lens.far_rows, lens.far_columns))
    )
    return (near - LOCAL * far).reshape(difference.shape)


def penalty(difference: Array, lens: Lens) -> Array:
    """Half the sum of squares of features [3, P], with Cauchy's limit on what differs much."""
    squared = (difference**2).sum(axis=0)
    return 0.5 * lens.outlier**2 * jnp.log1p(squared / lens.outlier**2).sum()


def weights(difference: Array, lens: Lens) -> Array:
    """By what a pixel's squares count in `penalty`: [P], 1 where it differs little."""
    return 1 / (1 + (difference**2).sum(axis=0) / lens.outlier**2)


def information(difference: Array, lens: Lens) -> Array:
    """What a unit of `penalty` is worth as a negative log-probability: one over the square of a pixel's noise, which is
    what is left of the features [3, P], undone the mean over neighbours."""
    importance = weights(difference, lens)
    squares = (importance * difference**2).sum() / (3 * importance.sum())
    return 1 / jnp.clip(lens.area * squares, lens.least_noise**2, MOST_NOISE**2)


def information_left(penalties: np.ndarray, lens: Lens) -> np.ndarray:
    """`information` of pictures by their penalties alone, as if nothing differed by much."""
    squares = 2 * penalties / (3 * len(lens.rows) * len(lens.columns))
    return 1 / np.clip(lens.area * squares, lens.least_noise**2, MOST_NOISE**2)
