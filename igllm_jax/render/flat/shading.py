"""Light: lamps, a ground with soft shadows, and what rubber and metal make of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from igllm_jax.render.camera import Camera
from igllm_jax.render.flat.rays import MISS, Array, Triple, intersect
from igllm_jax.render.spec import Color, Light
from igllm_jax.render.world import WorldPart

SHADOW_ROWS = np.array([3, 0, 5, 2, 6, 1, 4])  # of the samples in their square: each row and column has one
SHADOW_SAMPLES = len(SHADOW_ROWS)
IN_FRONT = np.float32(0.9999)  # ray parameter from a lamp: what lies before the ground casts a shadow
GROUND_STEP = 4  # pixels: the ground is smooth, so it is computed this coarsely
MOST_LIGHT = 4.0  # that the ground can get
TINY = np.float32(1e-24)  # square of a distance that float32 cannot tell from none
ZENITH = np.float32(1e-6)  # square of how far from upwards walls that are mirrored end
LEVELS = 4096  # of linear light, in the table to 8-bit sRGB


@dataclass(frozen=True)
class Illumination:
    """What lights a scene: its lamps, drawn white whatever their colour, and the light from everywhere."""

    lights: tuple[Any, ...]  # `Light`, or arrays of the same names
    ambient: Array


def _table() -> np.ndarray:
    linear = np.linspace(0, 1, LEVELS)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(encoded * 255).astype(np.uint8)


SRGB = _table()  # Source: IEC 61966-2-1


def to_bytes(linear: Array, xp: Any = np) -> Array:
    """Linear light, 0 or more (cut at 1), to 8-bit sRGB of the same shape."""
    return xp.asarray(SRGB)[xp.minimum(linear * np.float32(LEVELS - 1), np.float32(LEVELS - 1)).astype(np.int16)]


def ground_bytes(light: np.ndarray, color: Color) -> np.ndarray:
    """Light [P] that falls on a ground of that colour, to 8-bit sRGB [P, 3]. One look-up, as most pixels are ground."""
    table = to_bytes(np.linspace(0, MOST_LIGHT, LEVELS, dtype=np.float32)[:, None] * np.array(color, np.float32))
    scale = np.float32((LEVELS - 1) / MOST_LIGHT)
    return np.take(table, np.minimum(light * scale, np.float32(LEVELS - 1)).astype(np.int32), axis=0)


def _dot(a: Sequence[Array], b: Sequence[Array]) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def unit(vector: Sequence[Array], xp: Any = np) -> Triple:
    """The same direction with length 1."""
    over = np.float32(1) / xp.sqrt(xp.maximum(_dot(vector, vector), TINY))  # 0 where a lamp stands on the point
    return Triple(vector[0] * over, vector[1] * over, vector[2] * over)


def shade(
    rays: Triple, points: Triple, normal: Triple, colors: np.ndarray, is_metal: np.ndarray, illumination: Illumination
) -> np.ndarray:
    """Linear light [3, P] that leaves `points` towards the camera.

    Rubber scatters (Lambert, with a broad weak highlight). Metal mirrors a studio in its own colour: dark below the
    horizon, lighter above, bright where a lamp stands, so its shade runs with the surface's direction.
    """
    out = np.empty_like(colors)
    for shines, paint in ((False, rubber), (True, metal)):
        where = np.flatnonzero(is_metal == shines)
        if len(where):
            view, surface_points, up = (Triple(*(c[where] for c in triple)) for triple in (rays, points, normal))
            out[:, where] = paint(unit(view), surface_points, up, colors[:, where], illumination)
    return out


def _towards(lamp: Any, points: Triple, xp: Any) -> Triple:
    return unit([xp.float32(lamp.position[axis]) - points[axis] for axis in range(3)], xp)


def rubber(
    view: Triple, points: Triple, normal: Triple, colors: Array, illumination: Illumination, xp: Any = np
) -> Array:
    """Light that matt surfaces scatter; see `shade`. view: unit rays from the camera."""
    # The ground shadows what is near it and looks down.
    openness = xp.clip(points.z / np.float32(0.5), 0, 1) * np.float32(0.4) + np.float32(0.6)
    light = xp.float32(illumination.ambient) * openness * (np.float32(0.75) + np.float32(0.25) * normal.z)
    gloss = xp.zeros_like(light)
    for lamp in illumination.lights:
        towards = _towards(lamp, points, xp)
        light += xp.float32(lamp.strength) * xp.maximum(_dot(towards, normal), 0)
        half = unit([towards[axis] - view[axis] for axis in range(3)], xp)
        shine = xp.maximum(_dot(half, normal), 0)
        shine *= shine
        shine *= shine
        shine *= shine  # to the 8th
        gloss += xp.float32(0.05 * lamp.strength) * shine * shine
    return colors * light + gloss


def metal(
    view: Triple,
    points: Triple,
    normal: Triple,
    colors: Array,
    illumination: Illumination,
    xp: Any = np,
    choose: Callable[[Array, Array, Array], Array] | None = None,
    zenith: Array = ZENITH,
) -> Array:
    """Light that metal mirrors; see `shade`. view: unit rays from the camera. choose: of what lies above and below the
    horizon, by how far above it is; by default without anything between. zenith: see ZENITH."""
    facing = _dot(view, normal)
    mirror = Triple(*(view[axis] - np.float32(2) * facing * normal[axis] for axis in range(3)))
    above = mirror.z
    # Above the horizon a studio that darkens upwards; below it the ground, darker right under the object.
    near = xp.clip(points.z / np.float32(0.7), 0, 1)
    walls = np.float32(0.7) - np.float32(0.55) * above
    floor = (np.float32(0.1) + np.float32(0.5) * near) * (np.float32(1) + np.float32(0.5) * above)
    studio = xp.where(above > 0, walls, floor) if choose is None else choose(above, walls, floor)
    # Walls by turns light and dark, four of each: sin(4 azimuth). Upright sides show stripes then.
    xx, yy = mirror.x * mirror.x, mirror.y * mirror.y
    level = xx + yy + zenith
    studio *= np.float32(1) + np.float32(1.4) * mirror.x * mirror.y * (xx - yy) / (level * level)
    glint = xp.zeros_like(studio)
    for lamp in illumination.lights:
        aligned = _dot(_towards(lamp, points, xp), mirror)
        spot = xp.clip((aligned - np.float32(0.93)) / np.float32(0.05), 0, 1)
        glint += xp.float32(1.9 * lamp.strength) * spot * spot * (np.float32(3) - np.float32(2) * spot)
    rim = np.float32(1) - xp.clip(-facing, 0, 1)
    rim = rim * rim * rim * rim
    tint = colors * np.float32(1.25)
    return tint * studio + (np.float32(0.25) * tint + np.float32(0.75)) * glint + np.float32(0.25) * rim


def ground(parts: Sequence[WorldPart], camera: Camera, illumination: Illumination) -> np.ndarray:
    """Light float32 [P] on the ground z = 0 behind every pixel, rows first, shadows of the parts included."""
    x, y, (height, width) = ground_grid(camera.width, camera.height)
    gx, gy = ground_points(camera.position, camera.rays(x, y))
    light = np.full(len(gx), illumination.ambient, np.float32)
    for lamp in illumination.lights:
        shadow = soften(_shadow(parts, gx, gy, lamp).reshape(height, width)).ravel()
        light += np.float32(lamp.strength) * falloff(np.array(lamp.position), gx, gy) * (1 - shadow)
    coarse = light.reshape(height, width)
    box = (0.5, 0.5, 0.5 + camera.width / GROUND_STEP, 0.5 + camera.height / GROUND_STEP)
    fine = Image.fromarray(coarse).resize((camera.width, camera.height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(fine).ravel()


def ground_grid(width: int, height: int, step: int = GROUND_STEP) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """The image positions x, y [P] where the ground is computed, every so many pixels, rows first, and the grid's
    height and width."""
    down, across = -(-height // step) + 1, -(-width // step) + 1
    x, y = np.meshgrid(np.arange(across) * step, np.arange(down) * step)
    return x.ravel(), y.ravel(), (down, across)


def ground_points(position: Array, rays: Sequence[Array], xp: Any = np) -> tuple[Array, Array]:
    """x and y [P] of the ground that rays from the camera's position hit; at and above the horizon: the far ground."""
    far = xp.float32(-position[2]) / xp.minimum(rays[2], np.float32(-0.02))
    return xp.float32(position[0]) + far * rays[0], xp.float32(position[1]) + far * rays[1]


