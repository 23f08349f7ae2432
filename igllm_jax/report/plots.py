"""What the page's plots show of one run: its matched pairs as columns, and how sure it was against how right."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from igllm_jax.render.camera import CLEVR_POSITION
from igllm_jax.report.errors import (
    Limits,
    component_names,
    error_of,
    is_comparable,
    is_numeric,
    is_turn,
    is_word,
    numbers_of,
    prefix,
)
from igllm_jax.report.marks import words_of_scene
from igllm_jax.scene.detection import item_of, right_predictions
from igllm_jax.scene.kind import Settings
from igllm_jax.scene.labelled import LabelledPredictions
from igllm_jax.scene.language import Language
from igllm_jax.scene.metrics import Pairs
from igllm_jax.scene.scene import Call, Object

MOST_PAIRS = 3000  # of a run, spread over its scenes; more dots are one blot, and a large file
BINS = 10  # of confidence
DIGITS = 4  # significant ones of numbers on the page


def rounded(number: float) -> float | None:
    """A number with DIGITS significant digits; None where it is not finite, which JSON can't say."""
    return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else None


def pair_columns(run: LabelledPredictions, all_pairs: Sequence[Pairs], settings: Settings) -> dict[str, Any]:
    """The matched pairs as columns of one length.

    objects: how many true ones the scene has. distance: of the true object, see `distance_name`. words: attribute ->
    true word. errors: attribute -> distance or degrees. components: number -> [true, predicted]. None where a call
    lacks it.
    """
    indexed = [(scene, pair) for scene, pairs in enumerate(all_pairs) for pair in pairs]
    step = max(1, math.ceil(len(indexed) / MOST_PAIRS))
    rows = [_pair_row(run, scene, pair, settings) for scene, pair in indexed[::step]]
    columns: dict[str, Any] = {"num_pairs": len(indexed), "objects": [row["objects"] for row in rows]}
    columns["distance"] = [row["distance"] for row in rows]
    for group in ("words", "errors", "components"):
        names = dict.fromkeys(name for row in rows for name in row[group])
        columns[group] = {name: [row[group].get(name) for row in rows] for name in names}
    return columns


def _pair_row(run: LabelledPredictions, scene: int, pair: tuple[int, int], settings: Settings) -> dict[str, Any]:
    true, said = run.scenes[scene].objects[pair[0]], run.readings[scene].objects[pair[1]]
    language, function = run.language, run.language.by_name[true.function]
    row: dict[str, Any] = {"objects": len(run.scenes[scene].objects), "words": {}, "errors": {}, "components": {}}
    row["distance"] = _distance(true, language)
    start = prefix(function, language)
    for attribute in function.attributes:
        name = start + attribute.name
        if is_word(attribute) and attribute.name in true:
            word = attribute.kind.label_word(str(true[attribute.name]))  # type: ignore[attr-defined]
            row["words"][name] = attribute.kind.class_of(word)  # type: ignore[attr-defined]
        if not is_comparable(attribute, true, said):
            continue
        if is_numeric(attribute) or is_turn(attribute):
            row["errors"][name] = rounded(error_of(attribute, true, said, settings))
        if is_numeric(attribute):
            values = (numbers_of(attribute, call[attribute.name]) for call in (true, said))
            for component, a, b in zip(component_names(attribute), *values, strict=True):
                row["components"][start + component] = [rounded(a), rounded(b)]
    return row


def distance_name(language: Language) -> str:
    """What `distance` is."""
    kinds = [f.by_role["location"].kind for f in language.functions if "location" in f.by_role]
    if any(len(kind.numbers(None)) == 3 for kind in kinds):
        return "distance from the camera"
    return "distance from the middle of the image"


def _distance(true: Object, language: Language) -> float | None:
    """Along the view axis where the label has the pixel's depth, else from where CLEVR's camera stands."""
    location, pixel = language.value(true, "location"), language.value(true, "pixel")
    if not isinstance(location, tuple):
        return None
    if len(location) == 2:
        return rounded(math.dist(location, (0.5, 0.5)))
    if isinstance(pixel, tuple) and len(pixel) == 3 and pixel[2] > 0:
        return rounded(pixel[2])
    return rounded(math.dist(location, CLEVR_POSITION)) if len(location) == 3 else None


def calibration(run: LabelledPredictions, limits: Limits) -> dict[str, Any] | None:
    """How often calls are right, by how sure the model was; None where the answers hold no log-probabilities.

    A call is right where every word of a true one is, within the limit for its location. bins: [mean confidence, share
    right, calls]; error: the expected calibration error.

    Source: Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks" (2017), equation 3.
    """
    if not run.found.confidences:
        return None
    confidence: list[float] = []
    is_right: list[bool] = []
    for scene, reading, name, sure in zip(run.scenes, run.readings, run.names, run.confidences(), strict=True):
        if len(run.found.confidences.get(name, ())) != len(reading.objects):
            continue
        true = [item_of(thing, run.language) for thing in scene.objects]
        said = [item_of(thing, run.language, value) for thing, value in zip(reading.objects, sure, strict=True)]
        confidence += [math.exp(min(value, 0.0)) for value in sure]
        is_right += right_predictions(true, said, limits.location(run.language))
    return _binned(np.array(confidence), np.array(is_right, np.float64)) if confidence else None


def _binned(confidence: np.ndarray, is_right: np.ndarray) -> dict[str, Any]:
    position = np.minimum((confidence * BINS).astype(int), BINS - 1)
    groups = [position == number for number in np.unique(position)]
    bins = [[rounded(confidence[own].mean()), rounded(is_right[own].mean()), int(own.sum())] for own in groups]
    off = sum(abs(confidence[own].mean() - is_right[own].mean()) * own.mean() for own in groups)
    return {"bins": bins, "error": rounded(off), "calls": len(confidence)}


def filters(runs: Sequence[LabelledPredictions]) -> Callable[[Any], list[str]]:
    """What gives a scene's words, `KEY=WORD`."""
    language = runs[0].language
    keys = {prefix(f, language) + a.name: a for f, a in language.attributes() if is_word(a)}
    return lambda scene: words_of_scene(scene, language, keys)


def call_points(items: Sequence[Call], language: Language, most: int) -> list[list[float]]:
    """Where calls with a location of two numbers are: [x, y] each."""
    found = (language.value(item, "location") for item in items[:most])
    return [[rounded(x) or 0.0 for x in value] for value in found if isinstance(value, tuple) and len(value) == 2]
