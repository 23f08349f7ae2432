"""A scene language: which functions the code calls, with which attributes, and how they are written, read and scored.

A language is one TOML file; the five that come along lie in `languages/`. docs/languages.md says what a file may hold.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from igllm_jax.errors import UserError
from igllm_jax.scene.kinds import (
    ATTRIBUTE_KINDS,
    MEASURES,
    ROTATION_UNITS,
    Kind,
    Metric,
    NumberFormat,
    Settings,
    Spelling,
    Word,
)
from igllm_jax.scene.toml_table import Table, read_table

FOLDER = Path(__file__).parent / "languages"
SHIPPED = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
# what an attribute is to renderers and exporters
_ROLES_3D = ("location", "rotation", "size", "color", "material", "shape", "pixel", "start", "end", "height")
ROLES = (*_ROLES_3D, "fill", "stroke", "line_width", "radius", "width")
ANSWER_START, ANSWER_END = "The scene can be produced with:\n```python\n", "```"
LABEL_FILES = ("scenes", "points")
LANGUAGE_FILE = "language.toml"  # in the folder of a run, and of exported and imported weights


@dataclass(frozen=True, eq=False)
class Attribute:
    """One attribute of a function.

    name: in scenes. kind: what it is, see kinds.py. arguments: the keywords in the code, () where it is only in labels.
    label: the label's JSON key. is_required: whether every call says it. decided_by: the word that decides whether a
    call has it at all, "" for none: one of `only_for`, or none of `absent_for` (synonyms included).
    role: what it is to a renderer. metrics: how it is scored. is_matched: whether its distance matches calls.
    """

    name: str
    kind: Kind
    arguments: tuple[str, ...]
    label: str
    is_required: bool = False
    decided_by: str = ""
    only_for: frozenset[str] = frozenset()
    absent_for: frozenset[str] = frozenset()
    role: str = ""
    metrics: tuple[Metric, ...] = ()
    is_matched: bool = False

    def is_present(self, item: Mapping[str, Any]) -> bool:
        """Whether the code of a call says this attribute: the call has it, and its words don't forbid it."""
        return self.name in item and self.may_be_said(item)

    def may_be_said(self, item: Mapping[str, Any]) -> bool:
        """Whether a call's words allow the attribute."""
        if not self.decided_by:
            return True
        word = item.get(self.decided_by)
        return word in self.only_for if self.only_for else word not in self.absent_for

    def spellings(self, settings: Settings) -> tuple[Spelling, ...]:
        """What the code looks like, one for each of `arguments`."""
        spelling = self.kind.spelling(settings)
        if len(self.arguments) <= 1:
            return (spelling,) * len(self.arguments)
        number = spelling.number
        parts = zip(number.scale, number.offset, strict=True)
        numbers = (replace(number, scale=(scale,), offset=(offset,)) for scale, offset in parts)
        return tuple(replace(spelling, count=1, in_brackets=False, number=one) for one in numbers)


@dataclass(frozen=True, eq=False)
class Function:
    """One function: its name in the code and in labels, its attributes in written order, and scores of its calls."""

    name: str
    label: str
    attributes: tuple[Attribute, ...]
    metrics: tuple[Metric, ...] = ()
    meshes: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_name(self) -> dict[str, Attribute]:
        return {attribute.name: attribute for attribute in self.attributes}

    @cached_property
    def by_argument(self) -> dict[str, tuple[Attribute, int]]:
        """keyword of the code -> its attribute, and which of its arguments."""
        return {key: (a, index) for a in self.attributes for index, key in enumerate(a.arguments)}

    @cached_property
    def by_role(self) -> dict[str, Attribute]:
        return {attribute.role: attribute for attribute in self.attributes if attribute.role}


@dataclass(frozen=True)
class Recognised:
    """What tells a language's label files from others that it could read too: keys that some call has and keys that
    none has, and the most calls of an image (0 for any number)."""

    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    most_calls: int = 0

    @classmethod
    def parse(cls, table: Table) -> "Recognised":
        found = cls(table.texts("has", ()), table.texts("lacks", ()), table.integer("most_calls", 0, least=1))
        table.finish()
        return found

    @property
    def strictness(self) -> int:
        return len(self.has) + len(self.lacks) + bool(self.most_calls)


