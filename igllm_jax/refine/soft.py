"""The flat renderer with soft edges: pictures that change smoothly with every number, so that gradients reach outlines.

Every part is a layer over the whole picture: how far it covers each pixel, how deep it lies there, and its colour. A
layer's cover follows from how far inside of the outline a ray passes, in pixels; of two layers the nearer one hides the
other, by a smooth comparison of their depths. Faces of one part blend where they meet. Left out: light lines on edges,
and patterns, which show the mean of their colours. The light on the ground is given, not followed.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igllm_jax.refine.space import JAX
from igllm_jax.render.flat.arrays import KINDS, PATTERNS, CameraArrays, PartArrays, SceneArrays
from igllm_jax.render.flat.dense import camera_rays, ground_light, illumination
from igllm_jax.render.flat.rays import METALLIC, Array, Triple, local_rays, slab, to_world
from igllm_jax.render.flat.shading import metal, rubber, unit

ROUND = 0.02  # own-frame units squared: how early a round side bends away from the rays at its outline
SMALL = 1e-9
DEPTH_BLEND = 0.1  # scene units of depth within which two layers share a pixel
HORIZON_BLEND = 0.2  # of the mirrored direction's height
FARTHEST = 100.0  # scene units
OUTSIDE = -2.0  # of clearances: further off, where rays run along a face, they are no measure of a distance


class Softness(NamedTuple):
    """pixels: the width of an edge. depth: of what hides what, scene units."""

    pixels: float = 0.5
    depth: float = DEPTH_BLEND


SOFT = Softness()


class Layer(NamedTuple):
    """What one part shows in P pixels. cover [P]: 0 to 1. depth [P]. color [3, P]: linear light."""

    cover: Array
    depth: Array
    color: Array


class _Contact(NamedTuple):
    """clearance [P]: above 0 where a ray meets the shape, and smooth across its outline. depth, normal: where it does,
    or passes it closest; the normal is in the part's own frame, of any length."""

    clearance: Array
    depth: Array
    normal: Triple


def _root(x: Array) -> Array:
    """The square root of x where it is above 0, about 0 below, smooth between."""
    return jnp.sqrt(0.5 * (x + jnp.sqrt(x * x + ROUND * ROUND)) + ROUND**3)


def _along(start: Triple, d: Triple, t: Array) -> Triple:
    return Triple(*(s + t * c for s, c in zip(start, d, strict=True)))


def _sphere(start: Triple, d: Triple, blend: Array) -> _Contact:
    a = d.x * d.x + d.y * d.y + d.z * d.z
    middle = -(d.x * start.x + d.y * start.y + d.z * start.z) / a
    near = _along(start, d, middle)
    squared = near.x**2 + near.y**2 + near.z**2
    depth = middle - _root(1 - squared) / jnp.sqrt(a)
    return _Contact(1 - jnp.sqrt(squared + SMALL), depth, _along(start, d, depth))


def _cube(start: Triple, d: Triple, blend: Array) -> _Contact:
    spans = [slab(s, c, jnp) for s, c in zip(start, d, strict=True)]
    enters = jnp.stack([low for low, _ in spans])
    enter, leave = enters.max(axis=0), jnp.stack([high for _, high in spans]).min(axis=0)
    shares = jax.nn.softmax(enters / blend, axis=0)
    normal = Triple(*(-jnp.sign(c) * share for c, share in zip(d, shares, strict=True)))
    return _Contact(leave - enter, jnp.minimum(enter, (enter + leave) / 2), normal)


def _upright(start: Triple, d: Triple, blend: Array, taper: float) -> _Contact:
    """A cylinder (taper 0) or a cone (taper 1): of radius 1 - taper * (1 + z) / 2 for z from -1 to 1.

    The radius less a ray's distance from the axis is a concave function of the ray parameter: its largest value
    between the caps says by how much a ray meets the shape.
    """
    h0, h1 = 1 - taper * (1 + start.z) / 2, -taper * d.z / 2
    flat = d.x * d.x + d.y * d.y + SMALL
    middle = -(d.x * start.x + d.y * start.y) / flat
    gap = (start.x + middle * d.x) ** 2 + (start.y + middle * d.y) ** 2
    low, high = slab(start.z, d.z, jnp)
    steep = flat - h1 * h1
    best = middle + jnp.where(steep > 0, h1 * jnp.sqrt(gap + SMALL) / jnp.sqrt(flat * jnp.maximum(steep, SMALL)), 0.0)
    best = jnp.where(steep > 0, best, jnp.where(h1 > 0, high, low))
    best = jnp.clip(best, low, high)
    distance = jnp.sqrt((start.x + best * d.x) ** 2 + (start.y + best * d.y) ** 2 + SMALL)
    clearance = h0 + h1 * best - distance
    # the side is entered at the first root of steep t^2 + 2 b t + c, or, going up a steep cone, before everything
    b = d.x * start.x + d.y * start.y - h1 * h0
    root = _root((b * b - steep * (start.x**2 + start.y**2 - h0 * h0)) / flat) * jnp.sqrt(flat)
    steep = jnp.where(jnp.abs(steep) < SMALL, SMALL, steep)
    side = jnp.where((steep < 0) & (h1 < 0), low - FARTHEST, (-b - root) / steep)
    depth = jnp.minimum(jnp.maximum(side, low), best)
    share = jax.nn.sigmoid((side - low) / blend)
    point = _along(start, d, depth)
    up = taper * (1 - point.z) / 4
    normal = Triple(share * point.x, share * point.y, share * up - (1 - share) * jnp.sign(d.z))
    return _Contact(clearance, depth, normal)


