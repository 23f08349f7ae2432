"""Scene code: the only place that knows what `add(...)` looks like. Writing it, and reading what a model wrote.

One line per object, from left to right in the image:

    add(size='large', color='red', material='metal', shape='cube', loc=(+0.500, -1.250, +0.700), rotation=-0.611)

and for 2D `add(x=0.250, y=0.750)`. Reading is done by a small scanner: predicted text is data and is never executed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.scene.rotations import CUBE_PERIOD_DEG, clevr_yaw_rad, matrix_to_euler
from igllm_jax.scene.scene import Object, Scene
from igllm_jax.scene.tasks import Task, check_rotation_unit, find_task

FLOAT_TOKEN = "数"
FILLED_FORMAT = "{:.3f}"  # how a number read by the float head is put into the text
LARGEST_NUMBER = 1e12  # beyond this a predicted number counts as unreadable: its square and sums must stay finite

# attribute -> groups of words that mean the same, the label's word first
SYNONYMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "size": (("large", "big"), ("small", "tiny")),
    "material": (("metal", "metallic", "shiny"), ("rubber", "matte")),
    "shape": (("sphere", "ball"), ("cube", "block")),
}
_SAME_WORDS = {key: {group[0]: group for group in groups} for key, groups in SYNONYMS.items()}
_LABEL_WORD = {key: {word: group[0] for group in groups for word in group} for key, groups in SYNONYMS.items()}


@dataclass(frozen=True, slots=True)
class Written:
    """Code lines, each ending in a line break, and the numbers that its float tokens stand for, in reading order."""

    text: str
    numbers: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """What could not be read: `line` counts from 1."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Predicted:
    """One predicted object; None is what the line did not say, or not readably.

    Words are the label's (synonyms mapped back). rotation: numbers of the representation, as written.
    """

    size: str | None = None
    color: str | None = None
    material: str | None = None
    shape: str | None = None
    location: tuple[float, ...] | None = None
    rotation: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """The objects of a text, in its order, and everything in it that was not as it should be."""

    objects: tuple[Predicted, ...]
    problems: tuple[Problem, ...]


def label_word(key: str, word: str) -> str:
    """The word that labels use for `word` as the attribute `key`: `cube` for `block`; any other word stays as it is."""
    return _LABEL_WORD.get(key, {}).get(word, word)


def write(
    scene: Scene,
    task: Task | str,
    *,
    rotation_rep: str,
    numbers_as_tokens: bool,
    rng: np.random.Generator | None,
    shuffle_attributes: bool,
    use_synonyms: bool,
    rotation_unit: str = "deg",
) -> Written:
    """The code of a scene, objects ordered by `pixel[0]`.

    numbers_as_tokens: every number is FLOAT_TOKEN and comes back beside the text; otherwise it is text.
    rng: draws the order of the attributes and the synonyms; None draws nothing.
    rotation_unit: unit of CLEVR's `rotation` labels, "deg" or "rad"; other tasks' labels are extrinsic xyz radians.

    Example: an object at (0.5, 0.25) gives `Written("add(x=数, y=数)\\n", (0.5, 0.25))`.

    Raises: UserError where the objects cannot be ordered, a word holds FLOAT_TOKEN, or the task does not have that
        rotation_rep.
    """
    task = find_task(task)
    check_rotation_unit(rotation_unit)
    numbers: list[float] = []

    def say(number: float) -> str:
        if numbers_as_tokens:
            numbers.append(number)
            return FLOAT_TOKEN
        return task.number_format.format(number)

    lines = []
    for item in in_order(scene):
        fields = list(_fields(item, task, rotation_rep, rotation_unit))
        if rng is not None and use_synonyms:
            fields = [(key, _synonym(key, value, rng)) for key, value in fields]
        if rng is not None and shuffle_attributes:
            fields = [fields[index] for index in rng.permutation(len(fields))]
        lines.append(f"add({', '.join(f'{key}={_value(value, say)}' for key, value in fields)})\n")
    text = "".join(lines)
    if numbers_as_tokens and text.count(FLOAT_TOKEN) != len(numbers):
        raise UserError(
            f"image {scene.image}: a word of the label holds {FLOAT_TOKEN}, which stands for numbers; rename it"
        )
    return Written(text, tuple(numbers))


