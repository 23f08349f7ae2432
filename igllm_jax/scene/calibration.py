"""How far several answers for an image can be trusted: words by how many say them, numbers by their spread."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import stats

from igllm_jax.scene.agreement import matched_calls
from igllm_jax.scene.kind import Value
from igllm_jax.scene.language import Language
from igllm_jax.scene.language_parts import Attribute
from igllm_jax.scene.metrics import match
from igllm_jax.scene.reading import Reading
from igllm_jax.scene.scene import Object, Predicted, Scene

BINS = 10  # of confidence
LEVELS = (0.5, 0.8, 0.9, 0.95)  # of intervals


def calibration(
    scenes: Sequence[Scene], samples: Sequence[Sequence[Reading]], language: Language
) -> dict[str, Any] | None:
    """What K answers of each scene say of their own errors; None where no word and no number can be compared.

    words: see `reliability`; a word's confidence is the share of answers that say the first answer's. numbers: how
    many. coverage: level -> share of true numbers within the interval that should hold such a share of them: mean and
    standard deviation of what the answers say, as a prediction of one more of a normal distribution (Student's t).
    """
    shares: list[float] = []
    is_right: list[bool] = []
    distances: list[float] = []
    for scene, readings in zip(scenes, samples, strict=True):
        calls = matched_calls(readings, language)
        for true_index, first in match(scene, readings[0], language):
            for attribute, value, said in _said(scene.objects[true_index], calls[first], language):
                if attribute.kind.is_number:
                    distances += _distances(attribute, value, said)
                elif attribute.kind.measures == ("accuracy",) and not attribute.kind.refers_to:
                    shares.append(sum(word == said[0] for word in said) / len(readings))
                    is_right.append(attribute.kind.label_word(str(value)) == str(said[0]))  # type: ignore[attr-defined]
    found: dict[str, Any] = {}
    if shares:
        found["words"] = reliability(np.array(shares), np.array(is_right, np.float64))
    if distances:
        inside = {f"{level:g}": float(np.mean(np.array(distances) <= level)) for level in LEVELS}
        found |= {"coverage": inside, "numbers": len(distances)}
    return found or None


def reliability(confidence: np.ndarray, is_right: np.ndarray) -> dict[str, Any]:
    """A reliability diagram's bins, [mean confidence, share right, count] each, and the expected calibration error.

    Source: Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks" (2017), equation 3.
    """
    position = np.minimum((confidence * BINS).astype(int), BINS - 1)
    groups = [position == number for number in np.unique(position)]
    bins = [[float(confidence[own].mean()), float(is_right[own].mean()), int(own.sum())] for own in groups]
    error = sum(abs(sure - share) * count for sure, share, count in bins) / len(confidence)
    return {"bins": bins, "error": error, "count": len(confidence)}


def likeliest(log_likelihoods: Sequence[float]) -> int:
    """The first of the answers that the model finds most likely."""
    return max(range(len(log_likelihoods)), key=lambda number: log_likelihoods[number])


def _said(
    true: Object, calls: Sequence[Predicted], language: Language
) -> Iterator[tuple[Attribute, Value, list[Value]]]:
    """Each attribute that a true call has and the first answer says: its true value, and what the answers say."""
    for attribute in language.by_name[true.function].attributes:
        name = attribute.name
        if attribute.arguments and name in true and attribute.is_present(true) and name in calls[0]:
            yield attribute, true[name], [call[name] for call in calls if name in call]


def _distances(attribute: Attribute, true: Value, said: Sequence[Value]) -> list[float]:
    """Of each number the level of the narrowest interval that holds the true one; numbers said once have none."""
    if len(said) < 2:
        return []
    numbers = np.array([attribute.kind.numbers(value) for value in said], np.float64)
    width = numbers.std(axis=0, ddof=1) * math.sqrt(1 + 1 / len(said))
    off = np.abs(np.array(attribute.kind.numbers(true), np.float64) - numbers.mean(axis=0))
    scores = np.divide(off, width, out=np.where(off > 0, np.inf, 0.0), where=width > 0)
    return (2 * stats.t.cdf(scores, len(said) - 1) - 1).tolist()
