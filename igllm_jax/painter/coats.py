"""Coats: what the pieces of toys are painted with, and toys dressed and put in their place."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from igllm_jax.painter.parts import Color, Part
from igllm_jax.painter.toys import Piece, piece

RED, GREEN, BLUE, YELLOW = (0.72, 0.03, 0.03), (0.03, 0.42, 0.06), (0.04, 0.12, 0.75), (0.95, 0.72, 0.02)
WHITE, DARK, ORANGE, CYAN = (0.85, 0.85, 0.85), (0.03, 0.03, 0.035), (0.9, 0.25, 0.01), (0.05, 0.6, 0.75)
GRAY: Color = (0.75, 0.75, 0.75)
PURPLE, PINK, OLIVE, BROWN = (0.28, 0.04, 0.55), (0.9, 0.28, 0.45), (0.25, 0.27, 0.03), (0.2, 0.07, 0.02)

PALETTE = (RED, GREEN, BLUE, YELLOW, WHITE)  # of toys in training
PALETTE_OOD = (ORANGE, CYAN, PURPLE, PINK, OLIVE)


@dataclass(frozen=True)
class Coat:
    """What one role of a toy is painted with; see `Part`."""

    color: Color
    pattern: str = "plain"
    second: Color = WHITE
    repeats: float = 2.0
    metal: bool = False


PLANE_COATS = {
    "hull": Coat(WHITE, "stripes", (0.45, 0.47, 0.5), 4.0),
    "nose": Coat(RED),
    "glass": Coat(DARK),
    "left": Coat(GREEN, "stripes", YELLOW, 1.0),
    "right": Coat(BLUE),
    "dark": Coat(DARK),
    "belly": Coat(ORANGE),
    "fin": Coat(YELLOW),
}
PLANE_COATS_OOD = {  # another paint shop: no role keeps its colour
    "hull": Coat(PINK, "checks", PURPLE, 3.0),
    "nose": Coat(DARK),
    "glass": Coat(YELLOW),
    "left": Coat(ORANGE),
    "right": Coat(WHITE, "stripes", BROWN, 1.0),
    "dark": Coat(CYAN),
    "belly": Coat(OLIVE),
    "fin": Coat(RED),
}

FIXED_COATS = {"glass": Coat((0.04, 0.05, 0.07), metal=True), "lamp": Coat((0.95, 0.9, 0.6)), "rear": Coat(RED)}
PLAIN_COATS = {"body": Coat(BLUE), "accent": Coat(YELLOW), "unknown": Coat(GRAY), "dark": Coat(DARK), **FIXED_COATS}
UNKNOWN_PIECES = (piece("ball", "unknown", (0.0, 0.0, 0.0), (0.3, 0.3, 0.3)),)  # for a shape that there is not


def draw_coats(rng: np.random.Generator, *, ood: bool) -> dict[str, Coat]:
    """Random coats for a toy with a class. ood: from the colours and patterns that training never shows."""
    palette, patterns = (PALETTE_OOD, ("checks",)) if ood else (PALETTE, ("plain", "stripes"))
    body, accent, second = (palette[i] for i in rng.choice(len(palette), 3, replace=False))
    pattern = patterns[int(rng.integers(len(patterns)))]
    return {
        "body": Coat(body, pattern, second, float(rng.integers(2, 5))),
        "accent": Coat(accent),
        "dark": Coat(BROWN if rng.random() < 0.5 else DARK),
        **FIXED_COATS,
    }


def dress(
    pieces: tuple[Piece, ...],
    coats: Mapping[str, Coat],
    *,
    location: np.ndarray,
    turn: np.ndarray,
    scale: float,
    owner: int,
) -> list[Part]:
    """A toy in the scene: scaled, turned by the matrix `turn` [3, 3], its middle moved to `location` [3]."""
    parts = []
    for one in pieces:
        coat = coats[one.role]
        parts.append(
            Part(
                kind=one.kind,
                center=location + scale * (turn @ one.center),
                axes=scale * (turn @ one.axes),
                colors=(coat.color,),
                metal=coat.metal,
                owner=owner,
                pattern=coat.pattern,
                second=coat.second,
                repeats=coat.repeats,
            )
        )
    return parts


def lowest(parts: list[Part]) -> float:
    """The height of the lowest point of the parts, z in scene units."""
    return min(part.center[2] - _reach_down(part) for part in parts)


def _reach_down(part: Part) -> float:
    """How far the part reaches below its centre: the support of its unit shape in the direction -z."""
    x, y, z = part.axes[2]
    if part.kind == "ball":
        return float(np.sqrt(x * x + y * y + z * z))
    if part.kind == "box":
        return float(abs(x) + abs(y) + abs(z))
    if part.kind == "rod":
        return float(np.hypot(x, y) + abs(z))
    return float(max(np.hypot(x, y) + z, -z))  # cone: the rim at z = -1, or the tip
