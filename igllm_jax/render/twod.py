"""Own 2D data: points of the unit square; the image of each (a red disc) is drawn by whoever reads the file."""

from zlib import crc32

import numpy as np

from igllm_jax.paths import FilePath
from igllm_jax.render.output import finished_outputs
from igllm_jax.scene.checkerboard import CELLS, sample

FILE_NAME = "2d.npz"
VALIDATION_SPLIT = "random"


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
