"""Scores of predicted scenes against true ones, as a language has them.

Predicted calls are matched to true ones of the same function by the distance of what the language names for it
(assignment.py). Every metric but `ace` and `parsed` is averaged over a scene's matched pairs, then over the
scenes that have any. What a prediction lacks is scored all the same: no number is 0, no rotation is all numbers zero,
no word is a wrong word.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from igllm_jax.scene.assignment import assign
from igllm_jax.scene.kind import Settings, Value
from igllm_jax.scene.kinds import Word
from igllm_jax.scene.language import Language, find_language
from igllm_jax.scene.language_parts import Function
from igllm_jax.scene.reading import Reading
from igllm_jax.scene.scene import Call, Object, Predicted, Scene, indices_by_function

NOTHING = "(none)"  # in confusions: the prediction does not say the word
INTERVAL_PERCENTILES = (2.5, 97.5)
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Comparison:
    """One scene's scores.

    pairs: (index of the true call, index of the predicted one), matched.
    values: metric -> the scene's value; metrics without a pair to measure are absent.
    words: (attribute, true word, predicted word or NOTHING) of each pair, for confusions; classes where they have any.
    """

    pairs: Pairs
    values: dict[str, float]
    words: tuple[tuple[str, str, str], ...]


def match(scene: Scene, reading: Reading, task: Language | str, *, as_reference: bool = False) -> Pairs:
    """Pairs (true index, predicted index) that make the sum of distances smallest, function by function; as many as
    the smaller count. as_reference: how ties are broken, see `assignment.assign`."""
    language = find_language(task)
    if len(language.functions) == 1:
        all_calls = range(len(scene.objects)), range(len(reading.objects))
        return _match(scene.objects, reading.objects, *all_calls, language.functions[0], as_reference)
    found: list[tuple[int, int]] = []
    true, predicted = indices_by_function(scene.objects), indices_by_function(reading.objects)
    for function in language.functions:
        of_function = true.get(function.name, []), predicted.get(function.name, [])
        found += _match(scene.objects, reading.objects, *of_function, function, as_reference)
    return tuple(sorted(found, key=lambda pair: pair[1]))


def _match(
    true: Sequence[Object],
    predicted: Sequence[Predicted],
    true_indices: Sequence[int],
    predicted_indices: Sequence[int],
    function: Function,
    as_reference: bool,
) -> Pairs:
    if not true_indices or not predicted_indices:
        return ()
    if len(true_indices) == len(predicted_indices) == 1:
        return ((true_indices[0], predicted_indices[0]),)
    where = np.array([matched_numbers(true[index], function) for index in true_indices])
    there = np.array([matched_numbers(predicted[index], function) for index in predicted_indices])
    pairs = assign(where, there, as_reference=as_reference)
    return tuple((true_indices[one], predicted_indices[other]) for one, other in pairs)


def matched_numbers(item: Call, function: Function) -> tuple[float, ...]:
    """Where a call is, as matching sees it: the numbers of the attributes that are `matched`, zeros where it lacks."""
    found: tuple[float, ...] = ()
    for attribute in function.attributes:
        if attribute.is_matched:
            found += attribute.kind.numbers(item.get(attribute.name))
    return found


def compare(
    scene: Scene,
    reading: Reading,
    task: Language | str,
    *,
    rotation_rep: str = "",
    rotation_unit: str = "deg",
    is_seen: bool | None = None,
    as_reference: bool = False,
) -> Comparison:
    """One scene's scores.

    rotation_unit: of labels that come in either unit.
    is_seen: whether the scene lies where training had examples; None where that is not known.
    as_reference: ties in the matching, and what is no rotation, are settled as the reference settles them.

    Example: one object at (0.5, 0.5) read at (0.5, 0.52) has l2 0.02, within_1 0 and within_5 100.

    Source: the formulas of IG-LLM's evaluation (Kulits et al., "Re-Thinking Inverse Graphics With Large Language
    Models", TMLR 2024).
    """
    language = find_language(task)
    settings = replace(language.settings(rotation_rep, rotation_unit), as_reference=as_reference)
    pairs = match(scene, reading, language, as_reference=as_reference)
    said_of = _in_true_numbers(scene, reading, pairs, language) if language.references else reading.objects
    collected: dict[str, list[float]] = {}
    words: list[tuple[str, str, str]] = []
    for true_index, predicted_index in pairs:
        true, said = scene.objects[true_index], said_of[predicted_index]
        function = language.by_name[true.function]
        words += _word_pairs(true, said, function, f"{function.name}." if len(language.functions) > 1 else "")
        for name, value in _pair_values(true, said, function, settings):
            collected.setdefault(name, []).append(value)
    values = {name: math.fsum(found) / len(found) for name, found in collected.items()}
    if is_seen is not None:
        where = "seen" if is_seen else "unseen"
        by_seen = [name for name, metric in language.metrics.items() if metric.by_seen and name in values]
        values |= {f"{name}_{where}": values[name] for name in by_seen}
    values |= _precisions(scene, reading, pairs, language)
    values["ace"] = float(abs(len(scene.objects) - len(reading.objects)))
    values["parsed"] = 0.0 if reading.problems else 100.0
    return Comparison(pairs, values, tuple(words))


def _word_pairs(true: Object, said: Call, function: Function, prefix: str) -> Iterator[tuple[str, str, str]]:
    for attribute in function.attributes:
        kind = attribute.kind
        if isinstance(kind, Word) and attribute.arguments and attribute.name in true:
            word, other = kind.label_word(str(true[attribute.name])), said.get(attribute.name) or NOTHING
            yield f"{prefix}{attribute.name}", kind.class_of(word), kind.class_of(str(other))


def _pair_values(true: Object, said: Call, function: Function, settings: Settings) -> Iterator[tuple[str, float]]:
    for attribute in function.attributes:
        if attribute.metrics and attribute.is_present(true):
            for metric in attribute.metrics:
                if attribute.kind.is_scored(metric, true, attribute.name):
                    yield metric.name, attribute.kind.score(metric, attribute.name, true, said, settings)


def _in_true_numbers(scene: Scene, reading: Reading, pairs: Pairs, language: Language) -> list[Predicted]:
    """The predicted calls with references to the true calls that are matched to what they name; others have none."""
    matched = {predicted: true for true, predicted in pairs}
    of_scene, of_reading = indices_by_function(scene.objects), indices_by_function(reading.objects)
    found = []
    for item in reading.objects:
        changed: dict[str, Value | None] = {}
        for attribute in language.references.get(item.function, ()):
            if attribute.name in item:
                to = attribute.kind.refers_to
                true_index = matched.get(of_reading[to][int(item[attribute.name])])
                changed[attribute.name] = None if true_index is None else of_scene[to].index(true_index)
        found.append(item.replace(**changed) if changed else item)
    return found


def _precisions(scene: Scene, reading: Reading, pairs: Pairs, language: Language) -> dict[str, float]:
    """The average precision of each function that asks for it, of a scene that has calls of it on either side.

    Answers say no confidence, so that all predictions stand on one rank: the area under the only point of the
    precision-recall curve, which is precision times recall. A pair is right where its matched distance is within.
    """
    found: dict[str, float] = {}
    of_scene, of_reading = indices_by_function(scene.objects), indices_by_function(reading.objects)
    for function in language.functions:
        if not function.metrics:
            continue
        true, predicted = of_scene.get(function.name, []), of_reading.get(function.name, [])
        if not true and not predicted:
            continue
        off = [
            math.dist(matched_numbers(scene.objects[one], function), matched_numbers(reading.objects[other], function))
            for one, other in pairs
            if scene.objects[one].function == function.name
        ]
        for metric in function.metrics:
            right = sum(distance <= metric.tolerance for distance in off)
            found[metric.name] = 100.0 * right**2 / (len(true) * len(predicted)) if true and predicted else 0.0
    return found


def compare_all(
    scenes: Sequence[Scene],
    readings: Sequence[Reading],
    task: Language | str,
    *,
    rotation_rep: str = "",
    rotation_unit: str = "deg",
    is_seen: Iterable[bool] | None = None,
    as_reference: bool = False,
) -> list[Comparison]:
    """`compare` for scenes and their readings, in order; `is_seen` has one entry per scene."""
    language = find_language(task)
    language.settings(rotation_rep, rotation_unit)
    seen = [None] * len(scenes) if is_seen is None else [bool(flag) for flag in is_seen]
    how: dict[str, Any] = {"rotation_rep": rotation_rep, "rotation_unit": rotation_unit, "as_reference": as_reference}
    return [
        compare(scene, reading, language, is_seen=flag, **how)
        for scene, reading, flag in zip(scenes, readings, seen, strict=True)
    ]


def score(
    scenes: Sequence[Scene],
    readings: Sequence[Reading],
    task: Language | str,
    *,
    rotation_rep: str = "",
    rotation_unit: str = "deg",
    is_seen: Iterable[bool] | None = None,
) -> dict[str, float]:
    """Metric -> average over the scenes, for use while training; metrics that could not be measured are absent."""
    comparisons = compare_all(
        scenes, readings, task, rotation_rep=rotation_rep, rotation_unit=rotation_unit, is_seen=is_seen
    )
    averages, _ = _averages(_table(comparisons, find_language(task)))
    return {name: value for name, value in averages.items() if value is not None}


def report(
    scenes: Sequence[Scene],
    readings: Sequence[Reading],
    task: Language | str,
    *,
    rotation_rep: str = "",
    rotation_unit: str = "deg",
    is_seen: Iterable[bool] | None = None,
    as_reference: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that is to be said about a set of predictions, ready for JSON.

    as_reference: score as the reference does. Left out of every average are the scenes whose l2 is exactly 0 and those
        without a true or a predicted object; six numbers become the nearest rotation instead of the one that
        Gram-Schmidt gives; ties in the matching stay as SciPy has them. `readings` should be read `as_reference` too.
    bootstrap: number of resamples of the scenes for 95 % intervals, 0 for none; `seed` seeds them.

    Gives: `metrics` (None where the labels have it but no pair was matched), `averaged_scenes` (scenes behind each
    metric), `intervals`, `by_object_count`, `confusion`, and counts: `num_scenes`; `num_unparsed`, scenes whose text
    could not be read entirely (what could is scored); `num_unread`, of those the ones without a single object;
    `num_without_pairs`; `num_left_out` by as_reference; true, predicted and matched objects. `about` says what
    each metric is, its digits in tables, and whether low is better.
    """
    language = find_language(task)
    how: dict[str, Any] = {"rotation_rep": rotation_rep, "rotation_unit": rotation_unit, "as_reference": as_reference}
    comparisons = compare_all(scenes, readings, language, is_seen=is_seen, **how)
    # Reference: its averages leave out scenes with l2 exactly 0, and it stops at scenes without objects on a side. Here
    # every scene counts unless its averages are asked for.
    is_kept = [not as_reference or (bool(c.pairs) and c.values.get("l2") != 0.0) for c in comparisons]
    kept = [comparison for comparison, keep in zip(comparisons, is_kept, strict=True) if keep]
    kept_scenes = [scene for scene, keep in zip(scenes, is_kept, strict=True) if keep]
    values = _table(kept, language)
    metrics, averaged_scenes = _averages(values, also=_labelled(scenes, language))
    metrics = {name: metrics[name] for name in language.metrics if name in metrics}
    result: dict[str, Any] = {
        "metrics": metrics,
        "num_scenes": len(scenes),
        **_counts(scenes, readings, comparisons),
        "num_left_out": len(comparisons) - len(kept),
        "averaged_scenes": averaged_scenes,
        "by_object_count": _by_object_count(kept_scenes, kept, language),
        "confusion": _confusion(kept),
        "about": _about(metrics, language),
    }
    if bootstrap:
        result["intervals"] = bootstrap_intervals(values, bootstrap, seed)
    return result


