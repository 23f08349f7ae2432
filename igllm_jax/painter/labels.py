"""Where objects are in the image, and the turns of objects as matrices."""

import numpy as np

from igllm_jax.painter.camera import Camera
from igllm_jax.scene.language import Language, find_language
from igllm_jax.scene.rotations import euler_to_matrix
from igllm_jax.scene.scene import Object, Predicted


def pixel_of(camera: Camera, location: tuple[float, ...] | np.ndarray) -> tuple[float, float, float]:
    """`pixel_coords` of a place: x and y in whole pixels, as CLEVR rounds them, and the depth in scene units."""
    x, y, depth = camera.project(np.asarray(location))[0]
    return round(float(x)), round(float(y)), float(depth)


def yaw_deg_to_matrix(yaw_deg: float) -> np.ndarray:
    """Rotation matrix [3, 3] of a turn about the vertical axis, in degrees, counter-clockwise seen from above."""
    return euler_to_matrix((0.0, 0.0, float(np.radians(yaw_deg))))


def turn_of(thing: Object | Predicted, task: Language | str, *, rotation_rep: str, rotation_unit: str) -> np.ndarray:
    """How an object is turned, as a rotation matrix [3, 3]; the identity where it does not say.

    rotation_rep: how a prediction's numbers are meant. rotation_unit: of labels that come in either, "deg" or "rad".
    Raises: UserError for a representation that the task does not have.
    """
    language = find_language(task)
    settings = language.settings(rotation_rep, rotation_unit)
    attribute = language.by_name[thing.function].by_role.get("rotation")
    if attribute is None or attribute.name not in thing:
        return np.eye(3)
    kind, value = attribute.kind, thing[attribute.name]
    if isinstance(thing, Predicted):
        return kind.said_matrix(value, thing, settings)  # type: ignore[attr-defined]
    return kind.label_matrix(value, settings)  # type: ignore[attr-defined]
