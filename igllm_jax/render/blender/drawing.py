"""Scenes drawn by a Blender worker: pictures by Cycles, and which object a pixel shows by Workbench."""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from igllm_jax.render.blender.process import Worker
from igllm_jax.render.labels import Stage
from igllm_jax.render.rendering import Rendering
from igllm_jax.render.spec import SceneSpec


def read_ids(path: Path) -> np.ndarray:
    """int32 [H, W]: the object numbers of a mask, whose red, green and blue are their bytes, lowest first."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), np.int32)
    return pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]


def scene_job(spec: SceneSpec, *, seed: int = 0, **outputs: Path) -> dict[str, Any]:
    """The job that draws `spec`; outputs: any of image, mask (PNG files) and blend, with their paths.

    seed: of Cycles' noise, so that a picture is the same whenever it is drawn.
    """
    scene = {**dataclasses.asdict(spec), "label": {}}
    return {"job": "scene", "scene": scene, "seed": seed, "outputs": {k: str(v.resolve()) for k, v in outputs.items()}}


class BlenderRenderer:
    """`blender`: draws with one worker, which its owner closes. Raises: UserError where Blender can't draw a scene."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def draw(self, spec: SceneSpec, *, seed: int = 0) -> Rendering:
        """The scene's picture and which object each pixel shows."""
        with tempfile.TemporaryDirectory(prefix="igllm-") as folder:
            image, mask = Path(folder) / "image.png", Path(folder) / "mask.png"
            self._worker.ask(scene_job(spec, seed=seed, image=image, mask=mask))
            with Image.open(image) as opened:
                return Rendering(opened.convert("RGB"), read_ids(mask))

    def ids(self, spec: SceneSpec) -> np.ndarray:
        """int32 [H, W]: `index + 1` of the object that each pixel shows, 0 where there is none. Without a picture."""
        with tempfile.TemporaryDirectory(prefix="igllm-") as folder:
            mask = Path(folder) / "mask.png"
            self._worker.ask(scene_job(spec, mask=mask))
            return read_ids(mask)

    def visible_pixels(self, spec: SceneSpec) -> np.ndarray:
        """int [N]: how many pixels show each of the scene's N objects."""
        shown = np.bincount(self.ids(spec).ravel(), minlength=len(spec.objects) + 1)
        return np.array([shown[thing.index + 1] for thing in spec.objects], np.int64)

    def read_file(self, path: Path) -> dict[str, Any]:
        """What a .blend or .glb holds: `objects` and `camera`, see `read_file` in worker.py."""
        return self._worker.ask({"job": "read", "file": str(path.resolve())})

    def draw_file(self, path: Path, stage: Stage, ids: Mapping[str, int], *, seed: int = 0) -> Rendering:
        """A .blend or .glb as it stands there, seen by the stage's camera; its lights, where the file has none.

        ids: names of Blender's objects -> their number in `Rendering.ids`; others are 0.
        """
        job = {**dataclasses.asdict(stage), "job": "file", "file": str(path.resolve()), "ids": dict(ids), "seed": seed}
        with tempfile.TemporaryDirectory(prefix="igllm-") as folder:
            image, mask = Path(folder) / "image.png", Path(folder) / "mask.png"
            self._worker.ask({**job, "outputs": {"image": str(image), "mask": str(mask)}})
            with Image.open(image) as opened:
                return Rendering(opened.convert("RGB"), read_ids(mask))

    def blend(self, spec: SceneSpec) -> bytes:
        """The scene as a .blend file, with the same objects, materials, lights and camera."""
        with tempfile.TemporaryDirectory(prefix="igllm-") as folder:
            path = Path(folder) / "scene.blend"
            self._worker.ask(scene_job(spec, blend=path))
            return path.read_bytes()
