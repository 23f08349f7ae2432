"""Scene code: writing a scene as calls of a language's functions, and putting numbers into a text.

One line per call, in CLEVR from left to right in the image:

    add(size='large', color='red', material='metal', shape='cube', loc=(+0.500, -1.250, +0.700), rotation=-0.611)

and for 2D `add(x=0.250, y=0.750)`. reading.py reads it again.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.scene.kind import NumberFormat, Said, Settings, Spelling, Value
from igllm_jax.scene.language import Language, find_language
from igllm_jax.scene.language_parts import Attribute
from igllm_jax.scene.reading import FLOAT_TOKEN, LARGEST_NUMBER, Problem, Reading, read, scene_of
from igllm_jax.scene.scene import Object, Predicted, Scene, indices_by_function

__all__ = [
    "FLOAT_TOKEN", "Filled", "Predicted", "Problem", "Reading", "Written", "fill", "filled", "in_order", "read",
    "scene_of", "write", "write_call",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Written:
    """Code lines, each ending in a line break, and the numbers that its float tokens stand for, in reading order.

    The numbers are the float head's: (value - offset) / scale, where the language scales them.
    """

    text: str
    numbers: tuple[float, ...]


_Field = tuple[str, tuple[float, ...]]  # the text of an argument, and the numbers of its float tokens


def write(
    scene: Scene,
    task: Language | str,
    *,
    rotation_rep: str,
    numbers_as_tokens: bool,
    rng: np.random.Generator | None,
    shuffle_attributes: bool,
    use_synonyms: bool,
    rotation_unit: str = "deg",
) -> Written:
    """The code of a scene, its calls in the language's order.

    numbers_as_tokens: every number but integers is FLOAT_TOKEN and comes back beside the text; otherwise it is text.
    rng: draws the order of the attributes and the synonyms; None draws nothing.
    rotation_unit: unit of labels that come in either, "deg" or "rad".

    Example: an object at (0.5, 0.25) gives `Written("add(x=数, y=数)\\n", (0.5, 0.25))`.

    Raises: UserError where the calls cannot be ordered, a word holds FLOAT_TOKEN, or the task does not have that
        rotation_rep.
    """
    language = find_language(task)
    plan = _plan(language, language.settings(rotation_rep, rotation_unit), numbers_as_tokens)
    indices = ordered_indices(scene, language)
    references = _renumbered(scene, indices, language) if language.references else None
    lines: list[str] = []
    numbers: list[float] = []
    for index in indices:
        item = scene.objects[index] if references is None else scene.objects[index].replace(**references[index])
        lines.append(_line(item, plan, rng, shuffle_attributes, use_synonyms, numbers))
    text = "".join(lines)
    if numbers_as_tokens and text.count(FLOAT_TOKEN) != len(numbers):
        raise UserError(
            f"image {scene.image}: a word of the label holds {FLOAT_TOKEN}, which stands for numbers; rename it"
        )
    return Written(text, tuple(numbers))


def write_call(
    item: Object,
    task: Language | str,
    *,
    rotation_rep: str,
    numbers_as_tokens: bool,
    rng: np.random.Generator | None,
    shuffle_attributes: bool,
    use_synonyms: bool,
    rotation_unit: str = "deg",
) -> Written:
    """The line of one call alone, with references as the call has them; the rest as in `write`."""
    language, numbers = find_language(task), list[float]()
    plan = _plan(language, language.settings(rotation_rep, rotation_unit), numbers_as_tokens)
    text = _line(item, plan, rng, shuffle_attributes, use_synonyms, numbers)
    return Written(text, tuple(numbers))


def _line(
    item: Object,
    plan: dict[str, list["_AttributeWriter"]],
    rng: np.random.Generator | None,
    shuffle_attributes: bool,
    use_synonyms: bool,
    numbers: list[float],
) -> str:
    """The line of a call; the numbers of its float tokens are appended to `numbers`."""
    fields: list[_Field] = []
    synonyms_rng = rng if use_synonyms else None
    for writer in plan[item.function]:
        value = item.get(writer.name)
        if value is not None and (writer.may_be_said is None or writer.may_be_said(item)):
            writer.add_fields(value, item, fields, synonyms_rng)
    if rng is not None and shuffle_attributes:
        fields = [fields[index] for index in rng.permutation(len(fields)).tolist()]
    for _, found in fields:
        numbers += found
    return f"{item.function}({', '.join([text for text, _ in fields])})\n"


@lru_cache(maxsize=64)
def _plan(language: Language, settings: Settings, numbers_as_tokens: bool) -> dict[str, list["_AttributeWriter"]]:
    """function -> how each of its attributes is written, in order."""
    return {
        function.name: [_AttributeWriter(a, settings, numbers_as_tokens) for a in function.attributes if a.arguments]
        for function in language.functions
    }


class _AttributeWriter:
    """Writes one attribute: everything that does not depend on the value is prepared.

    may_be_said: what a call's words decide, None where they decide nothing.
    """

    def __init__(self, attribute: Attribute, settings: Settings, numbers_as_tokens: bool):
        self.name = attribute.name
        self.may_be_said = attribute.may_be_said if attribute.decided_by else None
        self._write, self._settings = attribute.kind.write, settings
        self._synonyms = attribute.kind.synonyms()
        spellings = attribute.spellings(settings)
        self._fields = [
            _field_writer(f"{key}={_template(spelling, numbers_as_tokens)}", spelling, numbers_as_tokens)
            for key, spelling in zip(attribute.arguments, spellings, strict=True)
        ]
        self._first, self._is_apart = self._fields[0], len(self._fields) > 1

    def add_fields(
        self, value: Value, item: Object, fields: list[_Field], synonyms_rng: np.random.Generator | None
    ) -> None:
        """Appends what the call says of the attribute, in one argument or in several."""
        said = self._write(value, item, self._settings)
        if self._is_apart:
            fields += [field((number,)) for field, number in zip(self._fields, said, strict=True)]
            return
        if synonyms_rng is not None and self._synonyms and (group := self._synonyms.get(said)):
            said = group[synonyms_rng.integers(len(group))]
        fields.append(self._first(said))


def _field_writer(template: str, spelling: Spelling, numbers_as_tokens: bool) -> Callable[[Said], _Field]:
    """What makes an argument of what it says."""
    if spelling.kind != "number":
        start, _, end = template.partition("{}")
        return lambda said: (f"{start}{said}{end}", ())
    if not numbers_as_tokens:
        return lambda said: (template.format(*said), ())
    number = spelling.number
    if not number.is_scaled:
        return lambda said: (template, said)
    scales = tuple(zip(number.scale, number.offset, strict=True))

    def scaled(said: Said) -> _Field:
        return template, tuple((x - offset) / scale for x, (scale, offset) in zip(said, scales, strict=True))

    return scaled


def _template(spelling: Spelling, numbers_as_tokens: bool) -> str:
    if spelling.kind == "word":
        return "'{}'"
    if spelling.kind == "integer":
        return "{}"
    parts = [FLOAT_TOKEN if numbers_as_tokens else spelling.number.template] * spelling.count
    return f"({', '.join(parts)})" if spelling.in_brackets else parts[0]


def in_order(scene: Scene, task: Language | str = "clevr") -> list[Object]:
    """The scene's calls in the order of the code. Raises: UserError where they cannot be ordered."""
    return [scene.objects[index] for index in ordered_indices(scene, find_language(task))]


