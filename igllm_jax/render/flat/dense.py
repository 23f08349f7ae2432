"""The flat renderer without a shape that depends on the scene: what `draw.py` does, for namespaces that compile.

Every ray is tested against every part, and a fixed number of pixels gets four rays; the rest is the painter's own code.
`draw` is quicker under NumPy, whose arrays may be cut to what a part covers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from igllm_jax.render.flat.arrays import KINDS, PATTERNS, CameraArrays, LampArrays, Namespace, PartArrays, SceneArrays
from igllm_jax.render.flat.rays import (
    BEVEL_SHINE,
    BEVELLED,
    INTERSECTIONS,
    METALLIC,
    MISS,
    NUM_FACES,
    Array,
    Triple,
    local_rays,
    near_edge,
    own_normals,
    pattern_steps,
    to_world,
)
from igllm_jax.render.flat.shading import (
    GROUND_STEP,
    IN_FRONT,
    SHADOW_SAMPLES,
    Illumination,
    falloff,
    ground_grid,
    ground_points,
    lamp_samples,
    metal,
    rubber,
    soften,
    to_bytes,
    unit,
)
from igllm_jax.render.flat.visibility import GROUND

SUBPIXELS = ((0.125, 0.375), (0.375, 0.875), (0.625, 0.125), (0.875, 0.625))  # see draw.py


class Drawing(NamedTuple):
    """image: uint8 [H, W, 3], sRGB. ids: int32 [H, W], as in `Rendering`. num_edges: int32, pixels on edges."""

    image: Array
    ids: Array
    num_edges: Array


class Hits(NamedTuple):
    """What P rays hit. part: int32 [P], a part's number or GROUND. face: int8 [P]. depth: float32 [P]."""

    part: Array
    face: Array
    depth: Array


def camera_axes(camera: CameraArrays, xp: Any) -> Array:
    """float32 [3, 3]: right, down and forward of the image as rows; see `Camera.axes`."""
    offset = camera.position - camera.look_at
    sideways, distance = xp.sqrt(offset[0] ** 2 + offset[1] ** 2), xp.sqrt((offset**2).sum())
    right = xp.stack([-offset[1] / sideways, offset[0] / sideways, xp.zeros_like(sideways)])
    forward = -offset / distance
    flat = sideways * distance
    down = xp.stack([offset[0] * offset[2] / flat, offset[1] * offset[2] / flat, -sideways / distance])
    return xp.stack([right, down, forward])


def camera_rays(camera: CameraArrays, x: Array, y: Array, width: int, height: int, xp: Any) -> Triple:
    """The directions of rays through image positions, of length 1 along the view axis; see `Camera.rays`."""
    right, down, forward = camera_axes(camera, xp)
    focal = camera.focal * max(width, height)
    across, along = (x - np.float32(width / 2)) / focal, (y - np.float32(height / 2)) / focal
    return Triple(*(across * right[axis] + along * down[axis] + forward[axis] for axis in range(3)))


def intersect_part(
    part: PartArrays, kinds: tuple[str, ...], origin: Array, rays: Triple, xp: Any
) -> tuple[Array, Array]:
    """Where rays enter one part, whatever of `kinds` it is: depth (MISS where they don't) and face."""
    start, own = local_rays(part, origin, rays, xp)
    depth, face = MISS, np.int8(0)
    for kind in kinds:
        is_kind = part.kind == KINDS.index(kind)
        with np.errstate(divide="ignore", invalid="ignore"):
            enter, side = INTERSECTIONS[kind](start, own, xp)
        depth, face = xp.where(is_kind, enter, depth), xp.where(is_kind, side, face)
    return depth, face


def see(scene: SceneArrays, rays: Triple, kinds: tuple[str, ...], space: Namespace) -> Hits:
    """What rays from the camera hit first."""
    xp = space.xp
    shape = rays.x.shape

    def step(carry: tuple[Hits, Array], part: PartArrays) -> tuple[Hits, Array]:
        hits, number = carry
        depth, face = intersect_part(part, kinds, scene.camera.position, rays, xp)
        is_closer = depth < hits.depth
        pairs = zip((number, face, depth), hits, strict=True)
        return Hits(*(xp.where(is_closer, new, old) for new, old in pairs)), number + 1

    start = Hits(xp.full(shape, GROUND, np.int32), xp.zeros(shape, np.int8), xp.full(shape, MISS))
    return space.fold(step, (start, xp.zeros((), np.int32)), scene.parts)[0]


