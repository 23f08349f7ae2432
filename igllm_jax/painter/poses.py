"""The scenes of so3 (one toy airplane, turned anyhow) and sixdof (turned and moved, over a ground).

Labels hold a turn as extrinsic xyz Euler angles in radians.
"""

import math
from typing import Any

import numpy as np
from PIL import Image

from igllm_jax.painter.camera import Camera, clevr_camera
from igllm_jax.painter.coats import PLANE_COATS, PLANE_COATS_OOD, Coat, dress, lowest
from igllm_jax.painter.labels import pixel_of
from igllm_jax.painter.light import GROUND_COLOR, clevr_lamps
from igllm_jax.painter.parts import Color, Part
from igllm_jax.painter.picture import draw, inside_image
from igllm_jax.painter.recipe import Recipe
from igllm_jax.painter.toys import PLANE, plane
from igllm_jax.scene.rotations import geodesic_deg, matrix_to_euler, quaternion_to_matrix
from igllm_jax.scene.scene import Object, label_entry

SPLITS = ("train", "val_ID", "val_OOD")
SO3_SCALE = 3.3  # in a square image
SO3_HOLE_DEG = 30.0  # training shows no turn within this angle of no turn at all; val_OOD shows only those
SIXDOF_SCALE = 1.4
SIXDOF_REACH = 2.6  # x and y are drawn from -REACH to REACH
SIXDOF_LIFT = 1.5  # the toy's lowest point is drawn between the ground and this height
SIXDOF_GROUND_OOD: Color = (0.16, 0.24, 0.12)  # val_OOD: another ground, and another paint on the toy
MARGIN = 0.02  # of the image's sides that the toy keeps free


def random_turn(rng: np.random.Generator) -> np.ndarray:
    """A rotation matrix [3, 3], uniform over all rotations (four normal numbers are a uniform quaternion)."""
    return quaternion_to_matrix(rng.normal(size=4).tolist())


def random_turn_within(rng: np.random.Generator, most_deg: float) -> np.ndarray:
    """A rotation matrix [3, 3], uniform over the rotations by at most `most_deg` degrees.

    The axis is uniform and the angle t has a density in proportion to 1 - cos t, drawn here by rejection.
    """
    most_rad = math.radians(most_deg)
    while True:
        angle_rad = rng.uniform(0, most_rad)
        if rng.uniform(0, 1 - math.cos(most_rad)) <= 1 - math.cos(angle_rad):
            axis = rng.normal(size=3)
            return quaternion_to_matrix(
                [*(math.sin(angle_rad / 2) * axis / np.linalg.norm(axis)), math.cos(angle_rad / 2)]
            )


def so3_scale(camera: Camera) -> float:
    """How large the toy of so3 is: as large as fits the image, however it is turned."""
    return SO3_SCALE * min(camera.width, camera.height) / max(camera.width, camera.height)


def plane_parts(turn: np.ndarray, *, location: np.ndarray, scale: float, coats: dict[str, Coat]) -> list[Part]:
    """The airplane's parts, as object 0."""
    return dress(plane(), coats, location=location, turn=turn, scale=scale, owner=0)


def make_so3(rng: np.random.Generator, recipe: Recipe, split: str) -> tuple[Image.Image, dict[str, Any]]:
    """A random picture of so3 and its label's `objects`. The place is always the origin, so labels leave it out."""
    if split == "val_OOD":
        turn = random_turn_within(rng, SO3_HOLE_DEG)
    else:
        turn = random_turn(rng)
        while geodesic_deg(turn, np.eye(3)) <= SO3_HOLE_DEG:
            turn = random_turn(rng)
    camera = clevr_camera(recipe.width, recipe.height)
    parts = plane_parts(turn, location=np.zeros(3), scale=so3_scale(camera), coats=PLANE_COATS)
    thing = Object(shape=PLANE, rotation=matrix_to_euler(turn), pixel=pixel_of(camera, np.zeros(3)))
    return draw(parts, camera, clevr_lamps(), on_ground=False), {"objects": [label_entry(thing, recipe.task)]}


def make_sixdof(rng: np.random.Generator, recipe: Recipe, split: str) -> tuple[Image.Image, dict[str, Any]]:
    """A random picture of sixdof and its label's `objects`. The toy is wholly in the picture and above the ground."""
    ood = split == "val_OOD"
    camera = clevr_camera(recipe.width, recipe.height)
    while True:
        turn = random_turn(rng)
        x, y = rng.uniform(-SIXDOF_REACH, SIXDOF_REACH, 2)
        lift = rng.uniform(0, SIXDOF_LIFT)
        coats = PLANE_COATS_OOD if ood else PLANE_COATS
        at_origin = plane_parts(turn, location=np.zeros(3), scale=SIXDOF_SCALE, coats=coats)
        location = np.array([x, y, lift - lowest(at_origin)])
        parts = plane_parts(turn, location=location, scale=SIXDOF_SCALE, coats=coats)
        if inside_image(parts, camera, MARGIN):
            break
    thing = Object(
        shape=PLANE,
        location=(float(location[0]), float(location[1]), float(location[2])),
        rotation=matrix_to_euler(turn),
        pixel=pixel_of(camera, location),
    )
    image = draw(parts, camera, clevr_lamps(), ground_color=SIXDOF_GROUND_OOD if ood else GROUND_COLOR)
    return image, {"objects": [label_entry(thing, recipe.task)]}