def ordered_indices(scene: Scene, language: Language) -> list[int]:
    """Which of the label's calls is written first, second ...: by the language's number, what is referred to before
    what refers to it.

    Raises: UserError where there are several calls and one lacks that number, or where references go in a circle.
    """
    indices = list(range(len(scene.objects)))
    if language.order is not None and len(indices) > 1:
        name, index = language.order
        keys = []
        for item in scene.objects:
            value = item.get(name)
            if value is None:
                label = language.by_name[item.function].by_name[name].label
                raise UserError(f"image {scene.image}: an object has no {label}, which order the objects of the code")
            keys.append(value[index] if isinstance(value, tuple) else value)
        indices.sort(key=keys.__getitem__)
    return _targets_first(scene, indices, language) if language.references else indices


def _targets_first(scene: Scene, indices: list[int], language: Language) -> list[int]:
    of_function = indices_by_function(scene.objects)
    done: dict[int, None] = {}
    open_calls: list[int] = []

    def visit(index: int) -> None:
        if index in done:
            return
        if index in open_calls:
            names = " -> ".join(scene.objects[p].function for p in [*open_calls[open_calls.index(index) :], index])
            raise UserError(f"image {scene.image}: references go in a circle ({names}); no call of it can come first")
        open_calls.append(index)
        item = scene.objects[index]
        for attribute in language.references.get(item.function, ()):
            if attribute.is_present(item):
                targets = of_function.get(attribute.kind.refers_to, [])
                if not 0 <= item[attribute.name] < len(targets):
                    raise UserError(
                        f"image {scene.image}: {attribute.name} of a {item.function} points at no "
                        f"{attribute.kind.refers_to}; the scene has {len(targets)}"
                    )
                visit(targets[item[attribute.name]])
        open_calls.pop()
        done[index] = None

    for index in indices:
        visit(index)
    return list(done)


