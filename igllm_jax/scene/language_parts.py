"""The parts of a scene language: functions, and their attributes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from igllm_jax.scene.kind import Kind, Metric, Settings, Spelling
from igllm_jax.scene.toml_table import TomlTable

# what an attribute is to renderers and exporters
_ROLES_3D = ("location", "rotation", "size", "color", "material", "shape", "pixel", "start", "end", "height")
ROLES = (*_ROLES_3D, "fill", "stroke", "line_width", "radius", "width")


@dataclass(frozen=True, eq=False)
class Attribute:
    """One attribute of a function.

    name: in scenes. kind: what it is, see kinds.py. arguments: the keywords in the code, () where it is only in labels.
    label: the label's JSON key. is_required: whether every call says it. decided_by: the word that decides whether a
    call has it at all, "" for none: one of `only_for`, or none of `absent_for` (synonyms included).
    flip: (scale, offset) of each number in an image that is mirrored left to right; () where the language does not say.
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
    flip: tuple[tuple[float, float], ...] = ()

    def flipped(self, value: Any) -> Any:
        """The value in the mirrored image. Example: 0.25 by (-1, 1) is 0.75."""
        if all(pair == (1, 0) for pair in self.flip):
            return value
        numbers = value if isinstance(value, tuple) else (value,)
        found = tuple(scale * x + offset for (scale, offset), x in zip(self.flip, numbers, strict=True))
        return found if isinstance(value, tuple) else found[0]

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
    def from_labels(self) -> tuple[tuple[str, str, Callable[[Any], Any]], ...]:
        """Name, label's key and reader of each attribute whose value stands in the label itself."""
        own = (a for a in self.attributes if not (a.kind.refers_by and a.kind.refers_to))
        return tuple((a.name, a.label, a.kind.from_label) for a in own)

    @cached_property
    def required(self) -> tuple[Attribute, ...]:
        return tuple(attribute for attribute in self.attributes if attribute.is_required)

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
    def parse(cls, table: TomlTable) -> "Recognised":
        found = cls(table.texts("has", ()), table.texts("lacks", ()), table.integer("most_calls", 0, least=1))
        table.finish()
        return found

    @property
    def strictness(self) -> int:
        return len(self.has) + len(self.lacks) + bool(self.most_calls)


def points_attribute(function: Function) -> Attribute | None:
    """The attribute that a point of a `points` file is: the one vector of two that the code says."""
    found = [a for a in function.attributes if a.arguments and a.kind.num_parts == 2]
    return found[0] if len(found) == 1 else None