def falloff(position: Array, gx: Array, gy: Array, xp: Any = np) -> Array:
    """How much of its strength a lamp at `position` [3] casts on ground points [P].

    That of a lamp above the ground, set to 1 where the origin is, softened to keep the far side visible.
    """
    dx, dy, dz = gx - xp.float32(position[0]), gy - xp.float32(position[1]), xp.float32(xp.maximum(position[2], 0.0))
    squared = xp.maximum(dx * dx + dy * dy + dz * dz, TINY)
    return xp.sqrt(dz / xp.sqrt(squared) * xp.float32(_dot(position, position)) / squared)


def lamp_samples(lamp: Any, xp: Any = np) -> Array:
    """float32 [3, S]: points of a square lamp, of which each that is hidden darkens a shadow alike."""
    spread = (np.arange(SHADOW_SAMPLES) + 0.5) / SHADOW_SAMPLES * 2 - 1
    offsets = np.stack([spread, spread[SHADOW_ROWS], 0 * spread])
    return (xp.asarray(lamp.position)[:, None] + lamp.size / 2 * offsets).astype(np.float32)


def soften(grid: Array, xp: Any = np) -> Array:
    """The mean of each point and its neighbours, weighted 1 2 1 both ways: hides that a lamp is a few samples."""
    for _ in range(2):
        padded = xp.pad(grid, ((1, 1), (0, 0)), mode="edge")
        grid = (np.float32(0.25) * (padded[:-2] + padded[2:]) + np.float32(0.5) * grid).T
    return grid