def _renumbered(scene: Scene, indices: list[int], language: Language) -> list[dict[str, Value]]:
    """For each call of the label its references, as numbers of the code."""
    of_function = indices_by_function(scene.objects)
    number: dict[int, int] = {}
    counts: dict[str, int] = {}
    for index in indices:
        function = scene.objects[index].function
        number[index] = counts.get(function, 0)
        counts[function] = number[index] + 1
    found: list[dict[str, Value]] = []
    for item in scene.objects:
        attributes = [a for a in language.references.get(item.function, ()) if a.name in item]
        found.append({a.name: number[of_function[a.kind.refers_to][item[a.name]]] for a in attributes})
    return found


_FILLED = NumberFormat()  # how a number read by the float head is put into the text where nothing else is known
_TOKEN_CONTEXT = re.compile(rf"^(\w+)\(|(\w+)=|({FLOAT_TOKEN})|\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Filled:
    """A text whose float tokens have become numbers: `text` with the language's digits, `in_full` with as many as tell
    float32 numbers apart; and those `numbers`, as the language means them, unrounded."""

    text: str
    in_full: str
    numbers: tuple[float, ...]


def fill(text: str, numbers: Sequence[float], task: Language | str | None = None, *, in_range: bool = False) -> str:
    """`filled(...).text`.

    Example: `fill("add(x=数, y=数)", (0.5, 0.25))` is `"add(x=0.500, y=0.250)"`.
    """
    return filled(text, numbers, task, in_range=in_range).text


def filled(
    text: str, numbers: Sequence[float], task: Language | str | None = None, *, in_range: bool = False
) -> Filled:
    """`text` with its float tokens replaced by the float head's numbers, in order, without a plus sign.

    task: the language, whose scales and digits the numbers get; None for three digits as they are. in_range: whether
    numbers outside the language's ranges, or too large to be read, are moved to the bounds.

    Raises: ValueError where there are not as many numbers as float tokens.
    """
    formats = _own_formats(text, task)
    values = _scaled(text, numbers, formats, in_range=in_range)
    digits = [_FILLED.digits] * len(values) if formats is None else [found.digits for found, _ in formats]
    first, *pieces = text.split(FLOAT_TOKEN)
    rounded, in_full = [first], [first]
    for number, decimals, piece in zip(values, digits, pieces, strict=True):
        rounded += [f"{number:.{decimals}f}", piece]
        in_full += [np.format_float_positional(np.float32(number), trim="0"), piece]
    return Filled("".join(rounded), "".join(in_full), tuple(values))


def _scaled(
    text: str, numbers: Sequence[float], formats: Sequence[tuple[NumberFormat, int]] | None, *, in_range: bool
) -> list[float]:
    numbers = list(numbers)
    if text.count(FLOAT_TOKEN) != len(numbers):
        raise ValueError(f"the text has {text.count(FLOAT_TOKEN)} float tokens, but there are {len(numbers)} numbers")
    if formats is not None:
        numbers = [x * found.scale[n] + found.offset[n] for x, (found, n) in zip(numbers, formats, strict=True)]
        if in_range:
            ranges = [(found.minimum, found.maximum) for found, _ in formats]
            numbers = [min(max(x, least), most) for x, (least, most) in zip(numbers, ranges, strict=True)]
    if in_range:
        numbers = [min(max(x, -LARGEST_NUMBER), LARGEST_NUMBER) for x in numbers]
    return numbers


def _own_formats(text: str, task: Language | str | None) -> list[tuple[NumberFormat, int]] | None:
    """Of each float token, where the language has formats of its own; None where all numbers are as they are."""
    language = None if task is None else find_language(task)
    return None if language is None or not language.has_own_formats else _token_formats(text, language)


def _token_formats(text: str, language: Language) -> list[tuple[NumberFormat, int]]:
    """Each float token's format and which part of its scale, by the function and the argument that it stands in."""
    formats = language.number_formats
    function, key, index = "", "", 0
    found: list[tuple[NumberFormat, int]] = []
    for match in _TOKEN_CONTEXT.finditer(text):
        if match[1]:
            function, key = match[1], ""
        elif match[2]:
            key, index = match[2], 0
        elif match[3]:
            number = formats.get((function, key), _FILLED)
            found.append((number, min(index, len(number.scale) - 1)))
            index += 1
        else:
            function = key = ""
    return found
