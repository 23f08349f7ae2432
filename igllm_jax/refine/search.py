"""Scenes moved until their picture explains an image: Gauss-Newton steps on the painter's pictures, blurred to sharp.

What is minimised is a negative log-probability up to a constant: the penalty of the difference of the two pictures (see
lens.py), and a Gaussian prior of every move. A step draws the scene once for each number that may move, changed a bit:
such differences see outlines, shadows and mirrored light alike, none of which a point's own derivative follows.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igllm_jax.refine.lens import (
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
from igllm_jax.refine.moves import LOCATION, NUMBERS, TURN, Moves, move_scene
from igllm_jax.refine.space import map_scenes
from igllm_jax.refine.trace import Screen, Traced, nothing, paint, trace
from igllm_jax.render.flat.arrays import SceneArrays
from igllm_jax.render.flat.dense import camera_axes
from igllm_jax.render.flat.rays import Array

CAMERA_SPREAD, LAMP_SPREAD = 0.3, 0.6  # scene units: CLEVR's jitter is uniform from -0.5 to 0.5, and from -1 to 1
LOCATION_SPREAD, TURN_SPREAD = 0.25, 0.4  # of a start's mistakes: scene units, radians
STEP = {"location": 0.04, "turn": 0.05, "camera": 0.08, "lamp": 0.3}  # scene units, radians: of the differences
MOST_STRIDE = 3.0
ABOUT_Z = TURN.stop - 1
YAWS = np.radians([-45, -30, -15, 15, 30, 45]).astype(np.float32)  # that are tried beside a start's own
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-2, 1e-5, 1e6
SLACK = 0.005  # of a loss: pictures change by jumps, which better numbers may have to cross
GAIN, PATIENCE = 0.05, 2  # a level ends after so many steps in a row that gain less of the negative log-probability
FLATTEST = 0.02  # of a ray: flatter ones hardly ever come down to an object's height
TRIES = (0.1, 1.0, 10.0, 100.0)  # times the damping


class Level(NamedTuple):
    """blur: see `lens.lens`. steps: at most. outlier: see `Lens`. scans_yaws: before the steps. longer: pixels of the
    pictures' longer side, at most."""

    blur: float
    steps: int
    outlier: float
    scans_yaws: bool = False
    longer: int = LONGER


COARSE = LONGER // 2  # enough for what is blurred much
# yaws are looked through twice: of what is blurred much, outlines of other yaws look alike
LEVELS = (
    Level(6.7, 6, 0.5, longer=COARSE),
    Level(6.7, 4, 0.5, True, COARSE),
    Level(3.3, 6, 0.3),
    Level(3.3, 6, 0.3, True),
)


class Layout(NamedTuple):
    """What a search's vector of numbers holds: of each of `objects` the numbers `free` (see `Moves`), the camera's, and
    those of `lamps` lamps. Objects move in the view of the start's camera, and go with it: see `moves_of`.
    """

    objects: int
    free: tuple[int, ...]
    lamps: int

    @property
    def size(self) -> int:
        return self.objects * len(self.free) + 3 + 3 * self.lamps

    def split(self, vector: Array) -> Moves:
        """The numbers of a vector [K], by what they are of."""
        own, camera, lamps = jnp.split(vector, (self.size - 3 - 3 * self.lamps, self.size - 3 * self.lamps))
        objects = jnp.zeros((self.objects, NUMBERS), vector.dtype)
        objects = objects.at[:, np.array(self.free, int)].set(own.reshape(self.objects, len(self.free)))
        return Moves(objects, camera, lamps.reshape(self.lamps, 3))

    def fill(self, location: float, turn: float, camera: float, lamp: float) -> np.ndarray:
        """float32 [K]: the same number for all numbers of a kind."""
        own = [turn if number >= TURN.start else location for number in self.free]
        return np.array(own * self.objects + [camera] * 3 + [lamp] * 3 * self.lamps, np.float32)


class SearchProblem(NamedTuple):
    """What is searched: a scene's start, where its objects are ([M, 3]), and which numbers of the vector may move
    (is_free: float32 [K], 0 or 1) how far (spreads [K]: standard deviations)."""

    scene: SceneArrays
    pivots: Array
    is_free: Array
    spreads: Array


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
    objects = jnp.where(is_there, jnp.concatenate([location, turn], axis=1), own.objects)
    return own._replace(objects=objects)


