"""How far several answers for one image agree: a share for each word, a spread for each number."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from igllm_jax.scene.language import Language
from igllm_jax.scene.metrics import match
from igllm_jax.scene.reading import Reading
from igllm_jax.scene.scene import Object, Predicted, Scene


def matched_calls(readings: Sequence[Reading], language: Language) -> list[list[Predicted]]:
    """Of each call of the first answer, what each of the answers says of it: itself, and those matched to it by
    location, as predictions are to labels; answers that have none are left out."""
    first = readings[0].objects
    scene = Scene(tuple(Object.of(call.function, dict(call.items())) for call in first), "")
    found: list[list[Predicted]] = [[call] for call in first]
    for reading in readings[1:]:
        for own, other in match(scene, reading, language):
            found[own].append(reading.objects[other])
    return found


def agreement(readings: Sequence[Reading], language: Language) -> list[dict[str, Any]]:
    """Of each call of the first answer: `found`, the share of answers that have it; `words`, attribute -> the share of
    all answers that say the same word; `spread`, attribute -> of each number its standard deviation over the answers
    that say it (0 where one does).

    Example: of three answers `add(color='red', ...)`, `add(color='blue', ...)`, `add(color='red', ...)` color has 2/3.
    """
    told = []
    for calls in matched_calls(readings, language):
        words: dict[str, float] = {}
        spread: dict[str, list[float]] = {}
        for attribute in language.by_name[calls[0].function].attributes:
            name, kind = attribute.name, attribute.kind
            if name not in calls[0]:
                continue
            said = [call[name] for call in calls if name in call]
            if kind.is_number:
                numbers = np.array([kind.numbers(value) for value in said], np.float64)
                spread[name] = numbers.std(axis=0).tolist()
            else:
                words[name] = sum(value == said[0] for value in said) / len(readings)
        told.append({"found": len(calls) / len(readings), "words": words, "spread": spread})
    return told
