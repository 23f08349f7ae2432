"""Scores of predicted scenes against true ones.

Predicted objects are matched to true ones by Hungarian assignment on the distance of their locations. Every metric but
`ace` and `parsed` is averaged over a scene's matched pairs, then over the scenes that have any. What a prediction lacks
is scored all the same: no location is the origin, no rotation is all numbers zero, no word is a wrong word.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from igllm_jax.scene.code import Predicted, Reading, label_word, rotation_numbers
from igllm_jax.scene.rotations import CUBE_PERIOD_RAD, euler_to_matrix, geodesic_deg, yaw_error_deg
from igllm_jax.scene.scene import Object, Scene
from igllm_jax.scene.tasks import Task, check_rotation_unit, find_task

METRICS: dict[str, str] = {
    # name -> what it is; the order is that of tables
    "l2": "distance of locations (scene units; 2D: image sides)",
    "geod": "angle between rotations (degrees)",
    "yaw": "difference of CLEVR yaws, modulo a cube's quarter turn (degrees)",
    "ace": "absolute error of the object count",
    "size": "right size (%)",
    "color": "right color (%)",
    "mat": "right material (%)",
    "shape": "right shape, spheres left out (%)",
    "shp_cls": "right class of shape, the part before '_' (%)",
    "within_1": "within 1 % of the image side (%)",
    "within_5": "within 5 % of the image side (%)",
    "l2_seen": "l2 in cells that training covered",
    "l2_unseen": "l2 in cells that training left out",
    "within_1_seen": "within 1 % in covered cells (%)",
    "within_1_unseen": "within 1 % in left out cells (%)",
    "within_5_seen": "within 5 % in covered cells (%)",
    "within_5_unseen": "within 5 % in left out cells (%)",
    "parsed": "scenes whose text could be read entirely (%)",
}
LOWER_IS_BETTER = ("l2", "geod", "yaw", "ace", "l2_seen", "l2_unseen")
NOTHING = "(none)"  # in confusions: the prediction does not say the word
INTERVAL_PERCENTILES = (2.5, 97.5)
_WORD_METRICS = {"size": "size", "color": "color", "material": "mat"}
_SHARES = {"within_1": 0.01, "within_5": 0.05}


@dataclass(frozen=True)
class Comparison:
    """One scene's scores.

    pairs: (index of the true object, index of the predicted one), matched.
    values: metric -> the scene's value; metrics without a pair to measure are absent.
    words: (attribute, true word, predicted word or NOTHING) of each pair, for confusions.
    """

    pairs: tuple[tuple[int, int], ...]
    values: dict[str, float]
    words: tuple[tuple[str, str, str], ...]


def match(scene: Scene, reading: Reading, task: Task | str) -> tuple[tuple[int, int], ...]:
    """Pairs (true index, predicted index) that make the sum of distances smallest; as many as the smaller count."""
    task = find_task(task)
    if not scene.objects or not reading.objects:
        return ()
    if len(scene.objects) == len(reading.objects) == 1:
        return ((0, 0),)
    nowhere = (0.0,) * task.location_size
    true = np.array([item.location or nowhere for item in scene.objects])
    predicted = np.array([item.location or nowhere for item in reading.objects])
    rows, columns = linear_sum_assignment(np.linalg.norm(predicted[:, None] - true[None], axis=-1))
    return tuple((int(column), int(row)) for row, column in zip(rows, columns, strict=True))


def compare(
    scene: Scene,
    reading: Reading,
    task: Task | str,
    *,
    rotation_rep: str = "",
    rotation_unit: str = "deg",
    is_seen: bool | None = None,
) -> Comparison:
    """One scene's scores.

    rotation_unit: unit of CLEVR's labels; other labels are extrinsic xyz Euler radians.
    is_seen: 2D, whether the scene lies where training had examples; None where that is not known.

    Example: one object at (0.5, 0.5) read at (0.5, 0.52) has l2 0.02, within_1 0 and within_5 100.

    Source: the formulas of IG-LLM's evaluation (Kulits et al., "Re-Thinking Inverse Graphics With Large Language
    Models", TMLR 2024).
    """
    task = find_task(task)
    pairs = match(scene, reading, task)
    collected: dict[str, list[float]] = {}
    words: list[tuple[str, str, str]] = []
    for true_index, predicted_index in pairs:
        true, predicted = scene.objects[true_index], reading.objects[predicted_index]
        words += _word_pairs(true, predicted, task)
        for name, value in _pair_values(true, predicted, task, rotation_rep, rotation_unit):
            collected.setdefault(name, []).append(value)
    values = {name: math.fsum(found) / len(found) for name, found in collected.items()}
    if is_seen is not None:
        where = "seen" if is_seen else "unseen"
        values |= {f"{name}_{where}": values[name] for name in ("l2", *_SHARES) if name in values}
    values["ace"] = float(abs(len(scene.objects) - len(reading.objects)))
    values["parsed"] = 0.0 if reading.problems else 100.0
    return Comparison(pairs, values, tuple(words))


def _word_pairs(true: Object, predicted: Predicted, task: Task) -> Iterator[tuple[str, str, str]]:
    for key in task.words:
        word = getattr(true, key)
        if word is not None:
            yield key, label_word(key, word), getattr(predicted, key) or NOTHING


def _pair_values(
    true: Object, predicted: Predicted, task: Task, rotation_rep: str, rotation_unit: str
) -> Iterator[tuple[str, float]]:
    if true.location is not None:
        distance = math.dist(true.location, predicted.location or (0.0,) * task.location_size)
        yield "l2", distance
        if task.location_size == 2:
            for name, share in _SHARES.items():
                yield name, 100.0 * (distance <= share)
    for key, true_word, predicted_word in _word_pairs(true, predicted, task):
        if key != "shape":
            yield _WORD_METRICS[key], 100.0 * (true_word == predicted_word)
            continue
        if true_word != "sphere":
            yield "shape", 100.0 * (true_word == predicted_word)
        yield "shp_cls", 100.0 * (shape_class(true_word) == shape_class(predicted_word))
    yield from _rotation_values(true, predicted, task, rotation_rep, rotation_unit)


def _rotation_values(
    true: Object, predicted: Predicted, task: Task, rotation_rep: str, rotation_unit: str
) -> Iterator[tuple[str, float]]:
    representation = task.representation(rotation_rep)
    if representation is None or not true.is_turned or true.rotation is None:
        return
    numbers = predicted.rotation or (0.0,) * representation.num_numbers
    if task.rotation_size == 1:
        true_numbers = rotation_numbers(true, task, rotation_rep, rotation_unit)
        assert true_numbers is not None  # the object is turned
        period = CUBE_PERIOD_RAD if true.shape == "cube" else 2 * math.pi
        yield "yaw", yaw_error_deg(numbers[0], true_numbers[0], period_rad=period)
    else:
        yield "geod", float(geodesic_deg(representation.to_matrix(numbers), euler_to_matrix(true.rotation)))


def shape_class(shape: str) -> str:
    """`chair` for `chair_3f2a`: what comes before the first `_`."""
    return shape.split("_", 1)[0]


def compare_all(
    scenes: Sequence[Scene],
    readings: Sequence[Reading],
    task: Task | str,
    *,
    rotation_rep: str = "",
    rotation_unit: str = "deg",
    is_seen: Iterable[bool] | None = None,
) -> list[Comparison]:
    """`compare` for scenes and their readings, in order; `is_seen` has one entry per scene."""
    task = find_task(task)
    task.representation(rotation_rep)
    check_rotation_unit(rotation_unit)
    seen = [None] * len(scenes) if is_seen is None else [bool(flag) for flag in is_seen]
    return [
        compare(scene, reading, task, rotation_rep=rotation_rep, rotation_unit=rotation_unit, is_seen=flag)
        for scene, reading, flag in zip(scenes, readings, seen, strict=True)
    ]


def score(
    scenes: Sequence[Scene],
    readings: Sequence[Reading],
    task: Task | str,
    *,
    rotation_rep: str = "",
    rotation_unit: str = "deg",
    is_seen: Iterable[bool] | None = None,
) -> dict[str, float]:
    """Metric -> average over the scenes, for use while training; metrics that could not be measured are absent."""
    comparisons = compare_all(
        scenes, readings, task, rotation_rep=rotation_rep, rotation_unit=rotation_unit, is_seen=is_seen
    )
    averages, _ = _averages(_table(comparisons))
    return {name: value for name, value in averages.items() if value is not None}


def report(
    scenes: Sequence[Scene],
    readings: Sequence[Reading],
    task: Task | str,
    *,
    rotation_rep: str = "",
    rotation_unit: str = "deg",
    is_seen: Iterable[bool] | None = None,
    reference_averages: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that is to be said about a set of predictions, ready for JSON.

    reference_averages: leave out of every average the scenes whose l2 is exactly 0 and those without a true or a
        predicted object.
    bootstrap: number of resamples of the scenes for 95 % intervals, 0 for none; `seed` seeds them.

    Gives: `metrics` (None where the labels have it but no pair was matched), `averaged_scenes` (scenes behind each
    metric), `intervals`, `by_object_count`, `confusion`, and counts: `num_scenes`; `num_unparsed`, scenes whose text
    could not be read entirely (what could is scored); `num_unread`, of those the ones without a single object;
    `num_without_pairs`; `num_left_out` by reference_averages; true, predicted and matched objects.
    """
    comparisons = compare_all(
        scenes, readings, task, rotation_rep=rotation_rep, rotation_unit=rotation_unit, is_seen=is_seen
    )
    # Reference: its averages leave out scenes with l2 exactly 0, and it stops at scenes without objects on a side. Here
    # every scene counts unless its averages are asked for.
    is_kept = [not reference_averages or (bool(c.pairs) and c.values.get("l2") != 0.0) for c in comparisons]
    kept = [comparison for comparison, keep in zip(comparisons, is_kept, strict=True) if keep]
    kept_scenes = [scene for scene, keep in zip(scenes, is_kept, strict=True) if keep]
    values = _table(kept)
    metrics, averaged_scenes = _averages(values, also=_labelled(scenes, find_task(task)))
    result: dict[str, Any] = {
        "metrics": metrics,
        "num_scenes": len(scenes),
        "num_unparsed": sum(bool(reading.problems) for reading in readings),
        "num_unread": sum(bool(reading.problems) and not reading.objects for reading in readings),
        "num_without_pairs": sum(not comparison.pairs for comparison in comparisons),
        "num_left_out": len(comparisons) - len(kept),
        "num_true_objects": sum(len(scene.objects) for scene in scenes),
        "num_predicted_objects": sum(len(reading.objects) for reading in readings),
        "num_matched_objects": sum(len(comparison.pairs) for comparison in comparisons),
        "averaged_scenes": averaged_scenes,
        "by_object_count": _by_object_count(kept_scenes, kept),
        "confusion": _confusion(kept),
    }
    if bootstrap:
        result["intervals"] = bootstrap_intervals(values, bootstrap, seed)
    return result


