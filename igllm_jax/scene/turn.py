"""The kind of attribute that is a rotation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from scipy.spatial.transform import Rotation

from igllm_jax.scene.kind import (
    PLAIN_NUMBERS,
    ROTATION_UNITS,
    Kind,
    Metric,
    NumberFormat,
    Said,
    Settings,
    Spelling,
    Value,
    finite_numbers,
)
from igllm_jax.scene.rotations import REPRESENTATIONS, Representation, yaw_error_deg
from igllm_jax.scene.symmetry import NO_SYMMETRY, Symmetry, parse_symmetry
from igllm_jax.scene.toml_table import TomlTable


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
    format: NumberFormat = PLAIN_NUMBERS
    symmetry: Symmetry = NO_SYMMETRY
    decided_by: str = ""
    symmetry_by: Mapping[str, Symmetry] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, table: TomlTable) -> Self:
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
        number = NumberFormat(
            digits=table.integer("digits", 3, least=0, most=17), has_sign=table.boolean("sign", False)
        )
        for symmetry in (own, *found.values()):
            if names == ("yaw",) and (symmetry.group or (symmetry.period_deg is not None and symmetry.axis != 2)):
                raise table.error("symmetry", "of a yaw must be about z")
        return cls(names, label_as, unit, number, own, decided_by, found)

    def within(self, words: Mapping[str, Kind]) -> Self:
        """Synonyms of the deciding word decide alike."""
        if not self.decided_by:
            return self
        if self.decided_by not in words:
            raise ValueError(f"symmetry_by must name a word of the same function, not {self.decided_by!r}")
        same = words[self.decided_by].synonyms()
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

    def turned(self, value: Value, vector_rad: Sequence[float], settings: Settings) -> Value:
        """A label's turn, turned further about the scene's axes by a turn vector [3]."""
        return self._label_of(
            Rotation.from_rotvec(vector_rad).as_matrix() @ self.label_matrix(value, settings), settings
        )

    def _label_of(self, matrix: np.ndarray, settings: Settings) -> Value:
        numbers = REPRESENTATIONS[self.label_as].from_matrix(matrix)
        is_deg = self._in_degrees(settings) and self.label_as not in ("6d", "quat")
        return tuple(np.degrees(numbers).tolist()) if is_deg else numbers

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
        return self._label_of(self.said_matrix(value, item, settings), settings)

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
