"""Light: lamps, a ground with soft shadows, and what rubber and metal make of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from igllm_jax.render.camera import Camera
from igllm_jax.render.flat.rays import MISS, Triple, meet
from igllm_jax.render.spec import Color, Light
from igllm_jax.render.world import WorldPart

SHADOW_ROWS = np.array([3, 0, 5, 2, 6, 1, 4])  # of the samples in their square: each row and column has one
SHADOW_SAMPLES = len(SHADOW_ROWS)
GROUND_STEP = 4  # pixels: the ground is smooth, so it is computed this coarsely
MOST_LIGHT = 4.0  # that the ground can get
TINY = np.float32(1e-24)  # square of a distance that float32 cannot tell from none
LEVELS = 4096  # of linear light, in the table to 8-bit sRGB


@dataclass(frozen=True)
class Illumination:
    """What lights a scene: its lamps, drawn white whatever their colour, and the light from everywhere."""

    lights: tuple[Light, ...]
    ambient: float


def _table() -> np.ndarray:
    linear = np.linspace(0, 1, LEVELS)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(encoded * 255).astype(np.uint8)


SRGB = _table()  # Source: IEC 61966-2-1


def to_bytes(linear: np.ndarray) -> np.ndarray:
    """Linear light, 0 or more (cut at 1), to 8-bit sRGB of the same shape."""
    return SRGB[np.minimum(linear * np.float32(LEVELS - 1), np.float32(LEVELS - 1)).astype(np.int16)]


def ground_bytes(light: np.ndarray, color: Color) -> np.ndarray:
    """Light [P] that falls on a ground of that colour, to 8-bit sRGB [P, 3]. One look-up, as most pixels are ground."""
    table = to_bytes(np.linspace(0, MOST_LIGHT, LEVELS, dtype=np.float32)[:, None] * np.array(color, np.float32))
    scale = np.float32((LEVELS - 1) / MOST_LIGHT)
    return np.take(table, np.minimum(light * scale, np.float32(LEVELS - 1)).astype(np.int32), axis=0)


def _dot(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(vector: Sequence[np.ndarray]) -> Triple:
    over = np.float32(1) / np.sqrt(np.maximum(_dot(vector, vector), TINY))  # 0 where a lamp stands on the point
    return Triple(vector[0] * over, vector[1] * over, vector[2] * over)


def shade(
    rays: Triple, points: Triple, normal: Triple, colors: np.ndarray, is_metal: np.ndarray, illumination: Illumination
) -> np.ndarray:
    """Linear light [3, P] that leaves `points` towards the camera.

    Rubber scatters (Lambert, with a broad weak highlight). Metal mirrors a studio in its own colour: dark below the
    horizon, lighter above, bright where a lamp stands, so its shade runs with the surface's direction.
    """
    out = np.empty_like(colors)
    for metal, paint in ((False, _rubber), (True, _metal)):
        where = np.flatnonzero(is_metal == metal)
        if len(where):
            view, surface_points, up = (Triple(*(c[where] for c in triple)) for triple in (rays, points, normal))
            out[:, where] = paint(_unit(view), surface_points, up, colors[:, where], illumination)
    return out


def _towards(lamp: Light, points: Triple) -> Triple:
    return _unit([np.float32(lamp.position[axis]) - points[axis] for axis in range(3)])


def _rubber(view: Triple, points: Triple, normal: Triple, colors: np.ndarray, illumination: Illumination) -> np.ndarray:
    # The ground shadows what is near it and looks down.
    openness = np.clip(points.z / np.float32(0.5), 0, 1) * np.float32(0.4) + np.float32(0.6)
    light = np.float32(illumination.ambient) * openness * (np.float32(0.75) + np.float32(0.25) * normal.z)
    gloss = np.zeros_like(light)
    for lamp in illumination.lights:
        towards = _towards(lamp, points)
        light += np.float32(lamp.strength) * np.maximum(_dot(towards, normal), 0)
        half = _unit([towards[axis] - view[axis] for axis in range(3)])
        shine = np.maximum(_dot(half, normal), 0)
        shine *= shine
        shine *= shine
        shine *= shine  # to the 8th
        gloss += np.float32(0.05 * lamp.strength) * shine * shine
    return colors * light + gloss


def _metal(view: Triple, points: Triple, normal: Triple, colors: np.ndarray, illumination: Illumination) -> np.ndarray:
    facing = _dot(view, normal)
    mirror = Triple(*(view[axis] - np.float32(2) * facing * normal[axis] for axis in range(3)))
    above = mirror.z
    # Above the horizon a studio that darkens upwards; below it the ground, darker right under the object.
    near = np.clip(points.z / np.float32(0.7), 0, 1)
    studio = np.where(
        above > 0,
        np.float32(0.7) - np.float32(0.55) * above,
        (np.float32(0.1) + np.float32(0.5) * near) * (np.float32(1) + np.float32(0.5) * above),
    )
    # Walls by turns light and dark, four of each: sin(4 azimuth). Upright sides show stripes then.
    xx, yy = mirror.x * mirror.x, mirror.y * mirror.y
    level = xx + yy + np.float32(1e-6)
    studio *= np.float32(1) + np.float32(1.4) * mirror.x * mirror.y * (xx - yy) / (level * level)
    glint = np.zeros_like(studio)
    for lamp in illumination.lights:
        aligned = _dot(_towards(lamp, points), mirror)
        spot = np.clip((aligned - np.float32(0.93)) / np.float32(0.05), 0, 1)
        glint += np.float32(1.9 * lamp.strength) * spot * spot * (np.float32(3) - np.float32(2) * spot)
    rim = np.float32(1) - np.clip(-facing, 0, 1)
    rim = rim * rim * rim * rim
    tint = colors * np.float32(1.25)
    return tint * studio + (np.float32(0.25) * tint + np.float32(0.75)) * glint + np.float32(0.25) * rim


def ground(parts: Sequence[WorldPart], camera: Camera, illumination: Illumination) -> np.ndarray:
    """Light float32 [P] on the ground z = 0 behind every pixel, rows first, shadows of the parts included."""
    height, width = -(-camera.height // GROUND_STEP) + 1, -(-camera.width // GROUND_STEP) + 1
    x, y = np.meshgrid(np.arange(width) * GROUND_STEP, np.arange(height) * GROUND_STEP)
    rays = camera.rays(x.ravel(), y.ravel())
    down = np.minimum(rays[2], np.float32(-0.02))  # at and above the horizon: the far ground
    far = np.float32(-camera.position[2]) / down
    gx, gy = (np.float32(camera.position[axis]) + far * rays[axis] for axis in range(2))
    light = np.full(len(gx), illumination.ambient, np.float32)
    for lamp in illumination.lights:
        position = np.array(lamp.position)
        dx, dy, dz = gx - np.float32(position[0]), gy - np.float32(position[1]), np.float32(max(position[2], 0.0))
        squared = np.maximum(dx * dx + dy * dy + dz * dz, TINY)
        # The falloff of a lamp above the ground, set to 1 where the origin is, softened to keep the far side visible.
        falloff = np.sqrt(dz / np.sqrt(squared) * np.float32(position @ position) / squared)
        shadow = _soften(_shadow(parts, gx, gy, lamp).reshape(height, width)).ravel()
        light += np.float32(lamp.strength) * falloff * (1 - shadow)
    coarse = light.reshape(height, width)
    box = (0.5, 0.5, 0.5 + camera.width / GROUND_STEP, 0.5 + camera.height / GROUND_STEP)
    fine = Image.fromarray(coarse).resize((camera.width, camera.height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(fine).ravel()


def _soften(grid: np.ndarray) -> np.ndarray:
    """The mean of each point and its neighbours, weighted 1 2 1 both ways: hides that a lamp is a few samples."""
    for _ in range(2):
        padded = np.pad(grid, ((1, 1), (0, 0)), mode="edge")
        grid = (np.float32(0.25) * (padded[:-2] + padded[2:]) + np.float32(0.5) * grid).T
    return grid


def backdrop(camera: Camera) -> np.ndarray:
    """Light float32 [P] behind every pixel, rows first, where there is no ground: a wall, lighter towards its foot."""
    rows = np.linspace(0.6, 1.1, camera.height, dtype=np.float32)
    return np.repeat(rows, camera.width)


def _shadow(parts: Sequence[WorldPart], gx: np.ndarray, gy: np.ndarray, lamp: Light) -> np.ndarray:
    """Share float32 [P] of a square lamp that parts hide from the ground points `gx`, `gy` [P]."""
    spread = (np.arange(SHADOW_SAMPLES) + 0.5) / SHADOW_SAMPLES * 2 - 1
    offsets = np.stack([spread, spread[SHADOW_ROWS], 0 * spread])
    samples = (np.array(lamp.position)[:, None] + lamp.size / 2 * offsets).astype(np.float32)  # [3, S]
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
        enter, _ = meet(part, samples[:, :, None], direction)
        hidden[:, where] |= (enter < np.float32(0.9999)) & (enter != MISS)
    return hidden.mean(axis=0, dtype=np.float32)
