"""The scores of a folder that `igllm render` left: pictures and masks of predictions against those of truth."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.render.folder import (
    INPUT,
    PREDICTED,
    TRUE,
    RenderedScene,
    RenderIndex,
    read_ids,
    read_index,
    read_picture,
)
from igllm_jax.render.image_metrics import IMAGE_METRICS, Overlaps, compare_masks, compare_pictures
from igllm_jax.render.ir3d import IR3D_METRICS, IdMasks, ir3d_values
from igllm_jax.scene.detection import item_of
from igllm_jax.scene.language import Language
from igllm_jax.scene.measures import Measure, Weights, weighted_mean
from igllm_jax.scene.metrics import match
from igllm_jax.scene.reading import Reading
from igllm_jax.scene.scene import Scene

RENDER_METRICS: dict[str, Measure] = {**IMAGE_METRICS, **IR3D_METRICS}


def render_scores(
    folder: Path, scenes: Sequence[Scene], readings: Sequence[Reading], task: Language
) -> tuple[dict[str, Callable[[Weights], float]], dict[str, int]]:
    """Metric -> its value as a function of the scenes' weights, and metric -> how many scenes have one.

    Scenes that are not drawn (`igllm render --limit`) have no values. Raises: UserError where none is drawn, or other
    labels or predictions were.
    """
    drawn = {one.image: one for one in check_index(folder).scenes}
    rows = [
        scene_scores(folder, drawn[scene.image], scene, reading, task) if _has_both(drawn.get(scene.image)) else {}
        for scene, reading in zip(scenes, readings, strict=True)
    ]
    if not any(rows):
        raise UserError(
            f"--renders {folder}: none of the {len(scenes)} predictions is drawn there, {scenes[0].image!r} for one; "
            "run igllm render with the same labels and predictions"
        )
    return as_measures(rows)


def as_measures(rows: Sequence[Mapping[str, float]]) -> tuple[dict[str, Callable[[Weights], float]], dict[str, int]]:
    """What `render_scores` gives, of each scene's own scores."""
    columns = {name: np.array([row.get(name, np.nan) for row in rows]) for name in RENDER_METRICS}
    counts = {name: int(np.isfinite(column).sum()) for name, column in columns.items()}
    return {name: weighted_mean(column) for name, column in columns.items()}, counts


def _has_both(drawn: RenderedScene | None) -> bool:
    return drawn is not None and TRUE in drawn.sides and PREDICTED in drawn.sides


def check_index(folder: Path) -> RenderIndex:
    """The folder's index. Raises: UserError where there is none, or no labels were drawn."""
    index = read_index(folder)
    if index.labels is None:
        raise UserError(f"--renders {folder}: holds code alone; run igllm render with --labels and --predictions")
    return index


def scene_scores(
    folder: Path, drawn: RenderedScene, scene: Scene, reading: Reading, language: Language
) -> dict[str, float]:
    """One scene's scores: metric -> value, those that have one."""
    true, predicted = (read_ids(folder, side, drawn.name) for side in (TRUE, PREDICTED))
    if true.shape != predicted.shape or max(true.max(), 1) > max(len(scene.objects), 1):
        raise UserError(f"--renders {folder}: {drawn.image} was drawn from another label; render again")
    if predicted.max() > len(reading.objects):
        raise UserError(f"--renders {folder}: {drawn.image} was drawn from another prediction; render again")
    sides = [TRUE, PREDICTED, *([INPUT] if INPUT in drawn.sides else [])]
    pictures = {side: read_picture(folder, side, drawn.name) for side in sides}
    return drawing_scores(IdMasks(drawn.camera, true, predicted), pictures, scene, reading, language)


def drawing_scores(
    views: IdMasks, pictures: Mapping[str, np.ndarray], scene: Scene, reading: Reading, language: Language
) -> dict[str, float]:
    """One scene's scores: metric -> value. pictures: of TRUE, PREDICTED and, where it is at hand, INPUT."""
    values = compare_pictures(pictures[PREDICTED], pictures[TRUE], pictures.get(INPUT))
    pairs = match(scene, reading, language)
    values |= compare_masks(Overlaps(views.true_ids, views.predicted_ids), pairs, len(reading.objects))
    true_items, said = ([item_of(thing, language) for thing in things] for things in (scene.objects, reading.objects))
    return values | ir3d_values(true_items, said, views)
