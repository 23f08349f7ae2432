"""Pictures of moved scenes, and how far they are from images, of one scene or of many."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igllm_jax.refine.lens import Lens, features, penalty, srgb
from igllm_jax.refine.moves import move_scene
from igllm_jax.refine.space import map_scenes
from igllm_jax.refine.trace import Screen, Traced, nothing, paint, trace
from igllm_jax.refine.vectors import Layout, SearchProblem, moves_of
from igllm_jax.render.flat.rays import Array


class PictureOptions(NamedTuple):
    """How pictures are drawn: their size, of which kinds of parts, and what the numbers are."""

    width: int
    height: int
    kinds: tuple[str, ...]
    layout: Layout

    @property
    def screen(self) -> Screen:
        return Screen(self.width, self.height, self.kinds)


def picture(problem: SearchProblem, vector: Array, how: PictureOptions) -> Array:
    """float32 [3, P], sRGB, 0 to 1: the picture of a problem's scene, moved."""
    return traced_picture(problem, vector, how)[0]


def traced_picture(problem: SearchProblem, vector: Array, how: PictureOptions) -> tuple[Array, Traced]:
    """`picture`, and what its rays meet."""
    scene = move_scene(problem.scene, problem.pivots, moves_of(vector, problem, how.layout))
    num_parts, num_lamps = len(scene.parts.kind), how.layout.lamps
    unknown = nothing(num_parts, num_lamps, how.screen)
    traced = trace(scene, unknown, jnp.ones(num_parts, bool), jnp.ones(num_lamps, bool), how.screen)
    return srgb(paint(scene, traced, how.screen)), traced


def picture_difference(problem: SearchProblem, vector: Array, target: Array, view: Lens, how: PictureOptions) -> Array:
    """float32 [3, P]: what is compared, of the picture of a moved scene and its image."""
    return features(picture(problem, vector, how) - target, view)


def penalties(
    problems: SearchProblem, vectors: Array, targets: Array, view: Lens, *, how: PictureOptions, at_once: int = 1
) -> np.ndarray:
    """float32 [S]: `lens.penalty` of many scenes, moved by vectors [S, K]."""

    def some(rows: tuple[SearchProblem, Array, Array]) -> Array:
        return _penalties(*rows, view, how=how, at_once=at_once)

    return by_rows(some, (problems, vectors, targets), at_once)


@functools.partial(jax.jit, static_argnames=("how", "at_once"))
def _penalties(
    problems: SearchProblem, vectors: Array, targets: Array, view: Lens, *, how: PictureOptions, at_once: int
) -> Array:
    def one(row: tuple[SearchProblem, Array, Array]) -> Array:
        problem, vector, target = row
        return penalty(picture_difference(problem, vector, target, view, how), view)

    return map_scenes(one, (problems, vectors, targets), at_once)


def by_rows(program: Callable[[Any], Any], rows: Any, at_once: int) -> Any:
    """What `program` makes of rows (a leading axis on every array), so many at a time: the last are filled up, and one
    compiled program serves any number. Arrays come back as NumPy's."""
    count = len(jax.tree.leaves(rows)[0])
    found = []
    for first in range(0, count, at_once):
        own = np.minimum(np.arange(first, first + at_once), count - 1)
        found.append(jax.device_get(program(jax.tree.map(lambda array, own=own: array[own], rows))))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *found)
