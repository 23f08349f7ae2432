"""Scenes turned as a whole: what a picture and a search's columns say of it, and that searches end where it is best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igllm_jax.refine.lens import features, lens
from igllm_jax.refine.pictures import picture, traced_picture
from igllm_jax.refine.problems import start_of_things
from igllm_jax.refine.refining import group_of
from igllm_jax.refine.search import columns_of
from igllm_jax.refine.vectors import moves_of, prior
from igllm_jax.refine.whole_turn import turn_scenes, turned
from igllm_jax.render.flat.draw import draw
from igllm_jax.scene.scene import Scene
from tests.refine.test_refining import TERMS
from tests.render.test_dense import example

ANGLE = 0.05
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def group():
    """A scene of two rubber objects, which mirror nothing, seen by the usual camera."""
    spec = example("clevr", 0, objects=2)
    things = [thing.replace(material="rubber") for thing in Scene.from_label(spec.label, "clevr").objects]
    start = start_of_things(things, TERMS, spec.camera)
    return group_of([start], [draw(start.spec).image], TERMS)


@pytest.fixture(scope="module")
def problem(group):
    return jax.tree.map(lambda array: jnp.asarray(array[0]), group.problems)


@pytest.fixture(scope="module")
def vector(group):
    """Somewhere beside the start."""
    return jnp.asarray(rng.normal(0, 0.05, group.how.layout.size), jnp.float32)


def test_all_turn_by_the_angle_and_the_picture_stays(group, problem, vector):
    layout = group.how.layout
    moved = turned(vector, jnp.float32(ANGLE), problem, layout)
    before, after = moves_of(vector, problem, layout), moves_of(moved, problem, layout)
    own = slice(0, len(group.starts[0].things))
    places = [
        np.concatenate([problem.scene.camera.position[None] + moves.camera, problem.scene.lamps.position + moves.lamps,
                        problem.pivots[own] + moves.objects[own, :3]])
        for moves in (before, after)
    ]  # fmt: skip
    cos, sin = np.cos(ANGLE), np.sin(ANGLE)
    expected = places[0] @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    np.testing.assert_allclose(places[1], expected, atol=1e-4)
    np.testing.assert_allclose(after.objects[own, 5] - before.objects[own, 5], ANGLE, atol=1e-4)
    pictures = [picture(problem, at, group.how) for at in (vector, moved)]
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.1 * np.abs(pictures[0] - group.targets[0]).mean()


def test_columns_say_of_a_turn_what_the_picture_says(group, problem, vector):
    view = lens((group.how.width, group.how.height), 3.0, 0.3)
    base, traced = traced_picture(problem, vector, group.how)
    columns = columns_of(problem, vector, base, traced, view, group.how)

    def towards(angle):
        return turned(vector, angle, problem, group.how.layout)

    direction = jax.jvp(towards, (jnp.zeros(()),), (jnp.ones(()),))[1]
    seen = features(picture(problem, towards(jnp.float32(0.02)), group.how) - base, view) / 0.02
    np.testing.assert_allclose(jnp.tensordot(direction, columns, axes=1), seen, atol=1e-3)


def test_a_turned_scene_is_turned_back_to_where_it_is_likely(group, problem):
    layout = group.how.layout
    zero = jnp.zeros(layout.size, jnp.float32)
    away = turned(zero, jnp.float32(ANGLE), problem, layout)
    view = lens((group.how.width, group.how.height), 3.0, 0.3)
    (back,) = turn_scenes(away[None], group.problems, group.targets, view, how=group.how)
    assert prior(back, problem, layout) < 0.02 * prior(away, problem, layout)
    (fixed,) = turn_scenes(
        away[None], group.problems._replace(is_free=0 * group.problems.is_free), group.targets, view, how=group.how
    )
    np.testing.assert_array_equal(fixed, away)
