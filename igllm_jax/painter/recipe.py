"""What the images of a data set depend on, beside their split and index."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """width, height: of the image, in pixels. min_objects, max_objects: of a scene, for tasks with several."""

    task: str
    seed: int
    width: int
    height: int
    min_objects: int
    max_objects: int
