"""How far predicted calls are off, attribute by attribute: what the page marks in code and draws in plots.

Distances are those of the attributes' kinds (`scene.kind`), pairs those of `scene.metrics`; only what counts as far is
decided here: beyond a tenth of what the labels' numbers span, or a turn of more than 15 degrees.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from igllm_jax.scene.kind import Metric, Settings, Value
from igllm_jax.scene.language import Language
from igllm_jax.scene.language_parts import Attribute, Function
from igllm_jax.scene.scene import Call, Scene

FAR_SHARE = 0.1  # of the range of an attribute's true numbers
FAR_DEG = 15.0
SMALLEST_SPAN = 1e-6


@dataclass(frozen=True)
class Limits:
    """far: (function, attribute) -> for each of its numbers how far off is far; location: the same of the matching
    distance, as a radius."""

    far: dict[tuple[str, str], tuple[float, ...]]

    def of(self, function: str, attribute: str) -> tuple[float, ...]:
        """For each number of an attribute how far off is far; () where it has none."""
        return self.far.get((function, attribute), ())

    def location(self, language: Language) -> float:
        """A distance that is far for what predictions are matched by, the largest of all functions'."""
        found = [
            math.hypot(*self.of(function.name, attribute.name))
            for function, attribute in language.attributes()
            if attribute.is_matched
        ]
        return max(found, default=math.inf)


def find_limits(scenes: Sequence[Scene], language: Language) -> Limits:
    """The limits that the labels' numbers set."""
    low: dict[tuple[str, str], list[float]] = {}
    high: dict[tuple[str, str], list[float]] = {}
    kinds = {function.name: [a for a in function.attributes if is_numeric(a)] for function in language.functions}
    for scene in scenes:
        for item in scene.objects:
            for attribute in kinds[item.function]:
                if attribute.name not in item:
                    continue
                numbers = attribute.kind.numbers(item[attribute.name])
                key = (item.function, attribute.name)
                low[key] = [min(a, b) for a, b in zip(low.get(key, numbers), numbers, strict=True)]
                high[key] = [max(a, b) for a, b in zip(high.get(key, numbers), numbers, strict=True)]
    spans = {key: [b - a for a, b in zip(low[key], high[key], strict=True)] for key in low}
    return Limits({key: tuple(_limit(span, max(found)) for span in found) for key, found in spans.items()})


def _limit(span: float, widest: float) -> float:
    """A number that is the same in all labels is as far off as its neighbours would be."""
    return FAR_SHARE * max(span or widest, SMALLEST_SPAN)


def is_numeric(attribute: Attribute) -> bool:
    """Whether it is numbers that can be subtracted, and that the code says."""
    return attribute.kind.is_number and bool(attribute.arguments)


def is_turn(attribute: Attribute) -> bool:
    """Whether it is a rotation."""
    return "geodesic" in attribute.kind.measures


def is_word(attribute: Attribute) -> bool:
    """Whether it is a word that the code says."""
    return attribute.kind.measures == ("accuracy",) and not attribute.kind.refers_to and bool(attribute.arguments)


def is_comparable(attribute: Attribute, true: Call, said: Call) -> bool:
    """Whether both calls have the attribute, and it means something for what the true one is."""
    if not (attribute.arguments and attribute.is_present(true) and attribute.name in said):
        return False
    return attribute.kind.is_scored(_metric(attribute), true, attribute.name)


def error_of(attribute: Attribute, true: Call, said: Call, settings: Settings) -> float:
    """The attribute's first measure of a pair that `is_comparable`: a distance, degrees, or 100 for a right word."""
    return float(attribute.kind.score(_metric(attribute), attribute.name, true, said, settings))


def _metric(attribute: Attribute) -> Metric:
    return Metric(attribute.name, attribute.kind.measures[0], "", 4, True)


def numbers_of(attribute: Attribute, value: Value) -> tuple[float, ...]:
    """The value's numbers."""
    return tuple(float(number) for number in attribute.kind.numbers(value))


def component_names(attribute: Attribute) -> list[str]:
    """What its numbers are called: `x`, `y` and `z` of a location, else by their index."""
    count = len(attribute.kind.numbers(None))
    if count == 1:
        return [attribute.name]
    letters = "xyz" if count <= 3 else [str(number) for number in range(count)]
    return [f"{attribute.name} {letter}" for letter in letters[:count]]


def prefix(function: Function, language: Language) -> str:
    """What stands before an attribute's name where several functions may have it."""
    return f"{function.name}." if len(language.functions) > 1 else ""
