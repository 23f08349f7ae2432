"""Seen and unseen places of 2D splits."""

import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.scene.checkerboard import CELLS, is_seen, is_seen_from, sample


def test_neighbouring_cells_alternate_and_corners_are_seen() -> None:
    points = np.array([[0.1, 0.1], [0.3, 0.1], [0.3, 0.3], [0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    assert is_seen(points, "checkerboard_sparse").tolist() == [True, False, True, True, True, True]
    assert is_seen(points, "random").all()


@pytest.mark.parametrize("split", list(CELLS))
def test_samples_fill_the_seen_cells_and_only_those(split: str) -> None:
    points = sample(split, 5003, np.random.default_rng(0))
    assert points.shape == (5003, 2) and points.min() >= 0 and points.max() <= 1
    assert is_seen(points, split).all()
    grid = (np.stack(np.meshgrid(*[np.arange(CELLS[split])] * 2), -1) + 0.5) / CELLS[split]
    edges = np.linspace(0, 1, CELLS[split] + 1)
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=[edges, edges])
    assert ((counts > 0) == is_seen(grid, split)).all()


def test_same_seed_same_samples() -> None:
    one, other = (sample("random", 7, np.random.default_rng(3)) for _ in range(2))
    assert (one == other).all()


def test_cells_are_read_off_training_points_of_another_layout() -> None:
    rng = np.random.default_rng(0)
    training = rng.random((20000, 2))
    training = training[training[:, 0] < 0.5]  # the left half, under a name that stands for other cells here
    points = rng.random((997, 2))
    points = points[np.abs(points[:, 0] - 0.5) > 0.05]
    assert (is_seen_from(points, "checkerboard_sparse", training) == (points[:, 0] < 0.5)).all()


def test_own_cells_are_exact_whatever_the_number_of_training_points() -> None:
    rng = np.random.default_rng(0)
    training = sample("checkerboard_sparse", 101, rng).astype(np.float32)
    points = rng.random((997, 2))
    assert (is_seen_from(points, "checkerboard_sparse", training) == is_seen(points, "checkerboard_sparse")).all()


def test_unknown_split() -> None:
    with pytest.raises(UserError, match="no 2D split 'chess'"):
        is_seen(np.zeros((1, 2)), "chess")