CONTACT = {
    "sphere": _sphere,
    "cube": _cube,
    "cylinder": lambda start, d, blend: _upright(start, d, blend, 0.0),
    "cone": lambda start, d, blend: _upright(start, d, blend, 1.0),
}


def soft_layer(
    part: PartArrays, camera: CameraArrays, light: Any, width: int, height: int, softness: Softness
) -> Layer:
    """One part's layer, pixels rows first."""
    column, row = (grid.ravel().astype(np.float32) for grid in np.meshgrid(np.arange(width), np.arange(height)))
    rays = camera_rays(camera, column + np.float32(0.5), row + np.float32(0.5), width, height, jnp)
    start, own = local_rays(part, camera.position, rays, jnp)
    pixel = jnp.linalg.norm(camera.position - part.center) / (camera.focal * max(width, height))  # scene units
    shapes = [lambda s, d, blend, kind=kind: CONTACT[kind](s, d, blend) for kind in KINDS]
    touch = jax.lax.switch(jnp.maximum(part.kind, 0), shapes, start, own, softness.pixels * pixel)
    clearance = jnp.maximum(touch.clearance, OUTSIDE)
    down, across = jnp.gradient(clearance.reshape(height, width))
    slope = jnp.sqrt(down**2 + across**2 + SMALL).ravel()
    inside = (part.kind >= 0) & (touch.depth > 0)
    cover = jnp.where(inside, jax.nn.sigmoid(clearance / (slope * softness.pixels)), 0.0)
    points = Triple(*(camera.position[axis] + touch.depth * rays[axis] for axis in range(3)))
    normal, view = to_world(touch.normal, part.inverse, jnp), unit(rays, jnp)
    plain = part.pattern == PATTERNS.index("plain")
    color = jnp.where(plain, part.color, (part.color + part.second) / 2)[:, None]

    def shiny(view: Triple, points: Triple, normal: Triple, color: Array) -> Array:
        return metal(view, points, normal, color, light, jnp, HORIZON_BLEND)

    def matt(view: Triple, points: Triple, normal: Triple, color: Array) -> Array:
        return rubber(view, points, normal, color, light, jnp)

    shade = jax.lax.cond(part.metallic >= METALLIC, shiny, matt, view, points, normal, color)
    return Layer(cover, jnp.clip(touch.depth, 0, FARTHEST), shade)


def soft_layers(scene: SceneArrays, width: int, height: int, softness: Softness) -> Layer:
    """The layers of all parts, one after the other: [N, ...]."""
    light = illumination(scene)
    return jax.lax.map(lambda part: soft_layer(part, scene.camera, light, width, height, softness), scene.parts)


def composite(layers: Layer, floor: Array, blend: float) -> Array:
    """Linear light [3, P] of layers [N, ...] before the floor [3, P]."""
    nearer = jax.nn.sigmoid((layers.depth[:, None] - layers.depth[None]) / blend)  # [i, j]: j lies before i
    others = 1 - np.eye(len(layers.depth), dtype=np.float32)[:, :, None]
    through = jnp.prod(1 - others * nearer * layers.cover[None], axis=1)
    shares = layers.cover * through
    behind = jnp.prod(1 - layers.cover, axis=0)
    total = shares.sum(axis=0) + behind + SMALL
    return ((shares[:, None] * layers.color).sum(axis=0) + behind * floor) / total


def floor_of(scene: SceneArrays, width: int, height: int, kinds: tuple[str, ...]) -> Array:
    """Linear light [3, P] of the ground, shadows included, or of the backdrop."""
    wall = jnp.asarray(np.repeat(np.linspace(0.6, 1.1, height, dtype=np.float32), width))
    light = jnp.where(scene.has_ground, ground_light(scene, width, height, kinds, JAX), wall)
    return scene.ground[:, None] * light


def tone(linear: Array) -> Array:
    """Linear light to what a picture holds, 0 to 1; smooth, and near sRGB."""
    return (_saturate(linear) + 1e-3) ** (1 / 2.2)


def _saturate(linear: Array) -> Array:
    """0 to 1, smooth at 1."""
    return jnp.maximum(linear, 0) - jax.nn.softplus((linear - 1) * 40) / 40


def draw_soft(scene: SceneArrays, floor: Array, width: int, height: int, softness: Softness = SOFT) -> Array:
    """float32 [3, P]: the picture of a scene before `floor_of` it, 0 to 1."""
    return tone(composite(soft_layers(scene, width, height, softness), floor, softness.depth))
