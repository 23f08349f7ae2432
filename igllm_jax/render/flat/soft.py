"""The flat renderer with soft edges: a picture whose derivatives see outlines, occlusion and shadows.

No test decides anything here. A part covers a pixel by how near its outline passes, hides another by how far it is in
front, and shades the ground alike. Cubes, cylinders and cones are a little round, bevels have no light line. The hard
picture (dense.py) is what it comes near to, but for these.
"""

from typing import Any, NamedTuple

import numpy as np

from igllm_jax.render.flat.arrays import KINDS, NO_PART, PATTERNS, LampArrays, Namespace, PartArrays, SceneArrays
from igllm_jax.render.flat.dense import camera_rays, ground_points_of, illumination, lit_ground
from igllm_jax.render.flat.rays import METALLIC, Array, Triple, to_world
from igllm_jax.render.flat.shading import GROUND_STEP, metal, rubber, unit

POWER = 16  # of the norm whose unit ball a cube is, nearly
BLUNT = 0.05  # how round a cone is, where 1 is the half-height
EDGE = 0.6  # pixels: over which an outline is crossed
RIM, RIM_WIDTH = 0.03, 0.03  # of a part's half-side: rays this near to its outline see it as if it were larger
BEHIND = 0.04  # scene units: over which one part comes before another
HORIZON = 0.1  # of a mirrored direction's height: over which metal goes from ground to studio
ZENITH = np.float32(0.05)  # square of how far from upwards metal's stripes, which meet there, are seen
STRIPE = 4.0  # steepness of a pattern's steps
REACH = 2.8  # times the distance from a part's middle: how far around there a ray is looked at
FLATTEST = 1e-3  # least slope along a ray that is divided by
HALVINGS, NEWTON_STEPS = 18, 10
TINY = np.float32(1e-12)


class Crossing(NamedTuple):
    """How N x P rays pass parts. outside: scene units from the outline, negative where they hit; at: the ray
    parameter where they enter, or pass nearest; middle: where they pass the part's middle."""

    outside: Array
    at: Array
    middle: Array


def _norm(coordinates: tuple[Array, ...], space: Namespace) -> tuple[Array, list[Array]]:
    """The norm of POWER, and its derivatives."""
    xp = space.xp
    largest = xp.abs(coordinates[0])
    for other in coordinates[1:]:
        largest = xp.maximum(largest, xp.abs(other))
    largest = space.constant(largest + TINY)
    scaled = [c / largest for c in coordinates]
    total = sum(c**POWER for c in scaled) + TINY
    root = total ** np.float32(1 / POWER)
    return largest * root, [c ** (POWER - 1) * root / total for c in scaled]


def _sphere(p: Triple, space: Namespace) -> tuple[Array, Triple]:
    length = space.xp.sqrt(p.x * p.x + p.y * p.y + p.z * p.z + TINY)
    return length - 1, Triple(*(c / length for c in p))


def _cube(p: Triple, space: Namespace) -> tuple[Array, Triple]:
    length, slopes = _norm(p, space)
    return length - 1, Triple(*slopes)


def _cylinder(p: Triple, space: Namespace) -> tuple[Array, Triple]:
    radius = space.xp.sqrt(p.x * p.x + p.y * p.y + TINY)
    length, (outward, up) = _norm((radius, p.z), space)
    return length - 1, Triple(outward * p.x / radius, outward * p.y / radius, up)


def _cone(p: Triple, space: Namespace) -> tuple[Array, Triple]:
    """The larger of the distances to side and base, rounded off where both are alike."""
    xp = space.xp
    radius = xp.sqrt(p.x * p.x + p.y * p.y + TINY)
    slant = np.float32(np.sqrt(5))
    side, base = (2 * radius + p.z - 1) / slant, -p.z - 1
    share = _sigmoid((side - base) / np.float32(BLUNT), xp)
    outside = base + np.float32(BLUNT) * xp.logaddexp(0 * side, (side - base) / np.float32(BLUNT))
    outward = share * 2 / slant / radius
    return outside, Triple(outward * p.x, outward * p.y, share / slant - (1 - share))


SURFACES = {"sphere": _sphere, "cube": _cube, "cylinder": _cylinder, "cone": _cone}


def _sigmoid(x: Array, xp: Any) -> Array:
    return np.float32(0.5) * (xp.tanh(np.float32(0.5) * x) + 1)


