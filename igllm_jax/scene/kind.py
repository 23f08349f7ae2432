"""What every kind of attribute has: its hooks, how numbers look, how the code spells it, and how it is scored."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from igllm_jax.scene.toml_table import TomlTable

Value = Any  # of an attribute, in a scene or as predicted: str, int, float or tuple[float, ...], as its kind has it
Said = Any  # what the code says of it: a word (str), an integer, or one or several numbers (tuple[float, ...])

ROTATION_UNITS = ("deg", "rad")
_LARGEST = float(np.finfo(np.float32).max)  # what a float head learns, and what distances can be squared from
_PLAIN = (float, int)  # and no booleans
LARGEST_INTEGER = 10**9  # a predicted integer beyond this is unreadable


@dataclass(frozen=True)
class Settings:
    """What a run chooses: how rotations are written, and the unit of labels that come in either.

    as_reference: score what is no rotation as the reference does.
    """

    rotation_rep: str = ""
    rotation_unit: str = "deg"
    as_reference: bool = False


@dataclass(frozen=True)
class NumberFormat:
    """How numbers look as text, and what the float head learns of them.

    digits: after the point. has_sign: whether a plus is written. minimum, maximum: what may be said, inclusive.
    scale, offset: the float head's number is (value - offset) / scale; one each per number.
    """

    digits: int = 3
    has_sign: bool = False
    minimum: float = -math.inf
    maximum: float = math.inf
    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)

    @property
    def template(self) -> str:
        return f"{{:{'+' if self.has_sign else ''}.{self.digits}f}}"

    @property
    def is_scaled(self) -> bool:
        return any(s != 1 for s in self.scale) or any(o != 0 for o in self.offset)

    @property
    def is_bounded(self) -> bool:
        return math.isfinite(self.minimum) or math.isfinite(self.maximum)

    def example(self, rng: np.random.Generator, count: int, least: float, most: float) -> tuple[float, ...]:
        """`count` numbers in the range; where that is open, the float head's numbers lie between least and most."""
        found = []
        for scale, offset in zip(self.scale, self.offset, strict=True):
            low, high = sorted((least * scale + offset, most * scale + offset))
            low, high = max(low, self.minimum), min(high, self.maximum)
            if low > high:  # the range lies elsewhere
                low = high = self.minimum if math.isfinite(self.minimum) else self.maximum
            found.append(round(min(max(float(rng.uniform(low, high)), self.minimum), self.maximum), self.digits))
        return tuple(found[:count])

    def problem(self, numbers: tuple[float, ...]) -> str | None:
        """What is wrong with values, to be put after the name; None where nothing is."""
        for number in numbers:  # a generator would cost more than the comparisons, over millions of numbers
            if not self.minimum <= number <= self.maximum:
                break
        else:
            return None
        if self.maximum == math.inf:
            return f"must be {self.minimum:g} or more"
        if self.minimum == -math.inf:
            return f"must be {self.maximum:g} or less"
        return f"must be between {self.minimum:g} and {self.maximum:g}"


PLAIN_NUMBERS = NumberFormat()


@dataclass(frozen=True)
class Spelling:
    """What one argument looks like in the code. From these and their order a grammar can be compiled.

    kind: "word" (in single quotes), "number" (a float token, or text), "integer" (always text).
    words: every word that may be written, synonyms included; None where any word may be. longest: of such an open word,
    in characters. count: of numbers; in brackets and with commas where `in_brackets`. number: their format.
    minimum, maximum: of an integer. refers_to: the function of which an integer counts the earlier calls, from 0.
    """

    kind: str
    words: tuple[str, ...] | None = None
    longest: int = 64
    count: int = 1
    in_brackets: bool = False
    number: NumberFormat = PLAIN_NUMBERS
    minimum: int | None = None
    maximum: int | None = None
    refers_to: str = ""


@dataclass(frozen=True)
class Metric:
    """One score. name: in tables and reports. measure: what is computed. text: what it is, unit in brackets.

    digits: after the point, in tables. is_better_low: whether 0 is best. by_seen: also told apart by whether training
    saw that part of the square. The others are options of some measures: tolerance; words that are left out; only
    their class.
    """

    name: str
    measure: str
    text: str
    digits: int
    is_better_low: bool
    by_seen: bool = False
    tolerance: float = 0.0
    leave_out: tuple[str, ...] = ()
    of_class: bool = False


