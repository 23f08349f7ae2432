"""Toys: small models built of parts, for the tasks where an object has a full orientation or a class.

A toy stands in its own frame with x forward, y to its left and z up, its middle at the origin. `chair_3` is number 3 of
the class `chair`; numbers differ in proportions and details, and the same number is always the same model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

import numpy as np

PLANE = "plane"  # the one object of the tasks so3 and sixdof
MOST_PIECES = 11  # of a toy


@dataclass(frozen=True)
class Piece:
    """A part in the toy's frame; role: which material it gets (materials.py). axes: [3, 3], as in `Part`."""

    kind: str
    center: np.ndarray
    axes: np.ndarray
    role: str


def piece(
    kind: str,
    role: str,
    at: tuple[float, float, float],
    half: tuple[float, float, float],
    *,
    along: str = "z",
    sweep: float = 0.0,
) -> Piece:
    """A part around `at` that reaches `half` to each side along x, y and z.

    along: the axis of a cylinder or the tip of a cone: x, y, z or -x, -y, -z. sweep: how far
    back the +y end is sheared.
    """
    axes = np.diag(np.array(half, np.float64))
    axis = "xyz".index(along[-1])
    axes = np.roll(axes, 2 - axis, axis=1)  # cyclic, so right-handed: the part's own z gets that axis
    if along[0] == "-":
        axes = axes * np.array([-1.0, 1.0, -1.0])
    if sweep:
        axes = axes + np.outer([-sweep, 0.0, 0.0], axes[1] / half[1])
    return Piece(kind, np.array(at, np.float64), axes, role)


UNKNOWN_PIECES = (piece("sphere", "unknown", (0.0, 0.0, 0.0), (0.3, 0.3, 0.3)),)  # for a shape that there is not


def plane() -> tuple[Piece, ...]:
    """A toy airplane with every side of another colour, so that any picture of it tells how it is turned."""
    return (
        piece("sphere", "hull", (0.0, 0.0, 0.0), (1.0, 0.2, 0.22)),
        piece("sphere", "nose", (0.8, 0.0, 0.0), (0.3, 0.16, 0.17)),
        piece("sphere", "glass", (0.4, 0.0, 0.15), (0.26, 0.12, 0.14)),
        piece("cube", "left", (0.0, 0.62, 0.0), (0.2, 0.5, 0.03), sweep=0.16),
        piece("cube", "right", (0.0, -0.62, 0.0), (0.2, 0.5, 0.03), sweep=-0.16),
        piece("cylinder", "dark", (0.12, 0.52, -0.1), (0.17, 0.08, 0.08), along="x"),
        piece("cylinder", "dark", (0.12, -0.52, -0.1), (0.17, 0.08, 0.08), along="x"),
        piece("cube", "belly", (-0.05, 0.0, -0.19), (0.3, 0.09, 0.06)),
        piece("cube", "fin", (-0.85, 0.0, 0.3), (0.13, 0.025, 0.22)),
        piece("cube", "left", (-0.85, 0.22, 0.04), (0.1, 0.18, 0.025), sweep=0.06),
        piece("cube", "right", (-0.85, -0.22, 0.04), (0.1, 0.18, 0.025), sweep=-0.06),
    )


class _Draw:
    """Proportions of number `number` of a class: the same at every call."""

    def __init__(self, name: str, number: int) -> None:
        self._rng = np.random.default_rng([crc32(name.encode()), number])

    def between(self, low: float, high: float) -> float:
        return float(self._rng.uniform(low, high))


def _legs(x: float, y: float, low: float, high: float, thick: float, *, round_legs: bool) -> list[Piece]:
    middle, half = (low + high) / 2, (high - low) / 2
    kind = "cylinder" if round_legs else "cube"
    return [piece(kind, "dark", (a * x, b * y, middle), (thick, thick, half)) for a in (-1, 1) for b in (-1, 1)]


def chair(number: int) -> tuple[Piece, ...]:
    """Number by number: four legs or one foot, with and without arms, backs of several heights."""
    draw = _Draw("chair", number)
    deep, wide, seat, back = (draw.between(*r) for r in ((0.36, 0.46), (0.34, 0.48), (-0.16, 0.0), (0.35, 0.62)))
    pieces = [
        piece("cube", "body", (0.0, 0.0, seat), (deep, wide, 0.06)),
        piece("cube", "accent", (-deep + 0.05, 0.0, seat + 0.06 + back), (0.05, wide, back)),
    ]
    if number % 3 == 2:
        pieces += [
            piece("cylinder", "dark", (0.0, 0.0, (seat - 0.62) / 2), (0.06, 0.06, (seat + 0.62) / 2)),
            piece("cylinder", "dark", (0.0, 0.0, -0.64), (0.36, 0.36, 0.04)),
        ]
    else:
        pieces += _legs(deep - 0.06, wide - 0.06, -0.68, seat - 0.06, 0.05, round_legs=number % 2 == 1)
    if number % 2 == 0:
        pieces += [
            piece("cube", "dark", (0.02, s * (wide - 0.04), seat + 0.3), (deep - 0.05, 0.04, 0.04)) for s in (-1, 1)
        ]
        pieces += [
            piece("cube", "dark", (deep - 0.1, s * (wide - 0.04), seat + 0.16), (0.04, 0.04, 0.12)) for s in (-1, 1)
        ]
    return tuple(pieces)


