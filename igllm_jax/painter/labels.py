"""Objects as label files have them, and the turns of objects as matrices."""

from typing import Any

import numpy as np

from igllm_jax.painter.camera import Camera
from igllm_jax.scene.code import Predicted
from igllm_jax.scene.rotations import euler_to_matrix
from igllm_jax.scene.scene import Object
from igllm_jax.scene.tasks import Task, check_rotation_unit


def object_entry(thing: Object) -> dict[str, Any]:
    """One entry of a scene's `objects`: only what the object has, under CLEVR's names."""
    words = {key: getattr(thing, key) for key in ("size", "color", "material", "shape")}
    entry: dict[str, Any] = {key: word for key, word in words.items() if word is not None}
    if thing.location is not None:
        entry["3d_coords"] = list(thing.location)
    if thing.rotation is not None:  # CLEVR's yaw is a bare number
        entry["rotation"] = thing.rotation[0] if len(thing.rotation) == 1 else list(thing.rotation)
    if thing.pixel is not None:
        entry["pixel_coords"] = [int(thing.pixel[0]), int(thing.pixel[1]), thing.pixel[2]]
    return entry


def pixel_of(camera: Camera, location: tuple[float, ...] | np.ndarray) -> tuple[float, float, float]:
    """`pixel_coords` of a place: x and y in whole pixels, as CLEVR rounds them, and the depth in scene units."""
    x, y, depth = camera.project(np.asarray(location))[0]
    return float(round(x)), float(round(y)), float(depth)


def yaw_deg_to_matrix(yaw_deg: float) -> np.ndarray:
    """Rotation matrix [3, 3] of a turn about the vertical axis, in degrees, counter-clockwise seen from above."""
    return euler_to_matrix((0.0, 0.0, float(np.radians(yaw_deg))))


def turn_of(thing: Object | Predicted, task: Task, *, rotation_rep: str, rotation_unit: str) -> np.ndarray:
    """How an object is turned, as a rotation matrix [3, 3]; the identity where it does not say.

    rotation_rep: how a prediction's numbers are meant (labels have extrinsic xyz Euler radians, or CLEVR's yaw in
    `rotation_unit`, "deg" or "rad"). Raises: UserError for a representation that the task does not have.
    """
    representation = task.representation(rotation_rep)
    if representation is None or thing.rotation is None:
        return np.eye(3)
    if isinstance(thing, Predicted):
        return representation.to_matrix(thing.rotation)
    if task.rotation_size == 3:
        return euler_to_matrix(thing.rotation)
    in_degrees = check_rotation_unit(rotation_unit) == "deg"
    return yaw_deg_to_matrix(thing.rotation[0] if in_degrees else float(np.degrees(thing.rotation[0])))
