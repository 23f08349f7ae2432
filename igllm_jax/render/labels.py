"""Scenes as label files have them: CLEVR's keys, and under `rendering` what they do not say of how it was drawn."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from igllm_jax.render.camera import Camera
from igllm_jax.render.spec import Ground, Light, Material, SceneSpec, from_value

RENDERING = "rendering"  # the key that is ours, beside those of the released labels


@dataclasses.dataclass(frozen=True)
class Stage:
    """Everything random about an image that the released labels leave out; see `SceneSpec`.

    materials: of each object, role -> paint, where it does not follow from the object's words; else None.
    """

    camera: Camera
    lights: tuple[Light, ...]
    ambient: float
    ground: Ground | None
    materials: tuple[dict[str, Material], ...] | None = None


def pixel_of(camera: Camera, location: tuple[float, ...] | np.ndarray) -> tuple[float, float, float]:
    """`pixel_coords` of a location: x and y in whole pixels, as CLEVR rounds them, and the depth in scene units."""
    x, y, depth = camera.project(np.asarray(location))[0]
    return round(float(x)), round(float(y)), float(depth)


def stage_entry(spec: SceneSpec, *, has_materials: bool) -> dict[str, Any]:
    """A scene's `Stage` as its label has it, under `RENDERING`. has_materials: whether paint is not in the words."""
    materials = tuple({part.role: part.material for part in thing.parts} for thing in spec.objects)
    stage = Stage(spec.camera, spec.lights, spec.ambient, spec.ground, materials if has_materials else None)
    # A round trip, since JSON knows no tuples: so a label in memory equals the same label read from its file.
    return json.loads(json.dumps(dataclasses.asdict(stage)))


def read_stage(label: Mapping[str, Any], where: str) -> Stage | None:
    """The stage that a label says; None where it does not (the released ones don't). Raises: UserError."""
    return from_value(Stage, label[RENDERING], f"{where}: {RENDERING}") if label.get(RENDERING) is not None else None