def backdrop(camera: Camera) -> np.ndarray:
    """Light float32 [P] behind every pixel, rows first, where there is no ground: a wall, lighter towards its foot."""
    rows = np.linspace(0.6, 1.1, camera.height, dtype=np.float32)
    return np.repeat(rows, camera.width)


def _shadow(parts: Sequence[WorldPart], gx: np.ndarray, gy: np.ndarray, lamp: Light) -> np.ndarray:
    """Share float32 [P] of a square lamp that parts hide from the ground points `gx`, `gy` [P]."""
    samples = lamp_samples(lamp)
    hidden = np.zeros((SHADOW_SAMPLES, len(gx)), bool)
    for part in parts:
        corners = part.corners()
        corners[:, 2] = np.maximum(corners[:, 2], 0.0)
        reach = corners[:, 2, None] / (samples[2] - corners[:, 2, None])  # how far beyond a corner its shadow falls
        sx, sy = (corners[:, axis, None] + (corners[:, axis, None] - samples[axis]) * reach for axis in range(2))
        where = np.flatnonzero((gx > sx.min()) & (gx < sx.max()) & (gy > sy.min()) & (gy < sy.max()))
        if len(where) == 0:
            continue
        direction = Triple(gx[where] - samples[0, :, None], gy[where] - samples[1, :, None], -samples[2, :, None])
        enter, _ = intersect(part, samples[:, :, None], direction)
        hidden[:, where] |= (enter < IN_FRONT) & (enter != MISS)
    return hidden.mean(axis=0, dtype=np.float32)