@functools.partial(jax.jit, static_argnames="layout")
def moves_of_all(vectors: Array, problems: SearchProblem, layout: Layout) -> Moves:
    """`moves_of` many scenes: a leading axis on every array."""
    return jax.vmap(functools.partial(moves_of, layout=layout))(vectors, problems)


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


class PictureOptions(NamedTuple):
    """How pictures are drawn: their size, of which kinds of parts, and what the numbers are."""

    width: int
    height: int
    kinds: tuple[str, ...]
    layout: Layout

    @property
    def screen(self) -> Screen:
        return Screen(self.width, self.height, self.kinds)


def start_state(num_scenes: int, size: int) -> State:
    """Before the first step of a batch of scenes."""
    fill = functools.partial(jnp.full, (num_scenes,), dtype=jnp.float32)
    vectors, square = (jnp.zeros((num_scenes, *shape), jnp.float32) for shape in ((size,), (size, size)))
    return State(vectors, fill(FIRST_DAMPING), fill(jnp.inf), square, square, jnp.zeros(num_scenes, jnp.int32))


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


def spread_moves(vector: Array, problem: SearchProblem, layout: Layout) -> Array:
    """float32 [K]: the moves of free numbers, each in units of its spread; half their squares are the prior."""
    moves = moves_of(vector, problem, layout)
    own = moves.objects[:, np.array(layout.free, int)].ravel()
    return jnp.concatenate([own, moves.camera, moves.lamps.ravel()]) / problem.spreads * problem.is_free


def prior(vector: Array, problem: SearchProblem, layout: Layout) -> Array:
    """The negative log-probability of moves."""
    return 0.5 * (spread_moves(vector, problem, layout) ** 2).sum()


def columns_of(
    problem: SearchProblem, vector: Array, base: Array, traced: Traced, view: Lens, how: PictureOptions
) -> Array:
    """float32 [K, 3, P]: what a unit of each number changes of the features; 0 for those that may not move.

    base, traced: of the scene at `vector`. An object's numbers need new rays to that object alone, a lamp's none of
    the camera.
    """
    stride = jnp.clip(jnp.sqrt(view.area) / 2, 1.0, MOST_STRIDE)
    steps = stride * how.layout.fill(*STEP.values())
    num_own = how.layout.objects * len(how.layout.free)

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

    return jax.lax.map(column, jnp.arange(how.layout.size))


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
        own = penalty(features(picture(problem, vector, how) - target, view), view)
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
        return penalty(features(picture(problem, vector, how) - target, view), view)

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
        return _search_together(*rows, how, levels, _until(seconds, at_once), at_once)

    return by_rows(one, (problems, targets), at_once)


def _search_together(
    problems: SearchProblem,
    targets: Array,
    how: PictureOptions,
    levels: Sequence[Level],
    goes_on: Callable[[], bool],
    at_once: int,
) -> State:
    state, finest, finest_targets = start_state(len(targets), how.layout.size), how, targets
    for level in levels:
        size = picture_size(finest.width, finest.height, level.longer)
        how = finest._replace(width=size[0], height=size[1])
        view, targets = lens(size, level.blur, level.outlier), shrunk(finest_targets, finest[:2], size)
        if level.scans_yaws and ABOUT_Z in how.layout.free and goes_on():
            vector = scan_yaws(state.vector, problems, targets, view, how=how, at_once=at_once)
            state = state._replace(vector=vector)
        state = state._replace(damping=jnp.full_like(state.damping, FIRST_DAMPING), stalls=jnp.zeros_like(state.stalls))
        for _ in range(level.steps):
            if not goes_on() or (state.stalls >= PATIENCE).all():
                break
            state = step_batch(state, problems, targets, view, how=how, at_once=at_once)
    return state


def _until(seconds: float | None, num_scenes: int) -> Callable[[], bool]:
    end = None if seconds is None else time.monotonic() + seconds * num_scenes
    return lambda: end is None or time.monotonic() < end
