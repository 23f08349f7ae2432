"""A scene language: which functions the code calls, with which attributes, and how they are written, read and scored.

A language is one TOML file; the five that come along lie in `languages/`. docs/languages.md says what a file may hold.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from igllm_jax import files, paths
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath
from igllm_jax.scene.kind import ROTATION_UNITS, Metric, NumberFormat, Settings
from igllm_jax.scene.kinds import Reference, Word
from igllm_jax.scene.language_file import (
    all_metrics,
    check_names,
    check_points,
    parse_function,
    parse_order,
    rotation_choices,
)
from igllm_jax.scene.language_parts import Attribute, Function, Recognised
from igllm_jax.scene.toml_table import read_table

FOLDER = Path(__file__).parent / "languages"
SHIPPED = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
ANSWER_START, ANSWER_END = "The scene can be produced with:\n```python\n", "```"
LABEL_FILES = ("scenes", "points")
LANGUAGE_FILE = "language.toml"  # in the folder of a run, and of exported and imported weights


@dataclass(frozen=True, eq=False)
class Language:
    """See the module. `text` is the file, `origin` its name in messages.

    question: what is asked about an image. answer_start, answer_end: what stands around the code of an answer.
    calls_key, function_key, image_key: the label's keys of the list of calls, of a call's function, of the image.
    label_file: "scenes" (JSON), or "points" (FILE.npz:SPLIT, one call for each point).
    shifts, crops: whether what the code says stays true where the image's content is moved a little, or a part of it
    enlarged.
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
    shifts: bool = False
    crops: bool = False

    def __reduce__(self):
        return parse_language, (self.text, self.origin)

    @cached_property
    def by_name(self) -> dict[str, Function]:
        return {function.name: function for function in self.functions}

    @property
    def is_shipped(self) -> bool:
        """Whether this is a language that comes along, so that its name says everything."""
        return self.name in SHIPPED and self.says_as(find_language(self.name))

    def says_as(self, other: "Language") -> bool:
        """Whether both write, read and score the same; what images may be varied in is none of it."""
        return self.text == other.text or _spoken(self.text) == _spoken(other.text)

    @cached_property
    def flips(self) -> bool:
        """Whether the language says what every number becomes in a mirrored image."""
        ordering = self.order[0] if self.order else None
        said = [a for _, a in self.attributes() if a.arguments or a.name == ordering]
        return all(a.flip for a in said if not isinstance(a.kind, Word | Reference))

    def flipped(self, item: Any) -> Any:
        """A call as it is in the mirrored image."""
        known = self.by_name[item.function].by_name
        return item.replace(**{name: known[name].flipped(value) for name, value in item.items() if known[name].flip})

    def save(self, folder: str | FilePath) -> FilePath:
        """Writes the file into a folder, whole or not at all, for those who read the folder later; returns its path."""
        path = paths.to_path(folder) / LANGUAGE_FILE
        files.write_text(path, self.text)
        return path

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
        """Whether a number is scaled for the float head, has a range, or has other digits than three."""
        formats = self.number_formats.values()
        return any(n.is_scaled or n.is_bounded or n.digits != NumberFormat().digits for n in formats)

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


def _spoken(text: str) -> dict[str, Any]:
    values = tomllib.loads(text)
    for key in ("shifts", "crops"):
        values.pop(key, None)
    for function in values["functions"]:
        for attribute in function["attributes"]:
            attribute.pop("flip", None)
    return values


def check_rotation_unit(unit: str) -> str:
    """`unit` itself if it is one of ROTATION_UNITS; raises UserError otherwise."""
    if unit not in ROTATION_UNITS:
        raise UserError(f"rotation_unit={unit!r} is unknown; choose one of {', '.join(ROTATION_UNITS)}")
    return unit


def find_language(task: "Language | str | FilePath") -> Language:
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


def language_in(folder: str | FilePath) -> Language | None:
    """The language that `Language.save` put into a folder, None where there is none."""
    path = paths.to_path(folder) / LANGUAGE_FILE
    return find_language(path) if path.is_file() else None


def _load(path: str, origin: str) -> Language:
    try:
        text = paths.fetch(path).read_text(encoding="utf-8")  # once: a run asks often
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
    name, shifts, crops = table.name("name"), table.boolean("shifts", False), table.boolean("crops", False)
    question = table.text("question", "What code could be used to produce the scene?")
    start, end = table.text("answer_start", ANSWER_START), table.text("answer_end", ANSWER_END)
    label_file, order = label.choice("file", LABEL_FILES, "scenes"), label.text("order", "as labelled")
    image_key, calls_key = label.text("image", "image_filename"), label.text("calls", "objects")
    function_key = label.text("function", "function")
    recognised_by = Recognised.parse(label.table("recognised_by", {}))
    functions = tuple(parse_function(entry, is_alone=len(entries) == 1) for entry in entries)
    if not functions:
        raise table.error("functions", "must hold one function or more")
    for known in (label, table):
        known.finish()
    check_names(entries, functions)
    check_points(label, label_file, functions)
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
        order=parse_order(label, order, functions),
        recognised_by=recognised_by,
        rotation_reps=rotation_choices(table, functions),
        metrics=all_metrics(table, functions),
        text=text,
        origin=origin,
        shifts=shifts,
        crops=crops,
    )
