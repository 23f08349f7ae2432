"""How the tasks' own scenes are made up, as one table."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from igllm_jax.render.compose import clevr, poses, shapenet
from igllm_jax.render.compose.shifts import shift_stage
from igllm_jax.render.flat.draw import visible_pixels
from igllm_jax.render.recipe import Recipe, VisiblePixels
from igllm_jax.render.spec import SceneSpec


@dataclass(frozen=True)
class Composer:
    """How a task's own data are made.

    splits: the first one trains. compose: (random generator, recipe, split, how visible objects are counted) -> a scene
    with its label's entries. image_size: width and height in pixels, if nothing else is asked for. num_objects: fewest
    and most of a scene, as defaults, or None where it is always one. rotation_unit: of the labels' `rotation`. prefix:
    of image names. has_materials: whether objects are painted in ways that labels don't say.
    """

    splits: tuple[str, ...]
    compose: Callable[[np.random.Generator, Recipe, str, VisiblePixels], SceneSpec]
    image_size: tuple[int, int]
    num_objects: tuple[int, int] | None
    rotation_unit: str
    prefix: str
    has_materials: bool = True


COMPOSERS: dict[str, Composer] = {
    "clevr": Composer(tuple(clevr.CONDITIONS), clevr.compose, (480, 320), (3, 10), "deg", "CLEVR", has_materials=False),
    "so3": Composer(poses.SPLITS, poses.compose_so3, (336, 336), None, "rad", "SO3"),
    "sixdof": Composer(poses.SPLITS, poses.compose_sixdof, (480, 320), None, "rad", "6DoF"),
    "shapenet": Composer(shapenet.SPLITS, shapenet.compose, (480, 320), (2, 4), "rad", "ShapeNet"),
}


def compose(
    rng: np.random.Generator, recipe: Recipe, split: str, visible_pixels: VisiblePixels = visible_pixels
) -> SceneSpec:
    """A random scene of the recipe's task.

    visible_pixels: counts the pixels of each object, for rules that ask for them; by default as `flat` draws it.
    Raises: UserError when a scene can't be made up.
    """
    spec = COMPOSERS[recipe.task].compose(rng, recipe, split, visible_pixels)
    return shift_stage(rng, spec, recipe.domain_shift)