@dataclass(frozen=True, eq=False)
class Language:
    """See the module. `text` is the file, `origin` its name in messages.

    question: what is asked about an image. answer_start, answer_end: what stands around the code of an answer.
    calls_key, function_key, image_key: the label's keys of the list of calls, of a call's function, of the image.
    label_file: "scenes" (JSON), or "points" (FILE.npz:SPLIT, one call for each point).
    order: (attribute, index of its number) by which calls are sorted; None for the label's order.
    """

    name: str
    functions: tuple[Function, ...]
    question: str
    answer_start: str
    answer_end: str
    image_key: str
    calls_key: str
    function_key: str
    label_file: str
    order: tuple[str, int] | None
    recognised_by: "Recognised"
    rotation_reps: tuple[str, ...]
    metrics: dict[str, Metric]
    text: str
    origin: str

    def __reduce__(self):
        return parse_language, (self.text, self.origin)

    @cached_property
    def by_name(self) -> dict[str, Function]:
        return {function.name: function for function in self.functions}

    @property
    def is_shipped(self) -> bool:
        """Whether this is a language that comes along, so that its name says everything."""
        return self.name in SHIPPED and self.text == find_language(self.name).text

    def save(self, folder: Path | str) -> Path:
        """Writes the file into a folder, whole or not at all, for those who read the folder later; returns its path."""
        path = Path(folder) / LANGUAGE_FILE
        partial = path.with_name(f".{LANGUAGE_FILE}.{os.getpid()}.partial")
        partial.write_text(self.text, encoding="utf-8")
        return partial.replace(path)

    def attributes(self) -> Iterator[tuple[Function, Attribute]]:
        for function in self.functions:
            for attribute in function.attributes:
                yield function, attribute

    def value(self, item: Any, role: str) -> Any:
        """What a call says in a role, such as its "location"; None where its function has none, or it does not say."""
        attribute = self.by_name[item.function].by_role.get(role)
        return None if attribute is None else item.get(attribute.name)

    def settings(self, rotation_rep: str = "", rotation_unit: str = "deg") -> Settings:
        """Raises: UserError for a representation or unit that the language does not have."""
        if rotation_rep not in self.rotation_reps:
            legal = ", ".join(repr(name) for name in self.rotation_reps)
            raise UserError(f"rotation_rep={rotation_rep!r} does not exist for task {self.name}; choose one of {legal}")
        return _settings(rotation_rep, check_rotation_unit(rotation_unit))

    @cached_property
    def number_formats(self) -> dict[tuple[str, str], NumberFormat]:
        """(function, argument) -> how its numbers are written."""
        settings = self.settings(self.rotation_reps[0])
        return {
            (function.name, key): spelling.number
            for function, attribute in self.attributes()
            for key, spelling in zip(attribute.arguments, attribute.spellings(settings), strict=True)
            if spelling.kind == "number"
        }

    @cached_property
    def has_own_formats(self) -> bool:
        """Whether a number is scaled for the float head, or has other digits than three."""
        return any(n.is_scaled or n.digits != NumberFormat().digits for n in self.number_formats.values())

    @cached_property
    def references(self) -> dict[str, tuple[Attribute, ...]]:
        """function -> its attributes that refer to other calls; only functions that have some."""
        found = {f.name: tuple(a for a in f.attributes if a.kind.refers_to) for f in self.functions}
        return {name: attributes for name, attributes in found.items() if attributes}

    @cached_property
    def has_rotation_unit(self) -> bool:
        """Whether labels come in either unit, so that a run has to say which."""
        return any(getattr(attribute.kind, "unit", "") == "either" for _, attribute in self.attributes())


@lru_cache(maxsize=64)
def _settings(rotation_rep: str, rotation_unit: str) -> Settings:
    return Settings(rotation_rep, rotation_unit)


def check_rotation_unit(unit: str) -> str:
    """`unit` itself if it is one of ROTATION_UNITS; raises UserError otherwise."""
    if unit not in ROTATION_UNITS:
        raise UserError(f"rotation_unit={unit!r} is unknown; choose one of {', '.join(ROTATION_UNITS)}")
    return unit


def find_language(task: "Language | str | Path") -> Language:
    """A language by the name of one that comes along, or by the path of its file; a Language passes through.

    Raises: UserError with the names that exist, or with file, line and key of what is wrong.
    """
    if isinstance(task, Language):
        return task
    if task in SHIPPED:
        return _shipped(str(task))
    if not str(task).endswith(".toml"):
        raise UserError(
            f"there is no task {task!r}; choose one of {', '.join(SHIPPED)}, or give a language's .toml file"
        )
    return _load(str(task), str(task))


@lru_cache
def _shipped(name: str) -> Language:
    return _load(str(FOLDER / f"{name}.toml"), f"{name}.toml")


def language_in(folder: Path | str) -> Language | None:
    """The language that `Language.save` put into a folder, None where there is none."""
    path = Path(folder) / LANGUAGE_FILE
    return find_language(path) if path.is_file() else None


def _load(path: str, origin: str) -> Language:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"language {path}: cannot be read ({error.strerror or error}); check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"language {path}: not text in UTF-8") from None
    return parse_language(text, origin)