def _along(start: Triple, direction: Triple, t: Array) -> Triple:
    return Triple(*(s + t * d for s, d in zip(start, direction, strict=True)))


def _outside(parts: PartArrays, kinds: tuple[str, ...], point: Triple, space: Namespace) -> tuple[Array, Triple]:
    """How far points in the parts' own frames are outside of them (convex), and its derivatives by the point."""
    first, *others = kinds
    value, slopes = SURFACES[first](point, space)
    for kind in others:
        is_kind = parts.kind == KINDS.index(kind)
        one, own = SURFACES[kind](point, space)
        value = space.xp.where(is_kind, one, value)
        slopes = Triple(*(space.xp.where(is_kind, a, b) for a, b in zip(own, slopes, strict=True)))
    return value, slopes


def _dot(a: Triple, b: Triple) -> Array:
    return a.x * b.x + a.y * b.y + a.z * b.z


def _own_rays(parts: PartArrays, origin: Array, rays: Triple) -> tuple[Triple, Triple]:
    """Rays in the frames of parts, as `rays.local_rays`, without a cut to float32."""
    offset = Triple(*(origin[axis] - parts.center[axis] for axis in range(3)))
    rows = [Triple(*row) for row in parts.inverse]
    return Triple(*(_dot(offset, row) for row in rows)), Triple(*(_dot(rays, row) for row in rows))