def in_order(scene: Scene) -> list[Object]:
    """The scene's objects in the order of the code, left to right in the image.

    Raises: UserError where there are several objects and one has no `pixel_coords`.
    """
    if len(scene.objects) < 2:
        return list(scene.objects)
    if any(item.pixel is None for item in scene.objects):
        raise UserError(f"image {scene.image}: an object has no pixel_coords, which order the objects of the code")
    return sorted(scene.objects, key=lambda item: item.pixel[0])  # type: ignore[index]


def rotation_numbers(item: Object, task: Task, rotation_rep: str, rotation_unit: str) -> tuple[float, ...] | None:
    """The numbers that the code holds for an object's rotation, None where it says none (round shapes, no label)."""
    representation = task.representation(rotation_rep)
    if representation is None or item.rotation is None or not item.is_turned:
        return None
    if task.rotation_size == 1:
        return (clevr_yaw_rad(item.rotation[0], unit=rotation_unit, shape=item.shape),)
    return representation.from_euler_xyz_extrinsic_rad(item.rotation)


_Value = str | float | tuple[float, ...]


def _fields(item: Object, task: Task, rotation_rep: str, rotation_unit: str) -> Iterator[tuple[str, _Value]]:
    for key in task.words:
        word = getattr(item, key)
        if word is not None:
            yield key, word
    if item.location is not None:
        if len(task.location_keys) == 1:
            yield task.location_keys[0], item.location
        else:
            yield from zip(task.location_keys, item.location, strict=True)
    numbers = rotation_numbers(item, task, rotation_rep, rotation_unit)
    if numbers is not None:
        yield "rotation", numbers if len(numbers) > 1 else numbers[0]


def _synonym(key: str, value: _Value, rng: np.random.Generator) -> _Value:
    group = _SAME_WORDS.get(key, {}).get(value) if isinstance(value, str) else None
    return group[rng.integers(len(group))] if group else value


def _value(value: _Value, say) -> str:
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, tuple):
        return f"({', '.join(say(number) for number in value)})"
    return say(value)


def fill(text: str, numbers) -> str:
    """`text` with its float tokens replaced by the numbers, in order, three digits after the point.

    Example: `fill("add(x=数, y=数)", (0.5, 0.25))` is `"add(x=0.500, y=0.250)"`.

    Raises: ValueError where there are not as many numbers as float tokens.
    """
    pieces = text.split(FLOAT_TOKEN)
    numbers = list(numbers)
    if len(pieces) != len(numbers) + 1:
        raise ValueError(f"the text has {len(pieces) - 1} float tokens, but there are {len(numbers)} numbers")
    filled = [pieces[0]]
    for number, piece in zip(numbers, pieces[1:], strict=True):
        filled += [FILLED_FORMAT.format(number), piece]
    return "".join(filled)


def read(text: str, task: Task | str, *, rotation_rep: str) -> Reading:
    """The objects that a text describes: one per line that starts with `add(`, however much of it can be read.

    What is in the line is taken field by field: a word in single quotes; `loc` and `rotation` with the right count of
    numbers, of which an unreadable one is 0. A field that is absent, or has another count, is None. A field said twice
    counts once, as first said. Lines around a fenced block (```) are talk; other lines are problems.

    Raises: UserError only where the task does not have that rotation_rep; nothing in `text` raises.

    Example: `add(x=0.5, y=oops)` has location (0.5, 0.0) and one problem.
    """
    task = find_task(task)
    representation = task.representation(rotation_rep)
    rotation_count = representation.num_numbers if representation else 0
    objects: list[Predicted] = []
    problems: list[Problem] = []
    lines = text.split("\n")
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    for number, line in enumerate(lines):
        if line.startswith("add("):
            scanner = _Line(line, task, rotation_count)
            objects.append(scanner.predicted())
            problems += [Problem(number + 1, reason) for reason in scanner.problems]
        elif line.strip() and not _is_talk(number, fences):
            problems.append(Problem(number + 1, f"not a line of code: {_clip(line)}"))
    return Reading(tuple(objects), tuple(problems))


