"""The numbers that a search moves, as one vector: what it stands for, and how probable it is before any look."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igllm_jax.refine.moves import LOCATION, NUMBERS, TURN, Moves
from igllm_jax.render.flat.arrays import SceneArrays
from igllm_jax.render.flat.dense import camera_axes
from igllm_jax.render.flat.rays import Array

CAMERA_SPREAD, LAMP_SPREAD = 0.3, 0.6  # scene units: CLEVR's jitter is uniform from -0.5 to 0.5, and from -1 to 1
LOCATION_SPREAD, TURN_SPREAD = 0.25, 0.4  # of a start's mistakes: scene units, radians
FLATTEST = 0.02  # of a ray: flatter ones hardly ever come down to an object's height


class Layout(NamedTuple):
    """What a search's vector of numbers holds: of each of `objects` the numbers `free` (see `Moves`), the camera's, and
    those of `lamps` lamps. Objects move in the view of the start's camera, and go with it: see `moves_of`.
    """

    objects: int
    free: tuple[int, ...]
    lamps: int

    @property
    def num_own(self) -> int:
        """Numbers of objects; those of the camera and the lamps follow."""
        return self.objects * len(self.free)

    @property
    def size(self) -> int:
        return self.num_own + 3 + 3 * self.lamps

    def split(self, vector: Array) -> Moves:
        """The numbers of a vector [K], by what they are of."""
        own, camera, lamps = jnp.split(vector, (self.num_own, self.num_own + 3))
        objects = jnp.zeros((self.objects, NUMBERS), vector.dtype)
        objects = objects.at[:, np.array(self.free, int)].set(own.reshape(self.objects, len(self.free)))
        return Moves(objects, camera, lamps.reshape(self.lamps, 3))

    def fill(self, location: float, turn: float, camera: float, lamp: float) -> np.ndarray:
        """float32 [K]: the same number for all numbers of a kind."""
        own = [turn if number >= TURN.start else location for number in self.free]
        return np.array(own * self.objects + [camera] * 3 + [lamp] * 3 * self.lamps, np.float32)


class SearchProblem(NamedTuple):
    """What is searched: a scene's start, where its objects are ([M, 3]), and which numbers of the vector may move
    (is_free: float32 [K], 0 or 1) how far (spreads [K]: standard deviations). is_held: bool, whether objects stay where
    they are while the camera moves; else they go with it, see `moves_of`."""

    scene: SceneArrays
    pivots: Array
    is_free: Array
    spreads: Array
    is_held: Array


def moves_of(vector: Array, problem: SearchProblem, layout: Layout) -> Moves:
    """The moves that a vector [K] stands for.

    Where the camera moves, an object stays at its point of the picture and its height, and keeps its yaw as seen: then
    the camera changes little of a picture, and it and the objects can be searched at once.
    """
    own = layout.split(vector)
    camera = problem.scene.camera
    moved = camera._replace(position=camera.position + own.camera)
    at_start = problem.pivots + own.objects[:, LOCATION]
    seen = (at_start - camera.position) @ camera_axes(camera, jnp).T
    rays = seen @ camera_axes(moved, jnp)
    height = at_start[:, 2] - moved.position[2]
    reach = jnp.where(jnp.abs(rays[:, 2]) > FLATTEST, height / jnp.where(rays[:, 2] == 0, 1.0, rays[:, 2]), 1.0)
    location = moved.position + reach[:, None] * rays - problem.pivots
    azimuths = [jnp.arctan2(*(one.position - one.look_at)[1::-1]) for one in (moved, camera)]
    turn = own.objects[:, TURN].at[:, 2].add(azimuths[0] - azimuths[1])
    is_there = own.camera.any()
    objects = jnp.where(is_there & ~problem.is_held, jnp.concatenate([location, turn], axis=1), own.objects)
    return own._replace(objects=objects)


@functools.partial(jax.jit, static_argnames="layout")
def moves_of_all(vectors: Array, problems: SearchProblem, layout: Layout) -> Moves:
    """`moves_of` many scenes: a leading axis on every array."""
    return jax.vmap(functools.partial(moves_of, layout=layout))(vectors, problems)


def spread_moves(vector: Array, problem: SearchProblem, layout: Layout) -> Array:
    """float32 [K]: the moves of free numbers, each in units of its spread; half their squares are the prior."""
    moves = moves_of(vector, problem, layout)
    own = moves.objects[:, np.array(layout.free, int)].ravel()
    return jnp.concatenate([own, moves.camera, moves.lamps.ravel()]) / problem.spreads * problem.is_free


def prior(vector: Array, problem: SearchProblem, layout: Layout) -> Array:
    """The negative log-probability of moves."""
    return 0.5 * (spread_moves(vector, problem, layout) ** 2).sum()
