"""Pictures made smaller, and rows of any number through one program."""

import numpy as np

from igllm_jax.refine.lens import shrunk
from igllm_jax.refine.pictures import by_rows


def test_shrunk_pictures_are_means_of_areas():
    pictures = np.random.default_rng(0).random((2, 3, 4 * 6), np.float32)
    blocks = pictures.reshape(2, 3, 2, 2, 3, 2).mean(axis=(3, 5)).reshape(2, 3, 6)
    np.testing.assert_allclose(shrunk(pictures, (6, 4), (3, 2)), blocks, rtol=1e-6)
    uneven = shrunk(pictures, (6, 4), (4, 3))
    np.testing.assert_allclose(uneven.mean(axis=-1), pictures.mean(axis=-1), rtol=1e-5)
    assert shrunk(pictures, (6, 4), (6, 4)) is pictures


def test_the_last_rows_are_filled_up():
    sizes = []

    def double(rows):
        sizes.append(len(rows["a"]))
        return {"b": 2 * rows["a"]}

    found = by_rows(double, {"a": np.arange(5)}, at_once=2)
    assert sizes == [2, 2, 2] and found["b"].tolist() == [0, 2, 4, 6, 8]
