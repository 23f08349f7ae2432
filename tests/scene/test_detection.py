"""Average precision: by hand, and what order and weights must not change."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igllm_jax.scene.detection import Item, average_precision, right_predictions


def item(color: str | None, x: float | None = 0.0, confidence: float = 1.0) -> Item:
    return Item({} if color is None else {"color": color}, None if x is None else (x, 0.0, 0.0), confidence)


def precision(scenes: list, threshold: float = math.inf, weights: list | None = None) -> float:
    return average_precision(scenes, threshold)(np.ones(len(scenes)) if weights is None else np.array(weights, float))


def test_surest_first_and_each_object_once() -> None:
    true = [item("red", 0.0), item("red", 1.0)]
    predicted = [item("red", 0.1, 0.2), item("red", 0.05, 0.9), item("blue", 1.0), item("red", 1.6)]
    assert right_predictions(true, predicted, 0.5) == [False, True, False, False]
    assert right_predictions(true, predicted, 1.0) == [False, True, False, True]
    assert right_predictions(true, [item("red", None)], 0.5) == [False]
    assert right_predictions(true, [item("red", None)], math.inf) == [True]
    assert right_predictions([item("red", None)], [item("red", None)], 0.125) == [True]
    assert right_predictions(true, [item(None)], math.inf) == [False]


def test_area_by_hand() -> None:
    true = [item("red", 0.0), item("blue", 0.0)]
    # right, wrong, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    predicted = [item("red", 0.0, 3.0), item("cyan", 0.0, 2.0), item("blue", 0.0, 1.0)]
    assert precision([(true, predicted)]) == pytest.approx(100 * (0.5 + 0.5 * 2 / 3))
    alike = [item(one.words["color"]) for one in predicted]
    assert precision([(true, alike)]) == pytest.approx(100 * 2 / 3)  # one point: precision 2/3 at recall 1
    assert precision([(true, [])]) == 0 and math.isnan(precision([([], predicted)]))


COLORS = st.sampled_from(["red", "blue", "cyan"])
ITEMS = st.lists(st.builds(item, COLORS, st.floats(-2, 2), st.sampled_from([0.25, 0.5, 1.0])), max_size=5)
SCENES = st.lists(st.tuples(ITEMS, ITEMS), min_size=1, max_size=4)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(SCENES)
def test_order_and_repetition_change_nothing_and_farther_is_no_worse(scenes: list) -> None:
    value = precision(scenes, 0.5)
    if math.isnan(value):
        assert not any(true for true, _ in scenes)
        return
    assert -1e-9 <= value <= 100 + 1e-9
    assert precision(scenes[::-1], 0.5) == pytest.approx(value)
    assert precision(scenes, 0.5, [3] * len(scenes)) == pytest.approx(value)
    assert precision([*scenes, *scenes], 0.5) == pytest.approx(value)
    assert precision(scenes) >= value - 1e-9


def test_a_perfect_prediction_is_100() -> None:
    true = [item("red", 0.0), item("red", 0.1), item("blue", 2.0)]
    assert precision([(true, true), ([item("cyan")], [item("cyan")])], 0.125) == pytest.approx(100)
