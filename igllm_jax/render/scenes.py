"""Scenes to be drawn, from labels and from what a model wrote: the objects by the roles of what is said of them, seen
by the camera and in the light that the label has, or that its image is known to have been made with.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from igllm_jax.errors import UserError
from igllm_jax.render.camera import Camera, clevr_camera, fit_camera
from igllm_jax.render.compose.poses import SIXDOF_SCALE, so3_scale
from igllm_jax.render.compose.shapenet import MODEL_SCALE
from igllm_jax.render.compose.shapenet import SCALE as SHAPENET_SCALE
from igllm_jax.render.flat.draw import draw
from igllm_jax.render.labels import Stage, read_stage
from igllm_jax.render.lights import CLEVR_LIGHTS, GROUND
from igllm_jax.render.meshes import PAINTED, find_models
from igllm_jax.render.objects import ORIGIN, mesh_object, solid, toy_object
from igllm_jax.render.roles import (
    Roles,
    Thing,
    check_renderable,
    default_rotation_rep,
    location_of,
    pixel_of_label,
    roles_of,
)
from igllm_jax.render.spec import FARTHEST, Material, ObjectSpec, SceneSpec
from igllm_jax.scene.language import Language, find_language
from igllm_jax.scene.scene import Scene

AMBIENT = 0.26
MOST_PIXELS_OFF = 4.0  # of a label's pixel_coords from where the recovered camera sees the object
STORED, STANDARD, RECOVERED = "stored", "standard", "recovered"  # where a camera comes from

Builder = Callable[[Roles, int, Camera, Mapping[str, Material]], ObjectSpec]
# task -> what its objects look like; tasks that are not here show CLEVR's solids
BUILDERS: dict[str, Builder] = {
    "clevr": lambda roles, index, camera, paint: solid(roles, index, paint.get("body")),
    "so3": lambda roles, index, camera, paint: toy_object(roles, index, so3_scale(camera), paint),
    "sixdof": lambda roles, index, camera, paint: toy_object(roles, index, SIXDOF_SCALE, paint),
    "shapenet": lambda roles, index, camera, paint: toy_object(roles, index, SHAPENET_SCALE, paint),
}
# task -> how large a model of `--meshes` is: what make-data gives it
MODEL_SCALES: dict[str, Callable[[Camera], float]] = {
    "so3": so3_scale,
    "sixdof": lambda camera: SIXDOF_SCALE,
    "shapenet": lambda camera: MODEL_SCALE,
}
FIXED_LOCATION = ("so3",)  # tasks whose objects are always at the origin, which labels leave out
NO_GROUND = ("so3",)


def standard_stage(task: Language | str, camera: Camera) -> Stage:
    """The stage of a scene of which no more is known: CLEVR's lamps where they stand without jitter, and its ground."""
    return Stage(camera, CLEVR_LIGHTS, AMBIENT, None if find_language(task).name in NO_GROUND else GROUND)


def label_stage(label: Mapping[str, Any], scene: Scene, task: Language, width: int, height: int) -> tuple[Stage, str]:
    """The stage that a labelled image was drawn on, and where its camera comes from.

    STORED: the label has it (data of ours); its image size wins over `width` and `height`. STANDARD: the camera without
    jitter, which fits the label's pixel_coords, or nothing speaks against. RECOVERED: fitted to them.

    Raises: UserError that names the image, where pixel_coords fit no camera that looks at the origin.
    """
    stage = read_stage(label, f"image {scene.image}")
    if stage is not None:
        return stage, STORED
    camera, source = recover_camera(scene, task, width, height)
    return standard_stage(task, camera), source


