"""Transforms as 4 x 4 matrices, which all file formats take (each in its own order)."""

import numpy as np

from igllm_jax.render.camera import Camera
from igllm_jax.render.spec import ObjectSpec, Part


def object_matrix(thing: ObjectSpec) -> np.ndarray:
    """float64 [4, 4], to the left of column vectors: the object's own frame to the scene."""
    return _matrix(thing.scale * np.array(thing.rotation), thing.location)


def part_matrix(part: Part) -> np.ndarray:
    """float64 [4, 4]: the part's own frame to the object's; may shear."""
    return _matrix(np.array(part.axes), part.center)


def camera_matrix(camera: Camera) -> np.ndarray:
    """float64 [4, 4]: the frame of a camera that looks along its own -z, with y up and x right, to the scene."""
    right, down, forward = camera.axes
    return _matrix(np.stack([right, -down, -forward], axis=1), camera.position)


def facing_matrix(position: tuple[float, float, float]) -> np.ndarray:
    """float64 [4, 4]: the frame of a lamp at `position` that shines along its own -z, to the scene: at the origin."""
    back = np.array(position) / max(float(np.linalg.norm(position)), 1e-9)
    side = np.cross((0.0, 0.0, 1.0) if abs(back[2]) < 0.999 else (1.0, 0.0, 0.0), back)
    side /= np.linalg.norm(side)
    return _matrix(np.stack([side, np.cross(back, side), back], axis=1), position)


def _matrix(axes: np.ndarray, origin: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axes, origin
    return matrix
