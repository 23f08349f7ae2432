"""Own 2D data: points of the unit square; the image of each (a red disc) is drawn by whoever reads the file. And the
discs of predictions."""

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image

from igllm_jax.data.images import draw_disc
from igllm_jax.paths import FilePath
from igllm_jax.render.output import finished_outputs
from igllm_jax.scene.checkerboard import CELLS, sample
from igllm_jax.scene.language import Language
from igllm_jax.scene.language_parts import Attribute, points_attribute
from igllm_jax.scene.scene import Call

FILE_NAME = "2d.npz"
VALIDATION_SPLIT = "random"
DISC_REACH = 2.0  # image sides; a disc beyond is not drawn


def split_points(split: str, count: int, seed: int) -> np.ndarray:
    """float64 [count, 2] in [0, 1]: x and y, uniform over what `split` covers."""
    return sample(split, count, np.random.default_rng([seed, crc32(split.encode())]))


def write_twod(folder: FilePath, *, num_train: int, num_val: int, seed: int, overwrite: bool) -> FilePath:
    """Writes `folder`/2d.npz with `num_train` points per checkerboard, `num_val` anywhere; returns its path."""
    with finished_outputs(folder, [FILE_NAME], overwrite=overwrite) as partial:
        counts = {split: num_val if split == VALIDATION_SPLIT else num_train for split in CELLS}
        points = {split: split_points(split, count, seed) for split, count in counts.items()}
        np.savez(partial / FILE_NAME, **points)  # type: ignore[arg-type]
    return folder / FILE_NAME


def disc_attribute(language: Language) -> Attribute | None:
    """Where a call's disc is (image sides from the top left corner), of languages whose images are one disc; of others
    None."""
    return points_attribute(language.functions[0]) if language.label_file == "points" else None


def disc_picture(items: Sequence[Call], language: Language) -> Image.Image:
    """The image of the first call's disc, white where it says no place nearby: predictions hold anything."""
    attribute = disc_attribute(language)
    point: Any = items[0].get(attribute.name) if items and attribute is not None else None
    if point is None or max(abs(x - 0.5) for x in point) > DISC_REACH:
        point = (-DISC_REACH, -DISC_REACH)
    return draw_disc(*point)
