"""What a search changes of a scene: where its objects are and how they are turned, where camera and lamps stand."""

from typing import NamedTuple

import jax.numpy as jnp

from igllm_jax.render.flat.arrays import SceneArrays
from igllm_jax.render.flat.rays import Array

TINY = 1e-12
NUMBERS = 6  # of an object: x, y, z in scene units, and a turn about these axes, its vector in radians
LOCATION, TURN = slice(0, 3), slice(3, 6)
ABOUT_Z = TURN.stop - 1


class Moves(NamedTuple):
    """objects: float32 [M, 6], see NUMBERS. camera: float32 [3]; lamps: float32 [L, 3], or 0. for none; scene units."""

    objects: Array
    camera: Array
    lamps: Array = 0.0


def rotation(vector: Array) -> Array:
    """The matrix [3, 3] of a turn vector [3] in radians; smooth at zero."""
    squared = (vector**2).sum() + TINY
    angle = jnp.sqrt(squared)
    x, y, z = vector
    zero = jnp.zeros_like(x)
    cross = jnp.stack([jnp.stack([zero, -z, y]), jnp.stack([z, zero, -x]), jnp.stack([-y, x, zero])])
    half = jnp.sin(angle / 2) / angle
    return jnp.eye(3) + jnp.sin(angle) / angle * cross + 2 * half * half * (cross @ cross)


def move_scene(scene: SceneArrays, pivots: Array, moves: Moves) -> SceneArrays:
    """The scene after the moves. pivots: [M, 3], where its objects are."""
    owner = scene.parts.owner
    turns = jnp.stack([rotation(move[TURN]) for move in moves.objects])[owner]
    arm = scene.parts.center - pivots[owner]
    center = (pivots + moves.objects[:, LOCATION])[owner] + (turns @ arm[..., None])[..., 0]
    inverse = scene.parts.inverse @ jnp.swapaxes(turns, 1, 2)
    camera = scene.camera._replace(position=scene.camera.position + moves.camera)
    lamps = scene.lamps._replace(position=scene.lamps.position + moves.lamps)
    return scene._replace(parts=scene.parts._replace(center=center, inverse=inverse), camera=camera, lamps=lamps)