def shade_hits(scene: SceneArrays, rays: Triple, hits: Hits, kinds: tuple[str, ...], xp: Any) -> Array:
    """Linear light [3, P] that parts send along rays; where a ray hits none, any number."""
    part = xp.maximum(hits.part, 0)
    depth = xp.where(hits.part == GROUND, np.float32(1), hits.depth)
    own = PartArrays(*(xp.moveaxis(xp.asarray(field)[part], 0, -1) for field in scene.parts))
    origin = scene.camera.position
    points = Triple(*(origin[axis] + depth * rays[axis] for axis in range(3)))
    start, direction = local_rays(own, origin, rays, xp)
    local = Triple(*(s + depth * d for s, d in zip(start, direction, strict=True)))
    normal, shine = Triple(*(xp.zeros_like(depth),) * 3), xp.zeros_like(depth)
    for kind in kinds:
        is_kind = own.kind == KINDS.index(kind)
        one = own_normals(kind, hits.face, local, xp)
        normal = Triple(*(xp.where(is_kind, new, old) for new, old in zip(one, normal, strict=True)))
        if kind in BEVELLED:
            shine = xp.where(is_kind, near_edge(kind, hits.face, local, xp), shine)
    is_metal = own.metallic >= METALLIC
    colors = own.color + np.float32(BEVEL_SHINE) * xp.where(is_metal, shine, np.float32(0))
    stripes, checks = pattern_steps(local, own.repeats, xp)
    count = xp.where(own.pattern == PATTERNS.index("stripes"), stripes, checks)
    is_second = (own.pattern != PATTERNS.index("plain")) & (count % 2 != 0)
    colors = xp.where(is_second, own.second, colors)
    light = illumination(scene)
    normal, view = to_world(normal, own.inverse, xp), unit(rays, xp)
    matt, mirror = (paint(view, points, normal, colors, light, xp) for paint in (rubber, metal))
    return xp.where(is_metal, mirror, matt)


def illumination(scene: SceneArrays) -> Illumination:
    """The scene's light as shading takes it."""
    lamps = zip(*scene.lamps, strict=True)
    return Illumination(tuple(type(scene.lamps)(*lamp) for lamp in lamps), scene.ambient)


class GroundGrid(NamedTuple):
    """Where the ground is computed: x, y [G] in scene units, of a grid of the image, so high and wide, whose points
    are `step` pixels from each other."""

    x: Array
    y: Array
    height: int
    width: int


def ground_points_of(camera: CameraArrays, width: int, height: int, step: int, xp: Any) -> GroundGrid:
    """Of a camera and its image's size."""
    x, y, shape = ground_grid(width, height, step)
    rays = camera_rays(camera, x.astype(np.float32), y.astype(np.float32), width, height, xp)
    return GroundGrid(*ground_points(camera.position, rays, xp), *shape)


def is_hidden(part: PartArrays, kinds: tuple[str, ...], lamp: LampArrays, grid: GroundGrid, xp: Any) -> Array:
    """bool [S, G]: which of a lamp's samples one part hides from which points of the ground."""
    samples = lamp_samples(lamp, xp)
    towards = Triple(grid.x - samples[0, :, None], grid.y - samples[1, :, None], -samples[2, :, None])
    enter, _ = intersect_part(part, kinds, samples[:, :, None], towards, xp)
    return enter < IN_FRONT


def lit_ground(
    scene: SceneArrays, hidden: Sequence[Array], grid: GroundGrid, width: int, height: int, step: int, xp: Any
) -> Array:
    """Light float32 [P] on the ground behind every pixel, rows first. hidden: bool [S, G] of each lamp."""
    light = scene.ambient + xp.zeros_like(grid.x)
    shape = grid.height, grid.width
    for lamp, own in zip(illumination(scene).lights, hidden, strict=True):
        shadow = soften(own.mean(axis=0, dtype=np.float32).reshape(shape), xp).ravel()
        light = light + lamp.strength * falloff(lamp.position, grid.x, grid.y, xp) * (1 - shadow)
    rows, columns = _between(height, shape[0], step), _between(width, shape[1], step)
    return (rows @ light.reshape(shape) @ columns.T).ravel()


