"""How near looking again brings flat scenes to the truth, from the truth with noise. Run by hand, a process a core:

    python benchmarks/refine.py noised --scenes 200

Experiments: noised (CLEVR: 0.2 units on x and y, 20 degrees on yaw, camera and lamps unknown), truth (the same without
noise), wrong (two objects swapped and two too many), so3 (turned by 30 degrees).
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from igllm_jax.refine.problems import Start, Terms, start_of, start_of_things
from igllm_jax.refine.refined import Refined
from igllm_jax.refine.refining import RefineOptions, group_of, refine_group
from igllm_jax.render.camera import clevr_camera
from igllm_jax.render.compose.composers import COMPOSERS
from igllm_jax.render.dataset import compose_example
from igllm_jax.render.flat.draw import draw
from igllm_jax.render.recipe import Recipe
from igllm_jax.scene.language import find_language
from igllm_jax.scene.rotations import geodesic_deg
from igllm_jax.scene.scene import Object, Scene

SEED = 20
LOCATION_NOISE, YAW_NOISE_DEG, TURN_DEG = 0.2, 20.0, 30.0
CUBE_PERIOD_DEG = 90.0


class Case(NamedTuple):
    """A scene's true objects and its image, and where a search begins."""

    objects: tuple[Object, ...]
    image: Image.Image
    start: Start


def terms_of(task: str) -> Terms:
    language = find_language(task)
    return Terms(language, language.rotation_reps[0], COMPOSERS[task].rotation_unit)


def cases(task: str, count: int, change, split: str = "val_ID") -> list[Case]:
    """So many scenes; change: (objects, random generator) -> those that the search begins with."""
    width, height = COMPOSERS[task].image_size
    found = []
    for index in range(count):
        spec = compose_example(Recipe(task, SEED, width, height, 3, 10), split, index)
        objects = Scene.from_label(spec.label, task).objects
        things = change(objects, np.random.default_rng([SEED, index]))
        start = start_of_things(things, terms_of(task), clevr_camera(width, height))
        found.append(Case(objects, draw(spec).image, start))
    return found


def noised(objects: Sequence[Object], rng: np.random.Generator) -> list[Object]:
    """Wrong by LOCATION_NOISE along x and y, and by YAW_NOISE_DEG."""
    found = []
    for thing in objects:
        x, y, z = thing["location"]
        dx, dy = rng.normal(0, LOCATION_NOISE, 2)
        yaw = thing["rotation"][0] + rng.normal(0, YAW_NOISE_DEG)
        found.append(thing.replace(location=(x + dx, y + dy, z), rotation=(yaw,) if thing.shape == "cube" else None))
    return found


def unchanged(objects: Sequence[Object], rng: np.random.Generator) -> list[Object]:
    return [thing if thing.shape == "cube" else thing.replace(rotation=None) for thing in objects]


def wrong(objects: Sequence[Object], rng: np.random.Generator) -> list[Object]:
    """The first two have each other's locations, and two are there that are not."""
    things = unchanged(objects, rng)
    first, second = things[0]["location"], things[1]["location"]
    things[:2] = things[0].replace(location=second), things[1].replace(location=first)
    return [*things, *(things[0].replace(location=(*rng.uniform(-3, 3, 2), 0.35)) for _ in range(2))]


def turned(objects: Sequence[Object], rng: np.random.Generator) -> list[Object]:
    """Turned by TURN_DEG about any axis."""
    (thing,), axis = objects, rng.normal(size=3)
    language = find_language("so3")
    rotation = language.functions[0].by_role["rotation"]
    vector = np.radians(TURN_DEG) * axis / np.linalg.norm(axis)
    settings = language.settings(language.rotation_reps[0], "rad")
    return [thing.replace(**{rotation.name: rotation.kind.turned(thing[rotation.name], vector, settings)})]


def locations(things: Sequence[Object]) -> np.ndarray:
    return np.array([thing["location"][:2] for thing in things])


def location_errors(true: Sequence[Object], said: Sequence[Object]) -> np.ndarray:
    """Scene units, one an object, of scenes with the same objects in the same order."""
    return np.linalg.norm(locations(true) - locations(said), axis=1)


