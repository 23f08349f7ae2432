"""Shapenet's scenes in small: several toys of several classes on a ground, each `CLASS_NUMBER`, upright, with any yaw.

Labels hold a turn as extrinsic xyz Euler angles in radians, here (0, 0, yaw). Paint is not in the labels.
"""

import dataclasses
import math

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.render.camera import Camera, clevr_camera
from igllm_jax.render.compose.shifts import own_camera
from igllm_jax.render.labels import pixel_of
from igllm_jax.render.lights import CLEVR_LIGHTS, GROUND
from igllm_jax.render.materials import draw_materials
from igllm_jax.render.meshes import TEST_SHARE, find_models, is_test_model
from igllm_jax.render.objects import mesh_object, toy_object
from igllm_jax.render.recipe import Recipe, VisiblePixels
from igllm_jax.render.roles import Roles
from igllm_jax.render.spec import ObjectSpec, SceneSpec
from igllm_jax.render.toys import CLASSES
from igllm_jax.render.world import inside_image, lowest, world_parts
from igllm_jax.scene.rotations import euler_to_matrix
from igllm_jax.scene.scene import Object, label_entry

SPLITS = ("train", "val_ID", "val_OOD_texture", "val_OOD_shape")
NUMBERS = range(6)  # of every class, in training
NUMBERS_OOD = range(6, 10)  # val_OOD_shape: other models of the same classes
SCALE = 1.0
MODEL_SCALE = 0.8  # of meshes: from the middle to the longest sides
REACH = 3.0  # x and y are drawn from -REACH to REACH
MIN_GAP = 0.15  # between the circles around two toys, seen from above, in scene units
MIN_SHARE_VISIBLE = 250 / (336 * 336)  # of the image's pixels, for each toy
MARGIN = 0.01  # of the image's sides that toys keep free
TRIES_PER_TOY = 100
TRIES_PER_SCENE = 200


def _draw_shape(rng: np.random.Generator, split: str, index: int) -> tuple[ObjectSpec, float]:
    """A toy at the origin, and its yaw in radians."""
    numbers = NUMBERS_OOD if split == "val_OOD_shape" else NUMBERS
    names = tuple(CLASSES)
    shape = f"{names[int(rng.integers(len(names)))]}_{numbers[int(rng.integers(len(numbers)))]}"
    materials = draw_materials(rng, ood=split == "val_OOD_texture")
    yaw_rad = float(rng.uniform(-math.pi, math.pi))
    roles = Roles(shape=shape, rotation=euler_to_matrix((0.0, 0.0, yaw_rad)), words=(("shape", shape),))
    return toy_object(roles, index, SCALE, materials), yaw_rad


def _draw_model(rng: np.random.Generator, split: str, index: int, meshes: str) -> tuple[ObjectSpec, float]:
    """A model of the user's at the origin, and its yaw in radians. Its class is drawn first, then the model."""
    every = find_models(meshes)
    models = [model for model in every if is_test_model(model, every) == (split == "val_OOD_shape")]
    if not models:
        raise UserError(f"--meshes {meshes}: val_OOD_shape needs a class of {TEST_SHARE} models or more; add some")
    names = sorted({model.name for model in models})
    name = names[int(rng.integers(len(names)))]
    own = [model for model in models if model.name == name]
    model = own[int(rng.integers(len(own)))]
    paint = draw_materials(rng, ood=True)["body"] if split == "val_OOD_texture" else None
    yaw_rad = float(rng.uniform(-math.pi, math.pi))
    roles = Roles(shape=model.word, rotation=euler_to_matrix((0.0, 0.0, yaw_rad)), words=(("shape", model.word),))
    return mesh_object(model, roles, index, MODEL_SCALE, paint), yaw_rad


def _draw_toy(
    rng: np.random.Generator,
    camera: Camera,
    split: str,
    index: int,
    taken: list[tuple[float, float, float]],
    meshes: str | None,
) -> tuple[Object, ObjectSpec] | None:
    """A toy with its location beside those `taken` (x, y, radius), which it joins; None when there is no room."""
    at_origin, yaw_rad = _draw_shape(rng, split, index) if meshes is None else _draw_model(rng, split, index, meshes)
    shape = dict(at_origin.words)["shape"]
    standing = world_parts(at_origin)
    radius = max(float(np.hypot(*part.corners().T[:2]).max()) for part in standing)
    for x, y in rng.uniform(-REACH, REACH, (TRIES_PER_TOY, 2)):
        if any(math.hypot(x - a, y - b) < radius + other + MIN_GAP for a, b, other in taken):
            continue
        location = (float(x), float(y), float(-lowest(standing)))
        spec = dataclasses.replace(at_origin, location=location)
        if inside_image(world_parts(spec), camera, MARGIN):
            taken.append((x, y, radius))
            rotation = (0.0, 0.0, yaw_rad)
            return Object(shape=shape, location=location, rotation=rotation, pixel=pixel_of(camera, location)), spec
    return None


def compose(rng: np.random.Generator, recipe: Recipe, split: str, visible_pixels: VisiblePixels) -> SceneSpec:
    """A random scene of `split`. Raises: UserError when so many toys find no room."""
    camera = own_camera(rng, clevr_camera(recipe.width, recipe.height), recipe.domain_shift)
    count = int(rng.integers(recipe.min_objects, recipe.max_objects + 1))
    fewest = MIN_SHARE_VISIBLE * recipe.width * recipe.height
    for _ in range(TRIES_PER_SCENE):
        taken: list[tuple[float, float, float]] = []
        toys: list[tuple[Object, ObjectSpec]] = []
        while len(toys) < count and (drawn := _draw_toy(rng, camera, split, len(toys), taken, recipe.meshes)):
            toys.append(drawn)
        if len(toys) < count:
            continue
        label = {"objects": [label_entry(thing, "shapenet") for thing, _ in toys]}
        spec = SceneSpec(camera, CLEVR_LIGHTS, GROUND, tuple(own for _, own in toys), label=label)
        if visible_pixels(spec).min() >= fewest:
            return spec
    raise UserError(
        f"{TRIES_PER_SCENE} tries found no room for {count} objects where each can be seen "
        f"in {recipe.width}x{recipe.height} pixels; give a smaller --max_objects"
    )
