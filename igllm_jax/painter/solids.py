"""CLEVR's things as parts: sphere, cube and cylinder, in eight colours, two sizes and two materials."""

import numpy as np

from igllm_jax.painter.parts import Color, Part
from igllm_jax.scene.scene import Object, Predicted

Thing = Object | Predicted  # what can be painted

# Source: the generator's properties.json; it hands these to Blender as linear light, undivided by any gamma.
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
SIZES = {"large": 0.7, "small": 0.35}  # radius or half-side in scene units, of every shape
KINDS = {"sphere": "ball", "cube": "box", "cylinder": "rod"}
UNKNOWN_COLOR: Color = (0.75, 0.75, 0.75)


def solid_parts(thing: Thing, turn: np.ndarray, *, owner: int) -> list[Part]:
    """The one part of a CLEVR object, turned by the matrix `turn` [3, 3]; none for an object without a location.

    Words that CLEVR does not have, as predictions may hold, are painted as a small light grey rubber ball: the picture
    then shows where the object is and that its words are unknown.
    """
    if thing.location is None:
        return []
    return [
        Part(
            kind=KINDS.get(thing.shape or "", "ball"),
            center=np.array(thing.location, np.float64),
            axes=SIZES.get(thing.size or "", SIZES["small"]) * turn,
            colors=(COLORS.get(thing.color or "", UNKNOWN_COLOR),),
            metal=thing.material == "metal",
            owner=owner,
        )
    ]