def cross(parts: PartArrays, kinds: tuple[str, ...], origin: Array, direction: Triple, space: Namespace) -> Crossing:
    """How rays from one point pass parts. Both is searched without derivatives: those of a least value need none of its
    place, and one more Newton step has those of where a ray enters."""
    xp = space.xp
    start, rays = _own_rays(parts, origin, direction)
    squared = _dot(rays, rays) + TINY
    towards = Triple(*(parts.center[axis] - origin[axis] for axis in range(3)))
    middle = _dot(towards, direction) / (_dot(direction, direction) + TINY)
    still = space.constant((parts, start, rays))
    off = _along(start, rays, middle)
    reach = REACH * xp.sqrt((1 + _dot(off, off)) / squared)
    begin, end, flattest = space.constant((middle - reach, middle + reach, np.float32(FLATTEST) * xp.sqrt(squared)))

    def look(t: Array, parts: PartArrays, start: Triple, rays: Triple) -> tuple[Array, Triple, Array]:
        value, slopes = _outside(parts, kinds, _along(start, rays, t), space)
        return value, slopes, _dot(slopes, rays)

    def halve(bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        between = (low + high) / 2
        is_before = look(between, *still)[2] < 0
        return xp.where(is_before, between, low), xp.where(is_before, high, between)

    low, high = space.repeat(halve, (begin, end), HALVINGS)
    own = look((low + high) / 2, parts, start, rays)[0]
    # to scene units, by how steep it is nearby: at a point whose derivatives are known, unlike those of the nearest
    _, slopes, _ = look(-_dot(start, rays) / squared, parts, start, rays)
    steepness = [sum(s * parts.inverse[i, axis] for i, s in enumerate(slopes)) for axis in range(3)]
    outside = own / xp.sqrt(sum(s * s for s in steepness) + TINY)
    level = np.float32(RIM_WIDTH) * xp.logaddexp(0 * own, (own + RIM) / np.float32(RIM_WIDTH))
    fixed = space.constant(level)

    def newton(t: Array) -> Array:
        value, _, slope = look(t, *still)
        return t - (value - fixed) / xp.minimum(slope, -flattest)

    at = space.repeat(newton, begin, NEWTON_STEPS)
    value, _, slope = look(at, parts, start, rays)
    return Crossing(outside, at - (value - level) / space.constant(xp.minimum(slope, -flattest)), middle)


def _colors(parts: PartArrays, local: Triple, xp: Any) -> Array:
    """Linear colours [3, N, P]; see `rays.pattern_steps`."""
    waves = [xp.sin(np.float32(np.pi) * (c + np.float32(1.001)) * parts.repeats) for c in local]
    stripes, checks = waves[0], waves[0] * waves[1] * waves[2]
    share = _sigmoid(2 * STRIPE * xp.where(parts.pattern == PATTERNS.index("stripes"), stripes, checks), xp)
    share = xp.where(parts.pattern == PATTERNS.index("plain"), np.float32(1), share)
    return parts.second + share * (parts.color - parts.second)


def _hidden(parts: PartArrays, kinds: tuple[str, ...], lamp: LampArrays, x: Array, y: Array, space: Namespace) -> Array:
    """[1, G]: how much of a lamp parts hide from points of the ground."""
    xp = space.xp
    towards = Triple(x - lamp.position[0], y - lamp.position[1], xp.zeros_like(x) - lamp.position[2])
    crossing = cross(parts, kinds, lamp.position, towards, space)
    # a lamp's shadow is as soft as the lamp is wide, seen from the ground through what casts it
    width = np.float32(0.15) * lamp.size * xp.maximum(1 - crossing.middle, np.float32(0)) + np.float32(0.02)
    share = _sigmoid(-crossing.outside / width, xp) * (parts.kind != NO_PART)
    return 1 - xp.prod(1 - share, axis=0, keepdims=True)


def soft_picture(
    scene: SceneArrays, width: int, height: int, *, kinds: tuple[str, ...], space: Namespace, edge: float = EDGE
) -> Array:
    """Linear light [3, P], rows first, P = height * width. kinds: of the scene's parts, see `draw_dense`. edge: pixels
    over which an outline is crossed."""
    xp = space.xp
    column, row = (grid.ravel().astype(np.float32) for grid in np.meshgrid(np.arange(width), np.arange(height)))
    rays = camera_rays(scene.camera, column + np.float32(0.5), row + np.float32(0.5), width, height, xp)
    parts = PartArrays(*(xp.moveaxis(xp.asarray(field), 0, -1)[..., None] for field in scene.parts))
    origin = scene.camera.position
    crossing = cross(parts, kinds, origin, rays, space)
    pixel = crossing.middle / (scene.camera.focal * max(width, height))
    covers = _sigmoid(-crossing.outside / (pixel * np.float32(edge)), xp) * (parts.kind != NO_PART)
    light = _light(scene, parts, kinds, rays, crossing.at, space)
    # what is before what: [N, N, P]
    is_before = _sigmoid((crossing.at[:, None] - crossing.at[None]) / np.float32(BEHIND), xp)
    free = 1 - covers[None] * is_before * (1 - np.eye(len(covers), dtype=np.float32)[..., None])
    weights = covers * xp.prod(free, axis=1)
    behind = xp.prod(1 - covers, axis=0)
    floor = _floor(scene, parts, kinds, width, height, space)
    return ((weights * light).sum(axis=1) + behind * floor) / (weights.sum(axis=0) + behind + TINY)


def _light(
    scene: SceneArrays,
    parts: PartArrays,
    kinds: tuple[str, ...],
    rays: Triple,
    at: Array,
    space: Namespace,
) -> Array:
    """Linear light [3, N, P] that parts send along rays."""
    xp = space.xp
    local = _along(*_own_rays(parts, scene.camera.position, rays), at)
    _, slopes = _outside(parts, kinds, local, space)
    normal = to_world(slopes, parts.inverse, xp)
    points = Triple(*(scene.camera.position[axis] + at * rays[axis] for axis in range(3)))
    colors, lamps, view = _colors(parts, local, xp), illumination(scene), unit(rays, xp)

    def choose(height: Array, above: Array, below: Array) -> Array:
        return below + _sigmoid(height / np.float32(HORIZON), xp) * (above - below)

    matt = rubber(view, points, normal, colors, lamps, xp)
    mirror = metal(view, points, normal, colors, lamps, xp, choose, ZENITH)
    return xp.where(parts.metallic >= METALLIC, mirror, matt)


def _floor(
    scene: SceneArrays, parts: PartArrays, kinds: tuple[str, ...], width: int, height: int, space: Namespace
) -> Array:
    """Linear light [3, P] of the ground, or of the backdrop where there is none."""
    xp = space.xp
    grid = ground_points_of(scene.camera, width, height, GROUND_STEP, xp)
    hidden = [_hidden(parts, kinds, lamp, grid.x, grid.y, space) for lamp in illumination(scene).lights]
    ground = lit_ground(scene, hidden, grid, width, height, GROUND_STEP, xp)
    wall = np.repeat(np.linspace(0.6, 1.1, height, dtype=np.float32), width)
    return scene.ground[:, None] * xp.where(scene.has_ground, ground, wall)
