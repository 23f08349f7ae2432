"""The kinds of attribute that a language file may use, in one table: `ATTRIBUTE_KINDS`.

A kind is a frozen class that holds what the file says about one attribute, and owns everything that depends on what
an attribute is: reading a label's value, the code's spelling, the value back from what the code says, and its scores.
A new kind is one such class and one entry of the table; writer, parser, metrics and grammar know only these methods.
"""

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from scipy.spatial.transform import Rotation

from igllm_jax.scene.rotations import REPRESENTATIONS, Representation, yaw_error_deg
from igllm_jax.scene.symmetry import NO_SYMMETRY, Symmetry, parse_symmetry
from igllm_jax.scene.toml_table import Table

Value = Any  # of an attribute, in a scene or as predicted: str, int, float or tuple[float, ...], as its kind has it
Said = Any  # what the code says of it: a word (str), an integer, or one or several numbers (tuple[float, ...])

ROTATION_UNITS = ("deg", "rad")
_UNSAYABLE = re.compile("['\n\r\ud800-\udfff]")
_LARGEST = float(np.finfo(np.float32).max)  # what a float head learns, and what distances can be squared from
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
        if all(self.minimum <= number <= self.maximum for number in numbers):
            return None
        if self.maximum == math.inf:
            return f"must be {self.minimum:g} or more"
        if self.minimum == -math.inf:
            return f"must be {self.maximum:g} or less"
        return f"must be between {self.minimum:g} and {self.maximum:g}"


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
    number: NumberFormat = NumberFormat()
    minimum: int | None = None
    maximum: int | None = None
    refers_to: str = ""


