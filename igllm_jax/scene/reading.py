"""Reading scene code that a model wrote. A small scanner: predicted text is data and is never executed."""

import math
from dataclasses import dataclass, field
from functools import lru_cache

from igllm_jax.scene.kind import LARGEST_INTEGER, Said, Settings, Spelling, Value
from igllm_jax.scene.kinds import integer_problem
from igllm_jax.scene.language import Language, find_language
from igllm_jax.scene.language_parts import Attribute, Function
from igllm_jax.scene.scene import Object, Predicted, Scene

FLOAT_TOKEN = "数"  # noqa: S105 (a word of the code, no password)
LARGEST_NUMBER = 1e12  # beyond this a predicted number counts as unreadable: its square and sums must stay finite


@dataclass(frozen=True, slots=True)
class Problem:
    """What could not be read: `line` counts from 1."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Reading:
    """The calls of a text, in its order, and everything in it that was not as it should be. lines: of each call, from
    1."""

    objects: tuple[Predicted, ...]
    problems: tuple[Problem, ...]
    lines: tuple[int, ...] = field(default=(), compare=False)


def read(text: str, task: Language | str, *, rotation_rep: str, as_reference: bool = False) -> Reading:
    """The calls that a text holds: one per line that starts with a function and a bracket, however much can be read.

    What is in the line is taken argument by argument: a word in single quotes; numbers in the right count, of which an
    unreadable one is 0; integers. An argument that is absent, or has another count, is None. One that is said twice
    counts once, as first said. Lines around a fenced block (```) are talk; other lines are problems, and so is what the
    language forbids: words that it does not have, numbers out of range, what is required and missing, references to
    calls that do not stand before. An answer without any text is a problem. Indented lines, spaces around `=` and a
    comma behind the last of some values are fine.

    as_reference: read what the reference's patterns find, so that those three are problems too.

    Raises: UserError only where the task does not have that rotation_rep; nothing in `text` raises.

    Example: `add(x=0.5, y=oops)` has location (0.5, 0.0) and one problem.
    """
    language = find_language(task)
    tables = _tables(language, language.settings(rotation_rep))
    objects: list[Predicted] = []
    object_lines: list[int] = []
    problems: list[Problem] = []
    if not text.strip():
        return Reading((), (Problem(1, "the answer is empty"),))
    lines = [line if as_reference else line.strip() for line in text.split("\n")]
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    for number, line in enumerate(lines):
        table = tables.get(line.partition("(")[0]) if "(" in line else None
        if table is not None:
            scanner = _Line(line, table, as_reference)
            objects.append(scanner.predicted())
            object_lines.append(number + 1)
            problems += [Problem(number + 1, reason) for reason in scanner.problems]
        elif line.strip() and not _is_talk(number, fences):
            problems.append(Problem(number + 1, f"not a line of code: {_clip(line)}"))
    if language.references:
        objects, wrong = _checked_references(objects, object_lines, language)
        problems = sorted([*problems, *wrong], key=lambda problem: problem.line)
    return Reading(tuple(objects), tuple(problems), tuple(object_lines))


def _is_talk(number: int, fences: list[int]) -> bool:
    """Whether a line that is not code is a fence, or lies before the first or after the last of two."""
    if not fences:
        return False
    return number <= fences[0] or (len(fences) > 1 and number >= fences[-1])


def _clip(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


@dataclass(frozen=True)
class _Argument:
    attribute: Attribute
    part: int
    spelling: Spelling


@dataclass(frozen=True)
class _Table:
    """What one function's lines may say: keyword -> argument; and what has to be checked once a line is read."""

    language: str
    function: Function
    arguments: dict[str, _Argument]
    required: tuple[Attribute, ...]


@lru_cache(maxsize=64)
def _tables(language: Language, settings: Settings) -> dict[str, _Table]:
    tables = {}
    for function in language.functions:
        arguments = {
            key: _Argument(attribute, part, spelling)
            for attribute in function.attributes
            for part, (key, spelling) in enumerate(zip(attribute.arguments, attribute.spellings(settings), strict=True))
        }
        required = tuple(a for a in function.attributes if a.is_required and a.arguments)
        tables[function.name] = _Table(language.name, function, arguments, required)
    return tables


class _Line:
    """Scans one line; what it finds is in `said`, and what it could not read in `problems`."""

    def __init__(self, line: str, table: _Table, as_reference: bool):
        self.line, self.table, self.as_reference = line, table, as_reference
        self.position = len(table.function.name) + 1
        self.problems: list[str] = []
        self.said: dict[str, Said] = {}
        self._scan()

    def predicted(self) -> Predicted:
        values: dict[str, Value] = {}
        for attribute in self.table.function.attributes:
            keys = attribute.arguments
            if not keys or not all(key in self.said for key in keys):
                continue
            said = self.said[keys[0]] if len(keys) == 1 else tuple(self.said[key][0] for key in keys)
            values[attribute.name] = attribute.kind.read(said)
        found = Predicted.of(self.table.function.name, values)
        for attribute in self.table.required:
            if attribute.name not in values and attribute.may_be_said(found):
                missing = [key for key in attribute.arguments if key not in self.said]
                self.problems.append(f"{', '.join(missing)} is missing, which every {found.function} must say")
        return found

    def _scan(self) -> None:
        seen: set[str] = set()
        while self._skip(" ,"):
            if self.line[self.position] == ")":
                rest = self.line[self.position + 1 :].strip()
                if rest and not rest.startswith("```") and (self.as_reference or rest != ","):
                    self.problems.append(f"text after the closing bracket: {_clip(rest)}")
                return
            key = self._take(lambda c: c.isalnum() or c == "_")
            if not key:
                self.problems.append(f"unexpected {_clip(self._take_until(' ,)', at_least=1))}")
                continue
            self._skip_around_equals()
            if not self._starts("="):
                self.problems.append(f"{_clip(key)} is not followed by '='")
                continue
            self.position += 1
            self._skip_around_equals()
            if key in seen:
                self.problems.append(f"{key} is said twice; the first counts")
            self._value(key, is_first=key not in seen)
            seen.add(key)
        self.problems.append("the line ends before its closing bracket")

    def _value(self, key: str, *, is_first: bool) -> None:
        """Reads what follows `key=`, and keeps it where the key is known, the kind right and `is_first`."""
        word, parts = None, None
        if self._starts("'"):
            self.position += 1
            word = self._take_until("'")
            if not self._close("'", key):
                return
        elif self._starts("("):
            self.position += 1
            parts = self._take_until(")").split(",")
            if not self._close(")", key):
                return
        else:
            parts = [self._take_until(",)")]
            if self.position == len(self.line):  # `loc=0.1` cut off: the number may go on
                self.problems.append(f"{key} is cut off")
                return
        argument = self.table.arguments.get(key)
        if argument is None:
            self.problems.append(f"{_clip(key)} is not an attribute of task {self.table.language}")
            return
        has_comma_behind = parts is not None and len(parts) == argument.spelling.count + 1 and not parts[-1].strip()
        if parts is not None and has_comma_behind and not self.as_reference:
            parts = parts[:-1]
        said = self._said(key, argument.spelling, word, parts, is_first)
        if said is not None:
            self.said[key] = said

    def _said(
        self, key: str, spelling: Spelling, word: str | None, parts: list[str] | None, is_first: bool
    ) -> Said | None:
        """What the argument says, as its spelling wants it; None where it does not, or where it is not the first."""
        if spelling.kind == "word":
            if word is None:
                self.problems.append(f"{key} is not a word in single quotes")
            elif is_first:
                if spelling.words is not None and word not in spelling.words:
                    self.problems.append(f"{key} is {_clip(word)}, which is none of {', '.join(spelling.words)}")
                return word
        elif parts is None or len(parts) != spelling.count:
            self.problems.append(f"{key} does not have {spelling.count} number(s)")
        elif is_first and spelling.kind == "integer":
            return self._integer(parts[0], key, spelling)
        elif is_first:
            numbers = tuple(self._number(part, key) for part in parts)
            if problem := spelling.number.problem(numbers):
                self.problems.append(f"{key} {problem}")
            return numbers
        return None

    def _number(self, text: str, key: str) -> float:
        number = _read_number(text)
        if number is None:
            self.problems.append(f"{key} holds {_clip(text.strip())}, which is not a number; 0 is taken")
            return 0.0
        return number

    def _integer(self, text: str, key: str, spelling: Spelling) -> int | None:
        number = _read_number(text)
        if number is None or number != int(number) or abs(number) > LARGEST_INTEGER:
            self.problems.append(f"{key} holds {_clip(text.strip())}, which is not an integer")
            return None
        if not spelling.refers_to and (problem := integer_problem(int(number), spelling.minimum, spelling.maximum)):
            self.problems.append(f"{key} {problem}")
        return int(number)

    def _starts(self, character: str) -> bool:
        return self.line.startswith(character, self.position)

    def _skip_around_equals(self) -> None:
        if not self.as_reference:
            self._skip(" \t")

    def _skip(self, characters: str) -> bool:
        """Skips any of `characters`; whether something is left."""
        self._take(lambda c: c in characters)
        return self.position < len(self.line)

    def _take(self, is_wanted) -> str:
        start = self.position
        while self.position < len(self.line) and is_wanted(self.line[self.position]):
            self.position += 1
        return self.line[start : self.position]

    def _take_until(self, stops: str, at_least: int = 0) -> str:
        start = self.position
        self.position += at_least
        self._take(lambda c: c not in stops)
        return self.line[start : self.position]

    def _close(self, character: str, key: str) -> bool:
        if self.position < len(self.line):
            self.position += 1
            return True
        self.problems.append(f"{key} has no closing {character}")
        return False


def _read_number(text: str) -> float | None:
    """The number that `text` is, or None: Python's float without underscores, infinities, nan and the very large."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if "_" not in text and math.isfinite(number) and abs(number) <= LARGEST_NUMBER else None


def _checked_references(
    objects: list[Predicted], lines: list[int], language: Language
) -> tuple[list[Predicted], list[Problem]]:
    """The calls without references that point at nothing, or at a call that does not stand before; and why."""
    lines_of: dict[str, list[int]] = {}
    for item, line in zip(objects, lines, strict=True):
        lines_of.setdefault(item.function, []).append(line)
    found, problems = [], []
    for item, line in zip(objects, lines, strict=True):
        for attribute in language.references.get(item.function, ()):
            if attribute.name not in item:
                continue
            (key,), to, value = attribute.arguments, attribute.kind.refers_to, int(item[attribute.name])
            targets = lines_of.get(to, [])
            before = sum(target < line for target in targets)
            if 0 <= value < before:
                continue
            if 0 <= value < len(targets):
                where = "itself" if targets[value] == line else f"line {targets[value]}, which comes later"
                reason = f"{key}={value} points at {where}; a {to} must stand before what names it"
            else:
                reason = f"{key}={value} points at no {to}: {before} stand before this line"
            problems.append(Problem(line, reason))
            item = item.replace(**{attribute.name: None})
        found.append(item)
    return found, problems


def scene_of(
    reading: Reading, task: Language | str, *, rotation_rep: str, rotation_unit: str = "deg", image: str
) -> Scene:
    """The predicted scene as a label would have it, to draw or to write again; what is missing stays so.

    Angles come back in the label's terms. The code does not say where a call is in the image, so the number that orders
    calls is its number in the code, and the order is kept.
    """
    language = find_language(task)
    settings = language.settings(rotation_rep, rotation_unit)
    objects = []
    for number, item in enumerate(reading.objects):
        function = language.by_name[item.function]
        values = {n: function.by_name[n].kind.to_scene(value, item, settings) for n, value in item.items()}
        if language.order is not None and not function.by_name[language.order[0]].arguments:
            name, index = language.order
            size = function.by_name[name].kind.num_parts
            numbers = tuple(float(number) if part == index else 0.0 for part in range(size))
            values[name] = numbers if size > 1 else float(number)
        objects.append(Object.of(item.function, values))
    return Scene(tuple(objects), image)