def ground_light(
    scene: SceneArrays,
    width: int,
    height: int,
    kinds: tuple[str, ...],
    space: Namespace,
    step: int = GROUND_STEP,
) -> Array:
    """Light float32 [P] on the ground behind every pixel, rows first; see `shading.ground`. step: see GroundGrid."""
    xp = space.xp
    grid = ground_points_of(scene.camera, width, height, step, xp)
    hidden = []
    for lamp in illumination(scene).lights:

        def hide(hidden: Array, part: PartArrays, lamp: LampArrays = lamp) -> Array:
            return hidden | is_hidden(part, kinds, lamp, grid, xp)

        none = xp.zeros((SHADOW_SAMPLES, *grid.x.shape), bool)
        hidden.append(space.fold(hide, none, scene.parts))
    return lit_ground(scene, hidden, grid, width, height, step, xp)


def _between(fine: int, coarse: int, step: int) -> np.ndarray:
    """float32 [fine, coarse]: what each of the grid's points gives each pixel, linear between the nearest two."""
    at = (np.arange(fine) + 0.5) / step
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(coarse)))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def edge_mask(hits: Hits, width: int, height: int, xp: Any) -> Array:
    """bool [P]: pixels that touch a pixel of another part or face; see `visibility.edges`."""
    label = xp.where(hits.part == GROUND, GROUND, hits.part * NUM_FACES + hits.face).reshape(height, width)
    across, along = label[:, 1:] != label[:, :-1], label[1:] != label[:-1]
    sides = (((0, 0), (1, 0)), ((0, 0), (0, 1)), ((1, 0), (0, 0)), ((0, 1), (0, 0)))
    masks = (across, across, along, along)
    left, right, up, down = (xp.pad(mask, side) for mask, side in zip(masks, sides, strict=True))
    return (left | right | up | down).ravel()


def pixel_rays(camera: CameraArrays, width: int, height: int, xp: Any) -> Triple:
    """Rays through the centres of all pixels, rows first."""
    column, row = (grid.ravel().astype(np.float32) for grid in np.meshgrid(np.arange(width), np.arange(height)))
    return camera_rays(camera, column + np.float32(0.5), row + np.float32(0.5), width, height, xp)


def painted(
    scene: SceneArrays, rays: Triple, hits: Hits, light: Array, width: int, height: int, kinds: tuple[str, ...], xp: Any
) -> tuple[Array, Array]:
    """Linear light [3, P] of what rays through all pixels meet, and of the floor behind it. light: float32 [P], on the
    ground there."""
    wall = np.repeat(np.linspace(0.6, 1.1, height, dtype=np.float32), width)
    floor = scene.ground[:, None] * xp.where(scene.has_ground, light, wall)
    return xp.where(hits.part == GROUND, floor, shade_hits(scene, rays, hits, kinds, xp)), floor


def draw_dense(
    scene: SceneArrays, width: int, height: int, *, most_edges: int, kinds: tuple[str, ...], space: Namespace
) -> Drawing:
    """The scene's picture and mask. most_edges: pixels that get four rays, in reading order; others on edges get one.

    kinds: of the scene's parts; parts of another are not seen.
    """
    xp = space.xp
    rays = pixel_rays(scene.camera, width, height, xp)
    hits = see(scene, rays, kinds, space)
    ground = ground_light(scene, width, height, kinds, space)
    light, floor = painted(scene, rays, hits, ground, width, height, kinds, xp)
    is_edge = edge_mask(hits, width, height, xp)
    count = xp.cumsum(is_edge.astype(np.int32))
    edge = xp.minimum(xp.searchsorted(count, np.arange(1, most_edges + 1)), width * height - 1)
    dx, dy = np.array(SUBPIXELS, np.float32).T
    x, y = ((edge % width)[:, None] + dx).ravel(), ((edge // width)[:, None] + dy).ravel()
    finer_rays = camera_rays(scene.camera, x, y, width, height, xp)
    finer = see(scene, finer_rays, kinds, space)
    behind = xp.repeat(floor[:, edge], len(SUBPIXELS), axis=1)
    fine = xp.where(finer.part == GROUND, behind, shade_hits(scene, finer_rays, finer, kinds, xp))
    # Cut at white before the mean, or one bright ray in four would leave the pixel jagged.
    fine = xp.minimum(fine, np.float32(1)).reshape(3, most_edges, len(SUBPIXELS)).mean(axis=2)
    is_fine = is_edge & (count <= most_edges)
    picture = xp.where(is_fine, fine[:, xp.clip(count - 1, 0, most_edges - 1)], light)
    owners = xp.append(xp.asarray(scene.ids)[xp.asarray(scene.parts.owner)], np.int32(0))
    image = to_bytes(picture, xp).T.reshape(height, width, 3)
    return Drawing(image, owners[hits.part].reshape(height, width), count[-1])