def table(number: int) -> tuple[Piece, ...]:
    """Number by number: round tops on one foot, long tops on four legs; a book and a cup tell front from back."""
    draw = _Draw("table", number)
    deep, wide, high = (draw.between(*r) for r in ((0.42, 0.6), (0.62, 0.85), (0.3, 0.5)))
    if number % 3 == 1:
        top = [
            piece("cylinder", "body", (0.0, 0.0, high), (0.7, 0.7, 0.05)),
            piece("cylinder", "dark", (0.0, 0.0, 0.0), (0.09, 0.09, high)),
            piece("cylinder", "dark", (0.0, 0.0, -high), (0.4, 0.4, 0.04)),
        ]
        deep = 0.55
    else:
        top = [piece("cube", "body", (0.0, 0.0, high), (deep, wide, 0.05))]
        top += _legs(deep - 0.08, wide - 0.08, -high - 0.04, high - 0.05, 0.06, round_legs=number % 2 == 0)
    book = piece("cube", "accent", (deep - 0.22, 0.14, high + 0.08), (0.12, draw.between(0.14, 0.24), 0.04))
    return (*top, book, piece("cylinder", "dark", (deep - 0.2, -0.2, high + 0.12), (0.06, 0.06, 0.08)))


def car(number: int) -> tuple[Piece, ...]:
    """Number by number: cabins in front, middle or back, longer and shorter; lamps light in front and red behind."""
    draw = _Draw("car", number)
    long, wide, high = (draw.between(*r) for r in ((0.75, 1.0), (0.36, 0.44), (0.16, 0.22)))
    cabin, shift = draw.between(0.32, 0.6) * long, (-0.25, 0.0, 0.3)[number % 3] * long
    wheel = draw.between(0.17, 0.22)
    pieces = [
        piece("cube", "body", (0.0, 0.0, 0.0), (long, wide, high)),
        piece("cube", "accent", (shift, 0.0, high + 0.15), (cabin, wide - 0.05, 0.15)),
        piece("cube", "glass", (shift + cabin, 0.0, high + 0.14), (0.02, wide - 0.1, 0.11)),
        piece("cube", "lamp", (long, 0.0, 0.04), (0.02, wide - 0.06, 0.05)),
        piece("cube", "rear", (-long, 0.0, 0.04), (0.02, wide - 0.06, 0.05)),
    ]
    for x in (-0.6 * long, 0.6 * long):
        for y in (-wide, wide):
            pieces.append(piece("cylinder", "dark", (x, y, -high), (wheel, 0.07, wheel), along="y"))
    return tuple(pieces)


def lamp(number: int) -> tuple[Piece, ...]:
    """Number by number: cones, cylinders and spheres as shades, hung to one side, on a foot."""
    draw = _Draw("lamp", number)
    high, shade, reach = draw.between(0.55, 0.75), draw.between(0.26, 0.4), draw.between(0.12, 0.4)
    kind = ("cone", "cylinder", "sphere")[number % 3]
    return (
        piece("cylinder", "dark", (-0.15, 0.0, -high), (0.34, 0.34, 0.05)),
        piece("cylinder", "dark", (-0.15, 0.0, -0.05), (0.04, 0.04, high)),
        piece("cube", "dark", (-0.15 + reach / 2, 0.0, high - 0.08), (reach / 2 + 0.04, 0.035, 0.035)),
        piece(kind, "body", (-0.15 + reach, 0.0, high - 0.2), (shade, shade, shade if kind != "cylinder" else 0.22)),
        piece("cube", "accent", (-0.15, 0.0, -high + 0.12), (0.1, 0.2, 0.08)),
    )


def sofa(number: int) -> tuple[Piece, ...]:
    """Number by number: narrower and wider, arms square or round, with a cushion at one end."""
    draw = _Draw("sofa", number)
    wide, deep, back = draw.between(0.65, 0.95), draw.between(0.36, 0.46), draw.between(0.26, 0.42)
    arms = "cylinder" if number % 2 else "cube"
    along = "x" if arms == "cylinder" else "z"
    return (
        piece("cube", "body", (0.0, 0.0, -0.14), (deep, wide, 0.16)),
        piece("cube", "body", (-deep + 0.09, 0.0, back - 0.1), (0.1, wide, back)),
        piece(arms, "accent", (0.0, wide, 0.0), (deep, 0.11, 0.18 if arms == "cube" else 0.11), along=along),
        piece(arms, "accent", (0.0, -wide, 0.0), (deep, 0.11, 0.18 if arms == "cube" else 0.11), along=along),
        piece("cube", "dark", (0.05, wide - 0.32, 0.06), (0.16, 0.16, 0.06)),
        piece("cube", "dark", (0.0, 0.0, -0.33), (deep - 0.06, wide - 0.06, 0.04)),
    )


CLASSES: dict[str, Callable[[int], tuple[Piece, ...]]] = {
    "chair": chair,
    "table": table,
    "car": car,
    "lamp": lamp,
    "sofa": sofa,
}


def toy(shape: str) -> tuple[Piece, ...] | None:
    """The pieces of `plane` or `CLASS_NUMBER`; None for any other word (predictions hold any)."""
    if shape == PLANE:
        return plane()
    name, _, number = shape.partition("_")
    return CLASSES[name](int(number)) if name in CLASSES and number.isdecimal() and len(number) < 9 else None
