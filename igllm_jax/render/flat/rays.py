"""Where rays meet parts, and what is there: stretched and turned spheres, cubes, cylinders and cones (`spec.Part`).

One matrix takes a part's own frame to the scene, so all rays are tested against four unit shapes only.
"""

from typing import NamedTuple

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.render.world import WorldPart

NUM_FACES = 8  # cube: -x +x -y +y -z +z; cylinder and cone: 0 side, 4 bottom, 5 top; sphere: 0
MISS = np.float32(np.inf)
BEVEL = 0.07  # width of the light line along the edges of metal, where 1 is the half-side
BEVEL_SHINE = 0.5
METALLIC = 0.5  # materials from here on are drawn as metal


class Triple(NamedTuple):
    """x, y and z as separate float32 arrays that broadcast against each other."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray


def local_rays(part: WorldPart, origin: np.ndarray, direction: Triple) -> tuple[Triple, Triple]:
    """Rays in the part's own frame, origin [3, ...] and directions; the ray parameters stay the same."""
    x, y, z = (origin[axis] - part.center[axis] for axis in range(3))
    start = (np.asarray(x * row[0] + y * row[1] + z * row[2], np.float32) for row in part.inverse)
    inverse = part.inverse.astype(np.float32)
    rows = (direction.x * row[0] + direction.y * row[1] + direction.z * row[2] for row in inverse)
    return Triple(*start), Triple(*rows)


