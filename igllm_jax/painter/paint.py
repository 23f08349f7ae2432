"""Pictures of given scenes: of labels, and of what a model predicted."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from igllm_jax.errors import UserError
from igllm_jax.painter.camera import Camera, clevr_camera
from igllm_jax.painter.coats import PLAIN_COATS, PLANE_COATS, UNKNOWN_PIECES, dress
from igllm_jax.painter.labels import turn_of
from igllm_jax.painter.light import clevr_lamps
from igllm_jax.painter.parts import Part
from igllm_jax.painter.picture import draw
from igllm_jax.painter.poses import SIXDOF_SCALE, so3_scale
from igllm_jax.painter.shapenet import SCALE as SHAPENET_SCALE
from igllm_jax.painter.solids import Thing, solid_parts
from igllm_jax.painter.toys import toy
from igllm_jax.scene.language import Language, find_language
from igllm_jax.scene.scene import Scene


def paint(
    scene: Scene | Sequence[Thing],
    task: Language | str,
    *,
    width: int = 480,
    height: int = 320,
    camera: Camera | None = None,
    rotation_rep: str | None = None,
    rotation_unit: str = "deg",
) -> Image.Image:
    """RGB picture of a scene: the objects of a label or, drawn alike, those of a model's `Reading`.

    camera: default the task's, not jittered; `fit_camera` gives the one that a label was seen from.
    rotation_rep: how the turns of predicted objects are to be read (default: the first that the task has).
    rotation_unit: of the `rotation` of CLEVR labels, "deg" or "rad". What cannot be painted is left out (an object
    without a place) or painted plainly (a word that is unknown): predictions may hold anything.
    Raises: UserError for task twod, whose images are one disc (`igllm_jax.data.images.draw_disc`).
    """
    task = find_language(task)
    if task.name == "twod":
        raise UserError("task twod has no scenes to paint; draw its disc with igllm_jax.data.images.draw_disc(x, y)")
    things = scene.objects if isinstance(scene, Scene) else scene
    rep = task.rotation_reps[0] if rotation_rep is None else rotation_rep
    camera = camera or clevr_camera(width, height)
    scales = {"so3": so3_scale(camera), "sixdof": SIXDOF_SCALE, "shapenet": SHAPENET_SCALE}
    parts: list[Part] = []
    for owner, thing in enumerate(things):
        turn = turn_of(thing, task, rotation_rep=rep, rotation_unit=rotation_unit)
        if task.name == "so3" and thing.location is None:  # always at the origin, which labels leave out
            thing = thing.replace(location=(0.0, 0.0, 0.0))
        if task.name == "clevr":
            parts += solid_parts(thing, turn, owner=owner)
        else:
            parts += _toy_parts(thing, turn, scales[task.name], owner)
    return draw(parts, camera, clevr_lamps(), on_ground=task.name != "so3")


def _toy_parts(thing: Thing, turn: np.ndarray, scale: float, owner: int) -> list[Part]:
    if thing.location is None:
        return []
    pieces = toy(thing.shape or "")
    coats = {**PLAIN_COATS, **PLANE_COATS}
    return dress(
        pieces or UNKNOWN_PIECES, coats, location=np.array(thing.location), turn=turn, scale=scale, owner=owner
    )