def _is_talk(number: int, fences: list[int]) -> bool:
    """Whether a line that is not code is a fence, or lies before the first or after the last of two."""
    if not fences:
        return False
    return number <= fences[0] or (len(fences) > 1 and number >= fences[-1])


def _clip(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


class _Line:
    """Scans one line; what it finds is in `words`, `numbers`, and what it could not read in `problems`."""

    def __init__(self, line: str, task: Task, rotation_count: int):
        self.line = line
        self.position = len("add(")
        self.task = task
        self.problems: list[str] = []
        self.words: dict[str, str] = {}
        self.numbers: dict[str, tuple[float, ...]] = {}
        single_keys = task.location_keys if len(task.location_keys) > 1 else ()
        self.counts = {task.location_keys[0]: task.location_size} if not single_keys else dict.fromkeys(single_keys, 1)
        if rotation_count:
            self.counts["rotation"] = rotation_count
        self._scan()

    def predicted(self) -> Predicted:
        keys = self.task.location_keys
        location = None
        if all(key in self.numbers for key in keys):
            location = tuple(number for key in keys for number in self.numbers[key])
        return Predicted(**self.words, location=location, rotation=self.numbers.get("rotation"))

    def _scan(self) -> None:
        seen: set[str] = set()
        while self._skip(" ,"):
            if self.line[self.position] == ")":
                rest = self.line[self.position + 1 :].strip()
                if rest and not rest.startswith("```"):
                    self.problems.append(f"text after the closing bracket: {_clip(rest)}")
                return
            key = self._take(lambda c: c.isalnum() or c == "_")
            if not key:
                self.problems.append(f"unexpected {_clip(self._take_until(' ,)', at_least=1))}")
                continue
            if not self._starts("="):
                self.problems.append(f"{_clip(key)} is not followed by '='")
                continue
            self.position += 1
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
        if key in self.task.words:
            if word is None:
                self.problems.append(f"{key} is not a word in single quotes")
            elif is_first:
                self.words[key] = label_word(key, word)
        elif key in self.counts:
            if parts is None or len(parts) != self.counts[key]:
                self.problems.append(f"{key} does not have {self.counts[key]} number(s)")
            elif is_first:
                self.numbers[key] = tuple(self._number(part, key) for part in parts)
        else:
            self.problems.append(f"{_clip(key)} is not an attribute of task {self.task.name}")

    def _number(self, text: str, key: str) -> float:
        number = _read_number(text)
        if number is None:
            self.problems.append(f"{key} holds {_clip(text.strip())}, which is not a number; 0 is taken")
            return 0.0
        return number

    def _starts(self, character: str) -> bool:
        return self.line.startswith(character, self.position)

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


def scene_of(reading: Reading, task: Task | str, *, rotation_rep: str, rotation_unit: str = "deg", image: str) -> Scene:
    """The predicted scene as a label would have it, to draw or to write again; missing fields stay None.

    Angles come back in the label's terms: CLEVR a yaw in `rotation_unit`, others extrinsic xyz Euler radians. The code
    does not say where an object is in the image, so `pixel` is its place in the code, and the order is kept.
    """
    task = find_task(task)
    check_rotation_unit(rotation_unit)
    representation = task.representation(rotation_rep)
    objects = []
    for place, item in enumerate(reading.objects):
        rotation: tuple[float, ...] | None = None
        if item.rotation is not None and representation is not None:
            if task.rotation_size == 1:
                turned = CUBE_PERIOD_DEG / 2 if item.shape == "cube" else 0.0
                yaw_deg = math.degrees(item.rotation[0]) + turned
                rotation = (yaw_deg if rotation_unit == "deg" else math.radians(yaw_deg),)
            else:
                rotation = matrix_to_euler(representation.to_matrix(item.rotation))
        objects.append(
            Object(
                size=item.size,
                color=item.color,
                material=item.material,
                shape=item.shape,
                location=item.location,
                rotation=rotation,
                pixel=(float(place), 0.0, 0.0),
            )
        )
    return Scene(tuple(objects), image)