@lru_cache(maxsize=64)
def parse_language(text: str, origin: str) -> Language:
    """The language that a file's text describes. Raises: UserError, one line: file, line, key, what was expected."""
    table = read_table(text, origin)
    label = table.table("label", {})
    entries = table.tables("functions")
    name = table.name("name")
    question = table.text("question", "What code could be used to produce the scene?")
    start, end = table.text("answer_start", ANSWER_START), table.text("answer_end", ANSWER_END)
    label_file, order = label.choice("file", LABEL_FILES, "scenes"), label.text("order", "as labelled")
    image_key, calls_key = label.text("image", "image_filename"), label.text("calls", "objects")
    function_key = label.text("function", "function")
    recognised_by = Recognised.parse(label.table("recognised_by", {}))
    functions = tuple(_function(entry, is_alone=len(entries) == 1) for entry in entries)
    if not functions:
        raise table.error("functions", "must hold one function or more")
    for known in (label, table):
        known.finish()
    _check_names(entries, functions)
    _check_points(label, label_file, functions)
    return Language(
        name=name,
        functions=functions,
        question=question,
        answer_start=start,
        answer_end=end,
        image_key=image_key,
        calls_key=calls_key,
        function_key=function_key,
        label_file=label_file,
        order=_order(label, order, functions),
        recognised_by=recognised_by,
        rotation_reps=_rotation_reps(table, functions),
        metrics=_metrics(table, functions),
        text=text,
        origin=origin,
    )


def _function(table: Table, *, is_alone: bool) -> Function:
    name = table.name("name")
    prefix = "" if is_alone else f"{name}."
    entries = table.tables("attributes")
    attributes = [_attribute(entry, prefix) for entry in entries]
    words = {a.name: a.kind for a in attributes if isinstance(a.kind, Word)}
    settled = []
    for entry, attribute in zip(entries, attributes, strict=True):
        if attribute.decided_by and attribute.decided_by not in words:
            key = "only_for" if attribute.only_for else "absent_for"
            raise entry.error(key, f"must name a word of the same function, not {attribute.decided_by!r}")
        same = words[attribute.decided_by].same if attribute.decided_by else {}
        try:
            kind = attribute.kind.within(words)
        except ValueError as error:
            raise entry.error(None, str(error)) from None
        only_for, absent_for = (_with_synonyms(words, same) for words in (attribute.only_for, attribute.absent_for))
        settled.append(replace(attribute, kind=kind, only_for=only_for, absent_for=absent_for))
    own = tuple(_metric(entry, ("average_precision",), f"{prefix}ap", name) for entry in table.tables("metrics", []))
    meshes = table.table("meshes", {})
    function = Function(
        name=name,
        label=table.text("label", name),
        attributes=tuple(settled),
        metrics=own,
        meshes={word: meshes.text(word) for word in meshes},
    )
    table.finish()
    return function


