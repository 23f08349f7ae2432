"""The metrics of IR3D-Bench for CLEVR scenes that vision-language models reconstruct, so that results stand beside its.

Source: the formulas of the public evaluation code of Liu et al., "IR3D-Bench: Evaluating Vision-Language Model Scene
Understanding as Agentic Inverse Rendering" (2025). Ours are written anew. Three things differ, and could not be checked
against it: its masks come from a segmentation model that is prompted with the object's centre (ours are exact), its
attributes are scored by the similarity of CLIP's text features (ours are 1 for the right word and 0 otherwise, in
matching too), and its scores by a language model are left out. Its relations look at as many of the first objects as
were matched; ours at the matched ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from igllm_jax.render.camera import Camera
from igllm_jax.render.image_metrics import Overlaps
from igllm_jax.scene.detection import Item
from igllm_jax.scene.measures import Measure

ATTRIBUTES = ("color", "size", "material", "shape")
MIN_SIMILARITY = 0.5  # of the attributes, for a match
NEARNESS = 1e-4  # what distance counts beside words: less than one word over all objects of a scene
PIXELS = 480 * 320  # its pixel distances are divided by this
PREDICTED_EPSILON = 0.1  # scene units beyond which a predicted object lies to a side
TRUE_EPSILON = 0.2  # CLEVR's own, of its labels' relationships

IR3D_METRICS: dict[str, Measure] = {
    "ir3d_pixel_dist": Measure("IR3D-Bench: distance in the image / 153600", 6, is_better_low=True, is_grouped=False),
    "ir3d_count_acc": Measure("IR3D-Bench: true objects that are matched by their words (%)", 1, is_grouped=False),
    "ir3d_relation_acc": Measure("IR3D-Bench: sets of objects to each side that are right (%)", 1, is_grouped=False),
    "ir3d_color": Measure("IR3D-Bench: right color (%), by word instead of CLIP", 1, is_grouped=False),
    "ir3d_size": Measure("IR3D-Bench: right size (%), by word instead of CLIP", 1, is_grouped=False),
    "ir3d_material": Measure("IR3D-Bench: right material (%), by word instead of CLIP", 1, is_grouped=False),
    "ir3d_shape": Measure("IR3D-Bench: right shape (%), by word instead of CLIP", 1, is_grouped=False),
    "ir3d_iou": Measure("IR3D-Bench: masks, intersection over union (%)", 1, is_grouped=False),
    "ir3d_dice": Measure("IR3D-Bench: masks, Dice (%)", 1, is_grouped=False),
    "ir3d_box": Measure("IR3D-Bench: sizes of the boxes around masks (%)", 1, is_grouped=False),
}


@dataclass(frozen=True)
class IdMasks:
    """A scene's camera and id masks, int32 [H, W], of truth and prediction."""

    camera: Camera
    true_ids: np.ndarray
    predicted_ids: np.ndarray


def match_by_words(true: Sequence[Item], predicted: Sequence[Item]) -> list[tuple[int, int]]:
    """Pairs (true index, predicted index) with the most words in common in all; each has half of them at least.

    Of several ways to match objects with the same words, the one that is nearest.
    """
    if not true or not predicted:
        return []
    same = np.array([[_similarity(one, other) for other in predicted] for one in true])
    far = np.array([[_bounded_distance(one, other) for other in predicted] for one in true])
    rows, columns = linear_sum_assignment(NEARNESS * far - same)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if same[i, j] >= MIN_SIMILARITY]


def _bounded_distance(true: Item, predicted: Item) -> float:
    """0 to 1, growing with the distance."""
    if true.location is None or predicted.location is None:
        return 1.0
    distance = float(np.linalg.norm(np.subtract(true.location, predicted.location)))
    return distance / (1 + distance)


def _similarity(true: Item, predicted: Item) -> float:
    return sum(_is_right(true, predicted, key) for key in ATTRIBUTES) / len(ATTRIBUTES)


def _is_right(true: Item, predicted: Item, key: str) -> bool:
    return key in true.words and true.words[key] == predicted.words.get(key)


def ir3d_values(true: Sequence[Item], predicted: Sequence[Item], views: IdMasks) -> dict[str, float]:
    """A scene's scores: metric -> value, those that have one. Without a match only `ir3d_count_acc` (0) has."""
    pairs = match_by_words(true, predicted)
    values = {"ir3d_count_acc": 100 * len(pairs) / len(true)} if true else {}
    if not pairs:
        return values
    for key in ATTRIBUTES:
        values[f"ir3d_{key}"] = 100 * float(np.mean([_is_right(true[i], predicted[j], key) for i, j in pairs]))
    located = [(i, j) for i, j in pairs if true[i].location and predicted[j].location]
    if located:
        values["ir3d_pixel_dist"] = _pixel_distance(true, predicted, located, views.camera) / PIXELS
        values["ir3d_relation_acc"] = 100 * relation_accuracy(true, predicted, located, views.camera)
    return values | _mask_values(pairs, views)


def _pixel_distance(
    true: Sequence[Item], predicted: Sequence[Item], pairs: Sequence[tuple[int, int]], camera: Camera
) -> float:
    there = camera.project(np.array([true[i].location for i, _ in pairs]))[:, :2]
    here = camera.project(np.array([predicted[j].location for _, j in pairs]))[:, :2]
    return float(np.linalg.norm(there - here, axis=1).mean())


def relation_accuracy(
    true: Sequence[Item], predicted: Sequence[Item], pairs: Sequence[tuple[int, int]], camera: Camera
) -> float:
    """The share of (matched object, direction) whose set of objects in that direction is exactly the true one."""
    right = 0
    known = [index for index, item in enumerate(true) if item.location]
    for name in ("right", "left", "front", "behind"):
        direction = np.array(camera.ground_directions()[name])
        there = {i: float(np.array(true[i].location) @ direction) for i in known}
        here = {i: float(np.array(predicted[j].location) @ direction) for i, j in pairs}
        for i, _ in pairs:
            wanted = {k for k in there if there[k] - there[i] > TRUE_EPSILON}
            found = {k for k in here if here[k] - here[i] > PREDICTED_EPSILON}
            right += wanted == found
    return right / (4 * len(pairs))


def _mask_values(pairs: Sequence[tuple[int, int]], views: IdMasks) -> dict[str, float]:
    overlaps = Overlaps(views.true_ids, views.predicted_ids)
    ious, dices, boxes = [], [], []
    for i, j in pairs:
        a, b, both = overlaps.sizes(i, j)
        ious.append(both / (a + b - both) if a + b else 1.0)
        dices.append(2 * both / (a + b) if a + b else 1.0)
        if a and b:
            boxes.append(_box_score(views.true_ids == i + 1, views.predicted_ids == j + 1))
    values = {"ir3d_iou": 100 * float(np.mean(ious)), "ir3d_dice": 100 * float(np.mean(dices))}
    return values | ({"ir3d_box": 100 * float(np.mean(boxes))} if boxes else {})


def _box_score(true: np.ndarray, predicted: np.ndarray) -> float:
    """1 - the difference of the boxes' half-sides over the true ones, 0 or more. Where the boxes are doesn't matter."""
    (true_x, true_y), (other_x, other_y) = _half_sides(true), _half_sides(predicted)
    total = 2 * (true_x + true_y)
    off = 2 * (abs(true_x - other_x) + abs(true_y - other_y))
    return float(np.clip(1 - off / (total + 1e-6), 0, 1))


def _half_sides(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (columns[-1] - columns[0]) / 2, (rows[-1] - rows[0]) / 2
