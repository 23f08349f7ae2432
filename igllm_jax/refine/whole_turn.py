"""A scene turned as a whole: objects, camera and lamps, about the upright line through what the camera looks at.

A picture hardly changes then (what metal mirrors stays where it is), so differences of a step's size, each a bit wrong,
say more of it by mistake than the picture does; and each number alone is stiff, so damped steps hardly get along it.
Hence it is looked at by itself.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from igllm_jax.refine.lens import Lens, features, information, penalty
from igllm_jax.refine.moves import rotation
from igllm_jax.refine.pictures import PictureOptions, picture, picture_difference
from igllm_jax.refine.space import map_scenes
from igllm_jax.refine.vectors import Layout, SearchProblem, prior
from igllm_jax.render.flat.rays import Array

STEP = 0.02  # radians: of the difference
ANGLES = np.radians(np.arange(-4, 5, dtype=np.float32))  # that are tried
PASSES = (1.0, 0.25)  # times the angles, about the best so far


def turned(vector: Array, angle: Array, problem: SearchProblem, layout: Layout) -> Array:
    """The vector [K] of the scene turned by an angle in radians. Objects go with the camera, so that their numbers stay
    (see `vectors.moves_of`)."""
    own = layout.split(vector)
    turn = rotation(jnp.stack([jnp.zeros_like(angle), jnp.zeros_like(angle), angle]))
    camera, lamps, about = problem.scene.camera.position, problem.scene.lamps.position, problem.scene.camera.look_at
    moved_camera = about + turn @ (camera + own.camera - about) - camera
    moved_lamps = about + (lamps + own.lamps - about) @ turn.T - lamps
    return jnp.concatenate([vector[: layout.num_own], moved_camera, moved_lamps.ravel()])


def may_turn(problem: SearchProblem, layout: Layout) -> Array:
    """bool, of a scene or of each of many: whether camera and lamps are searched, and objects go with them."""
    return problem.is_free[..., layout.num_own :].all(axis=-1) & ~problem.is_held


def mended(
    columns: Array, steps: Array, problem: SearchProblem, vector: Array, base: Array, view: Lens, how: PictureOptions
) -> Array:
    """Columns [K, 3, P] that say of a turn what the picture says: those of `search.columns_of`, each changed by as
    little, in units of its step [K], as that takes (Broyden's update). base: the picture [3, P] at `vector`."""

    def towards(angle: Array) -> Array:
        return turned(vector, angle, problem, how.layout)

    def changed() -> Array:
        direction = jax.jvp(towards, (jnp.zeros(()),), (jnp.ones(()),))[1]
        seen = features((picture(problem, towards(jnp.float32(STEP)), how) - base) / STEP, view)
        scaled = direction * steps**2
        missing = seen - jnp.tensordot(direction, columns, axes=1)
        return columns + (scaled / (direction @ scaled))[:, None, None] * missing

    return jax.lax.cond(may_turn(problem, how.layout), changed, lambda: columns)


@functools.partial(jax.jit, static_argnames=("how", "at_once"))
def turn_scenes(
    vectors: Array, problems: SearchProblem, targets: Array, view: Lens, *, how: PictureOptions, at_once: int = 1
) -> Array:
    """float32 [S, K]: vectors of the scenes turned as a whole to where they are most probable, as far as that is within
    ANGLES."""

    def one(row: tuple[Array, SearchProblem, Array]) -> Array:
        vector, problem, target = row
        unit = information(picture_difference(problem, vector, target, view, how), view)

        def loss(angle: Array) -> Array:
            moved = turned(vector, angle, problem, how.layout)
            own = penalty(picture_difference(problem, moved, target, view, how), view)
            return unit * own + prior(moved, problem, how.layout)

        def found() -> Array:
            best = jnp.zeros(())
            for scale in PASSES:
                angles = best + scale * ANGLES
                best = angles[jnp.argmin(jax.lax.map(loss, angles))]
            return turned(vector, best, problem, how.layout)

        return jax.lax.cond(may_turn(problem, how.layout), found, lambda: vector)

    return map_scenes(one, (vectors, problems, targets), at_once)
