"""Images for evaluation come in order, ahead of time, and with what went wrong instead."""

import threading
import time

import numpy as np
import pytest

from igllm_jax.data.eval_images import image_batches
from igllm_jax.errors import UserError


def image(index: int) -> np.ndarray:
    time.sleep(0.001 * (index % 3))  # later ones come back first
    return np.full((3, 3, 3), index + 1, np.uint8)


@pytest.mark.parametrize("rows", [None, (2, 3), (0,)])
def test_every_image_once_in_order_and_zeros_after_the_last(rows) -> None:
    found = [batch[:, 0, 0, 0].tolist() for batch in image_batches(image, 13, 5, 3, rows)]
    whole = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13, 0, 0]]
    assert found == [[batch[row] for row in (rows or range(5))] for batch in whole]
    assert list(image_batches(image, 0, 5, 3)) == []


def test_no_more_is_read_than_asked_for_and_on_other_threads() -> None:
    read = []

    def remembered(index: int) -> np.ndarray:
        read.append((index, threading.get_ident()))
        return image(index)

    batches = image_batches(remembered, 1000, 4, 3, ahead=2)
    next(batches)
    batches.close()
    assert {0, 1, 2, 3} <= {index for index, _ in read} <= set(range(12))
    assert threading.get_ident() not in {thread for _, thread in read}


def test_an_error_comes_where_its_batch_would() -> None:
    def broken(index: int) -> np.ndarray:
        if index == 6:
            raise UserError("image 6: cannot be decoded")
        return image(index)

    batches = image_batches(broken, 20, 4, 3)
    assert next(batches)[:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    with pytest.raises(UserError, match="image 6"):
        next(batches)
