"""Where rays hit parts, and what is there: stretched and turned spheres, cubes, cylinders and cones (`spec.Part`).

One matrix takes a part's own frame to the scene, so all rays are tested against four unit shapes only.

`xp` is the namespace of the arrays: NumPy, or another of its names, such as `jax.numpy`.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.render.world import WorldPart

Array = Any  # of the namespace that a call names
NUM_FACES = 8  # cube: -x +x -y +y -z +z; cylinder and cone: 0 side, 4 bottom, 5 top; sphere: 0
MISS = np.float32(np.inf)
BEVEL = 0.07  # width of the light line along the edges of metal, where 1 is the half-side
BEVEL_SHINE = 0.5
BEVELLED = ("cube", "cylinder")
METALLIC = 0.5  # materials from here on are drawn as metal


class Triple(NamedTuple):
    """x, y and z as separate float32 arrays that broadcast against each other."""

    x: Array
    y: Array
    z: Array


class PartFrame(Protocol):
    """A part where it stands: `WorldPart`, or arrays of many."""

    @property
    def center(self) -> Array: ...

    @property
    def inverse(self) -> Array: ...


def local_rays(part: PartFrame, origin: Array, direction: Triple, xp: Any = np) -> tuple[Triple, Triple]:
    """Rays in the part's own frame, origin [3, ...] and directions; the ray parameters stay the same."""
    x, y, z = (origin[axis] - part.center[axis] for axis in range(3))
    start = (xp.asarray(x * row[0] + y * row[1] + z * row[2], np.float32) for row in part.inverse)
    inverse = part.inverse.astype(np.float32)
    rows = (direction.x * row[0] + direction.y * row[1] + direction.z * row[2] for row in inverse)
    return Triple(*start), Triple(*rows)


