"""A soft picture and what each move changes of it, at the price of the parts that it moves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from igllm_jax.refine.moves import NUMBERS, Moves, move_part
from igllm_jax.refine.soft import Layer, Softness, composite, soft_layer, tone
from igllm_jax.render.flat.arrays import PartArrays, SceneArrays
from igllm_jax.render.flat.dense import illumination
from igllm_jax.render.flat.rays import Array


class Slopes(NamedTuple):
    """picture: [3, P], 0 to 1. objects: [M, D, 3, P] and camera: [3, 3, P], its derivatives by the moves."""

    picture: Array
    objects: Array
    camera: Array


def soft_slopes(
    scene: SceneArrays,
    pivots: Array,
    moves: Moves,
    floor: Array,
    *,
    width: int,
    height: int,
    softness: Softness,
    free: tuple[int, ...],
) -> Slopes:
    """The soft picture of `move_scene` before a given floor [3, P], and its derivatives by the numbers `free` of each
    object and by the camera's position. Forward mode, part by part: an object's numbers change its own layers alone."""
    light = illumination(scene)
    camera = scene.camera
    directions = jnp.eye(NUMBERS + 3)[jnp.array([*free, *range(NUMBERS, NUMBERS + 3)])]

    def layer_and_slopes(part: PartArrays) -> tuple[Layer, Layer]:
        pivot, move = pivots[part.owner], moves.objects[part.owner]

        def layer(change: Array) -> Layer:
            seen_from = camera._replace(position=camera.position + moves.camera + change[NUMBERS:])
            moved = move_part(part, pivot, move + change[:NUMBERS])
            return soft_layer(moved, seen_from, light, width, height, softness)

        still = jnp.zeros(NUMBERS + 3)
        at_rest, push = jax.linearize(layer, still)
        return at_rest, jax.vmap(push)(directions)

    layers, slopes = jax.lax.map(layer_and_slopes, scene.parts)
    picture, pull = jax.vjp(lambda each: tone(composite(each, floor, softness.depth)), layers)
    channels = jnp.broadcast_to(jnp.eye(3)[:, :, None], (3, *picture.shape))
    (weights,) = jax.vmap(pull)(channels)  # what each channel of a pixel gains from each layer there

    columns = (
        weights.cover.swapaxes(0, 1)[:, None] * slopes.cover[:, :, None]
        + weights.depth.swapaxes(0, 1)[:, None] * slopes.depth[:, :, None]
        + jnp.einsum("cnqp,nkqp->nkcp", weights.color, slopes.color)
    )
    owners = jax.nn.one_hot(scene.parts.owner, len(pivots))
    own, ours = columns[:, : len(free)], columns[:, len(free) :]
    return Slopes(picture, jnp.einsum("nm,nkcp->mkcp", owners, own), ours.sum(axis=0))