def meet(part: WorldPart, origin: np.ndarray, direction: Triple) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter the part: the ray parameter (float32, `MISS` where they don't) and the face (int8).

    origin: [3, ...] scene points outside of the part; it and the directions broadcast against each other.
    """
    if part.kind not in _MEET:
        raise UserError(
            f"the renderer flat draws {', '.join(_MEET)}, not a mesh from a {part.kind}; choose another --renderer"
        )
    start, own = local_rays(part, origin, direction)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _MEET[part.kind](start, own)


def _meet_sphere(start: Triple, d: Triple) -> tuple[np.ndarray, np.ndarray]:
    a = d.x * d.x + d.y * d.y + d.z * d.z
    b = d.x * start.x + d.y * start.y + d.z * start.z
    c = start.x * start.x + start.y * start.y + start.z * start.z - np.float32(1)
    enter = (-b - np.sqrt(b * b - a * c)) / a
    return np.where(enter > 0, enter, MISS), np.zeros(enter.shape, np.int8)


def _slab(start: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ray parameters where -1 <= coordinate <= 1 begins and ends."""
    over = np.float32(1) / np.where(d == 0, np.float32(1e-12), d)
    middle, half = -start * over, np.abs(over)
    return middle - half, middle + half


def _meet_cube(start: Triple, d: Triple) -> tuple[np.ndarray, np.ndarray]:
    (x0, x1), (y0, y1), (z0, z1) = (_slab(s, c) for s, c in zip(start, d, strict=True))
    enter = np.maximum(np.maximum(x0, y0), z0)
    leave = np.minimum(np.minimum(x1, y1), z1)
    axis_x, axis_y = enter == x0, enter == y0
    face = np.where(axis_x, 0 + (d.x < 0), np.where(axis_y, 2 + (d.y < 0), 4 + (d.z < 0))).astype(np.int8)
    return np.where((enter < leave) & (enter > 0), enter, MISS), face


def _meet_cylinder(start: Triple, d: Triple) -> tuple[np.ndarray, np.ndarray]:
    a = d.x * d.x + d.y * d.y
    b = d.x * start.x + d.y * start.y
    root = np.sqrt(b * b - a * (start.x * start.x + start.y * start.y - np.float32(1)))
    z0, z1 = _slab(start.z, d.z)
    side = (-b - root) / a
    enter, leave = np.maximum(side, z0), np.minimum((-b + root) / a, z1)
    face = np.where(side >= z0, 0, 4 + (d.z < 0)).astype(np.int8)
    return np.where((enter < leave) & (enter > 0), enter, MISS), face


def _meet_cone(start: Triple, d: Triple) -> tuple[np.ndarray, np.ndarray]:
    # x^2 + y^2 = h^2 with h = (1 - z) / 2, the radius at height z, along the ray: h = h0 + h1 t.
    h0, h1 = (np.float32(1) - start.z) / np.float32(2), d.z / np.float32(-2)
    a = d.x * d.x + d.y * d.y - h1 * h1
    b = d.x * start.x + d.y * start.y - h1 * h0
    root = np.sqrt(b * b - a * (start.x * start.x + start.y * start.y - h0 * h0))
    best = np.broadcast_to(MISS, root.shape)
    for t in ((-b - root) / a, (-b + root) / a):
        z = start.z + t * d.z
        best = np.where((t > 0) & (np.abs(z) <= 1) & (t < best), t, best)
    base = (np.float32(-1) - start.z) / d.z
    x, y = start.x + base * d.x, start.y + base * d.y
    on_base = (base > 0) & (x * x + y * y <= 1) & (base < best)
    return np.where(on_base, base, best), np.where(on_base, 4, 0).astype(np.int8)


_MEET = {"sphere": _meet_sphere, "cube": _meet_cube, "cylinder": _meet_cylinder, "cone": _meet_cone}


def normals(part: WorldPart, face: np.ndarray, point: Triple) -> Triple:
    """Outward unit normals in the scene at own-frame surface points [N] of `part` on `face`."""
    zero = np.zeros_like(point.x)
    if part.kind == "sphere":
        own = point
    elif part.kind == "cube":
        sign = np.where(face % 2 == 0, np.float32(-1), np.float32(1))
        own = Triple(*(np.where(face // 2 == axis, sign, zero) for axis in range(3)))
    else:
        on_side = face == 0
        slope = (np.float32(1) - point.z) / np.float32(4) if part.kind == "cone" else zero
        cap = np.where(face == 4, np.float32(-1), np.float32(1))
        own = Triple(np.where(on_side, point.x, zero), np.where(on_side, point.y, zero), np.where(on_side, slope, cap))
    inverse = part.inverse.astype(np.float32)  # normals go by the inverse transposed
    world = [own.x * inverse[0, i] + own.y * inverse[1, i] + own.z * inverse[2, i] for i in range(3)]
    length = np.sqrt(world[0] * world[0] + world[1] * world[1] + world[2] * world[2]) + np.float32(1e-12)
    return Triple(*(component / length for component in world))


def _near_edge(kind: str, face: np.ndarray, point: Triple) -> np.ndarray:
    """float32 [N]: 1 in the narrow band along a cube's or cylinder's edges, where polished metal shows a light line."""
    beyond = np.float32(1 - BEVEL)
    if kind == "cylinder":
        return ((face == 0) & (np.abs(point.z) > beyond)).astype(np.float32)
    return (sum((np.abs(c) > beyond).astype(np.int8) for c in point) >= 2).astype(np.float32)  # type: ignore[union-attr]


def albedo(part: WorldPart, face: np.ndarray, point: Triple) -> np.ndarray:
    """float32 [3, N]: linear colours at own-frame surface points [N] of `part` on `face`."""
    material = part.material
    colors: np.ndarray = np.repeat(np.array(material.color, np.float32)[:, None], len(face), axis=1)
    if material.metallic >= METALLIC and part.kind in ("cube", "cylinder"):
        colors = colors + np.float32(BEVEL_SHINE) * _near_edge(part.kind, face, point)
    if material.pattern == "plain":
        return colors
    steps = [np.floor((c + np.float32(1.001)) * np.float32(material.repeats)) for c in point]
    count = steps[0] if material.pattern == "stripes" else steps[0] + steps[1] + steps[2]
    return np.where(count % 2 == 0, colors, np.array(material.second, np.float32)[:, None])
