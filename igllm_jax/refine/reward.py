"""How well code explains an image, as one number: a reward."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from igllm_jax.errors import UserError
from igllm_jax.refine.discs import score_disc
from igllm_jax.refine.lens import lens
from igllm_jax.refine.pictures import penalties
from igllm_jax.refine.problems import Terms, count_for, start_of
from igllm_jax.refine.refined import picture_loss
from igllm_jax.refine.refining import MOST_OBJECTS, SceneGroup, check_drawable, group_of
from igllm_jax.refine.search import COARSE, Level, search
from igllm_jax.render.camera import Camera
from igllm_jax.render.roles import default_rotation_rep
from igllm_jax.render.twod import disc_attribute
from igllm_jax.scene.language import Language, find_language

WORST = -255.0
LEVELS = (
    Level(6.7, 4, 0.5, longer=COARSE),
    Level(2.5, 4, 0.25),
)  # of the search for the camera; the last one's lens scores


def score(
    image: Image.Image,
    code: str,
    camera: Camera | None = None,
    *,
    task: Language | str = "clevr",
    rotation_rep: str | None = None,
    rotation_unit: str = "deg",
) -> float:
    """How well scene code explains an image: 0 where the pictures are equal, less where they differ, down to -255.

    It is minus the root of the mean square of what is compared of the two pictures, of 255 (lens.py: blurred, less a
    part of the surroundings, with a limit on what differs much). camera: where the image was seen from; None: the best
    position that a fixed number of steps finds. Text that cannot be read says no object, and scores as such. A function
    of its arguments alone. Raises: UserError for tasks that are neither of three dimensions nor of one disc.

    Example: `score(image, "add(size='large', color='red', material='metal', shape='cube', loc=(0.5, -1.2, 0.7))")`.
    """
    how = {"task": task, "rotation_rep": rotation_rep, "rotation_unit": rotation_unit}
    return float(score_batch([image], [code], [camera], **how)[0])  # type: ignore[arg-type]


def score_batch(
    images: Sequence[Image.Image],
    codes: Sequence[str],
    cameras: Sequence[Camera | None] | None = None,
    *,
    task: Language | str = "clevr",
    rotation_rep: str | None = None,
    rotation_unit: str = "deg",
    at_once: int = 1,
) -> np.ndarray:
    """float64 [N]: `score` of each image and code, by one compiled program for all that are alike in size.

    cameras: one each, or None. at_once: pictures drawn side by side, for accelerators. Raises: UserError, see `score`;
    also for unequal counts.
    """
    language = find_language(task)
    check_drawable(language)
    cameras = [None] * len(images) if cameras is None else cameras
    if not len(images) == len(codes) == len(cameras):
        raise UserError(
            f"expected one code and camera for each of {len(images)} images, got {len(codes)}, {len(cameras)}"
        )
    terms = Terms(language, rotation_rep or default_rotation_rep(language), rotation_unit)
    if disc_attribute(language) is not None:
        return np.array([score_disc(image, code, terms) for image, code in zip(images, codes, strict=True)], np.float64)
    starts = [
        start_of(code, terms, *image.size, camera) for image, code, camera in zip(images, codes, cameras, strict=True)
    ]
    scores = np.full(len(images), WORST)
    alike: dict[tuple[tuple[int, int], int, bool], list[int]] = {}
    for index, start in enumerate(starts):
        if len(start.spec.objects) <= MOST_OBJECTS:
            key = images[index].size, count_for(len(start.spec.objects)), cameras[index] is not None
            alike.setdefault(key, []).append(index)
    for (_, _, is_camera_known), own in alike.items():
        group = group_of([starts[index] for index in own], [images[index] for index in own], terms)
        scores[own] = _scores(group, is_camera_known, at_once)
    return scores


def _scores(group: SceneGroup, is_camera_known: bool, at_once: int) -> list[float]:
    layout = group.how.layout
    camera = layout.fill(0.0, 0.0, 0.0 if is_camera_known else 1.0, 0.0)
    problems = group.problems._replace(is_free=group.problems.is_free * camera)
    vectors = np.zeros((len(group.starts), layout.size), np.float32)
    if problems.is_free.any():
        vectors = search(problems, group.targets, how=group.how, levels=LEVELS, at_once=at_once).vector
    view = lens((group.how.width, group.how.height), LEVELS[-1].blur, LEVELS[-1].outlier)
    found = penalties(problems, vectors, group.targets, view, how=group.how, at_once=at_once)
    return [-picture_loss(penalty, group.how.width * group.how.height) for penalty in found]
