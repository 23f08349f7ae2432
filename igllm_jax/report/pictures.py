"""The pictures of the page: the input, the truth and the prediction drawn again, small, and their scores."""

import base64
import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from igllm_jax import progress
from igllm_jax.data.tars import ImageSource
from igllm_jax.render.folder import INPUT, PREDICTED, TRUE
from igllm_jax.render.ir3d import IdMasks
from igllm_jax.render.jobs import Job
from igllm_jax.render.renderers import Renderer, RendererOptions, run_jobs
from igllm_jax.render.scores import drawing_scores
from igllm_jax.render.spec import SceneSpec
from igllm_jax.scene.language import Language
from igllm_jax.scene.reading import Reading
from igllm_jax.scene.scene import Scene

LONGEST_SIDE = 320  # pixels
QUALITY = 70  # of WebP


@dataclass(frozen=True)
class Drawn:
    """One scene of one run. pictures: side -> data URL. specs: what was drawn. values: metric -> score."""

    pictures: dict[str, str]
    specs: dict[str, SceneSpec]
    values: dict[str, float]


@dataclass(frozen=True)
class PictureJob:
    """A scene to draw, with what its scores need."""

    job: Job
    scene: Scene
    reading: Reading
    language: Language


def draw_all(
    jobs: Sequence[PictureJob], options: RendererOptions, *, most_objects: int, workers: int
) -> Iterator[Drawn]:
    """Draws and scores the jobs, in order. most_objects: that are kept of a spec."""
    work = functools.partial(_draw, most_objects=most_objects)
    done = run_jobs(work, jobs, options, count=len(jobs), workers=workers, chunk=1)
    return progress.track(done, total=len(jobs), label="drawing", unit="scene")


def _draw(renderer: Renderer, one: PictureJob, *, most_objects: int) -> Drawn:
    job = one.job
    renderings = {side: renderer.draw(spec) for side, spec in job.specs.items()}
    images = {side: rendering.image for side, rendering in renderings.items()}
    if job.picture is not None:
        images[INPUT] = job.picture
    values: dict[str, float] = {}
    if PREDICTED in renderings:
        views = IdMasks(job.entry.camera, renderings[TRUE].ids, renderings[PREDICTED].ids)
        arrays = {side: np.asarray(image.convert("RGB")) for side, image in images.items()}
        values = drawing_scores(views, arrays, one.scene, one.reading, one.language)
    specs = {side: _first_objects(spec, most_objects) for side, spec in job.specs.items()}
    return Drawn({side: data_url(image) for side, image in images.items()}, specs, values)


def _first_objects(spec: SceneSpec, most: int) -> SceneSpec:
    return spec if len(spec.objects) <= most else SceneSpec(spec.camera, (), spec.ground, spec.objects[:most])


def data_url(image: Image.Image) -> str:
    """The image, made small, as a data URL."""
    image = image.convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    image.save(packed, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode()


def input_picture(images: ImageSource | None, scene: Scene) -> Image.Image | None:
    """The scene's image; None without a source. Raises: UserError where it is not among them, or broken."""
    return None if images is None else images.read(images.find(scene.image))
