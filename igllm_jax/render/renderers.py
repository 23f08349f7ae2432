"""The renderers as one table: name -> what draws a scene; and how each draws many of them at once."""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.render.blender.drawing import BlenderRenderer
from igllm_jax.render.blender.environment import find_blender
from igllm_jax.render.blender.pool import imap
from igllm_jax.render.blender.process import Worker, WorkerOptions
from igllm_jax.render.flat import draw as flat
from igllm_jax.render.pool import CHUNK, run_all
from igllm_jax.render.rendering import Rendering
from igllm_jax.render.spec import SceneSpec

Job = TypeVar("Job")
Result = TypeVar("Result")


class Renderer(Protocol):
    """What draws scenes, one after the other."""

    def draw(self, spec: SceneSpec, *, seed: int = 0) -> Rendering:
        """The scene's picture and ids. seed: of what noise there is. Raises: UserError for what can't be drawn."""

    def visible_pixels(self, spec: SceneSpec) -> np.ndarray:
        """int [N]: how many pixels show each of the scene's N objects."""

    def blend(self, spec: SceneSpec) -> bytes:
        """The scene as a .blend file. Raises: UserError for renderers that have none."""


class FlatRenderer:
    """`flat`: see `flat.draw`."""

    def draw(self, spec: SceneSpec, *, seed: int = 0) -> Rendering:
        return flat.draw(spec)

    def visible_pixels(self, spec: SceneSpec) -> np.ndarray:
        return flat.visible_pixels(spec)

    def blend(self, spec: SceneSpec) -> bytes:
        raise UserError("a .blend file is written by Blender; add --renderer blender")


@dataclass(frozen=True)
class RendererOptions:
    """Which renderer, and how it draws; all but the name is Blender's, see `process.WorkerOptions`.

    blender: program to use, see `environment.find_blender`.
    """

    name: str = "flat"
    blender: str | None = None
    samples: int = 4
    device: str = "CPU"
    clevr_assets: str | None = None

    def worker_options(self, *, threads: int = 0) -> WorkerOptions:
        """Those of a Blender process. Raises: UserError where there is no Blender."""
        return WorkerOptions(
            find_blender(self.blender),
            samples=self.samples,
            device=self.device,
            threads=threads,
            clevr_assets=self.clevr_assets,
        )


def _run_flat(
    function: Any, jobs: Iterable[Any], options: RendererOptions, *, count: int, workers: int, chunk: int
) -> Any:
    return run_all(functools.partial(function, FlatRenderer()), jobs, count=count, workers=workers, chunk=chunk)


def _run_blender(
    function: Any, jobs: Iterable[Any], options: RendererOptions, *, count: int, workers: int, chunk: int
) -> Any:
    workers = max(1, min(workers, count))
    # A process on a core each: more pictures a second than one process on all of them.
    started = options.worker_options(threads=1 if workers > 1 else 0)
    return imap(lambda worker, job: function(BlenderRenderer(worker), job), jobs, started, workers=workers)


def _draw_once(spec: SceneSpec) -> Rendering:
    with Worker(RendererOptions("blender").worker_options()) as worker:
        return BlenderRenderer(worker).draw(spec)


# One picture each: Blender starts for it, which takes seconds. `run_jobs` draws many.
RENDERERS: dict[str, Callable[[SceneSpec], Rendering]] = {"flat": flat.draw, "blender": _draw_once}
_RUNNERS: dict[str, Callable[..., Iterator[Any]]] = {"flat": _run_flat, "blender": _run_blender}


def run_jobs(
    function: Callable[[Renderer, Job], Result],
    jobs: Iterable[Job],
    options: RendererOptions,
    *,
    count: int,
    workers: int,
    chunk: int = CHUNK,
) -> Iterator[Result]:
    """Yields `function(renderer, job)` for each of `count` jobs, in order, by so many workers at once.

    function: of a module, or a partial of one, so that it can be sent to other processes. chunk: jobs that a process
    of `flat` takes at a time.
    Raises: UserError where the renderer is not there.
    """
    return _RUNNERS[options.name](function, jobs, options, count=count, workers=workers, chunk=chunk)