def _counts(scenes: Sequence[Scene], readings: Sequence[Reading], comparisons: Sequence[Comparison]) -> dict[str, int]:
    return {
        "num_unparsed": sum(bool(reading.problems) for reading in readings),
        "num_unread": sum(bool(reading.problems) and not reading.objects for reading in readings),
        "num_without_pairs": sum(not comparison.pairs for comparison in comparisons),
        "num_true_objects": sum(len(scene.objects) for scene in scenes),
        "num_predicted_objects": sum(len(reading.objects) for reading in readings),
        "num_matched_objects": sum(len(comparison.pairs) for comparison in comparisons),
    }


def _about(names: Iterable[str], language: Language) -> dict[str, dict[str, Any]]:
    metrics = {name: language.metrics[name] for name in names}
    return {n: {"text": m.text, "digits": m.digits, "is_better_low": m.is_better_low} for n, m in metrics.items()}


def _table(comparisons: Sequence[Comparison], language: Language) -> dict[str, np.ndarray]:
    """Metric -> float64 [scenes], NaN where a scene has no value; only metrics that some scene has, in table order."""
    columns = {
        name: np.array([c.values.get(name, np.nan) for c in comparisons], np.float64) for name in language.metrics
    }
    return {name: column for name, column in columns.items() if np.isfinite(column).any()}


