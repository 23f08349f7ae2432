"""From parts to a picture: one ray per pixel, four where parts meet."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from igllm_jax.painter.camera import Camera
from igllm_jax.painter.cast import GROUND, Seen, edges, see_pixels, see_points, surface
from igllm_jax.painter.light import GROUND_COLOR, Lamps, backdrop, ground, ground_bytes, shade, to_bytes
from igllm_jax.painter.parts import Color, Part

# A turned square grid: no two of the four share a row or a column, so slanted edges get all steps in between.
SUBPIXELS = ((0.125, 0.375), (0.375, 0.875), (0.625, 0.125), (0.875, 0.625))


def draw(
    parts: Sequence[Part],
    camera: Camera,
    lamps: Lamps,
    *,
    seen: Seen | None = None,
    on_ground: bool = True,
    ground_color: Color = GROUND_COLOR,
) -> Image.Image:
    """RGB picture of the parts, on the ground or before a backdrop. seen: of `see_pixels`, where the caller has it."""
    seen = see_pixels(parts, camera) if seen is None else seen
    floor = ground(parts, camera, lamps) if on_ground else backdrop(camera)
    pixels = ground_bytes(floor, ground_color)
    edge = edges(seen, camera)
    smooth = seen.part != GROUND
    smooth[edge] = False
    inside = np.flatnonzero(smooth)
    # The four rays of every edge pixel are shaded in one go with the pixels inside of parts.
    dx, dy = np.array(SUBPIXELS).T
    column, row = edge % camera.width, edge // camera.width
    x, y = (column[:, None] + dx).ravel(), (row[:, None] + dy).ravel()
    finer = see_points(parts, camera, x, y)
    hit = np.flatnonzero(finer.part != GROUND)
    both = _join(seen.take(inside), finer.take(hit))
    all_x = np.concatenate([inside % camera.width + 0.5, x[hit]])
    all_y = np.concatenate([inside // camera.width + 0.5, y[hit]])
    if len(all_x):
        # Cut at white before the mean, or one bright ray in four would leave the pixel jagged.
        light = np.minimum(shade(*surface(parts, camera, both, all_x, all_y), lamps), np.float32(1))
        pixels[inside] = to_bytes(light[:, : len(inside)]).T
        fine = np.repeat(np.array(ground_color, np.float32)[:, None] * floor[edge], len(SUBPIXELS), axis=1)
        fine[:, hit] = light[:, len(inside) :]
        pixels[edge] = to_bytes(fine.reshape(3, -1, len(SUBPIXELS)).mean(axis=2)).T
    return Image.fromarray(pixels.reshape(camera.height, camera.width, 3))


def _join(a: Seen, b: Seen) -> Seen:
    return Seen(*(np.concatenate([getattr(a, name), getattr(b, name)]) for name in ("part", "face", "depth")))


def inside_image(parts: Sequence[Part], camera: Camera, margin: float) -> bool:
    """Whether all of the parts is in the image and keeps `margin` (of the image's sides) from its border."""
    x, y, depth = camera.project(np.concatenate([part.corners() for part in parts])).T / np.array(
        [[camera.width], [camera.height], [1.0]]
    )
    return bool(depth.min() > 0 and min(x.min(), y.min()) >= margin and max(x.max(), y.max()) <= 1 - margin)


def visible_pixels(parts: Sequence[Part], seen: Seen, num_objects: int) -> np.ndarray:
    """int [num_objects]: how many pixels show each object."""
    owners = np.array([part.owner for part in parts], np.int64)
    shown = seen.part[seen.part != GROUND]
    return np.bincount(owners[shown], minlength=num_objects)
