"""What the images of a data set depend on, beside their split and index."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from igllm_jax.render.spec import SceneSpec

VisiblePixels = Callable[[SceneSpec], np.ndarray]  # int [N]: how many pixels show each of the scene's N objects


@dataclass(frozen=True)
class Recipe:
    """width, height: of the image, in pixels. min_objects, max_objects: of a scene, for tasks with several.

    domain_shift: one of `compose.shifts.SHIFTS`, or None. meshes: a folder of models to show instead of the toys.
    rotation_unit: of clevr's labels; "rad" for pictures whose numbers from 0 to 360 are taken for radians, as CLEVR's
    generator hands them to Blender. None is the task's own.
    """

    task: str
    seed: int
    width: int
    height: int
    min_objects: int
    max_objects: int
    domain_shift: str | None = None
    meshes: str | None = None
    rotation_unit: str | None = None