@dataclass(frozen=True)
class Metric:
    """One score. name: in tables and reports. measure: what is computed. text: what it is, unit in brackets.

    digits: after the point, in tables. is_better_low: whether 0 is best. by_seen: also told apart by whether training
    saw the place. The others are options of some measures: tolerance; words that are left out; only their class.
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
    def parse(cls, table: Table) -> Self:
        """Takes the kind's own keys from the attribute's table. Raises: UserError."""
        return cls()

    def within(self, words: Mapping[str, "Word"]) -> Self:
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
    if type(value) is list and len(value) == count:  # nearly all there are, of files with millions
        for number in value:
            if type(number) is not float or not -_LARGEST <= number <= _LARGEST:
                break
        else:
            return tuple(value)
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


def _number_format(table: Table, count: int) -> NumberFormat:
    scale = table.numbers("scale", count, 1.0)
    if not all(scale):
        raise table.error("scale", "must not be 0")
    return NumberFormat(
        digits=table.integer("digits", 3, least=0),
        has_sign=table.boolean("sign", False),
        minimum=table.number("minimum", -math.inf),
        maximum=table.number("maximum", math.inf),
        scale=scale,
        offset=table.numbers("offset", count, 0.0),
    )


@dataclass(frozen=True)
class Word(Kind):
    """A word in single quotes.

    words: all that labels may have, None where any may come. same: label's word -> all words that mean it, it first.
    class_until: the part before this text is the word's class ("chair" of "chair_3f2a"), "" where words have none.
    """

    measures: ClassVar[tuple[str, ...]] = ("accuracy",)
    words: tuple[str, ...] | None = None
    same: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    class_until: str = ""
    longest: int = 64
    back: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, table: Table) -> Self:
        words = table.texts("words") if "words" in table else None
        synonyms = table.table("synonyms", {})
        same = {word: (word, *synonyms.texts(word)) for word in synonyms}
        back: dict[str, str] = {}
        for word, group in same.items():
            if words is not None and word not in words:
                raise synonyms.error(word, f"must be one of words ({', '.join(words)})")
            for other in group:
                if other in back or (other != word and words is not None and other in words):
                    raise synonyms.error(word, f"holds {other!r}, which stands for another word already")
                back[other] = word
        for word in {*(words or ()), *back}:
            if not word or not is_sayable(word):
                raise table.error("words", f"holds {word!r}; words must not be empty nor hold quotes or line breaks")
        return cls(words, same, table.text("class_until", ""), table.integer("longest", 64, least=1), back)

    def spelling(self, settings: Settings) -> Spelling:
        words = self.words
        if words is not None:
            words = tuple(other for word in words for other in self.same.get(word, (word,)))
        return Spelling("word", words=words, longest=self.longest)

    def from_label(self, value: Any) -> Value:
        if not isinstance(value, str) or not is_sayable(value):
            raise ValueError("must be text without quotes or line breaks")
        if self.words is not None and self.label_word(value) not in self.words:
            raise ValueError(f"must be one of {', '.join(self.words)}")
        return sys.intern(value)  # of 100 000 scenes, each word is kept once

    def synonyms(self) -> Mapping[str, tuple[str, ...]]:
        return self.same

    def read(self, said: Said) -> Value:
        return self.label_word(str(said))

    def label_word(self, word: str) -> str:
        """The word that labels use for `word`: `cube` for `block`; any other word stays as it is."""
        return self.back.get(word, word)

    def example(self, rng: np.random.Generator, least: float, most: float) -> Value:
        words = self.words or tuple(self.same) or ("some", "word")
        return words[int(rng.integers(len(words)))]

    def class_of(self, word: str) -> str:
        return word.split(self.class_until, 1)[0] if self.class_until else word

    def is_scored(self, metric: Metric, true: Mapping[str, Value], name: str) -> bool:
        return self.label_word(str(true[name])) not in metric.leave_out

    def score(self, metric, name, true, said, settings) -> float:
        word, other = self.label_word(str(true[name])), said.get(name)
        if metric.of_class and other is not None:
            word, other = self.class_of(word), self.class_of(str(other))
        return 100.0 * (word == other)


def is_sayable(word: str) -> bool:
    """Whether a line of code can say it: no quotes, no line breaks, no halves of characters (no tokenizer has them)."""
    return _UNSAYABLE.search(word) is None


@dataclass(frozen=True)
class Number(Kind):
    """One number."""

    measures: ClassVar[tuple[str, ...]] = ("absolute", "within")
    is_number: ClassVar[bool] = True
    format: NumberFormat = NumberFormat()

    @classmethod
    def parse(cls, table: Table) -> Self:
        return cls(_number_format(table, 1))

    def spelling(self, settings: Settings) -> Spelling:
        return Spelling("number", number=self.format)

    def from_label(self, value: Any) -> Value:
        numbers = finite_numbers(value, 1)
        if problem := self.format.problem(numbers):
            raise ValueError(problem)
        return numbers[0]

    def write(self, value: Value, item: Mapping[str, Value], settings: Settings) -> Said:
        return (value,)

    def read(self, said: Said) -> Value:
        return said[0]

    def example(self, rng: np.random.Generator, least: float, most: float) -> Value:
        return self.format.example(rng, 1, least, most)[0]

    def score(self, metric, name, true, said, settings) -> float:
        error = abs(true[name] - said.get(name, 0.0))
        return 100.0 * (error <= metric.tolerance) if metric.measure == "within" else error

    def numbers(self, value: Value | None) -> tuple[float, ...]:
        return (0.0,) if value is None else (value,)


def integer_problem(value: int, minimum: int | None, maximum: int | None) -> str | None:
    """What is wrong with an integer, to be put after its name; None where nothing is."""
    if (minimum is None or value >= minimum) and (maximum is None or value <= maximum):
        return None
    return f"must be an integer from {'...' if minimum is None else minimum} to {'...' if maximum is None else maximum}"


@dataclass(frozen=True)
class Integer(Kind):
    """A whole number, always written as text."""

    measures: ClassVar[tuple[str, ...]] = ("absolute", "accuracy", "within")
    is_number: ClassVar[bool] = True
    minimum: int | None = None
    maximum: int | None = None

    @classmethod
    def parse(cls, table: Table) -> Self:
        return cls(table.integer("minimum", None), table.integer("maximum", None))

    def spelling(self, settings: Settings) -> Spelling:
        return Spelling("integer", minimum=self.minimum, maximum=self.maximum)

    def from_label(self, value: Any) -> Value:
        is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not is_integer or abs(int(value)) > LARGEST_INTEGER:
            raise ValueError("must be an integer")
        if problem := integer_problem(int(value), self.minimum, self.maximum):
            raise ValueError(problem)
        return int(value)

    def example(self, rng: np.random.Generator, least: float, most: float) -> Value:
        low = self.minimum if self.minimum is not None else 0 if self.maximum is None else self.maximum - 9
        return int(rng.integers(low, (low + 9 if self.maximum is None else self.maximum) + 1))

    def score(self, metric, name, true, said, settings) -> float:
        error = abs(true[name] - said.get(name, 0))
        if metric.measure == "accuracy":
            return 100.0 * (name in said and error == 0)
        return 100.0 * (error <= metric.tolerance) if metric.measure == "within" else float(error)

    def numbers(self, value: Value | None) -> tuple[float, ...]:
        return (float(value or 0),)


@dataclass(frozen=True)
class Vector(Kind):
    """`size` numbers, in one bracket or as arguments of their own."""

    measures: ClassVar[tuple[str, ...]] = ("euclidean", "absolute", "within")
    is_number: ClassVar[bool] = True
    size: int = 3
    format: NumberFormat = NumberFormat()

    @classmethod
    def parse(cls, table: Table) -> Self:
        size = table.integer("size", least=1)
        return cls(size, _number_format(table, size))

    @property
    def num_parts(self) -> int:
        return self.size

    def spelling(self, settings: Settings) -> Spelling:
        return Spelling("number", count=self.size, in_brackets=True, number=self.format)

    def from_label(self, value: Any) -> Value:
        numbers = finite_numbers(value, self.size)
        if problem := self.format.problem(numbers):
            raise ValueError(problem)
        return numbers

    def to_label(self, value: Value) -> Any:
        return list(value)

    def example(self, rng: np.random.Generator, least: float, most: float) -> Value:
        return self.format.example(rng, self.size, least, most)

    def score(self, metric, name, true, said, settings) -> float:
        values = true[name], said.get(name) or (0.0,) * self.size
        if metric.measure == "absolute":
            return math.fsum(abs(a - b) for a, b in zip(*values, strict=True)) / self.size
        distance = math.dist(*values)
        return 100.0 * (distance <= metric.tolerance) if metric.measure == "within" else distance

    def numbers(self, value: Value | None) -> tuple[float, ...]:
        return value or (0.0,) * self.size


@dataclass(frozen=True)
class Turn(Kind):
    """A rotation.

    representations: how the code may write it; with several, the run chooses. label_as: how labels write it.
    unit: of angles in labels, "deg", "rad", or "either", where the run's `rotation_unit` says it.
    symmetry: of an object of which `symmetry_by` (attribute, word -> symmetry) knows none.
    """

    measures: ClassVar[tuple[str, ...]] = ("geodesic", "within")
    representations: tuple[str, ...] = ("euler",)
    label_as: str = "euler"
    unit: str = "rad"
    format: NumberFormat = NumberFormat()
    symmetry: Symmetry = NO_SYMMETRY
    decided_by: str = ""
    symmetry_by: Mapping[str, Symmetry] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, table: Table) -> Self:
        names = table.texts("representations")
        if not names or not set(names) <= set(REPRESENTATIONS) or ("yaw" in names and len(names) > 1):
            raise table.error("representations", f'must be ["yaw"] or some of {", ".join(REPRESENTATIONS)}')
        label_as = table.choice("label_as", REPRESENTATIONS, "yaw" if names == ("yaw",) else "euler")
        if (label_as == "yaw") != (names == ("yaw",)):
            raise table.error("label_as", "must be yaw where the one representation is yaw, and only there")
        unit = table.choice("unit", (*ROTATION_UNITS, "either"), "rad")
        own = parse_symmetry(table, "symmetry") if "symmetry" in table else NO_SYMMETRY
        by = table.table("symmetry_by", {})
        if len(by) > 1:
            raise table.error("symmetry_by", "must hold one attribute, whose word decides")
        decided_by = next(iter(by), "")
        cases = by.table(decided_by) if decided_by else by
        found = {word: parse_symmetry(cases, word) for word in cases}
        number = NumberFormat(digits=table.integer("digits", 3, least=0), has_sign=table.boolean("sign", False))
        for symmetry in (own, *found.values()):
            if names == ("yaw",) and (symmetry.group or (symmetry.period_deg is not None and symmetry.axis != 2)):
                raise table.error("symmetry", "of a yaw must be about z")
        return cls(names, label_as, unit, number, own, decided_by, found)

    def within(self, words: Mapping[str, Word]) -> Self:
        """Synonyms of the deciding word decide alike."""
        if not self.decided_by:
            return self
        if self.decided_by not in words:
            raise ValueError(f"symmetry_by must name a word of the same function, not {self.decided_by!r}")
        same = words[self.decided_by].same
        found = {other: kind for word, kind in self.symmetry_by.items() for other in same.get(word, (word,))}
        return replace(self, symmetry_by=found)

    @property
    def is_yaw(self) -> bool:
        return self.representations == ("yaw",)

    def representation(self, settings: Settings) -> Representation:
        return REPRESENTATIONS[settings.rotation_rep if len(self.representations) > 1 else self.representations[0]]

    def symmetry_of(self, item: Mapping[str, Value]) -> Symmetry:
        """The symmetry of a call, by its word."""
        return self.symmetry_by.get(item.get(self.decided_by, ""), self.symmetry)

    def spelling(self, settings: Settings) -> Spelling:
        count = self.representation(settings).num_numbers
        number = replace(self.format, scale=(1.0,) * count, offset=(0.0,) * count)
        return Spelling("number", count=count, in_brackets=count > 1, number=number)

    def from_label(self, value: Any) -> Value:
        return finite_numbers(value, REPRESENTATIONS[self.label_as].num_numbers)

    def to_label(self, value: Value) -> Any:
        return value[0] if len(value) == 1 else list(value)

    def _in_degrees(self, settings: Settings) -> bool:
        return (settings.rotation_unit if self.unit == "either" else self.unit) == "deg"

    def label_yaw_deg(self, value: Value, settings: Settings) -> float:
        """The angle of a yaw label in degrees."""
        return float(value[0] if self._in_degrees(settings) else np.degrees(value[0]))

    def label_matrix(self, value: Value, settings: Settings) -> np.ndarray:
        """A label's turn as a matrix [3, 3]."""
        if self.is_yaw:
            return REPRESENTATIONS["yaw"].to_matrix((np.radians(self.label_yaw_deg(value, settings)),))
        return REPRESENTATIONS[self.label_as].to_matrix(self._label_rad(value, settings))

    def _label_rad(self, value: Value, settings: Settings) -> tuple[float, ...]:
        is_deg = self._in_degrees(settings) and self.label_as not in ("6d", "quat")
        return tuple(np.radians(value).tolist()) if is_deg else value

    def said_matrix(self, value: Value, item: Mapping[str, Value], settings: Settings) -> np.ndarray:
        """The turn [3, 3] of numbers as the code says them."""
        if self.is_yaw:
            yaw_rad = np.radians(self.symmetry_of(item).yaw_deg(value[0]))
            return REPRESENTATIONS["yaw"].to_matrix((yaw_rad,))
        return self.representation(settings).to_matrix(value)

    def write(self, value: Value, item: Mapping[str, Value], settings: Settings) -> Said:
        symmetry = self.symmetry_of(item)
        if self.is_yaw:
            return (symmetry.written_yaw_rad(self.label_yaw_deg(value, settings)),)
        representation = self.representation(settings)
        if symmetry.is_none and self.label_as == "euler":
            return representation.from_euler_xyz_extrinsic_rad(self._label_rad(value, settings))
        return representation.from_matrix(symmetry.canonical(self.label_matrix(value, settings)))

    def example(self, rng: np.random.Generator, least: float, most: float) -> Value:
        turn = Rotation.from_quat(rng.normal(size=4)).as_matrix()
        numbers = REPRESENTATIONS[self.label_as].from_matrix(turn)
        is_deg = self.unit != "rad" and self.label_as not in ("6d", "quat")
        return tuple(np.degrees(numbers).tolist()) if is_deg else numbers

    def to_scene(self, value: Value, item: Mapping[str, Value], settings: Settings) -> Value:
        if self.is_yaw:
            yaw_deg = self.symmetry_of(item).yaw_deg(value[0])
            return (yaw_deg if self._in_degrees(settings) else math.radians(yaw_deg),)
        numbers = REPRESENTATIONS[self.label_as].from_matrix(self.said_matrix(value, item, settings))
        is_deg = self._in_degrees(settings) and self.label_as not in ("6d", "quat")
        return tuple(np.degrees(numbers).tolist()) if is_deg else numbers

    def is_scored(self, metric: Metric, true: Mapping[str, Value], name: str) -> bool:
        return not self.symmetry_of(true).is_full

    def score(self, metric, name, true, said, settings) -> float:
        symmetry, value = self.symmetry_of(true), said.get(name)
        if self.is_yaw:
            (written,), number = self.write(true[name], true, settings), value[0] if value else 0.0
            if symmetry.period_deg == 0:
                return 0.0
            error = yaw_error_deg(number, written, period_rad=math.radians(symmetry.period_deg or 360.0))
        else:
            representation = self.representation(settings)
            numbers = value or (0.0,) * representation.num_numbers
            to_matrix = representation.to_matrix_as_reference if settings.as_reference else None
            to_matrix = to_matrix or representation.to_matrix
            error = symmetry.error_deg(to_matrix(numbers), self.label_matrix(true[name], settings))
        return 100.0 * (error <= metric.tolerance) if metric.measure == "within" else error


@dataclass(frozen=True)
class Reference(Kind):
    """An earlier call of the function `to`: written as its number among those, from 0.

    In scenes it counts the calls in the label's order, in the code those in the code's order. label_key: the key by
    which labels name the call that is meant; "" where they count too.
    """

    measures: ClassVar[tuple[str, ...]] = ("accuracy",)
    to: str = ""
    label_key: str = ""

    @classmethod
    def parse(cls, table: Table) -> Self:
        return cls(table.name("to"), table.text("label_key", ""))

    @property
    def refers_to(self) -> str:
        return self.to

    @property
    def refers_by(self) -> str:
        return self.label_key

    def spelling(self, settings: Settings) -> Spelling:
        return Spelling("integer", minimum=0, refers_to=self.to)

    def from_label(self, value: Any) -> Value:
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(f"must count a {self.to} from 0")
        return int(value)

    def score(self, metric, name, true, said, settings) -> float:
        return 100.0 * (name in said and true[name] == said[name])


ATTRIBUTE_KINDS: dict[str, type[Kind]] = {
    "word": Word,
    "number": Number,
    "integer": Integer,
    "vector": Vector,
    "rotation": Turn,
    "reference": Reference,
}