def yaw_errors(true: Sequence[Object], said: Sequence[Object]) -> np.ndarray:
    """Degrees, of cubes."""
    pairs = [(a["rotation"][0], b["rotation"][0]) for a, b in zip(true, said, strict=True) if a.shape == "cube"]
    off = np.array([(a - b) % CUBE_PERIOD_DEG for a, b in pairs])
    return np.minimum(off, CUBE_PERIOD_DEG - off)


def refine_cases(found: Sequence[Case], terms: Terms, options: RefineOptions, batch: int = 10) -> list[Refined]:
    """Each case's outcome, searched in batches of nearly as many objects."""
    order = sorted(range(len(found)), key=lambda index: len(found[index].start.spec.objects))
    outcome: dict[int, Refined] = {}
    for first in range(0, len(order), batch):
        own = order[first : first + batch]
        group = group_of([found[i].start for i in own], [found[i].image for i in own], terms)
        outcome |= dict(zip(own, refine_group(group, terms, options), strict=True))
    return [outcome[index] for index in range(len(found))]


def coverage(case: Case, result: Refined, things: Sequence[Object]) -> list[bool]:
    """Whether the 95 % interval of each number holds the truth."""
    held = []
    off = locations(things) - locations(case.objects)
    for number, errors in result.standard_errors.items():
        held += [abs(off[int(number), axis]) <= 1.96 * errors[name] for axis, name in enumerate("xy") if name in errors]
        if "about_z" in errors:
            yaw = yaw_errors([case.objects[int(number)]], [things[int(number)]])[0]
            held.append(np.radians(yaw) <= 1.96 * errors["about_z"])
    return held


def summary(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    return {
        "mean_before": before.mean(),
        "mean": after.mean(),
        "median": float(np.median(after)),
        "p90": float(np.quantile(after, 0.9)),
    }


def run_clevr(change, count: int) -> dict:
    """The experiments on CLEVR, by `igllm refine`'s own search."""
    terms, found = terms_of("clevr"), cases("clevr", count, change)
    started = time.process_time()
    results = refine_cases(found, terms, RefineOptions())
    seconds = (time.process_time() - started) / count
    said = [start_of(result.text, terms, *case.image.size).things for case, result in zip(found, results, strict=True)]
    report: dict = {"scenes": count, "cpu_seconds_a_scene": seconds, "flagged": sum(bool(r.flag) for r in results)}
    report["worse"] = sum(result.loss_after > result.loss_before for result in results)
    losses = np.array([(result.loss_before, result.loss_after) for result in results])
    report["loss"] = losses.mean(axis=0).tolist()
    if change is wrong:
        return report
    rows = list(zip(found, results, said, strict=True))
    for name, errors in (("location", location_errors), ("yaw_deg", yaw_errors)):
        both = [(errors(case.objects, case.start.things), errors(case.objects, things)) for case, _, things in rows]
        report[name] = summary(*(np.concatenate(side) for side in zip(*both, strict=True)))
    report["covered"] = float(np.mean(np.concatenate([coverage(*row) for row in rows])))
    return report


def run_so3(count: int) -> dict:
    terms, found = terms_of("so3"), cases("so3", count, turned)
    started = time.process_time()
    results = refine_cases(found, terms, RefineOptions())
    seconds = (time.process_time() - started) / count
    off = []
    for case, result in zip(found, results, strict=True):
        texts = terms.write(case.objects), terms.write(case.start.things), result.text
        true, start, end = (np.array(start_of(t, terms, *case.image.size).spec.objects[0].rotation) for t in texts)
        off.append((geodesic_deg(true, start), geodesic_deg(true, end)))
    before, after = np.array(off).T
    return {"scenes": count, "cpu_seconds_a_scene": seconds, "geodesic_deg": summary(before, after)}


EXPERIMENTS = {
    "noised": lambda count: run_clevr(noised, count),
    "truth": lambda count: run_clevr(unchanged, count),
    "wrong": lambda count: run_clevr(wrong, count),
    "so3": run_so3,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--scenes", type=int, default=200)
    options = parser.parse_args()
    print(json.dumps(EXPERIMENTS[options.experiment](options.scenes), indent=1))


if __name__ == "__main__":
    main()
