"""The flat renderer with soft edges: near the painter, and its derivatives are those of its pictures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igllm_jax.refine.moves import Moves, move_scene, rotation
from igllm_jax.refine.slopes import soft_slopes
from igllm_jax.refine.soft import Softness, draw_soft, floor_of
from igllm_jax.render.flat.arrays import KINDS, pack
from igllm_jax.render.flat.draw import BACKDROP_COLOR, draw
from tests.render.test_dense import example

WIDTH, HEIGHT = 48, 32
STEP = 2e-3
FREE = {"clevr": (0, 1, 5), "so3": (3, 4, 5)}


def packed(spec, most_parts):
    """The scene, where its objects are, and its floor."""
    scene = pack(spec, most_parts=most_parts, most_objects=len(spec.objects), backdrop=BACKDROP_COLOR)
    scene = jax.tree.map(jnp.asarray, scene)
    return scene, jnp.array([thing.location for thing in spec.objects]), floor_of(scene, WIDTH, HEIGHT, KINDS)


@jax.jit
def picture_of(scene, pivots, moves, floor):
    return draw_soft(move_scene(scene, pivots, moves), floor, WIDTH, HEIGHT)


@functools.partial(jax.jit, static_argnames="free")
def slopes_of(scene, pivots, moves, floor, free):
    return soft_slopes(scene, pivots, moves, floor, width=WIDTH, height=HEIGHT, softness=Softness(), free=free)


def differences(loss, moves, free):
    """Central differences of a loss by the free numbers of each object, and by the camera's."""
    found = []
    for field, columns in (("objects", free), ("camera", range(3))):
        value = np.asarray(getattr(moves, field))
        for index in np.ndindex(value.shape):
            if index[-1] in columns:
                change = np.zeros_like(value)
                change[index] = STEP
                ends = (loss(moves._replace(**{field: value + sign * change})) for sign in (1, -1))
                found.append(-np.subtract(*reversed(list(ends))) / (2 * STEP))
    return np.array(found)


@pytest.mark.parametrize("task", ["clevr", "so3"])
def test_it_is_near_the_painter_and_derivatives_are_finite_differences(task):
    rng, free = np.random.default_rng(0), FREE[task]
    spec = example(task, objects=3)
    scene, pivots, floor = packed(spec, 12)
    still = Moves(jnp.zeros((len(pivots), 6)), jnp.zeros(3))
    painted = draw(spec).image.resize((WIDTH, HEIGHT))
    drawn = picture_of(scene, pivots, still, floor).T.reshape(HEIGHT, WIDTH, 3)
    assert np.abs(np.asarray(painted) / 255 - drawn).mean() < 0.03
    moves = Moves(
        jnp.array(rng.normal(0, 0.05, (len(pivots), 6)), jnp.float32), jnp.array(rng.normal(0, 0.1, 3), jnp.float32)
    )
    slopes = slopes_of(scene, pivots, moves, floor, free)
    shade = np.array([[0.2], [0.5], [0.9]])

    def loss(moved):
        return 0.5 * ((np.asarray(picture_of(scene, pivots, moved, floor), np.float64) - shade) ** 2).sum()

    residual = np.asarray(slopes.picture) - shade
    by_object = np.einsum("mkcp,cp->mk", slopes.objects, residual).ravel()
    gradient = np.concatenate([by_object, np.einsum("kcp,cp->k", slopes.camera, residual)])
    expected = differences(loss, moves, free)
    assert np.linalg.norm(gradient - expected) <= 0.02 * np.linalg.norm(expected)


def test_a_turn_vector_is_a_rotation():
    found = rotation(jnp.array([0.0, 0.0, np.pi / 2]))
    np.testing.assert_allclose(found, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(rotation(jnp.zeros(3)), np.eye(3), atol=1e-6)
