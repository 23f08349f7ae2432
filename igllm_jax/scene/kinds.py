"""The kinds of attribute that a language file may use, in one table: `ATTRIBUTE_KINDS`.

A kind is a frozen class that holds what the file says about one attribute, and owns everything that depends on what
an attribute is: reading a label's value, the code's spelling, the value back from what the code says, and its scores.
A new kind is one such class and one entry of the table; writer, parser, metrics and grammar know only these methods.
"""

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from igllm_jax.scene.kind import (
    LARGEST_INTEGER,
    PLAIN_NUMBERS,
    Kind,
    Metric,
    NumberFormat,
    Said,
    Settings,
    Spelling,
    Value,
    finite_numbers,
)
from igllm_jax.scene.toml_table import TomlTable
from igllm_jax.scene.turn import Turn

MOST_DIGITS = 17  # behind the point: no float has more
MOST_NUMBERS = 64  # of one attribute
_UNSAYABLE = re.compile("['\n\r\ud800-\udfff]")


def _number_format(table: TomlTable, count: int) -> NumberFormat:
    scale = table.numbers("scale", count, 1.0)
    if not all(scale):
        raise table.error("scale", "must not be 0")
    digits = table.integer("digits", 3, least=0, most=MOST_DIGITS)
    bounds = {"minimum": table.number("minimum", -math.inf), "maximum": table.number("maximum", math.inf)}
    for key, bound in bounds.items():
        if math.isfinite(bound) and round(bound, digits) != bound:  # written, it would lie outside the range
            raise table.error(key, f"must be a number of at most {digits} digits after the point, as the code has it")
    offset = table.numbers("offset", count, 0.0)
    return NumberFormat(digits, table.boolean("sign", False), **bounds, scale=scale, offset=offset)


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
    def parse(cls, table: TomlTable) -> Self:
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
        return cls(words, same, table.text("class_until", ""), table.integer("longest", 64, least=1, most=1024), back)

    def spelling(self, settings: Settings) -> Spelling:
        words = self.words
        if words is not None:
            words = tuple(other for word in words for other in self.same.get(word, (word,)))
        return Spelling("word", words=words, longest=self.longest)

    def from_label(self, value: Any) -> Value:
        is_known = self.words is not None and type(value) is str and value in self.words  # nearly all
        if not is_known and (not isinstance(value, str) or not is_sayable(value)):
            raise ValueError("must be text without quotes or line breaks")
        if self.words is not None and not is_known and self.label_word(value) not in self.words:
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
    format: NumberFormat = PLAIN_NUMBERS

    @classmethod
    def parse(cls, table: TomlTable) -> Self:
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
    def parse(cls, table: TomlTable) -> Self:
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
    format: NumberFormat = PLAIN_NUMBERS

    @classmethod
    def parse(cls, table: TomlTable) -> Self:
        size = table.integer("size", least=1, most=MOST_NUMBERS)
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
class Reference(Kind):
    """An earlier call of the function `to`: written as its number among those, from 0.

    In scenes it counts the calls in the label's order, in the code those in the code's order. label_key: the key by
    which labels name the call that is meant; "" where they count too.
    """

    measures: ClassVar[tuple[str, ...]] = ("accuracy",)
    to: str = ""
    label_key: str = ""

    @classmethod
    def parse(cls, table: TomlTable) -> Self:
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