def intersect(part: WorldPart, origin: np.ndarray, direction: Triple) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter the part: the ray parameter (float32, `MISS` where they don't) and the face (int8).

    origin: [3, ...] scene points outside of the part; it and the directions broadcast against each other.
    """
    if part.kind not in INTERSECTIONS:
        raise UserError(
            f"the renderer flat draws {', '.join(INTERSECTIONS)}, not a mesh from a {part.kind}; "
            "choose another --renderer"
        )
    start, own = local_rays(part, origin, direction)
    with np.errstate(divide="ignore", invalid="ignore"):
        return INTERSECTIONS[part.kind](start, own, np)


def _intersect_sphere(start: Triple, d: Triple, xp: Any) -> tuple[Array, Array]:
    a = d.x * d.x + d.y * d.y + d.z * d.z
    b = d.x * start.x + d.y * start.y + d.z * start.z
    c = start.x * start.x + start.y * start.y + start.z * start.z - np.float32(1)
    enter = (-b - xp.sqrt(b * b - a * c)) / a
    return xp.where(enter > 0, enter, MISS), xp.zeros(enter.shape, np.int8)


def _slab(start: Array, d: Array, xp: Any) -> tuple[Array, Array]:
    """Ray parameters where -1 <= coordinate <= 1 begins and ends."""
    over = np.float32(1) / xp.where(d == 0, np.float32(1e-12), d)
    middle, half = -start * over, xp.abs(over)
    return middle - half, middle + half


def _intersect_cube(start: Triple, d: Triple, xp: Any) -> tuple[Array, Array]:
    (x0, x1), (y0, y1), (z0, z1) = (_slab(s, c, xp) for s, c in zip(start, d, strict=True))
    enter = xp.maximum(xp.maximum(x0, y0), z0)
    leave = xp.minimum(xp.minimum(x1, y1), z1)
    axis_x, axis_y = enter == x0, enter == y0
    face = xp.where(axis_x, 0 + (d.x < 0), xp.where(axis_y, 2 + (d.y < 0), 4 + (d.z < 0))).astype(np.int8)
    return xp.where((enter < leave) & (enter > 0), enter, MISS), face


def _intersect_cylinder(start: Triple, d: Triple, xp: Any) -> tuple[Array, Array]:
    a = d.x * d.x + d.y * d.y
    b = d.x * start.x + d.y * start.y
    root = xp.sqrt(b * b - a * (start.x * start.x + start.y * start.y - np.float32(1)))
    z0, z1 = _slab(start.z, d.z, xp)
    side = (-b - root) / a
    enter, leave = xp.maximum(side, z0), xp.minimum((-b + root) / a, z1)
    face = xp.where(side >= z0, 0, 4 + (d.z < 0)).astype(np.int8)
    return xp.where((enter < leave) & (enter > 0), enter, MISS), face


def _intersect_cone(start: Triple, d: Triple, xp: Any) -> tuple[Array, Array]:
    # x^2 + y^2 = h^2 with h = (1 - z) / 2, the radius at height z, along the ray: h = h0 + h1 t.
    h0, h1 = (np.float32(1) - start.z) / np.float32(2), d.z / np.float32(-2)
    a = d.x * d.x + d.y * d.y - h1 * h1
    b = d.x * start.x + d.y * start.y - h1 * h0
    root = xp.sqrt(b * b - a * (start.x * start.x + start.y * start.y - h0 * h0))
    best = xp.broadcast_to(MISS, root.shape)
    for t in ((-b - root) / a, (-b + root) / a):
        z = start.z + t * d.z
        best = xp.where((t > 0) & (xp.abs(z) <= 1) & (t < best), t, best)
    base = (np.float32(-1) - start.z) / d.z
    x, y = start.x + base * d.x, start.y + base * d.y
    on_base = (base > 0) & (x * x + y * y <= 1) & (base < best)
    return xp.where(on_base, base, best), xp.where(on_base, 4, 0).astype(np.int8)


INTERSECTIONS = {
    "sphere": _intersect_sphere,
    "cube": _intersect_cube,
    "cylinder": _intersect_cylinder,
    "cone": _intersect_cone,
}


def normals(part: WorldPart, face: np.ndarray, point: Triple) -> Triple:
    """Outward unit normals in the scene at own-frame surface points [N] of `part` on `face`."""
    return to_world(own_normals(part.kind, face, point), part.inverse.astype(np.float32))


def own_normals(kind: str, face: Array, point: Triple, xp: Any = np) -> Triple:
    """Outward normals of a unit shape, of any length, in its own frame."""
    if kind == "sphere":
        return point
    zero = xp.zeros_like(point.x)
    if kind == "cube":
        sign = xp.where(face % 2 == 0, np.float32(-1), np.float32(1))
        return Triple(*(xp.where(face // 2 == axis, sign, zero) for axis in range(3)))
    on_side = face == 0
    slope = (np.float32(1) - point.z) / np.float32(4) if kind == "cone" else zero
    cap = xp.where(face == 4, np.float32(-1), np.float32(1))
    return Triple(xp.where(on_side, point.x, zero), xp.where(on_side, point.y, zero), xp.where(on_side, slope, cap))


def to_world(own: Triple, inverse: Array, xp: Any = np) -> Triple:
    """Unit normals in the scene, of normals in a part's frame: they go by the inverse [3, 3, ...] transposed."""
    world = [own.x * inverse[0, i] + own.y * inverse[1, i] + own.z * inverse[2, i] for i in range(3)]
    length = xp.sqrt(world[0] * world[0] + world[1] * world[1] + world[2] * world[2]) + np.float32(1e-12)
    return Triple(*(component / length for component in world))


def near_edge(kind: str, face: Array, point: Triple, xp: Any = np) -> Array:
    """float32 [N]: 1 in the narrow band along a cube's or cylinder's edges, where polished metal shows a light line."""
    beyond = np.float32(1 - BEVEL)
    if kind == "cylinder":
        return ((face == 0) & (xp.abs(point.z) > beyond)).astype(np.float32)
    return (sum((xp.abs(c) > beyond).astype(np.int8) for c in point) >= 2).astype(np.float32)  # type: ignore[union-attr]


def albedo(part: WorldPart, face: np.ndarray, point: Triple) -> np.ndarray:
    """float32 [3, N]: linear colours at own-frame surface points [N] of `part` on `face`."""
    material = part.material
    colors: np.ndarray = np.repeat(np.array(material.color, np.float32)[:, None], len(face), axis=1)
    if material.metallic >= METALLIC and part.kind in BEVELLED:
        colors = colors + np.float32(BEVEL_SHINE) * near_edge(part.kind, face, point)
    if material.pattern == "plain":
        return colors
    stripes, checks = pattern_steps(point, material.repeats)
    count = stripes if material.pattern == "stripes" else checks
    return np.where(count % 2 == 0, colors, np.array(material.second, np.float32)[:, None])


def pattern_steps(point: Triple, repeats: Array, xp: Any = np) -> tuple[Array, Array]:
    """Which stripe and which check own-frame points lie in: even ones have a material's first colour."""
    steps = [xp.floor((c + np.float32(1.001)) * xp.float32(repeats)) for c in point]
    return steps[0], steps[0] + steps[1] + steps[2]
