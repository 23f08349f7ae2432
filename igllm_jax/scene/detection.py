"""Average precision of predicted objects, as papers on object properties report it: right words within a distance."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from igllm_jax.scene.kinds import Word
from igllm_jax.scene.language import Language
from igllm_jax.scene.measures import Measure, Weights
from igllm_jax.scene.scene import Call

THRESHOLDS: dict[str, float] = {  # metric -> how far a right object may be off, in scene units
    "ap": math.inf,
    "ap_1": 1.0,
    "ap_0.5": 0.5,
    "ap_0.25": 0.25,
    "ap_0.125": 0.125,
}
AP_METRICS: dict[str, Measure] = {
    name: Measure(
        "average precision, all words right" + ("" if math.isinf(off) else f" within {off:g} units") + " (%)", 1
    )
    for name, off in THRESHOLDS.items()
}


@dataclass(frozen=True)
class Item:
    """One object: what is said of it. location: [3] or None. confidence: of a prediction, the higher the surer."""

    words: Mapping[str, str]
    location: tuple[float, ...] | None
    confidence: float = 1.0


def item_of(thing: Call, language: Language, confidence: float = 1.0) -> Item:
    """The item of an object of a label or of a prediction; words by their roles, where they have one."""
    words = {
        attribute.role or attribute.name: attribute.kind.label_word(str(thing[attribute.name]))
        for attribute in language.by_name[thing.function].attributes
        if isinstance(attribute.kind, Word) and attribute.arguments and attribute.name in thing
    }
    location = language.value(thing, "location")
    return Item(words, location if isinstance(location, tuple) else None, confidence)


def right_predictions(true: Sequence[Item], predicted: Sequence[Item], threshold: float) -> list[bool]:
    """For each prediction whether it is right: surest first, each takes the nearest true object that has its words.

    It is wrong where that one is farther than `threshold`, or taken. A prediction must say every word that the true
    object has. What has no location is infinitely far, except where the label has none either.

    Source: the evaluation of set prediction on CLEVR in Locatello et al., "Object-Centric Learning with Slot
    Attention" (2020).
    """
    taken: set[int] = set()
    right = [False] * len(predicted)
    for number in sorted(range(len(predicted)), key=lambda index: -predicted[index].confidence):
        fitting = [index for index, item in enumerate(true) if _has_words(predicted[number], item)]
        distances = [_distance(predicted[number], true[index]) for index in fitting]
        if not fitting:
            continue
        best = int(np.argmin(distances))
        if distances[best] <= threshold and fitting[best] not in taken:
            taken.add(fitting[best])
            right[number] = True
    return right


def _has_words(predicted: Item, true: Item) -> bool:
    return all(predicted.words.get(key) == word for key, word in true.words.items())


def _distance(predicted: Item, true: Item) -> float:
    if true.location is None:
        return 0.0
    return math.inf if predicted.location is None else math.dist(predicted.location, true.location)


def average_precision(
    scenes: Sequence[tuple[Sequence[Item], Sequence[Item]]], threshold: float
) -> Callable[[Weights], float]:
    """The average precision in percent over scenes, each (true objects, predictions), as a function of their weights.

    The area under the precision-recall curve, where precision at a recall is the best at that recall or beyond it.
    Predictions of one confidence enter together, so their order does not matter: without confidences the curve has one
    point, and its area is precision times recall. NaN where there is no true object.

    Example: two true objects, and three predictions of one confidence of which one is right: 1/3 * 1/2 = 16.7 %.
    """
    confidence, is_right, owner = [], [], []
    for number, (true, predicted) in enumerate(scenes):
        confidence += [item.confidence for item in predicted]
        is_right += right_predictions(true, predicted, threshold)
        owner += [number] * len(predicted)
    order = np.argsort(-np.array(confidence, np.float64), kind="stable")
    levels = -np.array(confidence, np.float64)[order]
    is_last = np.append(levels[1:] != levels[:-1], True) if len(levels) else np.zeros(0, bool)
    right, scene = np.array(is_right, np.float64)[order], np.array(owner, np.int64)[order]
    num_true = np.array([len(true) for true, _ in scenes], np.float64)

    def area(weights: Weights) -> float:
        total = float(weights @ num_true)
        if total == 0:
            return float("nan")
        count = np.cumsum(weights[scene])[is_last]
        hits = np.cumsum(weights[scene] * right)[is_last]
        precision = np.divide(hits, count, out=np.zeros_like(hits), where=count > 0)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        return 100 * float(np.sum(np.diff(hits / total, prepend=0.0) * best))

    return area
