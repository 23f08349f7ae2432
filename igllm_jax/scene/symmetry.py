"""Turns that cannot be seen: which rotations of an object look the same, for writing and for scoring."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial.transform import Rotation

from igllm_jax.scene.rotations import geodesic_deg
from igllm_jax.scene.toml_table import TomlTable

AXES = {"x": 0, "y": 1, "z": 2}
LEAST_PERIOD = 0.1  # degrees: every turn of it is a matrix
GROUPS = ("T", "O", "I", *(f"{kind}{order}" for kind in "CD" for order in range(2, 13)))


@dataclass(frozen=True)
class Symmetry:
    """Which turns leave an object as it looks; they act first, in the object's own frame.

    is_full: every turn. group: a finite group by Schoenflies' name (C4, D2, T, O, I; C and D about z), "" for none.
    axis: 0, 1, 2 for x, y, z. period_deg: turns by multiples of it about the axis, or any turn about it where it is 0;
    None for no such axis. offset_deg: a rotation that is one angle is written as (angle mod period) + offset.

    Example: CLEVR's cube has period 90 and offset -45: 100 degrees are written as -35 degrees.
    """

    is_full: bool = False
    group: str = ""
    axis: int = 2
    period_deg: float | None = None
    offset_deg: float = 0.0

    @property
    def is_none(self) -> bool:
        return not self.is_full and not self.group and self.period_deg is None

    def matrices(self) -> np.ndarray:
        """float64 [n, 3, 3]: every turn that looks the same, of a finite symmetry."""
        return _matrices(self)

    def written_yaw_rad(self, yaw_deg: float) -> float:
        """The one angle in radians that the code says of an object that is turned by `yaw_deg` about z."""
        if not self.period_deg:
            return float(np.radians(yaw_deg))
        return float(2 * np.pi * (yaw_deg % self.period_deg + self.offset_deg) / 360)

    def yaw_deg(self, written_rad: float) -> float:
        """The turn about z in degrees that a written angle stands for."""
        return float(np.degrees(written_rad)) - (self.offset_deg if self.period_deg else 0.0)

    def canonical(self, matrix: np.ndarray) -> np.ndarray:
        """The smallest turn [3, 3] that looks as `matrix` [3, 3] does."""
        if self.is_none:
            return matrix
        if self.is_full:
            return np.eye(3)
        if self.period_deg == 0:
            return _shortest(np.eye(3)[self.axis], matrix[:, self.axis])
        same = matrix @ self.matrices()
        return same[np.argmax(np.trace(same, axis1=1, axis2=2))]

    def error_deg(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """The smallest angle in degrees from one turn [3, 3] to any that looks as the other does."""
        if self.is_full:
            return 0.0
        if self.period_deg == 0:
            one, other = predicted[:, self.axis], true[:, self.axis]
            return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(one, other)), one @ other)))
        if self.is_none:
            return float(geodesic_deg(predicted, true))
        return float(geodesic_deg(predicted, true @ self.matrices()).min())


@lru_cache(maxsize=256)
def _matrices(symmetry: Symmetry) -> np.ndarray:
    if symmetry.group:
        return Rotation.create_group(symmetry.group).as_matrix()
    if symmetry.is_none:
        return np.eye(3)[None]
    assert symmetry.period_deg, "a full or continuous symmetry has no list of turns"
    count = round(360 / symmetry.period_deg)
    angles = np.arange(count) * np.radians(symmetry.period_deg)
    return Rotation.from_rotvec(angles[:, None] * np.eye(3)[symmetry.axis]).as_matrix()


def _shortest(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The smallest turn [3, 3] that leads one unit vector [3] to another."""
    axis = np.cross(start, end)
    length = np.linalg.norm(axis)
    if length < 1e-12:  # the same, or opposite: then half a turn about any axis across
        return np.eye(3) if start @ end > 0 else 2 * np.outer(np.roll(start, 1), np.roll(start, 1)) - np.eye(3)
    return Rotation.from_rotvec(axis / length * np.arctan2(length, start @ end)).as_matrix()


NO_SYMMETRY = Symmetry()


def parse_symmetry(owner: TomlTable, key: str) -> Symmetry:
    """`"none"`, `"full"`, `{ axis = "z", period_deg = 90, offset_deg = -45 }` or `{ group = "D4" }`."""
    value = owner.take(key)
    if isinstance(value, str):
        return Symmetry(is_full=owner.choice(key, ("none", "full")) == "full")
    table = owner.table(key)
    if "group" in table:
        found = Symmetry(group=table.choice("group", GROUPS))
    else:
        axis = AXES[table.choice("axis", AXES, "z")]
        period, offset = float(table.number("period_deg")), float(table.number("offset_deg", 0.0))
        is_part = period == 0 or (LEAST_PERIOD <= period <= 360 and abs(360 / period - round(360 / period)) <= 1e-6)
        if not is_part:
            raise table.error("period_deg", f"must divide 360, or be 0 where every turn looks the same, not {period}")
        found = Symmetry(axis=axis, period_deg=period, offset_deg=offset)
    table.finish()
    return found
