"""What the camera sees where: nearest parts per pixel, by depth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from igllm_jax.render.camera import Camera
from igllm_jax.render.flat.rays import METALLIC, MISS, NUM_FACES, Triple, albedo, intersect, local_rays, normals
from igllm_jax.render.world import WorldPart

GROUND = -1


@dataclass(frozen=True)
class Seen:
    """What P image positions show. part: int32 [P], a part's number or GROUND. face: int8 [P]. depth: float32 [P]."""

    part: np.ndarray
    face: np.ndarray
    depth: np.ndarray

    def take(self, where: np.ndarray) -> "Seen":
        """The same for some of the positions."""
        return Seen(self.part[where], self.face[where], self.depth[where])


def pixel_window(part: WorldPart, camera: Camera) -> tuple[slice, slice]:
    """Rows and columns of the image outside of which `part` can't be seen."""
    pixels = camera.project(part.corners())
    if pixels[:, 2].min() <= 1e-3:  # it reaches behind the camera, where projection means nothing
        return slice(0, camera.height), slice(0, camera.width)
    low, high = np.floor(pixels.min(axis=0)).astype(int), np.ceil(pixels.max(axis=0)).astype(int)
    return (
        slice(*np.clip([low[1], high[1] + 1], 0, camera.height)),
        slice(*np.clip([low[0], high[0] + 1], 0, camera.width)),
    )


def see_pixels(parts: Sequence[WorldPart], camera: Camera) -> Seen:
    """What the centre of every pixel shows, rows first (P = height * width)."""
    shape = (camera.height, camera.width)
    nearest, depth, face = np.full(shape, GROUND, np.int32), np.full(shape, MISS), np.zeros(shape, np.int8)
    x, y = np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5
    for number, part in enumerate(parts):
        rows, columns = pixel_window(part, camera)
        if rows.start == rows.stop or columns.start == columns.stop:
            continue
        rays = Triple(*camera.rays(x[None, columns], y[rows, None]))
        enter, side = intersect(part, np.asarray(camera.position), rays)
        closer = enter < depth[rows, columns]
        nearest[rows, columns][closer] = number
        depth[rows, columns][closer] = enter[closer]
        face[rows, columns][closer] = side[closer]
    return Seen(nearest.ravel(), face.ravel(), depth.ravel())


def see_points(parts: Sequence[WorldPart], camera: Camera, x: np.ndarray, y: np.ndarray) -> Seen:
    """What the image positions `x`, `y` [P], in pixels, show."""
    nearest, depth, face = np.full(len(x), GROUND, np.int32), np.full(len(x), MISS), np.zeros(len(x), np.int8)
    rays = Triple(*camera.rays(x, y))
    for number, part in enumerate(parts):
        rows, columns = pixel_window(part, camera)
        if rows.start == rows.stop or columns.start == columns.stop:
            continue
        inside = (x >= columns.start) & (x < columns.stop) & (y >= rows.start) & (y < rows.stop)
        where = np.flatnonzero(inside)
        own = Triple(*(component[where] for component in rays))
        enter, side = intersect(part, np.asarray(camera.position), own)
        closer = enter < depth[where]
        where = where[closer]
        nearest[where], depth[where], face[where] = number, enter[closer], side[closer]
    return Seen(nearest, face, depth)


def edges(seen: Seen, camera: Camera) -> np.ndarray:
    """Numbers of the pixels [E] that touch a pixel of another part or face: where one colour per pixel looks jagged."""
    label = (seen.part.astype(np.int32) * NUM_FACES + seen.face).reshape(camera.height, camera.width)
    label[seen.part.reshape(label.shape) == GROUND] = GROUND
    edge = np.zeros(label.shape, bool)
    across, along = label[:, 1:] != label[:, :-1], label[1:] != label[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= along
    edge[:-1] |= along
    return np.flatnonzero(edge)


def surface(
    parts: Sequence[WorldPart], camera: Camera, seen: Seen, x: np.ndarray, y: np.ndarray
) -> tuple[Triple, Triple, Triple, np.ndarray, np.ndarray]:
    """Rays, points and normals (each a Triple [P]), linear colours [3, P] and is_metal [P] of what `seen` shows.

    `seen` holds parts only, no ground, at the image positions `x`, `y` [P].
    """
    origin = np.asarray(camera.position, np.float64)
    rays = Triple(*camera.rays(x, y))
    points = Triple(*(np.float32(o) + seen.depth * d for o, d in zip(origin, rays, strict=True)))
    normal, colors = np.empty((3, len(x)), np.float32), np.empty((3, len(x)), np.float32)
    for number in np.unique(seen.part):
        part = parts[number]
        where = np.flatnonzero(seen.part == number)
        start, direction = local_rays(part, origin, Triple(*(component[where] for component in rays)))
        own = Triple(*(s + seen.depth[where] * d for s, d in zip(start, direction, strict=True)))
        face = seen.face[where]
        normal[:, where] = normals(part, face, own)
        colors[:, where] = albedo(part, face, own)
    is_metal = np.array([part.material.metallic >= METALLIC for part in parts])[seen.part]
    return rays, points, Triple(*normal), colors, is_metal