def _averages(
    values: dict[str, np.ndarray], also: Iterable[str] = ()
) -> tuple[dict[str, float | None], dict[str, int]]:
    """Average and number of scenes of each metric; those in `also` are None and 0 where nothing was measured."""
    names = list(dict.fromkeys([*values, *also]))
    averages = {name: float(np.nanmean(values[name])) if name in values else None for name in names}
    counts = {name: int(np.isfinite(values[name]).sum()) if name in values else 0 for name in names}
    return averages, counts


def _labelled(scenes: Sequence[Scene], language: Language) -> set[str]:
    """The metrics that these labels allow, whatever was predicted."""
    names: set[str] = set()
    for function in language.functions:
        items = [item for scene in scenes for item in scene.objects if item.function == function.name]
        names |= {metric.name for metric in function.metrics if items}
        for attribute in function.attributes:
            having = [item for item in items if attribute.metrics and attribute.is_present(item)]
            for metric in attribute.metrics:
                if any(attribute.kind.is_scored(metric, item, attribute.name) for item in having):
                    names.add(metric.name)
    return names


def _by_object_count(
    scenes: Sequence[Scene], comparisons: Sequence[Comparison], language: Language
) -> dict[str, dict[str, Any]]:
    groups: dict[int, list[Comparison]] = {}
    for scene, comparison in zip(scenes, comparisons, strict=True):
        groups.setdefault(len(scene.objects), []).append(comparison)
    return {
        str(count): {"num_scenes": len(groups[count]), "metrics": _averages(_table(groups[count], language))[0]}
        for count in sorted(groups)
    }


def _confusion(comparisons: Sequence[Comparison]) -> dict[str, dict[str, dict[str, int]]]:
    """attribute -> true word -> predicted word -> matched pairs; of words with classes these (words may be many)."""
    counts = Counter(words for comparison in comparisons for words in comparison.words)
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
