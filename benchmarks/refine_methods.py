"""Ways to search what explains an image, with as many renders each: Gauss-Newton on the hard renderer's pictures (as
`igllm refine` does), Adam through the soft renderer, CMA-ES on the hard one. Run by hand, with the extra
`refine-methods`:

    python -m benchmarks.refine_methods --scenes 20 --out methods.jsonl

A derivative of a soft picture counts as three renders. Each scene and method is a line of the file as it is done.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from evosax.algorithms import CMA_ES

from benchmarks.refine import Case, case_of, location_errors, noised, read_rows, terms_of, yaw_errors
from igllm_jax.refine.lens import LEAST_NOISE, features, lens, penalty, srgb
from igllm_jax.refine.moves import move_scene
from igllm_jax.refine.pictures import picture
from igllm_jax.refine.problems import moved_things
from igllm_jax.refine.refining import SceneGroup, group_of
from igllm_jax.refine.search import LEVELS, YAWS, search
from igllm_jax.refine.space import JAX
from igllm_jax.refine.vectors import moves_of, moves_of_all, prior
from igllm_jax.render.flat.soft import soft_picture

LONGER, SEED = 120, 21
DERIVATIVE = 3  # renders
RATE, POPULATION, FIRST_SPREAD = 0.1, 24, 0.5  # in units of the priors' spreads
# half the renders each: a lens's arguments, and what a unit of the penalty is worth, see `lens.information`
STAGES = ((LEVELS[0][:3:2], 1 / 0.3**2), (LEVELS[-1][:3:2], 1 / LEAST_NOISE**2))


def num_renders(group: SceneGroup) -> int:
    """What Gauss-Newton may use: a picture, one more for each number, and four tries a step; six yaws of each cube."""
    free = int(group.problems.is_free.sum())
    return sum(level.steps for level in LEVELS) * (1 + free + 4) + len(YAWS) * len(group.starts[0].things)


@functools.partial(jax.jit, static_argnames=("how", "is_soft"))
def loss_of(numbers, problem, target, view, unit, *, how, is_soft):
    """The negative log-probability; numbers: a search's, in units of their spreads."""
    vector = numbers * problem.spreads * problem.is_free
    if is_soft:
        scene = move_scene(problem.scene, problem.pivots, moves_of(vector, problem, how.layout))
        drawn = srgb(soft_picture(scene, how.width, how.height, kinds=how.kinds, space=JAX))
    else:
        drawn = picture(problem, vector, how)
    return unit * penalty(features(drawn - target, view), view) + prior(vector, problem, how.layout)


def gauss_newton(group: SceneGroup, renders: int) -> np.ndarray:
    return np.asarray(search(group.problems, group.targets, how=group.how).vector)


def adam(group: SceneGroup, renders: int) -> np.ndarray:
    problem, target, views = _one(group)
    slope = jax.jit(jax.grad(functools.partial(loss_of, how=group.how, is_soft=True)))
    steps = renders // DERIVATIVE
    rule = optax.adam(optax.cosine_decay_schedule(RATE, steps))
    # beside a camera that does not move, no derivative knows that it may
    numbers = jnp.full(group.how.layout.size, 1e-3)
    state = rule.init(numbers)
    for step in range(steps):
        change, state = rule.update(slope(numbers, problem, target, *views[2 * step >= steps]), state)
        numbers = optax.apply_updates(numbers, change)
    return np.asarray(numbers * problem.spreads * problem.is_free)[None]


def cma_es(group: SceneGroup, renders: int) -> np.ndarray:
    problem, target, views = _one(group)
    loss = functools.partial(loss_of, how=group.how, is_soft=False)
    losses = jax.jit(lambda rows, *view: jax.lax.map(lambda row: loss(row, problem, target, *view), rows))
    free = np.flatnonzero(problem.is_free)
    strategy = CMA_ES(population_size=POPULATION, solution=jnp.zeros(len(free)))
    params = strategy.default_params.replace(std_init=FIRST_SPREAD)
    key = jax.random.key(0)
    state = strategy.init(key, jnp.zeros(len(free)), params)
    generations = renders // POPULATION
    for generation in range(generations):
        key, draw_key, tell_key = jax.random.split(key, 3)
        population, state = strategy.ask(draw_key, state, params)
        numbers = jnp.zeros((POPULATION, group.how.layout.size)).at[:, free].set(population)
        fitness = losses(numbers, *views[2 * generation >= generations])
        state, _ = strategy.tell(tell_key, population, fitness, state, params)
    numbers = jnp.zeros(group.how.layout.size).at[free].set(strategy.get_mean(state))
    return np.asarray(numbers * problem.spreads)[None]


def _one(group: SceneGroup):
    problem = jax.tree.map(lambda rows: rows[0], group.problems)
    views = [(lens((group.how.width, group.how.height), *own), unit) for own, unit in STAGES]
    return problem, group.targets[0], views


METHODS: dict[str, Callable[[SceneGroup, int], np.ndarray]] = {
    "gauss_newton": gauss_newton,
    "adam": adam,
    "cma_es": cma_es,
}


def run(case: Case, method: str) -> dict:
    terms = terms_of("clevr")
    group = group_of([case.start], [case.image.resize((LONGER, LONGER * case.image.height // case.image.width))], terms)
    renders, started = num_renders(group), time.process_time()
    vectors = METHODS[method](group, renders)
    seconds = time.process_time() - started
    moves = jax.device_get(moves_of_all(vectors, group.problems, group.how.layout))
    said = moved_things(case.start, moves.objects[0], terms)
    return {
        "method": method,
        "renders": renders,
        "cpu_seconds_with_compiling": seconds,
        "before": location_errors(case.objects, case.start.things).tolist(),
        "location": location_errors(case.objects, said).tolist(),
        "yaw_deg": yaw_errors(case.objects, said).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    done = {(row["index"], row["method"]) for row in read_rows(options.out)}
    for index in range(options.scenes):
        for method in options.methods:
            if (index, method) not in done:
                row = {"index": index, **run(case_of("clevr", index, SEED, noised), method)}
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    rows = read_rows(options.out)
    for method in options.methods:
        own = [row for row in rows if row["method"] == method]
        before, after, yaws = (np.concatenate([row[key] for row in own]) for key in ("before", "location", "yaw_deg"))
        print(
            f"{method}: {len(own)} scenes, location {before.mean():.3f} -> mean {after.mean():.3f}, median "
            f"{np.median(after):.3f}, yaw {yaws.mean():.1f}, {np.median([row['renders'] for row in own]):.0f} renders, "
            f"{np.median([row['cpu_seconds_with_compiling'] for row in own]):.1f} s"
        )


if __name__ == "__main__":
    main()