def _table(comparisons: Sequence[Comparison]) -> dict[str, np.ndarray]:
    """Metric -> float64 [scenes], NaN where a scene has no value; only metrics that some scene has, in table order."""
    columns = {name: np.array([c.values.get(name, np.nan) for c in comparisons], np.float64) for name in METRICS}
    return {name: column for name, column in columns.items() if np.isfinite(column).any()}


def _averages(
    values: dict[str, np.ndarray], also: Iterable[str] = ()
) -> tuple[dict[str, float | None], dict[str, int]]:
    """Average and number of scenes of each metric; those in `also` are None and 0 where nothing was measured."""
    names = [name for name in METRICS if name in values or name in set(also)]
    averages = {name: float(np.nanmean(values[name])) if name in values else None for name in names}
    counts = {name: int(np.isfinite(values[name]).sum()) if name in values else 0 for name in names}
    return averages, counts


def _labelled(scenes: Sequence[Scene], task: Task) -> set[str]:
    """The metrics that these labels allow, whatever was predicted."""
    items = [item for scene in scenes for item in scene.objects]
    names = {_WORD_METRICS[key] for key in _WORD_METRICS if any(getattr(item, key) is not None for item in items)}
    shapes = {item.shape for item in items if item.shape is not None}
    if shapes:
        names.add("shp_cls")
    if shapes - {"sphere"}:
        names.add("shape")
    if any(item.location is not None for item in items):
        names |= {"l2", *_SHARES} if task.location_size == 2 else {"l2"}
    if task.rotation_size and any(item.is_turned for item in items):
        names.add("yaw" if task.rotation_size == 1 else "geod")
    return names


