"""What things are painted with: CLEVR's eight colours in rubber and metal, and the paints of toys."""

from collections.abc import Mapping

import numpy as np

from igllm_jax.render.spec import Color, Material

# Source: the CLEVR generator's properties.json; it hands these to Blender as linear light, undivided by any gamma.
COLORS_RGB = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
COLORS: dict[str, Color] = {name: (r / 255, g / 255, b / 255) for name, (r, g, b) in COLORS_RGB.items()}
UNKNOWN_COLOR: Color = (0.75, 0.75, 0.75)
FINISHES: dict[str, tuple[float, float]] = {"rubber": (0.0, 0.7), "metal": (1.0, 0.2)}  # metallic, roughness

RED, GREEN, BLUE, YELLOW = (0.72, 0.03, 0.03), (0.03, 0.42, 0.06), (0.04, 0.12, 0.75), (0.95, 0.72, 0.02)
WHITE, DARK, ORANGE, CYAN = (0.85, 0.85, 0.85), (0.03, 0.03, 0.035), (0.9, 0.25, 0.01), (0.05, 0.6, 0.75)
PURPLE, PINK, OLIVE, BROWN = (0.28, 0.04, 0.55), (0.9, 0.28, 0.45), (0.25, 0.27, 0.03), (0.2, 0.07, 0.02)

PALETTE = (RED, GREEN, BLUE, YELLOW, WHITE)  # of toys in training
PALETTE_OOD = (ORANGE, CYAN, PURPLE, PINK, OLIVE)


def solid_material(color: str | None, material: str | None) -> Material:
    """Of CLEVR's words; an unknown colour is light grey, an unknown material rubber (predictions hold any word)."""
    metallic, roughness = FINISHES.get(material or "", FINISHES["rubber"])
    return Material(COLORS.get(color or "", UNKNOWN_COLOR), metallic, roughness)


def patterned(color: Color, pattern: str, second: Color, repeats: float) -> Material:
    """Paint in two colours; see `Material`."""
    return Material(color, pattern=pattern, second=second, repeats=repeats)


PLANE_MATERIALS: Mapping[str, Material] = {
    "hull": patterned(WHITE, "stripes", (0.45, 0.47, 0.5), 4.0),
    "nose": Material(RED),
    "glass": Material(DARK),
    "left": patterned(GREEN, "stripes", YELLOW, 1.0),
    "right": Material(BLUE),
    "dark": Material(DARK),
    "belly": Material(ORANGE),
    "fin": Material(YELLOW),
}
PLANE_MATERIALS_OOD: Mapping[str, Material] = {  # another paint shop: no role keeps its colour
    "hull": patterned(PINK, "checks", PURPLE, 3.0),
    "nose": Material(DARK),
    "glass": Material(YELLOW),
    "left": Material(ORANGE),
    "right": patterned(WHITE, "stripes", BROWN, 1.0),
    "dark": Material(CYAN),
    "belly": Material(OLIVE),
    "fin": Material(RED),
}

FIXED_MATERIALS: Mapping[str, Material] = {
    "glass": Material((0.04, 0.05, 0.07), metallic=1.0, roughness=0.1),
    "lamp": Material((0.95, 0.9, 0.6)),
    "rear": Material(RED),
}
PLAIN_MATERIALS: Mapping[str, Material] = {  # where the paint is not known
    "body": Material(BLUE),
    "accent": Material(YELLOW),
    "unknown": Material(UNKNOWN_COLOR),
    "dark": Material(DARK),
    **FIXED_MATERIALS,
}


def draw_materials(rng: np.random.Generator, *, ood: bool) -> dict[str, Material]:
    """Random paint for a toy with a class. ood: in the colours and patterns that training never shows."""
    palette, patterns = (PALETTE_OOD, ("checks",)) if ood else (PALETTE, ("plain", "stripes"))
    body, accent, second = (palette[i] for i in rng.choice(len(palette), 3, replace=False))
    pattern = patterns[int(rng.integers(len(patterns)))]
    return {
        "body": patterned(body, pattern, second, float(rng.integers(2, 5))),
        "accent": Material(accent),
        "dark": Material(BROWN if rng.random() < 0.5 else DARK),
        **FIXED_MATERIALS,
    }
