"""The soft renderer comes near to the hard one, is the same under NumPy and JAX, and its derivatives are right."""

import functools

import jax
import numpy as np
import pytest

from igllm_jax.refine.lens import srgb
from igllm_jax.refine.moves import NUMBERS, Moves, move_scene
from igllm_jax.refine.space import JAX
from igllm_jax.render.flat.arrays import KINDS, NUMPY, pack
from igllm_jax.render.flat.draw import BACKDROP_COLOR, draw
from igllm_jax.render.flat.soft import soft_picture
from tests.render.test_dense import SIZE, example

TASKS = ("clevr", "so3", "sixdof", "shapenet")
MOST_PARTS, MOST_OBJECTS = {"clevr": 4, "so3": 11, "sixdof": 11, "shapenet": 48}, 4
# scene units, radians: long ones pass over sharp bends, short ones see where searches along rays end
STEPS = (1e-4, 5e-5, 2e-5, 1e-5)
AGREE = 0.005


def packed(task, index=0):
    scene = example(task, index)
    return pack(scene, most_parts=MOST_PARTS[task], most_objects=MOST_OBJECTS, backdrop=BACKDROP_COLOR), scene


@pytest.mark.parametrize("task", TASKS)
def test_it_comes_near_to_the_hard_picture(task):
    scene, spec = packed(task)
    soft = soft_picture(scene, **SIZE, kinds=KINDS, space=NUMPY)
    assert np.isfinite(soft).all() and soft.min() >= 0
    bytes_of = 255 * np.asarray(srgb(soft)).T.reshape(SIZE["height"], SIZE["width"], 3)
    off = np.abs(bytes_of - np.asarray(draw(spec).image)).mean(axis=2)
    assert off.mean() < 6.5 and (off > 20).mean() < 0.1


@functools.partial(jax.jit, static_argnames="kinds")
def loss_of(moves, scene, pivots, weights, *, kinds):
    """A number that every pixel counts in."""
    picture = soft_picture(move_scene(scene, pivots, moves), **SIZE, kinds=kinds, space=JAX)
    return (srgb(picture) * weights).mean()


slope_of = jax.jit(jax.grad(loss_of), static_argnames="kinds")


def slopes(task, index):
    """Along a random direction of each kind of number (objects' locations and turns, the camera's position):
    derivatives in float32, and differences in float64."""
    scene, spec = packed(task, index)
    rng = np.random.default_rng(index)
    pivots = np.zeros((MOST_OBJECTS, 3), np.float32)
    pivots[: len(spec.objects)] = [thing.location for thing in spec.objects]
    at = Moves(
        *(rng.normal(0, 0.05, shape).astype(np.float32) for shape in ((MOST_OBJECTS, NUMBERS), 3)), np.float32(0)
    )
    rest = scene, pivots, rng.normal(size=(3, SIZE["height"] * SIZE["width"])).astype(np.float32)
    kinds = KINDS[:3] if task == "clevr" else KINDS
    own = slope_of(at, *rest, kinds=kinds)
    found = []
    with jax.enable_x64(True):
        at, rest = (jax.tree.map(doubled, arrays) for arrays in (at, rest))
        for which in range(3):
            way = jax.tree.map(np.zeros_like, at)
            target = (way.objects[:, :3], way.objects[:, 3:], way.camera)[which]
            target[...] = rng.normal(size=target.shape)

            def loss(step, way=way):
                return float(loss_of(moved(at, way, step), *rest, kinds=kinds))

            along = sum(np.vdot(a, b) for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(way), strict=True))
            found.append((float(along), difference(loss)))
    return np.array(found)


def moved(at, way, step):
    return jax.tree.map(lambda own, along: own + step * along, at, way)


def difference(loss):
    """The slope of loss(step) at 0: the mean of the first two neighbours in STEPS whose differences agree, else of the
    two that agree best."""
    found = []
    for step in STEPS:
        found.append((loss(step) - loss(-step)) / (2 * step))
        if len(found) > 1 and abs(found[-1] - found[-2]) < AGREE * abs(found[-1]):
            return np.mean(found[-2:])
    best = np.argmin(np.abs(np.diff(found)))
    return np.mean(found[best : best + 2])


def doubled(array):
    array = np.asarray(array)
    return array.astype(np.float64) if array.dtype == np.float32 else array


def mistakes(task, indices):
    """By how much derivatives differ from differences, of the differences' size: [scenes, 3]."""
    derivatives, differences = np.stack([slopes(task, index) for index in indices]).transpose(2, 0, 1)
    usual = np.sqrt((differences**2).mean(axis=0))
    return np.abs(derivatives - differences) / np.maximum(np.abs(differences), 0.1 * usual)


def test_derivatives_are_those_of_differences():
    assert mistakes("clevr", range(4)).max() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("task", "count"), [("clevr", 20), ("so3", 10), ("sixdof", 10), ("shapenet", 10)])
def test_derivatives_of_many_scenes(task, count):
    found = mistakes(task, range(count))
    print(f"{task}: median {np.median(found):.5f}, worst {found.max():.4f}")
    assert np.median(found) < 0.002 and found.max() < 0.02
