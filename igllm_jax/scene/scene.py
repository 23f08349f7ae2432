"""Scenes as labels have them, and as predictions say them: calls of functions, each a mapping from attribute to value.

Which attributes there are, their units, and their keys in a label, a language says (language.py).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from igllm_jax.errors import UserError
from igllm_jax.scene.kind import Value
from igllm_jax.scene.language import Language, find_language
from igllm_jax.scene.language_parts import Function


class Call(Mapping[str, Value]):
    """One call: attribute -> value, only of what is said. `call.color` is `call.get("color")`: None where it lacks.

    Example: `Object(color="red", location=(0.5, 0.25, 0.0))`, or `Object("wall", height=2.6)` in a language of several
    functions.
    """

    __slots__ = ("_values", "function")
    function: str
    _values: dict[str, Value]

    def __init__(self, function: str = "add", /, **values: Value | None):
        self.function = function
        self._values = {name: value for name, value in values.items() if value is not None}

    @classmethod
    def of(cls, function: str, values: dict[str, Value]) -> Self:
        """A call that keeps `values`, none of which is None."""
        made = cls.__new__(cls)
        made.function, made._values = function, values
        return made

    def replace(self, **values: Value | None) -> Self:
        """A call with some values changed, or taken away where they are None."""
        return type(self)(self.function, **{**self._values, **values})

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def get(self, name, default=None):
        return self._values.get(name, default)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._values.get(name)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.function == other.function and self._values == other._values

    def __hash__(self) -> int:
        return hash((self.function, frozenset(self._values.items())))

    def __repr__(self) -> str:
        said = [] if self.function == "add" else [repr(self.function)]
        return f"{type(self).__name__}({', '.join(said + [f'{k}={v!r}' for k, v in self._values.items()])})"

    def __reduce__(self):
        return _call, (type(self), self.function, self._values)


def _call(kind: type[Call], function: str, values: dict[str, Value]) -> Call:
    return kind.of(function, values)


class Object(Call):
    """A call of a scene: values as labels have them. References count the calls of their function in label order."""

    __slots__ = ()


class Predicted(Call):
    """A predicted call: what its line says readably, words as labels have them, rotations as written, references
    counting the calls of their function in the text."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """The calls of one image, in the label's order, and the image's name as the label has it."""

    objects: tuple[Object, ...]
    image: str

    @classmethod
    def from_label(cls, label: Mapping[str, Any], task: Language | str) -> "Scene":
        """The scene that one entry of a label file describes; keys that the language does not name are ignored.

        Raises: UserError that names the key and what was expected.
        """
        language = find_language(task)
        if not isinstance(label, Mapping):
            raise UserError(f"a scene must be a JSON object, not {shown(label)}")
        image = label.get(language.image_key)
        if not isinstance(image, str):
            raise UserError(f"{language.image_key} must be text, not {shown(image)}")
        entries = label.get(language.calls_key)
        if not isinstance(entries, list | tuple):
            raise UserError(f"{language.calls_key} must be a list, not {shown(entries)} (image {image})")
        try:
            functions = [_function_of(entry, language) for entry in entries]
            objects = tuple(_object(entry, function) for entry, function in zip(entries, functions, strict=True))
            if language.references:
                objects = _with_references(entries, objects, language)
        except UserError as error:
            raise UserError(f"{error} (image {image})") from None
        return cls(objects, image)


def _function_of(entry: Any, language: Language) -> Function:
    if not isinstance(entry, Mapping):
        raise UserError(f"an object must be a JSON object, not {shown(entry)}")
    if len(language.functions) == 1:
        return language.functions[0]
    name = entry.get(language.function_key)
    for function in language.functions:
        if function.label == name:
            return function
    known = ", ".join(function.label for function in language.functions)
    raise UserError(f"{language.function_key} must be one of {known}, not {shown(name)}")


def _object(entry: Mapping[str, Any], function: Function) -> Object:
    found, problems = _read_object(entry, function)
    if problems:
        raise UserError(problems[0])
    return found


def _read_object(entry: Mapping[str, Any], function: Function) -> tuple[Object, list[str]]:
    """The call that a label's entry describes, as far as it can be read, and everything that is wrong with it."""
    values: dict[str, Value] = {}
    problems: list[str] = []
    for name, key, read in function.from_labels:
        value = entry.get(key)
        if value is None:
            continue
        try:
            values[name] = read(value)
        except ValueError as error:
            problems.append(f"{key} {error}, not {shown(value)}")
    found = Object.of(function.name, values)
    for attribute in function.required:
        if entry.get(attribute.label) is None and attribute.may_be_said(found):
            problems.append(f"{attribute.label} is missing, which every {function.name} must have")
    return found, problems


