"""Parts in the scene: an object's pieces where its transform puts them, and what their outlines reach."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from igllm_jax.render.camera import Camera
from igllm_jax.render.meshes import box
from igllm_jax.render.spec import FILE, Material, ObjectSpec

FLAT = 1e-9  # least half-side of the box around a mesh, so that a sheet has an inverse


@dataclass(frozen=True)
class WorldPart:
    """One part in scene coordinates. center: [3] and axes: [3, 3], so `center + axes @ p` is where its point p is.

    kind and material: of `spec.Part`. owner: the position of its object in the scene's `objects`. inverse: of `axes`.
    """

    kind: str
    center: np.ndarray
    axes: np.ndarray
    material: Material
    owner: int = 0
    inverse: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inverse", np.linalg.inv(self.axes))

    def corners(self) -> np.ndarray:
        """float64 [8, 3]: the corners of the box around the part, in the scene."""
        signs = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
        return self.center + signs @ self.axes.T


def world_parts(thing: ObjectSpec, owner: int = 0) -> list[WorldPart]:
    """The parts of one object in the scene. A mesh from a file stands as the box around it, with its own kind."""
    location, rotation = np.array(thing.location), np.array(thing.rotation)
    parts = []
    for part in thing.parts:
        center, axes = np.array(part.center), np.array(part.axes)
        if part.kind == FILE and part.file is not None:
            low, high = box(part.file)
            center, axes = center + axes @ ((low + high) / 2), axes @ np.diag(np.maximum((high - low) / 2, FLAT))
        center, axes = location + thing.scale * (rotation @ center), thing.scale * (rotation @ axes)
        parts.append(WorldPart(part.kind, center, axes, part.material, owner))
    return parts


def all_world_parts(objects: Sequence[ObjectSpec]) -> list[WorldPart]:
    """The parts of several objects, in order."""
    return [part for owner, thing in enumerate(objects) for part in world_parts(thing, owner)]


def lowest(parts: Sequence[WorldPart]) -> float:
    """The height of the lowest point of the parts, z in scene units."""
    return min(part.center[2] - _reach_down(part) for part in parts)


def _reach_down(part: WorldPart) -> float:
    """How far the part reaches below its centre: the support of its unit shape in the direction -z."""
    x, y, z = part.axes[2]
    if part.kind == "sphere":
        return float(np.sqrt(x * x + y * y + z * z))
    if part.kind in ("cube", FILE):
        return float(abs(x) + abs(y) + abs(z))
    if part.kind == "cylinder":
        return float(np.hypot(x, y) + abs(z))
    return float(max(np.hypot(x, y) + z, -z))  # cone: the rim at z = -1, or the tip


def inside_image(parts: Sequence[WorldPart], camera: Camera, margin: float) -> bool:
    """Whether all of the parts is in the image and keeps `margin` (of the image's sides) from its border."""
    x, y, depth = camera.project(np.concatenate([part.corners() for part in parts])).T / np.array(
        [[camera.width], [camera.height], [1.0]]
    )
    return bool(depth.min() > 0 and min(x.min(), y.min()) >= margin and max(x.max(), y.max()) <= 1 - margin)