def _with_synonyms(words: frozenset[str], same: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    return frozenset(other for word in words for other in same.get(word, (word,)))


def _attribute(table: Table, prefix: str) -> Attribute:
    name = table.name("name")
    kind_name = table.choice("kind", ATTRIBUTE_KINDS)
    kind = ATTRIBUTE_KINDS[kind_name].parse(table)
    arguments = table.texts("arguments", (name,))
    if len(arguments) not in {0, 1, kind.num_parts}:
        raise table.error("arguments", f"must be 1 name or {kind.num_parts}, or none for what only labels have")
    for argument in arguments:
        if not argument.isidentifier():
            raise table.error("arguments", f"must hold names of letters, digits and _, not {argument!r}")
    decided_by, cases = "", {"only_for": frozenset[str](), "absent_for": frozenset[str]()}
    if "only_for" in table and "absent_for" in table:
        raise table.error("only_for", "and absent_for can't both be there")
    for key in cases:
        case = table.table(key, {})
        if len(case) > 1:
            raise case.error(None, "must hold one word's name, whose value decides")
        for decided_by in case:
            cases[key] = frozenset(case.texts(decided_by))
    entries = table.tables("metrics") if "metrics" in table else []
    metrics = [_metric(entry, kind.measures, f"{prefix}{name}", name) for entry in entries]
    if "metrics" not in table and arguments and kind.measures:
        metrics = [_default_metric(kind.measures[0], f"{prefix}{name}", name)]
    attribute = Attribute(
        name=name,
        kind=kind,
        arguments=arguments,
        label=table.text("label", name),
        is_required=table.boolean("required", False),
        decided_by=decided_by,
        role=table.choice("role", ROLES, ""),
        metrics=tuple(metrics),
        is_matched=table.boolean("matched", False),
        **cases,
    )
    if attribute.is_matched and not kind.is_number:
        raise table.error("matched", f"is for numbers, which a {kind_name} is not")
    table.finish()
    return attribute


def _default_metric(measure: str, name: str, about: str) -> Metric:
    text, digits, is_better_low = MEASURES[measure]
    return Metric(name, measure, text.format(about, tolerance=0), digits, is_better_low)


def _metric(table: Table, measures: tuple[str, ...], name: str, about: str) -> Metric:
    if not measures:
        raise table.error(None, "is for attributes that can be scored, which this kind can't")
    measure = table.choice("measure", measures, measures[0])
    text, digits, is_better_low = MEASURES[measure]
    needs = measure in ("within", "average_precision")
    tolerance = table.number("tolerance") if needs else 0.0
    found = Metric(
        name=table.text("name", name),
        measure=measure,
        text=table.text("text", text.format(about, tolerance=tolerance)),
        digits=table.integer("digits", digits, least=0),
        is_better_low=is_better_low,
        by_seen=table.boolean("by_seen", False),
        tolerance=tolerance,
        leave_out=table.texts("leave_out", ()) if measure == "accuracy" else (),
        of_class=table.boolean("of_class", False) if measure == "accuracy" else False,
    )
    table.finish()
    return found


def _check_names(entries: list[Table], functions: tuple[Function, ...]) -> None:
    """Raises: UserError where a name stands twice, or a reference names no function."""
    seen: set[str] = set()
    for entry, function in zip(entries, functions, strict=True):
        if function.name in seen:
            raise entry.error("name", f"{function.name!r} stands twice")
        seen.add(function.name)
        names = [attribute.name for attribute in function.attributes]
        arguments = [argument for attribute in function.attributes for argument in attribute.arguments]
        for what, found in (("name", names), ("argument", arguments)):
            if twice := {one for one in found if found.count(one) > 1}:
                raise entry.error("attributes", f"have the {what} {twice.pop()!r} twice")
        for number, attribute in enumerate(function.attributes):
            to = attribute.kind.refers_to
            if to and to not in {other.name for other in functions}:
                place = entry.tables("attributes")[number]
                known = ", ".join(other.name for other in functions)
                raise place.error("to", f"must be a function of this language ({known}), not {to!r}")


def _check_points(label: Table, label_file: str, functions: tuple[Function, ...]) -> None:
    if label_file == "points" and (len(functions) > 1 or points_attribute(functions[0]) is None):
        raise label.error("file", "= points needs one function, with one vector of 2 in the code")


def points_attribute(function: Function) -> Attribute | None:
    """The attribute that a point of a `points` file is: the one vector of two that the code says."""
    found = [a for a in function.attributes if a.arguments and a.kind.num_parts == 2]
    return found[0] if len(found) == 1 else None


def _order(label: Table, order: str, functions: tuple[Function, ...]) -> tuple[str, int] | None:
    if order == "as labelled":
        return None
    match = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", order)
    expected = 'must be "as labelled", or an attribute\'s number such as pixel[0]'
    if match is None:
        raise label.error("order", f"{expected}, not {order!r}")
    name, index = match[1], int(match[2] or 0)
    for function in functions:
        attribute = function.by_name.get(name)
        if attribute is None or not attribute.kind.is_number or index >= attribute.kind.num_parts:
            raise label.error("order", f"{expected} of every function; {function.name} has no number {order}")
    return name, index


def _rotation_reps(table: Table, functions: tuple[Function, ...]) -> tuple[str, ...]:
    """What `rotation_rep` may be: "" where nothing is to be chosen, or the one name that there is."""
    choices = [getattr(a.kind, "representations", ()) for f in functions for a in f.attributes]
    several = {found for found in choices if len(found) > 1}
    if len(several) > 1:
        raise table.error("functions", "have rotations that offer different representations; they must agree")
    if several:
        return several.pop()
    return ("", *dict.fromkeys(found[0] for found in choices if found))


def _metrics(table: Table, functions: tuple[Function, ...]) -> dict[str, Metric]:
    """Every metric of the language by name, in the order of tables."""
    found = [m for f in functions for m in (*(m for a in f.attributes for m in a.metrics), *f.metrics)]
    found = [
        *found,
        *(
            replace(m, name=f"{m.name}_{where}", text=f"{m.text}, {place}")
            for m in found
            if m.by_seen
            for where, place in (("seen", "where training was"), ("unseen", "where it was not"))
        ),
    ]
    for name, measure in (("ace", "count"), ("parsed", "parsed")):
        text, digits, is_better_low = MEASURES[measure]
        found.append(Metric(name, measure, text, digits, is_better_low))
    names = [metric.name for metric in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise table.error("functions", f"have the metric {twice.pop()!r} twice; give `metrics` names of their own")
    ranks = list(MEASURES)
    is_seen_part = {m.name: m.name.endswith(("_seen", "_unseen")) for m in found}
    found.sort(key=lambda m: (m.measure == "parsed", is_seen_part[m.name], ranks.index(m.measure)))
    return {metric.name: metric for metric in found}
