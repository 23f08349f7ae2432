"""IR3D-Bench's metrics on a scene small enough to count."""

import numpy as np
import pytest

from igllm_jax.render.camera import clevr_camera
from igllm_jax.render.ir3d import IR3D_METRICS, IdMasks, ir3d_values, match_by_words, relation_accuracy
from igllm_jax.scene.detection import Item

CAMERA = clevr_camera(48, 32)
RIGHT, BEHIND = (np.array(CAMERA.ground_directions()[name]) for name in ("right", "behind"))


def item(color: str, right: float, behind: float, size: str = "large") -> Item:
    words = {"color": color, "size": size, "material": "metal", "shape": "cube"}
    return Item(words, tuple(right * RIGHT + behind * BEHIND))


def views(true: np.ndarray, predicted: np.ndarray) -> IdMasks:
    return IdMasks(CAMERA, true.astype(np.int32), predicted.astype(np.int32))


def test_matching_is_by_words_then_by_distance() -> None:
    true = [item("red", 0, 0), item("red", 2, 0), item("blue", 1, 1)]
    predicted = [item("blue", 0, 0), item("red", 1.9, 0), item("red", 0.1, 0)]
    assert match_by_words(true, predicted) == [(0, 2), (1, 1), (2, 0)]
    other = Item({"color": "green", "size": "small", "material": "rubber", "shape": "cube"}, None)
    assert match_by_words(true, [other]) == [] and match_by_words([], true) == []


def test_a_perfect_prediction_is_perfect() -> None:
    true = [item("red", 0, 0), item("red", 2, 0), item("blue", 1, 1)]
    ids = np.zeros((32, 48))
    ids[3:9, 4:12], ids[20:25, 30:40], ids[10:12, 3:5] = 1, 2, 3
    values = ir3d_values(true, true, views(ids, ids))
    assert set(values) == set(IR3D_METRICS)
    assert values.pop("ir3d_pixel_dist") == 0
    assert list(values.values()) == pytest.approx([100] * len(values))


def test_masks_and_pixels_by_hand() -> None:
    true, predicted = np.zeros((32, 48)), np.zeros((32, 48))
    true[0:11, 0:21], predicted[0:11, 10:31] = 1, 1  # boxes of one size, half over each other
    values = ir3d_values([item("red", 0, 0)], [item("blue", 1, 0)], views(true, predicted))
    assert values["ir3d_iou"] == pytest.approx(100 * 11 / 31) and values["ir3d_dice"] == pytest.approx(100 * 22 / 42)
    assert values["ir3d_box"] == pytest.approx(100)
    assert (values["ir3d_color"], values["ir3d_shape"]) == (0, 100)
    moved = CAMERA.project(np.array([tuple(RIGHT)]))[0] - CAMERA.project(np.zeros((1, 3)))[0]
    assert values["ir3d_pixel_dist"] == pytest.approx(np.hypot(moved[0], moved[1]) / 153600)


def test_relations_count_whole_sets() -> None:
    true = [item("red", 0, 0), item("blue", 1, 0.5), item("gray", -1, 1)]
    pairs = [(0, 0), (1, 1), (2, 2)]
    assert relation_accuracy(true, true, pairs, CAMERA) == 1
    swapped = [item("red", 0, 0), item("blue", -2, 0.5), item("gray", -1, 1)]
    # Right of red: was blue, is nothing. Left of red: was gray, is blue and gray. Of blue right and left, of gray too.
    assert relation_accuracy(true, swapped, pairs, CAMERA) == pytest.approx(6 / 12)
    assert relation_accuracy(true, true, pairs[:2], CAMERA) == pytest.approx(
        4 / 8
    )  # gray is missing to left and behind


def test_nothing_matched() -> None:
    empty = np.zeros((32, 48))
    assert ir3d_values([item("red", 0, 0)], [], views(empty, empty)) == {"ir3d_count_acc": 0}
    assert ir3d_values([], [], views(empty, empty)) == {}
