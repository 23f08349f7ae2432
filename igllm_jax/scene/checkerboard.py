"""Which places of the unit square a 2D split covers: the cells of one colour of a checkerboard.

An odd number of cells a side puts a covered cell into each corner, so every hole is surrounded by places that training
saw: what is measured there is filling in between, not going beyond.
"""

import numpy as np

from igllm_jax.errors import UserError

CELLS: dict[str, int] = {
    # split -> cells a side; 1 is the whole square. Sparse has large holes, dense has many small ones.
    "checkerboard_sparse": 5,
    "checkerboard_dense": 11,
    "random": 1,
}
POINTS_PER_BIN = 20  # a covered bin of the occupancy map then stays empty with probability e^-20
MAX_BINS = 64
FAITHFUL_SHARE = 0.999  # points stored in float32 may be rounded across a cell's edge


def is_seen(xy: np.ndarray, split: str) -> np.ndarray:
    """Whether points lie in the cells that `split` covers: float [..., 2] in [0, 1] -> bool [...].

    Example: with 5 cells a side, (0.1, 0.1) lies in a covered cell and (0.3, 0.1), the next cell, does not.

    Raises: UserError for an unknown split.
    """
    if split not in CELLS:
        raise UserError(f"there is no 2D split {split!r} with known cells; known are {', '.join(CELLS)}")
    cells = CELLS[split]
    column_row = np.clip(np.floor(np.asarray(xy, np.float64) * cells), 0, cells - 1)
    return column_row.sum(-1) % 2 == 0


def sample(split: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` points, uniform over the cells that `split` covers: float64 [count, 2] in [0, 1]."""
    cells = CELLS.get(split, 1)
    centres = (np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), -1).reshape(-1, 2) + 0.5) / cells
    covered = centres[is_seen(centres, split)] * cells - 0.5
    return (covered[rng.integers(len(covered), size=count)] + rng.random((count, 2))) / cells


def is_seen_from(xy: np.ndarray, split: str, training_xy: np.ndarray) -> np.ndarray:
    """As `is_seen`, checked against the points that training had: float [..., 2] and float [N, 2] -> bool [...].

    Released data may use other cells than ours. Where the training points do not keep to the cells of `split`, the
    covered places are read off the points: bins that hold at least one of them.
    """
    training_xy = np.asarray(training_xy, np.float64).reshape(-1, 2)
    if split in CELLS and is_seen(training_xy, split).mean() >= FAITHFUL_SHARE:
        return is_seen(xy, split)
    bins = int(np.clip(np.sqrt(len(training_xy) / POINTS_PER_BIN), 1, MAX_BINS))
    occupied = np.zeros((bins, bins), bool)
    occupied[tuple(_bin(training_xy, bins).T)] = True
    column_row = _bin(np.asarray(xy, np.float64), bins)
    return occupied[column_row[..., 0], column_row[..., 1]]


def _bin(xy: np.ndarray, bins: int) -> np.ndarray:
    return np.clip(np.floor(xy * bins), 0, bins - 1).astype(np.int64)
