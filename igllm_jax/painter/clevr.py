"""CLEVR's scenes: what is drawn at random, by which rules, and the label of each in CLEVR's own schema.

Source: Johnson et al., "CLEVR: A Diagnostic Dataset for Compositional Language and Elementary Visual Reasoning" (2017),
and the rules of its public generator.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from igllm_jax.errors import UserError
from igllm_jax.painter.camera import Camera, clevr_camera
from igllm_jax.painter.cast import Seen, see_pixels
from igllm_jax.painter.labels import pixel_of, yaw_deg_to_matrix
from igllm_jax.painter.light import Lamps, clevr_lamps
from igllm_jax.painter.parts import Part
from igllm_jax.painter.picture import draw, visible_pixels
from igllm_jax.painter.recipe import Recipe
from igllm_jax.painter.solids import COLORS, SIZES, solid_parts
from igllm_jax.scene.scene import Object, label_entry

SHAPES = ("cube", "sphere", "cylinder")
MATERIALS = ("rubber", "metal")
CUBE_COLORS_A = ("gray", "blue", "brown", "yellow")
CUBE_COLORS_B = ("red", "green", "purple", "cyan")
COGENT = {  # condition -> shape -> colours
    "A": {"cube": CUBE_COLORS_A, "cylinder": CUBE_COLORS_B, "sphere": tuple(COLORS)},
    "B": {"cube": CUBE_COLORS_B, "cylinder": CUBE_COLORS_A, "sphere": tuple(COLORS)},
}
CONDITIONS = {"train": "A", "val_ID": "A", "val_OOD": "B"}  # split -> condition

CAMERA_JITTER = 0.5
LAMP_JITTER = 1.0
REACH = 3.0  # x and y are drawn from -REACH to REACH
MIN_GAP = 0.25  # between the outlines of two objects, seen from above
MIN_MARGIN = 0.4  # between two centres along each of the four directions, so that relationships are clear
MIN_SHARE_VISIBLE = 200 / (480 * 320)  # of the image's pixels, for each object
RELATION_EPSILON = 0.2
TRIES_PER_OBJECT = 50
TRIES_PER_SCENE = 1000


def draw_scene(
    rng: np.random.Generator, *, condition: str, width: int, height: int, min_objects: int, max_objects: int
) -> tuple[tuple[Object, ...], Camera, Lamps, tuple[Part, ...], Seen]:
    """A random scene that keeps CLEVR's rules, with its camera, lamps, parts and what every pixel shows.

    condition: "A" or "B" of CoGenT. Rotations are in degrees, 0 to 360. Raises: UserError
    when so many objects find no places.
    """
    x, y, z = rng.uniform(-CAMERA_JITTER, CAMERA_JITTER, 3)
    camera = clevr_camera(width, height, (x, y, z))
    lamps = clevr_lamps(rng.uniform(-LAMP_JITTER, LAMP_JITTER, (3, 3)))
    count = int(rng.integers(min_objects, max_objects + 1))
    fewest = MIN_SHARE_VISIBLE * width * height
    for _ in range(TRIES_PER_SCENE):
        objects = _arrange(rng, camera, count, condition)
        if objects is None:
            continue
        parts = tuple(
            part
            for number, thing in enumerate(objects)
            for part in solid_parts(thing, yaw_deg_to_matrix((thing.rotation or (0.0,))[0]), owner=number)
        )
        seen = see_pixels(parts, camera)
        if visible_pixels(parts, seen, count).min() >= fewest:
            return objects, camera, lamps, parts, seen
    raise UserError(
        f"{TRIES_PER_SCENE} tries found no places for {count} objects where each can be seen "
        f"in {width}x{height} pixels; give a smaller --max_objects"
    )


def _arrange(rng: np.random.Generator, camera: Camera, count: int, condition: str) -> tuple[Object, ...] | None:
    """`count` objects with their places; None when one of them finds no place beside the others."""
    ground = camera.ground_directions()
    axes = np.array([ground["right"][:2], ground["behind"][:2]])
    places, objects = np.empty((count, 3)), []  # x, y, radius
    for number in range(count):
        size = _any(rng, tuple(SIZES))
        place = _find_place(rng, places[:number], SIZES[size], axes)
        if place is None:
            return None
        places[number] = *place, SIZES[size]
        shape = _any(rng, SHAPES)
        location = (float(place[0]), float(place[1]), SIZES[size])
        objects.append(
            Object(
                size=size,
                color=_any(rng, COGENT[condition][shape]),
                material=_any(rng, MATERIALS),
                shape=shape,
                location=location,
                rotation=(float(rng.uniform(0, 360)),),
                pixel=pixel_of(camera, location),
            )
        )
    return tuple(objects)


def _any(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _find_place(rng: np.random.Generator, places: np.ndarray, radius: float, axes: np.ndarray) -> np.ndarray | None:
    """A random place [2] that keeps its distances from `places` [N, 3] (x, y, radius), or None.

    axes: [2, 2], the directions right and behind along the ground; left and front are the same lines.
    """
    tries = rng.uniform(-REACH, REACH, (TRIES_PER_OBJECT, 2))
    x, y = (tries[:, axis, None] - places[:, axis] for axis in range(2))  # [tries, N]
    fits = np.hypot(x, y) - places[:, 2] - radius >= MIN_GAP
    for along_x, along_y in axes:
        fits &= np.abs(x * along_x + y * along_y) >= MIN_MARGIN
    good = np.flatnonzero(fits.all(axis=1))
    return tries[good[0]] if len(good) else None


def relationships(objects: Sequence[Object], camera: Camera) -> dict[str, list[list[int]]]:
    """For each of right, left, front, behind and each object: the numbers of the objects that lie there from it."""
    out: dict[str, list[list[int]]] = {}
    for name, direction in camera.ground_directions().items():
        if name not in ("above", "below"):
            along = np.array([np.dot(thing.location, direction) for thing in objects if thing.location])
            out[name] = [[int(j) for j in np.flatnonzero(along - own > RELATION_EPSILON)] for own in along]
    return out


def label(objects: Sequence[Object], camera: Camera) -> dict[str, Any]:
    """`objects`, `relationships` and `directions` of a scene, in CLEVR's schema. Rotations are in degrees."""
    return {
        "objects": [label_entry(thing, "clevr") for thing in objects],
        "relationships": relationships(objects, camera),
        "directions": {name: list(vector) for name, vector in camera.ground_directions().items()},
    }


def make(rng: np.random.Generator, recipe: Recipe, split: str) -> tuple[Image.Image, dict[str, Any]]:
    """A random picture of `split` and what its label says of it (see `label`)."""
    objects, camera, lamps, parts, seen = draw_scene(
        rng,
        condition=CONDITIONS[split],
        width=recipe.width,
        height=recipe.height,
        min_objects=recipe.min_objects,
        max_objects=recipe.max_objects,
    )
    return draw(parts, camera, lamps, seen=seen), label(objects, camera)
