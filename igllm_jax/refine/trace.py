"""What rays of a scene meet, kept part by part, so that a scene that differs in one object is traced for that alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igllm_jax.refine.lens import GROUND_STEP
from igllm_jax.render.flat.arrays import NO_PART, LampArrays, PartArrays, SceneArrays
from igllm_jax.render.flat.dense import (
    Hits,
    ground_points_of,
    intersect_part,
    is_hidden,
    lit_ground,
    painted,
    pixel_rays,
)
from igllm_jax.render.flat.rays import MISS, Array
from igllm_jax.render.flat.shading import SHADOW_SAMPLES, ground_grid
from igllm_jax.render.flat.visibility import GROUND


class Screen(NamedTuple):
    """A picture's size in pixels, and the kinds of the parts that it may show."""

    width: int
    height: int
    kinds: tuple[str, ...]


class Traced(NamedTuple):
    """Of N parts: depth float32 [N, P] and face int8 [N, P] where pixels meet them, and is_hidden bool [N, L, S, G],
    which samples of which lamp they hide from which points of the ground."""

    depth: Array
    face: Array
    is_hidden: Array


def nothing(num_parts: int, num_lamps: int, screen: Screen) -> Traced:
    """Of parts that no ray has been sent to."""
    _, _, (high, wide) = ground_grid(screen.width, screen.height, GROUND_STEP)
    shape = (num_parts, screen.width * screen.height)
    hidden = jnp.zeros((num_parts, num_lamps, SHADOW_SAMPLES, high * wide), bool)
    return Traced(jnp.full(shape, MISS), jnp.zeros(shape, jnp.int8), hidden)


def trace(scene: SceneArrays, known: Traced, is_new_part: Array, is_new_lamp: Array, screen: Screen) -> Traced:
    """The scene's, of which all is known but that of new parts [N] and of the shadows of new lamps [L]. What only fills
    the shape costs nothing where scenes are drawn one after the other."""
    rays = pixel_rays(scene.camera, screen.width, screen.height, jnp)
    grid = ground_points_of(scene.camera, screen.width, screen.height, GROUND_STEP, jnp)

    def one(row: tuple[PartArrays, Traced, Array]) -> Traced:
        part, old, is_new_one = row
        is_seen = part.kind != NO_PART
        is_new = is_new_one & is_seen

        def intersect() -> tuple[Array, Array]:
            depth, face = intersect_part(part, screen.kinds, scene.camera.position, rays, jnp)
            return jnp.broadcast_to(depth, old.depth.shape), jnp.broadcast_to(face, old.face.shape)

        def shadow(lamp_row: tuple[LampArrays, Array, Array]) -> Array:
            lamp, before, is_new_light = lamp_row
            cast = scene.has_ground & is_seen & (is_new | is_new_light)
            return jax.lax.cond(cast, lambda: is_hidden(part, screen.kinds, lamp, grid, jnp), lambda: before)

        depth, face = jax.lax.cond(is_new, intersect, lambda: (old.depth, old.face))
        return Traced(depth, face, jax.lax.map(shadow, (scene.lamps, old.is_hidden, is_new_lamp)))

    return jax.lax.map(one, (scene.parts, known, is_new_part))


def paint(scene: SceneArrays, traced: Traced, screen: Screen) -> Array:
    """Linear light float32 [3, P] of a scene's picture, one ray a pixel."""
    rays = pixel_rays(scene.camera, screen.width, screen.height, jnp)
    grid = ground_points_of(scene.camera, screen.width, screen.height, GROUND_STEP, jnp)
    nearest = traced.depth.argmin(axis=0)
    depth, face = (jnp.take_along_axis(field, nearest[None], axis=0)[0] for field in (traced.depth, traced.face))
    hits = Hits(jnp.where(depth < MISS, nearest, GROUND).astype(np.int32), face, depth)
    hidden = traced.is_hidden.any(axis=0)
    light = lit_ground(scene, tuple(hidden), grid, screen.width, screen.height, GROUND_STEP, jnp)
    return painted(scene, rays, hits, light, screen.width, screen.height, screen.kinds, jnp)[0]
