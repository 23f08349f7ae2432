"""From a scene to a picture: one ray per pixel, four where parts meet. No mesh, no shader: NumPy alone."""

import functools

import numpy as np
from PIL import Image

from igllm_jax.render.camera import Camera
from igllm_jax.render.flat.shading import Illumination, backdrop, ground, ground_bytes, shade, to_bytes
from igllm_jax.render.flat.visibility import GROUND, Seen, edges, see_pixels, see_points, surface
from igllm_jax.render.rendering import Rendering
from igllm_jax.render.spec import Color, ObjectSpec, SceneSpec
from igllm_jax.render.world import WorldPart, all_world_parts

BACKDROP_COLOR: Color = (0.40, 0.40, 0.41)
# A turned square grid: no two of the four share a row or a column, so slanted edges get all steps in between.
SUBPIXELS = ((0.125, 0.375), (0.375, 0.875), (0.625, 0.125), (0.875, 0.625))


@functools.lru_cache(maxsize=1)  # a scene that was composed is drawn next: it is looked at once
def see(camera: Camera, objects: tuple[ObjectSpec, ...]) -> tuple[list[WorldPart], Seen]:
    """The parts of the objects, and what every pixel shows of them."""
    parts = all_world_parts(objects)
    return parts, see_pixels(parts, camera)


def visible_pixels(spec: SceneSpec) -> np.ndarray:
    """int [N]: how many pixels show each of the scene's N objects."""
    parts, seen = see(spec.camera, spec.objects)
    owners = np.array([part.owner for part in parts], np.int64)
    shown = seen.part[seen.part != GROUND]
    return np.bincount(owners[shown], minlength=len(spec.objects))


def ids(spec: SceneSpec) -> np.ndarray:
    """int32 [H, W]: `index + 1` of the object that each pixel shows, 0 where there is none."""
    parts, seen = see(spec.camera, spec.objects)
    table = np.array([*(spec.objects[part.owner].index + 1 for part in parts), 0], np.int32)  # GROUND is -1: the last
    return table[seen.part].reshape(spec.camera.height, spec.camera.width)


def draw(spec: SceneSpec) -> Rendering:
    """The renderer `flat`: the scene's picture and which object each pixel shows.

    Lamps are white and square, surfaces are matt or metal (`Material.roughness` is not drawn), nothing mirrors another.
    Raises: UserError for meshes from files.
    """
    return Rendering(_picture(spec), ids(spec))


def _picture(spec: SceneSpec) -> Image.Image:
    camera, illumination = spec.camera, Illumination(spec.lights, spec.ambient)
    parts, seen = see(camera, spec.objects)
    floor = backdrop(camera) if spec.ground is None else ground(parts, camera, illumination)
    floor_color = BACKDROP_COLOR if spec.ground is None else spec.ground.color
    pixels = ground_bytes(floor, floor_color)
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
        # Clipped at white before the mean, or one bright ray in four would leave the pixel jagged.
        light = np.minimum(shade(*surface(parts, camera, both, all_x, all_y), illumination), np.float32(1))
        pixels[inside] = to_bytes(light[:, : len(inside)]).T
        fine = np.repeat(np.array(floor_color, np.float32)[:, None] * floor[edge], len(SUBPIXELS), axis=1)
        fine[:, hit] = light[:, len(inside) :]
        pixels[edge] = to_bytes(fine.reshape(3, -1, len(SUBPIXELS)).mean(axis=2)).T
    return Image.fromarray(pixels.reshape(camera.height, camera.width, 3))


def _join(a: Seen, b: Seen) -> Seen:
    return Seen(*(np.concatenate([getattr(a, name), getattr(b, name)]) for name in ("part", "face", "depth")))
