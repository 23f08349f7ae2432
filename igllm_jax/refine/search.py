"""Scenes moved until their picture explains an image: Gauss-Newton steps on the painter's pictures, blurred to sharp.

What is minimised is a negative log-probability up to a constant: the penalty of the difference of the two pictures (see
lens.py), and a Gaussian prior of every move. A step draws the scene once for each number that may move, changed a bit:
such differences see outlines, shadows and mirrored light alike, none of which a point's own derivative follows.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igllm_jax.refine.lens import (
    LEAST_NOISE,
    LONGER,
    Lens,
    features,
    information,
    lens,
    penalty,
    picture_size,
    shrunk,
    srgb,
    weights,
)
from igllm_jax.refine.moves import ABOUT_Z, move_scene
from igllm_jax.refine.pictures import PictureOptions, by_rows, picture_difference, traced_picture
from igllm_jax.refine.space import map_scenes
from igllm_jax.refine.time_limit import TimeLimit
from igllm_jax.refine.trace import Traced, paint, trace
from igllm_jax.refine.vectors import SearchProblem, moves_of, prior, spread_moves
from igllm_jax.refine.whole_turn import may_turn, mended, turn_scenes
from igllm_jax.render.flat.rays import Array

STEP = {"location": 0.04, "turn": 0.05, "camera": 0.08, "lamp": 0.3}  # scene units, radians: of the differences
MOST_STRIDE = 3.0
YAWS = np.radians([-45, -30, -15, 15, 30, 45]).astype(np.float32)  # that are tried beside a start's own
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-2, 1e-5, 1e6
SLACK = 0.005  # of a loss: pictures change by jumps, which better numbers may have to cross
GAIN, PATIENCE = 0.05, 2  # a level ends after so many steps in a row that gain less of the negative log-probability
TRIES = (0.1, 1.0, 10.0, 100.0)  # times the damping


class Level(NamedTuple):
    """blur: see `lens.lens`. steps: at most. outlier, least_noise: see `Lens`. scans_yaws: before the steps. longer:
    pixels of the pictures' longer side, at most."""

    blur: float
    steps: int
    outlier: float
    scans_yaws: bool = False
    longer: int = LONGER
    least_noise: float = LEAST_NOISE


COARSE = LONGER // 2  # enough for what is blurred much
# yaws are looked through twice: of what is blurred much, outlines of other yaws look alike
LEVELS = (
    Level(6.7, 6, 0.5, longer=COARSE),
    Level(6.7, 4, 0.5, True, COARSE),
    Level(3.3, 6, 0.3),
    Level(3.3, 6, 0.3, True),
)


class State(NamedTuple):
    """Where a search is. vector: float32 [K]. penalty: of its picture, see `lens.penalty`. curvature: float32 [K, K] of
    the negative log-probability without the prior, by the numbers that may move, and pull: float32 [K, K], of
    `spread_moves` by them, both where the last step began. stalls: int32, steps in a row that gained nothing."""

    vector: Array
    damping: Array
    penalty: Array
    curvature: Array
    pull: Array
    stalls: Array


def start_state(num_scenes: int, size: int) -> State:
    """Before the first step of a batch of scenes."""
    fill = functools.partial(jnp.full, (num_scenes,), dtype=jnp.float32)
    vectors, square = (jnp.zeros((num_scenes, *shape), jnp.float32) for shape in ((size,), (size, size)))
    return State(vectors, fill(FIRST_DAMPING), fill(jnp.inf), square, square, jnp.zeros(num_scenes, jnp.int32))


