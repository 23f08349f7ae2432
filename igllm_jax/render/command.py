"""`igllm render`: draws scene code again. Labels and predictions from the true viewpoint, labels alone, or a text.

The camera of a labelled image is the one that its label says, or follows from where the label's objects are in the
image. Writes pictures and id masks (see render.json in the folder), and with --export the scenes as files.
"""

import argparse
import functools
import os
import sys
from collections.abc import Iterable, Iterator

from igllm_jax import files, flags, paths, progress
from igllm_jax.data.tars import IMAGES_HELP, open_images
from igllm_jax.endings import INTERRUPTED
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath
from igllm_jax.render.arguments import add_renderer, image_size, renderer_options
from igllm_jax.render.blender.environment import setup
from igllm_jax.render.export.exporters import EXPORTERS
from igllm_jax.render.folder import (
    EXPORTS,
    INDEX,
    INPUT,
    RenderedScene,
    RenderIndex,
    write_index,
    write_picture,
    write_rendering,
)
from igllm_jax.render.jobs import Job, LabelFile, Reader, code_job, find_meshes, label_jobs, read_label_file
from igllm_jax.render.renderers import Renderer, run_jobs
from igllm_jax.render.roles import check_renderable, default_rotation_rep, must_say_rotation_rep
from igllm_jax.scene.kind import ROTATION_UNITS
from igllm_jax.scene.labels import infer_task
from igllm_jax.scene.language import Language, find_language
from igllm_jax.scene.predictions import Predictions, language_of, read_predictions

BLEND = "blend"  # written by the renderer itself
DEFAULT_SIZE = (480, 320)  # CLEVR's