def label_problems(label: Any, task: Language | str) -> list[str]:
    """Everything that is wrong with one entry of a label file, by object and key; [] where `Scene.from_label` takes it.

    Example: `["object 0: 3d_coords must be 3 finite numbers, not 3 (image a.png)", "object 4: ..."]`.
    """
    language = find_language(task)
    try:
        Scene.from_label(label, language)
        return []
    except UserError as error:
        first = str(error)
    entries = label.get(language.calls_key) if isinstance(label, Mapping) else None
    image = label.get(language.image_key) if isinstance(label, Mapping) else None
    if not isinstance(entries, list | tuple) or not isinstance(image, str):
        return [first]
    found = [
        f"object {number}: {problem} (image {image})"
        for number, entry in enumerate(entries)
        for problem in _object_problems(entry, language)
    ]
    return found or [first]  # a reference between objects


def _object_problems(entry: Any, language: Language) -> list[str]:
    try:
        return _read_object(entry, _function_of(entry, language))[1]
    except UserError as error:
        return [str(error)]


def mirrored(scene: Scene, task: Language | str) -> Scene:
    """The scene of the image mirrored left to right, as far as the language says it; see `Language.flips`."""
    language = find_language(task)
    return Scene(tuple(language.flipped(item) for item in scene.objects), scene.image)


def indices_by_function(calls: Iterable[Call]) -> dict[str, list[int]]:
    """function -> which of the calls are its own, ascending: references count within these.

    Example: calls of wall, door, wall give `{"wall": [0, 2], "door": [1]}`.
    """
    found: dict[str, list[int]] = {}
    for index, call in enumerate(calls):
        found.setdefault(call.function, []).append(index)
    return found


def _with_references(entries: Any, objects: tuple[Object, ...], language: Language) -> tuple[Object, ...]:
    """The calls with references as numbers of calls. Raises: UserError for one that points at nothing."""
    of_function = indices_by_function(objects)
    found = []
    for entry, item in zip(entries, objects, strict=True):
        for attribute in language.references.get(item.function, ()):
            value, kind = entry.get(attribute.label), attribute.kind
            if value is None:
                continue
            targets = of_function.get(kind.refers_to, [])
            if kind.refers_by:
                named = [n for n, index in enumerate(targets) if entries[index].get(kind.refers_by) == value]
                if len(named) != 1:
                    many = "no" if not named else "more than one"
                    raise UserError(
                        f"{attribute.label} must be the {kind.refers_by} of one {kind.refers_to}, not {shown(value)}, "
                        f"which {many} {kind.refers_to} of the scene has"
                    )
                item = item.replace(**{attribute.name: named[0]})
            elif item[attribute.name] >= len(targets):
                raise UserError(
                    f"{attribute.label} must count a {kind.refers_to} from 0, not {shown(value)}: "
                    f"the scene has {len(targets)}"
                )
        found.append(item)
    return tuple(found)


def label_entry(item: Object, task: Language | str) -> dict[str, Any]:
    """One entry of a label's list of calls: only what the call has, under the language's keys.

    References are written as numbers, so labels that name calls by a key can't be made with it.
    """
    language = find_language(task)
    entry: dict[str, Any] = {}
    if len(language.functions) > 1:
        entry[language.function_key] = language.by_name[item.function].label
    for attribute in language.by_name[item.function].attributes:
        if attribute.name in item:
            entry[attribute.label] = attribute.kind.to_label(item[attribute.name])
    return entry


def shown(value: Any) -> str:
    """`repr`, shortened where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