def columns_of(
    problem: SearchProblem, vector: Array, base: Array, traced: Traced, view: Lens, how: PictureOptions
) -> Array:
    """float32 [K, 3, P]: what a unit of each number changes of the features; 0 for those that may not move.

    base, traced: of the scene at `vector`. An object's numbers need new rays to that object alone, a lamp's none of
    the camera.
    """
    stride = jnp.clip(jnp.sqrt(view.area) / 2, 1.0, MOST_STRIDE)
    steps = stride * how.layout.fill(*STEP.values())
    num_own = how.layout.num_own

    def column(index: Array) -> Array:
        def changed() -> Array:
            moved = vector.at[index].add(steps[index])
            scene = move_scene(problem.scene, problem.pivots, moves_of(moved, problem, how.layout))
            is_camera = (index >= num_own) & (index < num_own + 3)
            is_own = (problem.scene.parts.owner == index // max(len(how.layout.free), 1)) & (index < num_own)
            is_lamp = jnp.arange(how.layout.lamps) == jnp.where(index < num_own + 3, -1, (index - num_own - 3) // 3)
            retraced = trace(scene, traced, is_own | is_camera, is_lamp, how.screen)
            return features((srgb(paint(scene, retraced, how.screen)) - base) / steps[index], view)

        return jax.lax.cond(problem.is_free[index] > 0, changed, lambda: jnp.zeros_like(base))

    columns = jax.lax.map(column, jnp.arange(how.layout.size))
    return mended(columns, steps, problem, vector, base, view, how)


def _step(state: State, problem: SearchProblem, target: Array, view: Lens, how: PictureOptions) -> State:
    base, traced = traced_picture(problem, state.vector, how)
    difference = features(base - target, view)
    columns = columns_of(problem, state.vector, base, traced, view, how).reshape(how.layout.size, -1)
    weighted = columns * jnp.tile(weights(difference, view), 3)
    unit, spread = information(difference, view), functools.partial(spread_moves, problem=problem, layout=how.layout)
    pull = jax.jacfwd(spread)(state.vector)
    gradient = unit * weighted @ difference.ravel() + pull.T @ spread(state.vector)
    curvature = unit * weighted @ columns.T
    full = curvature + pull.T @ pull

    def attempt(damping: Array) -> tuple[Array, Array, Array]:
        damped = full + jnp.diag(damping * jnp.diag(full) + (1 - problem.is_free))
        limit = 2 * problem.spreads
        vector = state.vector - jnp.clip(jnp.linalg.solve(damped, gradient), -limit, limit) * problem.is_free
        own = penalty(picture_difference(problem, vector, target, view, how), view)
        return vector, own, unit * own + prior(vector, problem, how.layout)

    own = penalty(difference, view)
    loss = unit * own + prior(state.vector, problem, how.layout)
    dampings = jnp.clip(state.damping * np.array(TRIES, np.float32), LEAST_DAMPING, MOST_DAMPING)
    vectors, penalties, losses = jax.lax.map(attempt, dampings)
    best = jnp.argmin(losses)
    is_better = losses[best] < (1 + SLACK) * loss
    vector, own = (jnp.where(is_better, new[best], old) for new, old in ((vectors, state.vector), (penalties, own)))
    damping = jnp.where(is_better, dampings[best], jnp.minimum(dampings[-1] * 10, MOST_DAMPING))
    stalls = jnp.where(loss - losses[best] > GAIN, 0, state.stalls + 1)
    new = State(vector, damping, own, curvature, pull, stalls)
    return jax.tree.map(lambda old, new: jnp.where(state.stalls < PATIENCE, new, old), state, new)


@functools.partial(jax.jit, static_argnames=("how", "at_once"))
def step_batch(
    states: State, problems: SearchProblem, targets: Array, view: Lens, *, how: PictureOptions, at_once: int = 1
) -> State:
    """One step of many scenes (a leading axis on every array but the lens). targets: [S, 3, P]. at_once: see
    `draw_batch`."""
    step = functools.partial(_step, view=view, how=how)
    return map_scenes(lambda row: step(*row), (states, problems, targets), at_once)


class _Turned(NamedTuple):
    """The best that a scan of yaws has found."""

    vector: Array
    penalty: Array
    traced: Traced


@functools.partial(jax.jit, static_argnames=("how", "at_once"))
def scan_yaws(
    vectors: Array, problems: SearchProblem, targets: Array, view: Lens, *, how: PictureOptions, at_once: int = 1
) -> Array:
    """float32 [S, K]: vectors in which each object's yaw, one after the other, is turned to where the penalty is least.

    A start's yaw may be so wrong that steps lead to another of the outlines that look alike.
    """
    column = how.layout.free.index(ABOUT_Z)

    def one(row: tuple[Array, SearchProblem, Array]) -> Array:
        vector, problem, target = row
        base, traced = traced_picture(problem, vector, how)
        own = penalty(features(base - target, view), view)

        def turn(carry: _Turned, index: Array) -> tuple[_Turned, None]:
            number = index * len(how.layout.free) + column
            is_new = problem.scene.parts.owner == index

            def tried(best: _Turned, yaw: Array) -> tuple[_Turned, None]:
                moved = carry.vector.at[number].add(yaw)
                scene = move_scene(problem.scene, problem.pivots, moves_of(moved, problem, how.layout))
                retraced = trace(scene, best.traced, is_new, jnp.zeros(how.layout.lamps, bool), how.screen)
                own = penalty(features(srgb(paint(scene, retraced, how.screen)) - target, view), view)
                new = _Turned(moved, own, retraced)
                return jax.lax.cond(own < best.penalty, lambda: new, lambda: best), None

            is_free = problem.is_free[number] > 0
            return jax.lax.cond(is_free, lambda: jax.lax.scan(tried, carry, YAWS)[0], lambda: carry), None

        return jax.lax.scan(turn, _Turned(vector, own, traced), jnp.arange(how.layout.objects))[0].vector

    return map_scenes(one, (vectors, problems, targets), at_once)


def search(
    problems: SearchProblem,
    targets: Array,
    *,
    how: PictureOptions,
    levels: Sequence[Level] = LEVELS,
    seconds: float | None = None,
    at_once: int = 1,
) -> State:
    """Searches scenes that explain images, targets [S, 3, P]. seconds: a scene at most, or None. at_once: scenes side
    by side, see `draw_batch`; none depends on the others."""

    def one(rows: tuple[SearchProblem, Array]) -> State:
        return _search_together(*rows, how, levels, TimeLimit(None if seconds is None else seconds * at_once), at_once)

    return by_rows(one, (problems, targets), at_once)


def _search_together(
    problems: SearchProblem,
    targets: Array,
    how: PictureOptions,
    levels: Sequence[Level],
    limit: TimeLimit,
    at_once: int,
) -> State:
    state, finest, finest_targets = start_state(len(targets), how.layout.size), how, targets
    turns = bool(may_turn(problems, how.layout).any())  # else the program that turns them need not be compiled
    for level in levels:
        size = picture_size(finest.width, finest.height, level.longer)
        how = finest._replace(width=size[0], height=size[1])
        view, targets = (
            lens(size, level.blur, level.outlier, level.least_noise),
            shrunk(finest_targets, finest[:2], size),
        )
        if level.scans_yaws and ABOUT_Z in how.layout.free and not limit.is_over:
            vector = scan_yaws(state.vector, problems, targets, view, how=how, at_once=at_once)
            state = state._replace(vector=vector)
        state = state._replace(damping=jnp.full_like(state.damping, FIRST_DAMPING), stalls=jnp.zeros_like(state.stalls))
        for _ in range(level.steps):
            if limit.is_over or (state.stalls >= PATIENCE).all():
                break
            state = step_batch(state, problems, targets, view, how=how, at_once=at_once)
        if turns and not limit.is_over:
            vector = turn_scenes(state.vector, problems, targets, view, how=how, at_once=at_once)
            state = state._replace(vector=vector)
    return state
