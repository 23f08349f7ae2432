"""Shapenet's scenes in small: several toys of several classes on a ground, each `CLASS_NUMBER`, upright, with any yaw.

Labels hold a turn as extrinsic xyz Euler angles in radians, here (0, 0, yaw). Paint is not in the labels.
"""

import math
from typing import Any

import numpy as np
from PIL import Image

from igllm_jax.errors import UserError
from igllm_jax.painter.camera import Camera, clevr_camera
from igllm_jax.painter.cast import see_pixels
from igllm_jax.painter.coats import draw_coats, dress, lowest
from igllm_jax.painter.labels import pixel_of
from igllm_jax.painter.light import clevr_lamps
from igllm_jax.painter.parts import Part
from igllm_jax.painter.picture import draw, inside_image, visible_pixels
from igllm_jax.painter.recipe import Recipe
from igllm_jax.painter.toys import CLASSES, toy
from igllm_jax.scene.rotations import euler_to_matrix
from igllm_jax.scene.scene import Object, label_entry

SPLITS = ("train", "val_ID", "val_OOD_texture", "val_OOD_shape")
NUMBERS = range(6)  # of every class, in training
NUMBERS_OOD = range(6, 10)  # val_OOD_shape: other models of the same classes
SCALE = 1.0
REACH = 3.0  # x and y are drawn from -REACH to REACH
MIN_GAP = 0.15  # between the circles around two toys, seen from above, in scene units
MIN_SHARE_VISIBLE = 250 / (336 * 336)  # of the image's pixels, for each toy
MARGIN = 0.01  # of the image's sides that toys keep free
TRIES_PER_TOY = 100
TRIES_PER_SCENE = 200


def _draw_toy(
    rng: np.random.Generator, camera: Camera, split: str, owner: int, taken: list[tuple[float, float, float]]
) -> tuple[Object, list[Part]] | None:
    """A toy with its place beside those `taken` (x, y, radius), which it joins; None when there is no place."""
    numbers = NUMBERS_OOD if split == "val_OOD_shape" else NUMBERS
    names = tuple(CLASSES)
    shape = f"{names[int(rng.integers(len(names)))]}_{numbers[int(rng.integers(len(numbers)))]}"
    coats = draw_coats(rng, ood=split == "val_OOD_texture")
    yaw_rad = float(rng.uniform(-math.pi, math.pi))
    turn, pieces = euler_to_matrix((0.0, 0.0, yaw_rad)), toy(shape) or ()
    standing = dress(pieces, coats, location=np.zeros(3), turn=turn, scale=SCALE, owner=owner)
    radius = max(float(np.hypot(*part.corners().T[:2]).max()) for part in standing)
    for x, y in rng.uniform(-REACH, REACH, (TRIES_PER_TOY, 2)):
        if any(math.hypot(x - a, y - b) < radius + other + MIN_GAP for a, b, other in taken):
            continue
        location = (float(x), float(y), -lowest(standing))
        parts = dress(pieces, coats, location=np.array(location), turn=turn, scale=SCALE, owner=owner)
        if inside_image(parts, camera, MARGIN):
            taken.append((x, y, radius))
            rotation = (0.0, 0.0, yaw_rad)
            return Object(shape=shape, location=location, rotation=rotation, pixel=pixel_of(camera, location)), parts
    return None


def make(rng: np.random.Generator, recipe: Recipe, split: str) -> tuple[Image.Image, dict[str, Any]]:
    """A random picture of `split` and its label's `objects`. Raises: UserError when so many toys find no places."""
    camera = clevr_camera(recipe.width, recipe.height)
    count = int(rng.integers(recipe.min_objects, recipe.max_objects + 1))
    fewest = MIN_SHARE_VISIBLE * recipe.width * recipe.height
    for _ in range(TRIES_PER_SCENE):
        taken: list[tuple[float, float, float]] = []
        toys: list[tuple[Object, list[Part]]] = []
        while len(toys) < count and (drawn := _draw_toy(rng, camera, split, len(toys), taken)):
            toys.append(drawn)
        if len(toys) < count:
            continue
        parts = [part for _, own in toys for part in own]
        seen = see_pixels(parts, camera)
        if visible_pixels(parts, seen, count).min() >= fewest:
            image = draw(parts, camera, clevr_lamps(), seen=seen)
            return image, {"objects": [label_entry(thing, "shapenet") for thing, _ in toys]}
    raise UserError(
        f"{TRIES_PER_SCENE} tries found no places for {count} objects where each can be seen "
        f"in {recipe.width}x{recipe.height} pixels; give a smaller --max_objects"
    )