def _by_object_count(scenes: Sequence[Scene], comparisons: Sequence[Comparison]) -> dict[str, dict[str, Any]]:
    groups: dict[int, list[Comparison]] = {}
    for scene, comparison in zip(scenes, comparisons, strict=True):
        groups.setdefault(len(scene.objects), []).append(comparison)
    return {
        str(count): {"num_scenes": len(groups[count]), "metrics": _averages(_table(groups[count]))[0]}
        for count in sorted(groups)
    }


def _confusion(comparisons: Sequence[Comparison]) -> dict[str, dict[str, dict[str, int]]]:
    """attribute -> true word -> predicted word -> matched pairs; shapes by their class (there may be thousands)."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for comparison in comparisons:
        for key, true, predicted in comparison.words:
            counts[(key, shape_class(true), shape_class(predicted)) if key == "shape" else (key, true, predicted)] += 1
    nested: dict[str, dict[str, dict[str, int]]] = {}
    for (key, true, predicted), count in sorted(counts.items()):
        nested.setdefault(key, {}).setdefault(true, {})[predicted] = count
    return nested


def bootstrap_intervals(values: dict[str, np.ndarray], resamples: int, seed: int) -> dict[str, list[float]]:
    """95 % percentile intervals of the averages when scenes are drawn anew with replacement: metric -> [low, high].

    values: metric -> float64 [scenes], NaN where a scene has no value.

    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979.
    """
    if not values:
        return {}
    table = np.stack(list(values.values()), axis=1)
    is_measured = np.isfinite(table)
    filled = np.where(is_measured, table, 0.0)
    rng = np.random.default_rng(seed)
    means = np.full((resamples, table.shape[1]), np.nan)
    for resample in means:
        drawn = np.bincount(rng.integers(len(table), size=len(table)), minlength=len(table)).astype(np.float64)
        np.divide(drawn @ filled, drawn @ is_measured, out=resample, where=(drawn @ is_measured) > 0)
    low_high = np.nanpercentile(means, INTERVAL_PERCENTILES, axis=0)
    return {name: [float(low_high[0, i]), float(low_high[1, i])] for i, name in enumerate(values)}