def build_parser() -> argparse.ArgumentParser:
    """The command line of `igllm render`."""
    parser = flags.Parser(prog="igllm render", description=__doc__)
    parser.add_argument(
        "--labels",
        type=flags.source,
        metavar="L.json",
        help="scenes to draw; their cameras are those of the predictions",
    )
    parser.add_argument(
        "--predictions",
        type=flags.source,
        metavar="P.json",
        help="what igllm generate wrote for the images of --labels",
    )
    images = f"the labels' images, copied beside the pictures: {IMAGES_HELP}"
    parser.add_argument("--images", type=flags.source, metavar="TAR", nargs="+", help=images)
    parser.add_argument(
        "--code", type=flags.source, metavar="FILE", help="a text of scene code instead; - reads standard input"
    )
    parser.add_argument("--out", type=flags.path, help="folder to write into (made if missing)")
    parser.add_argument("--setup", action="store_true", help="make .venv-blender here (1 GB) for --renderer blender")
    add_renderer(parser)
    parser.add_argument(
        "--export",
        choices=[*EXPORTERS, BLEND],
        action="append",
        default=[],
        help="each scene as a file too (repeatable)",
    )
    parser.add_argument(
        "--meshes",
        type=flags.source,
        metavar="DIR",
        help="models that objects of so3, sixdof, shapenet show (default: as labels note)",
    )
    parser.add_argument(
        "--task", type=flags.source, help="a language's name or file (default: as predictions or labels say; clevr)"
    )
    parser.add_argument("--rotation_rep", help="how predicted rotations are written (default: what predictions say)")
    parser.add_argument("--rotation_unit", choices=ROTATION_UNITS, help="unit of CLEVR's rotation labels")
    parser.add_argument("--image_size", type=image_size, metavar="WxH", help="in pixels, where nothing else says it")
    parser.add_argument("--limit", type=flags.IMAGES, help="at most so many scenes")
    parser.add_argument("--workers", type=flags.WORKERS, default=os.cpu_count() or 1, help="processes (default: cores)")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier run left in --out")
    return parser


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code. Raises: UserError for anything the user can mend."""
    arguments = build_parser().parse_args(argv)
    if arguments.setup:
        progress.result(f"{setup()}: Blender is ready; use it by --renderer blender")
        return 0
    if arguments.out is None:
        raise UserError("give --out, a folder to write into")
    if (arguments.labels is None) == (arguments.code is None):
        raise UserError("give either --labels (with --predictions or without) or --code")
    if arguments.code is not None and (arguments.predictions or arguments.images):
        raise UserError("--code is drawn alone; leave out --predictions and --images, or give --labels instead")
    if BLEND in arguments.export and arguments.renderer != "blender":
        raise UserError("--export blend: the file is written by Blender; add --renderer blender")
    _clear(arguments.out, overwrite=arguments.overwrite)
    try:
        index = render_code(arguments) if arguments.code is not None else render_labels(arguments)
    except KeyboardInterrupt:
        progress.note(f"interrupted: {arguments.out} is not complete; run again")
        return INTERRUPTED
    progress.result(str(arguments.out / INDEX))
    _tell_problems(index)
    return 0


def _clear(folder: FilePath, *, overwrite: bool) -> None:
    if not (folder / INDEX).exists():
        return
    if not overwrite:
        raise UserError(f"{folder / INDEX} exists already; choose another --out, or give --overwrite to replace it")
    (folder / INDEX).unlink()


def _tell_problems(index: RenderIndex) -> None:
    count = sum(scene.num_problems for scene in index.scenes)
    if count:
        affected = sum(bool(scene.num_problems) for scene in index.scenes)
        progress.note(f"note: {count} problems in {affected} predictions (listed in {INDEX})")
    if index.num_unlabelled:
        progress.note(f"note: {index.num_unlabelled} predictions belong to no labelled image: not drawn")
    if len(index.scenes) == 1:
        for problem in index.scenes[0].problems:
            progress.note(f"  {problem}")


def render_code(arguments: argparse.Namespace) -> RenderIndex:
    """Draws a text of scene code; returns what was written."""
    task = find_language(arguments.task or "clevr")
    rep = arguments.rotation_rep
    if rep is None and must_say_rotation_rep(task):
        raise UserError(f"--code of task {task.name} needs --rotation_rep {'|'.join(task.rotation_reps)}")
    size = arguments.image_size or DEFAULT_SIZE
    reader = _reader(arguments, task, rep or default_rotation_rep(task), "deg", size, arguments.meshes)
    job = code_job(_read_text(arguments.code), reader)
    scenes = tuple(_draw_all([job], 1, arguments))
    index = RenderIndex(arguments.renderer, task.name, None, None, None, scenes)
    write_index(arguments.out, index)
    return index


def _read_text(path: str) -> str:
    """The text, with what is no UTF-8 replaced: predicted code may be any bytes. Raises: UserError."""
    try:
        content = sys.stdin.buffer.read() if path == "-" else paths.to_path(path).read_bytes()
    except OSError as error:
        raise UserError(f"--code {path}: cannot be read ({error.strerror or error}); check the path") from None
    return content.decode("utf-8", "replace")


def _reader(
    arguments: argparse.Namespace,
    task: Language,
    rotation_rep: str,
    rotation_unit: str,
    size: tuple[int, int],
    meshes: str | None,
) -> Reader:
    check_renderable(task)
    unit = arguments.rotation_unit or rotation_unit
    task.settings(rotation_rep, unit)
    return Reader(task, rotation_rep, unit, arguments.image_size or size, meshes)


def render_labels(arguments: argparse.Namespace) -> RenderIndex:
    """Draws labels, and their predictions where there are any; returns what was written."""
    predictions = read_predictions(arguments.predictions) if arguments.predictions else None
    said = None if predictions is None else language_of(predictions, arguments.predictions)
    given = None if arguments.task is None else find_language(arguments.task)
    _agreed("task", given.name if given else None, said.name if said else None)
    task = said or given or find_language(infer_task(arguments.labels))
    labels = _limited(read_label_file(arguments.labels, task), arguments.limit)
    reader = _label_reader(arguments, task, labels, predictions)
    images = open_images(arguments.images) if arguments.images else None
    jobs = label_jobs(labels, predictions, images, reader)
    scenes = tuple(_draw_all(jobs, len(labels.scenes), arguments))
    num_found = sum("predicted" in scene.sides for scene in scenes)
    if predictions is not None and not num_found:
        raise UserError(
            f"predictions {arguments.predictions}: none of its {len(predictions.answers)} images is among the "
            f"{len(scenes)} of {arguments.labels}; is it the right split?"
        )
    unlabelled = len(predictions.answers) - num_found if predictions is not None and arguments.limit is None else 0
    sources = (arguments.labels, arguments.predictions, None if images is None else images.origin)
    index = RenderIndex(arguments.renderer, task.name, *sources, scenes, unlabelled)
    write_index(arguments.out, index)
    return index


def _limited(labels: LabelFile, limit: int | None) -> LabelFile:
    return LabelFile(labels.scenes[:limit], labels.entries[:limit], labels.info)


def _label_reader(
    arguments: argparse.Namespace, task: Language, labels: LabelFile, predictions: Predictions | None
) -> Reader:
    said_rep = None if predictions is None else predictions.rotation_rep
    rep = _agreed("rotation_rep", arguments.rotation_rep, said_rep)
    if rep is None and predictions is not None and must_say_rotation_rep(task):
        raise UserError(
            f"predictions {arguments.predictions}: the file does not say how rotations are written;"
            f" add --rotation_rep {'|'.join(task.rotation_reps)}"
        )
    said_unit = None if predictions is None else predictions.rotation_unit
    unit = said_unit or labels.info.get("rotation_unit") or ROTATION_UNITS[0]
    width, height = labels.info.get("width"), labels.info.get("height")
    size = (width, height) if isinstance(width, int) and isinstance(height, int) else DEFAULT_SIZE
    meshes = find_meshes(arguments.meshes, labels, arguments.labels)
    return _reader(arguments, task, rep or default_rotation_rep(task), unit, size, meshes)


def _agreed(key: str, given: str | None, said: str | None) -> str | None:
    if given is not None and said is not None and given.replace("yaw", "") != said.replace("yaw", ""):
        raise UserError(f"the predictions were made with {key}={said!r}, but --{key} {given} was asked for")
    return said if given is None else given


def _draw_all(jobs: Iterable[Job], count: int, arguments: argparse.Namespace) -> Iterator[RenderedScene]:
    """Draws the jobs in several processes, with progress."""
    work = functools.partial(draw_job, folder=arguments.out, exports=tuple(dict.fromkeys(arguments.export)))
    done = run_jobs(work, jobs, renderer_options(arguments), count=count, workers=arguments.workers, chunk=1)
    return progress.track(done, total=count, label="drawing", unit="scene")


def draw_job(renderer: Renderer, job: Job, *, folder: FilePath, exports: tuple[str, ...]) -> RenderedScene:
    """Draws and exports both sides of a scene; every file is whole or not there."""
    name = job.entry.name
    if job.picture is not None:
        write_picture(folder / INPUT / f"{name}.png", job.picture)
    for side, spec in job.specs.items():
        write_rendering(folder, side, name, renderer.draw(spec))
        for kind in exports:
            content = renderer.blend(spec) if kind == BLEND else EXPORTERS[kind](spec)
            files.write_bytes(folder / EXPORTS / side / f"{name}.{kind}", content, is_synced=False)
    return job.entry
