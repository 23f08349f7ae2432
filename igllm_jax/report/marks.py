"""Predicted code as the page shows it: the text itself, in pieces, each with what is to be said of it.

The text is taken apart for show alone; what it means has been read before (`scene.reading`), and is looked up here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from igllm_jax.report.errors import FAR_DEG, Limits, error_of, is_comparable, is_numeric, is_turn, numbers_of
from igllm_jax.scene.code import write_call
from igllm_jax.scene.kind import Settings
from igllm_jax.scene.language import Language
from igllm_jax.scene.language_parts import Attribute, Function
from igllm_jax.scene.metrics import Pairs
from igllm_jax.scene.reading import Reading
from igllm_jax.scene.scene import Call, Object, Scene

MOST_LINES = 60  # of an answer
LONGEST_LINE = 400  # characters
RIGHT, WRONG, FAR, EXTRA, UNREAD = "right", "wrong", "far", "extra", "unread"

Piece = str | list[str]  # plain text, or [text, one of the above, what is true]
Line = list[Piece]

_ARGUMENT = re.compile(r"(\w+)(\s*=\s*)('[^']*'?|\([^()]*\)?|[^,()']*)")
_NUMBER = re.compile(r"[^\s,()]+")


@dataclass(frozen=True)
class Marker:
    """Marks answers of one run. language, settings, limits: of the run."""

    language: Language
    settings: Settings
    limits: Limits

    def lines(self, text: str, scene: Scene, reading: Reading, pairs: Pairs) -> list[Line]:
        """The first lines of an answer. pairs: (true, predicted), matched."""
        true_of = {predicted: scene.objects[true] for true, predicted in pairs}
        reasons = {problem.line: problem.reason for problem in reversed(reading.problems)}
        found: list[Line] = []
        number = 0  # of the call
        all_lines = text.rstrip("\n").split("\n")
        for position, full in enumerate(all_lines[:MOST_LINES]):
            line = full if len(full) <= LONGEST_LINE else f"{full[:LONGEST_LINE]} ..."
            function = self.language.by_name.get(full.strip().partition("(")[0]) if "(" in full else None
            if function is None:
                found.append([[line, UNREAD, reasons[position + 1]]] if position + 1 in reasons else [line])
                continue
            if number in true_of:
                found.append(list(self._call(line, function, true_of[number], reading.objects[number])))
            else:
                found.append([[line, EXTRA, "no true call is left for it"]])
            if position + 1 in reasons:
                found[-1].append(["  # not read entirely", UNREAD, reasons[position + 1]])
            number += 1
        if len(all_lines) > MOST_LINES:
            found.append([f"... {len(all_lines) - MOST_LINES} more lines"])
        return found

    def missed(self, scene: Scene, pairs: Pairs) -> list[str]:
        """The lines of true calls that no predicted one stands for."""
        matched = {true for true, _ in pairs}
        return [self.write(item) for index, item in enumerate(scene.objects) if index not in matched][:MOST_LINES]

    def write(self, item: Object) -> str:
        """The line of a true call."""
        written = write_call(
            item,
            self.language,
            rotation_rep=self.settings.rotation_rep,
            rotation_unit=self.settings.rotation_unit,
            numbers_as_tokens=False,
            rng=None,
            shuffle_attributes=False,
            use_synonyms=False,
        )
        return written.text.rstrip("\n")

    def _call(self, line: str, function: Function, true: Object, said: Call) -> Iterator[Piece]:
        """The pieces of a matched call's line."""
        truth = {match[1]: match[3] for match in _ARGUMENT.finditer(self.write(true))}
        start, known = line.index("(") + 1, set[str]()
        yield line[:start]
        for match in _ARGUMENT.finditer(line, start):
            yield line[start : match.start(3)]
            start = match.end()
            key, value = match[1], match[3]
            owner = function.by_argument.get(key)
            if owner is None or key in known:
                yield value
                continue
            known.add(key)
            yield from self._value(value, *owner, true, said, truth.get(key, ""))
        yield line[start:]

    def _value(
        self, value: str, attribute: Attribute, part: int, true: Call, said: Call, truth: str
    ) -> Iterator[Piece]:
        if not is_comparable(attribute, true, said) or attribute.kind.refers_to:
            yield value
        elif is_numeric(attribute):
            numbers = [numbers_of(attribute, call[attribute.name]) for call in (said, true)]
            limits = self.limits.of(true.function, attribute.name)
            is_far = [abs(a - b) > limit for a, b, limit in zip(*numbers, limits, strict=True)]
            yield from _numbers(value, is_far if len(attribute.arguments) == 1 else [is_far[part]], truth)
        else:
            error = error_of(attribute, true, said, self.settings)
            if is_turn(attribute):
                yield [value, FAR if error > FAR_DEG else RIGHT, f"{truth} ({error:.1f} degrees off)"]
            else:
                yield [value, RIGHT if error == 100 else WRONG, truth]


def _numbers(value: str, is_far: list[bool], truth: str) -> Iterator[Piece]:
    """The numbers of an argument one by one, and what stands between them."""
    true = _NUMBER.findall(truth)
    start = 0
    for position, match in enumerate(_NUMBER.finditer(value)):
        if position >= len(is_far):
            break
        yield value[start : match.start()]
        yield [match[0], FAR if is_far[position] else RIGHT, true[position] if position < len(true) else truth]
        start = match.end()
    yield value[start:]


def compact(lines: list[Line]) -> list[Any]:
    """Lines for JSON: neighbouring plain pieces as one, empty ones left out."""
    found: list[Any] = []
    for line in lines:
        pieces: list[Piece] = []
        for piece in line:
            if isinstance(piece, str) and pieces and isinstance(pieces[-1], str):
                pieces[-1] += piece
            elif piece:
                pieces.append(piece)
        found.append(pieces)
    return found


def words_of_scene(scene: Scene, language: Language, keys: Mapping[str, Attribute]) -> list[str]:
    """`KEY=WORD` of every word that the label says, each once: what the page filters by."""
    found: dict[str, None] = {}
    for item in scene.objects:
        for key, attribute in keys.items():
            function, _, _ = key.rpartition(".")
            if (not function or function == item.function) and attribute.name in item:
                word = attribute.kind.label_word(str(item[attribute.name]))  # type: ignore[attr-defined]
                found[f"{key}={attribute.kind.class_of(word)}"] = None  # type: ignore[attr-defined]
    return list(found)