# measure -> what it says of an attribute, digits, whether low is better; the order is that of tables
MEASURES: dict[str, tuple[str, int, bool]] = {
    "euclidean": ("distance of {}", 4, True),
    "absolute": ("absolute error of {}", 4, True),
    "geodesic": ("angle between {}s (degrees)", 2, True),
    "count": ("absolute error of the object count", 3, True),
    "accuracy": ("right {} (%)", 1, False),
    "within": ("{} within {tolerance:g} (%)", 1, False),
    "average_precision": ("average precision of {} within {tolerance:g} (%)", 1, False),
    "parsed": ("scenes whose text could be read entirely (%)", 1, False),
}


@dataclass(frozen=True)
class Kind:
    """What all kinds have; the methods' defaults are for a kind of one word or number, said as it is.

    measures: names of MEASURES that `score` can compute, the default first. is_number: whether values can be put
    together into a distance, which matches predictions with what is true.
    """

    measures: ClassVar[tuple[str, ...]] = ()
    is_number: ClassVar[bool] = False

    @classmethod
    def parse(cls, table: TomlTable) -> Self:
        """Takes the kind's own keys from the attribute's table. Raises: UserError."""
        return cls()

    def within(self, words: Mapping[str, "Kind"]) -> Self:
        """The kind, now that the words of its function are known (attribute -> kind)."""
        return self

    @property
    def num_parts(self) -> int:
        """How many numbers the code may say apart (a vector as x and y); 1 where there is one argument always."""
        return 1

    @property
    def refers_to(self) -> str:
        """The function whose calls the value counts, "" where it refers to none."""
        return ""

    @property
    def refers_by(self) -> str:
        """The label's key of the calls that it refers to, by which labels name them; "" where labels count them."""
        return ""

    def spelling(self, settings: Settings) -> Spelling:
        """What the code looks like, where the attribute is one argument."""
        raise NotImplementedError

    def synonyms(self) -> Mapping[str, tuple[str, ...]]:
        """What is said -> all that may be said instead, itself among it."""
        return {}

    def from_label(self, value: Any) -> Value:
        """A label's value. Raises: ValueError with what it must be."""
        raise NotImplementedError

    def to_label(self, value: Value) -> Any:
        """As `from_label` would read it, for JSON."""
        return value

    def write(self, value: Value, item: Mapping[str, Value], settings: Settings) -> Said:
        """What the code says. `item` is the call, for what depends on other attributes."""
        return value

    def read(self, said: Said) -> Value:
        """The value that the code says: what its spelling describes."""
        return said

    def to_scene(self, value: Value, item: Mapping[str, Value], settings: Settings) -> Value:
        """A predicted value in a label's terms."""
        return value

    def example(self, rng: np.random.Generator, least: float, most: float) -> Value:
        """A value as a scene may have it. least, most: of numbers where the language sets no range."""
        raise NotImplementedError

    def is_scored(self, metric: Metric, true: Mapping[str, Value], name: str) -> bool:
        """Whether a true call that has the attribute `name` counts in the metric."""
        return True

    def score(
        self, metric: Metric, name: str, true: Mapping[str, Value], said: Mapping[str, Value], settings: Settings
    ) -> float:
        """The metric's value of a matched pair; `said` may lack the attribute."""
        raise NotImplementedError

    def numbers(self, value: Value | None) -> tuple[float, ...]:
        """The value as coordinates for matching, zeros where it is None. Only of kinds with `is_number`."""
        raise NotImplementedError


def number_text(count: int) -> str:
    return f"must be {count} finite number{'s' if count > 1 else ''}"


def finite_numbers(value: Any, count: int) -> tuple[float, ...]:
    """`count` finite numbers of a label, from a list or, where it is one, bare. Raises: ValueError."""
    plain = value if type(value) is list else [value]
    if len(plain) == count:  # nearly all there are, of files with millions
        for number in plain:
            if type(number) not in _PLAIN or not -_LARGEST <= number <= _LARGEST:
                break
        else:
            return tuple(map(float, plain))
    numbers = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
    if len(numbers) != count or not all(_is_number(number) for number in numbers):
        raise ValueError(number_text(count))
    return tuple(float(number) for number in numbers)


def _is_number(value: Any) -> bool:
    """Whether it is one that float32 takes for finite."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    try:
        return abs(float(value)) <= _LARGEST  # false for NaN
    except OverflowError:  # an integer of hundreds of digits
        return False