def recover_camera(scene: Scene, language: Language, width: int, height: int) -> tuple[Camera, str]:
    """The camera that saw a label's objects at their pixel_coords; see `label_stage`."""
    both = ((location_of(thing, language), pixel_of_label(thing, language)) for thing in scene.objects)
    known = [(location, pixel) for location, pixel in both if location and pixel]
    standard = clevr_camera(width, height)
    locations = np.array([location for location, _ in known]).reshape(-1, 3)
    pixels = np.array([pixel for _, pixel in known]).reshape(-1, 3)
    if not known or (np.abs(standard.project(locations) - pixels) <= (0.51, 0.51, 1e-3)).all():
        return standard, STANDARD
    camera = fit_camera(locations, pixels, width, height)
    off = np.abs(camera.project(locations)[:, :2] - pixels[:, :2]).max()
    if not off <= MOST_PIXELS_OFF:
        raise UserError(
            f"image {scene.image}: its pixel_coords fit no camera that looks at the origin ({off:.0f} pixels off at "
            f"{width}x{height}); give the size that the image was made in, with --images or --image_size"
        )
    return camera, RECOVERED


def is_drawable(thing: Thing, task: Language) -> bool:
    """Whether an object has a location, or needs none, and not one so far off that numbers lose their meaning."""
    location = location_of(thing, task)
    if location is None:
        return task.name in FIXED_LOCATION
    return all(abs(number) <= FARTHEST for number in location)


def scene_spec(
    things: Sequence[Thing],
    task: Language | str,
    stage: Stage,
    *,
    rotation_rep: str | None = None,
    rotation_unit: str = "deg",
    paint_of: Mapping[int, int] | None = None,
    meshes: str | None = None,
) -> SceneSpec:
    """The scene of a label's objects, or of a model's, on a stage. What is not `is_drawable` is left out.

    rotation_rep: how predicted rotations are to be read (default: the first that the task has). rotation_unit: of the
    `rotation` of CLEVR labels, "deg" or "rad". paint_of: index of an object -> number of its paint in
    `stage.materials`; objects that are not there are painted plainly. Default: each has its own. meshes: a folder
    whose models are shown by their words, where the task has such.

    Raises: UserError for 2D tasks, for representations and units that do not exist, and folders without models.
    """
    task = find_language(task)
    check_renderable(task)
    rep = default_rotation_rep(task) if rotation_rep is None else rotation_rep
    build, paints = BUILDERS.get(task.name, BUILDERS["clevr"]), stage.materials or ()
    models = {model.word: model for model in find_models(meshes)} if meshes and task.name in MODEL_SCALES else {}
    objects = []
    for index, thing in enumerate(things):
        roles = roles_of(thing, task, rotation_rep=rep, rotation_unit=rotation_unit)
        if not is_drawable(thing, task):
            continue
        if roles.location is None:
            roles = dataclasses.replace(roles, location=ORIGIN)
        number = index if paint_of is None else paint_of.get(index, len(paints))
        paint = paints[number] if number < len(paints) else {}
        if roles.shape in models:
            scale = MODEL_SCALES[task.name](stage.camera)
            objects.append(mesh_object(models[roles.shape], roles, index, scale, paint.get(PAINTED)))
        else:
            objects.append(build(roles, index, stage.camera, paint))
    return SceneSpec(stage.camera, stage.lights, stage.ground, tuple(objects), stage.ambient)


def draw_objects(
    scene: Scene | Sequence[Thing],
    task: Language | str,
    *,
    width: int = 480,
    height: int = 320,
    camera: Camera | None = None,
    rotation_rep: str | None = None,
    rotation_unit: str = "deg",
) -> Image.Image:
    """RGB picture by the renderer `flat` of a label's objects or, drawn alike, of those of a model's `Reading`.

    camera: default the task's, not jittered; `fit_camera` gives the one that a label was seen from. The others: see
    `scene_spec`. What cannot be drawn is left out (an object without a location) or drawn plainly (a word that is
    unknown): predictions may hold anything. Raises: UserError for task twod, whose images are one disc.
    """
    things = scene.objects if isinstance(scene, Scene) else scene
    check_renderable(find_language(task))
    stage = standard_stage(task, camera or clevr_camera(width, height))
    return draw(scene_spec(things, task, stage, rotation_rep=rotation_rep, rotation_unit=rotation_unit)).image
