"""The scenes of so3 (one toy airplane, turned anyhow) and sixdof (turned and moved, over a ground).

Labels hold a turn as extrinsic xyz Euler angles in radians.
"""

import dataclasses
import math

import numpy as np

from igllm_jax.render.camera import Camera, clevr_camera
from igllm_jax.render.compose.shifts import own_camera
from igllm_jax.render.labels import pixel_of
from igllm_jax.render.lights import CLEVR_LIGHTS, GROUND
from igllm_jax.render.materials import PLANE_MATERIALS, PLANE_MATERIALS_OOD
from igllm_jax.render.meshes import find_models
from igllm_jax.render.objects import ORIGIN, mesh_object, toy_object
from igllm_jax.render.recipe import Recipe, VisiblePixels
from igllm_jax.render.roles import Roles
from igllm_jax.render.spec import Ground, ObjectSpec, SceneSpec
from igllm_jax.render.toys import PLANE
from igllm_jax.render.world import inside_image, lowest, world_parts
from igllm_jax.scene.rotations import geodesic_deg, matrix_to_euler, quaternion_to_matrix
from igllm_jax.scene.scene import Object, label_entry

SPLITS = ("train", "val_ID", "val_OOD")
SO3_SCALE = 3.3  # in a square image
SO3_HOLE_DEG = 30.0  # training shows no turn within this angle of no turn at all; val_OOD shows only those
SIXDOF_SCALE = 1.4
SIXDOF_REACH = 2.6  # x and y are drawn from -REACH to REACH
SIXDOF_LIFT = 1.5  # the toy's lowest point is drawn between the ground and this height
SIXDOF_GROUND_OOD = Ground((0.16, 0.24, 0.12))  # val_OOD: another ground, and another paint on the toy
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


def plane_object(turn: np.ndarray, *, scale: float, ood: bool = False, meshes: str | None = None) -> ObjectSpec:
    """The airplane, or the first of `meshes`, at the origin, as object 0. ood: in paint that training never shows."""
    if meshes is not None:
        model = find_models(meshes)[0]
        roles = Roles(shape=model.word, rotation=turn, words=(("shape", model.word),))
        return mesh_object(model, roles, 0, scale, PLANE_MATERIALS_OOD["hull"] if ood else None)
    roles = Roles(shape=PLANE, rotation=turn, words=(("shape", PLANE),))
    return toy_object(roles, 0, scale, PLANE_MATERIALS_OOD if ood else PLANE_MATERIALS)


def compose_so3(rng: np.random.Generator, recipe: Recipe, split: str, visible_pixels: VisiblePixels) -> SceneSpec:
    """A random scene of so3. The location is always the origin, so labels leave it out."""
    if split == "val_OOD":
        turn = random_turn_within(rng, SO3_HOLE_DEG)
    else:
        turn = random_turn(rng)
        while geodesic_deg(turn, np.eye(3)) <= SO3_HOLE_DEG:
            turn = random_turn(rng)
    camera = own_camera(rng, clevr_camera(recipe.width, recipe.height), recipe.domain_shift)
    plane = plane_object(turn, scale=so3_scale(camera), meshes=recipe.meshes)
    shape = dict(plane.words)["shape"]
    thing = Object(shape=shape, rotation=matrix_to_euler(turn), pixel=pixel_of(camera, ORIGIN))
    return SceneSpec(camera, CLEVR_LIGHTS, None, (plane,), label={"objects": [label_entry(thing, recipe.task)]})


def compose_sixdof(rng: np.random.Generator, recipe: Recipe, split: str, visible_pixels: VisiblePixels) -> SceneSpec:
    """A random scene of sixdof. The toy is wholly in the picture and above the ground."""
    ood = split == "val_OOD"
    camera = own_camera(rng, clevr_camera(recipe.width, recipe.height), recipe.domain_shift)
    while True:
        turn = random_turn(rng)
        x, y = rng.uniform(-SIXDOF_REACH, SIXDOF_REACH, 2)
        lift = rng.uniform(0, SIXDOF_LIFT)
        at_origin = plane_object(turn, scale=SIXDOF_SCALE, ood=ood, meshes=recipe.meshes)
        location = (float(x), float(y), float(lift - lowest(world_parts(at_origin))))
        plane = dataclasses.replace(at_origin, location=location)
        if inside_image(world_parts(plane), camera, MARGIN):
            break
    shape, rotation = dict(plane.words)["shape"], matrix_to_euler(turn)
    thing = Object(shape=shape, location=location, rotation=rotation, pixel=pixel_of(camera, location))
    ground = SIXDOF_GROUND_OOD if ood else GROUND
    return SceneSpec(camera, CLEVR_LIGHTS, ground, (plane,), label={"objects": [label_entry(thing, recipe.task)]})
