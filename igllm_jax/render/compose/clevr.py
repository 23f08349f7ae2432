"""CLEVR's scenes: what is drawn at random, by which rules, and the label of each in CLEVR's own schema.

Source: Johnson et al., "CLEVR: A Diagnostic Dataset for Compositional Language and Elementary Visual Reasoning" (2017),
and the rules of its public generator.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.render.camera import Camera, clevr_camera
from igllm_jax.render.compose.shifts import own_camera
from igllm_jax.render.labels import pixel_of
from igllm_jax.render.lights import GROUND, clevr_lights
from igllm_jax.render.materials import COLORS
from igllm_jax.render.objects import SIZES, solid
from igllm_jax.render.recipe import Recipe, VisiblePixels
from igllm_jax.render.roles import roles_of
from igllm_jax.render.spec import SceneSpec
from igllm_jax.scene.language import find_language
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
LIGHT_JITTER = 1.0
REACH = 3.0  # x and y are drawn from -REACH to REACH
MIN_GAP = 0.25  # between the outlines of two objects, seen from above
MIN_MARGIN = 0.4  # between two centres along each of the four directions, so that relationships are clear
MIN_SHARE_VISIBLE = 200 / (480 * 320)  # of the image's pixels, for each object
RELATION_EPSILON = 0.2
TRIES_PER_OBJECT = 50
TRIES_PER_SCENE = 1000


def compose(rng: np.random.Generator, recipe: Recipe, split: str, visible_pixels: VisiblePixels) -> SceneSpec:
    """A random scene of `split` that keeps CLEVR's rules. Rotations are 0 to 360 in the recipe's unit.

    Raises: UserError when so many objects find no room.
    """
    x, y, z = rng.uniform(-CAMERA_JITTER, CAMERA_JITTER, 3)
    camera = own_camera(rng, clevr_camera(recipe.width, recipe.height, (x, y, z)), recipe.domain_shift)
    lights = clevr_lights(rng.uniform(-LIGHT_JITTER, LIGHT_JITTER, (3, 3)))
    count = int(rng.integers(recipe.min_objects, recipe.max_objects + 1))
    fewest = MIN_SHARE_VISIBLE * recipe.width * recipe.height
    for _ in range(TRIES_PER_SCENE):
        objects = _arrange(rng, camera, count, CONDITIONS[split])
        if objects is None:
            continue
        unit = recipe.rotation_unit or "deg"
        roles = (roles_of(thing, find_language("clevr"), rotation_rep="", rotation_unit=unit) for thing in objects)
        solids = tuple(solid(one, index) for index, one in enumerate(roles))
        spec = SceneSpec(camera, lights, GROUND, solids, label=label(objects, camera))
        if visible_pixels(spec).min() >= fewest:
            return spec
    raise UserError(
        f"{TRIES_PER_SCENE} tries found no room for {count} objects where each can be seen "
        f"in {recipe.width}x{recipe.height} pixels; give a smaller --max_objects"
    )


def _arrange(rng: np.random.Generator, camera: Camera, count: int, condition: str) -> tuple[Object, ...] | None:
    """`count` objects with their locations; None when one of them finds no room beside the others."""
    ground = camera.ground_directions()
    axes = np.array([ground["right"][:2], ground["behind"][:2]])
    taken, objects = np.empty((count, 3)), []  # x, y, radius
    for number in range(count):
        size = _any(rng, tuple(SIZES))
        center = _find_room(rng, taken[:number], SIZES[size], axes)
        if center is None:
            return None
        taken[number] = *center, SIZES[size]
        shape = _any(rng, SHAPES)
        location = (float(center[0]), float(center[1]), SIZES[size])
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


def _find_room(rng: np.random.Generator, taken: np.ndarray, radius: float, axes: np.ndarray) -> np.ndarray | None:
    """A random point [2] that keeps its distances from `taken` [N, 3] (x, y, radius), or None.

    axes: [2, 2], the directions right and behind along the ground; left and front are the same lines.
    """
    tries = rng.uniform(-REACH, REACH, (TRIES_PER_OBJECT, 2))
    x, y = (tries[:, axis, None] - taken[:, axis] for axis in range(2))  # [tries, N]
    fits = np.hypot(x, y) - taken[:, 2] - radius >= MIN_GAP
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
