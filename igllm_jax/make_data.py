"""`igllm make-data TASK --out DIR`: own data sets in the layout of the released ones."""

import argparse
import dataclasses
import functools
import os
import time
from pathlib import Path

from igllm_jax import flags, progress
from igllm_jax.endings import INTERRUPTED
from igllm_jax.errors import UserError
from igllm_jax.render.arguments import add_renderer, image_size, renderer_options
from igllm_jax.render.blender.own_scenes import Views, draw_view, find_scenes
from igllm_jax.render.compose.clevr import CAMERA_JITTER
from igllm_jax.render.compose.composers import COMPOSERS, Composer
from igllm_jax.render.compose.shifts import SHIFTS
from igllm_jax.render.dataset import Shard, write_dataset, write_examples
from igllm_jax.render.meshes import box, find_models
from igllm_jax.render.recipe import Recipe
from igllm_jax.render.scenes import NO_GROUND
from igllm_jax.render.twod import write_twod
from igllm_jax.scene.kind import ROTATION_UNITS

IMAGE_TASKS = {
    "clevr": "several solids on a ground; CoGenT A in train and val_ID, B in val_OOD",
    "so3": "one toy airplane, turned anyhow; val_OOD shows turns that training leaves out",
    "sixdof": "one toy airplane, turned and moved, over a ground; val_OOD is painted otherwise",
    "shapenet": "toys of several classes; val_OOD_texture paints them otherwise, val_OOD_shape has other models",
}


def _shard(text: str) -> Shard:
    """An argparse type: K/N, the K-th of N."""
    number, _, of = text.partition("/")
    try:
        count = flags.WORKERS(of)
        return Shard(flags.whole(1, count)(number) - 1, count)
    except argparse.ArgumentTypeError:
        expected = "expected K/N with K from 1 to N and N to 1024, such as 1/4"
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}") from None


def build_parser() -> argparse.ArgumentParser:
    """The command line of `igllm make-data`."""
    parser = flags.Parser(prog="igllm make-data", description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True, parser_class=flags.Parser)
    twod = tasks.add_parser("twod", help="points of the plane: 2d.npz with two checkerboards and the whole square")
    twod.add_argument("--num_train", type=flags.IMAGES, default=10_000, help="points per checkerboard")
    twod.add_argument("--num_val", type=flags.IMAGES, default=1_000, help="points of the split `random`")
    for name, help_text in IMAGE_TASKS.items():
        _add_image_options(tasks.add_parser(name, help=help_text), COMPOSERS[name])
    for task in tasks.choices.values():
        _add_outputs(task)
    return parser


def build_from_parser() -> argparse.ArgumentParser:
    """The command line of `igllm make-data --from`."""
    parser = flags.Parser(
        prog="igllm make-data", description="Data of own scenes, drawn by Blender; see docs/rendering.md"
    )
    parser.add_argument("--from", dest="scenes", type=flags.path, required=True, help="folder of .blend or .glb files")
    parser.add_argument("--task", choices=list(IMAGE_TASKS), default="clevr", help="whose words say the objects")
    parser.add_argument("--views", type=flags.IMAGES, default=10, help="pictures of each scene")
    parser.add_argument("--camera_jitter", type=flags.JITTER, default=CAMERA_JITTER, help="scene units along each axis")
    parser.add_argument("--num_val_scenes", type=flags.LIMIT, help="files for val_ID (default: a tenth of them)")
    parser.add_argument("--image_size", type=image_size, default=(480, 320), metavar="WxH", help="in pixels")
    parser.add_argument("--workers", type=flags.WORKERS, default=os.cpu_count() or 1, help="processes (default: cores)")
    parser.add_argument("--shard", type=_shard, default=Shard(), metavar="K/N", help="one of N runs on the same --out")
    add_renderer(parser)
    _add_outputs(parser)
    return parser


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=flags.path, required=True, help="folder to write into (made if missing)")
    parser.add_argument("--seed", type=flags.SEED, default=0, help="the data are a function of it")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")


def _add_image_options(task: argparse.ArgumentParser, composer: Composer) -> None:
    add_renderer(task)
    task.add_argument("--domain_shift", choices=SHIFTS, help="the same scenes looking otherwise, to test on")
    task.add_argument(
        "--meshes", type=flags.path, metavar="DIR", help="show models of .glb or .obj, or ShapeNet's layout"
    )
    task.add_argument("--shard", type=_shard, default=Shard(), metavar="K/N", help="one of N runs on the same --out")
    task.add_argument("--num_train", type=flags.IMAGES, default=2_000, help="images of the split train")
    task.add_argument("--num_val", type=flags.IMAGES, default=200, help="images of each validation split")
    task.add_argument("--image_size", type=image_size, default=composer.image_size, metavar="WxH", help="in pixels")
    task.add_argument("--workers", type=flags.WORKERS, default=os.cpu_count() or 1, help="processes (default: cores)")
    if composer is COMPOSERS["clevr"]:
        task.add_argument(
            "--rotation_unit", choices=ROTATION_UNITS, help="what the labels' 0 to 360 mean (default: deg)"
        )
    else:
        task.set_defaults(rotation_unit=None)
    fewest, most = composer.num_objects or (1, 1)
    if composer.num_objects:
        task.add_argument("--min_objects", type=flags.OBJECTS, default=fewest, help="fewest objects of a scene")
        task.add_argument("--max_objects", type=flags.OBJECTS, default=most, help="most objects of a scene")
    else:
        task.set_defaults(min_objects=fewest, max_objects=most)


def _meshes(arguments: argparse.Namespace) -> str | None:
    """The folder of --meshes. Raises: UserError where the task or the renderer can't show meshes, or none is there."""
    if arguments.meshes is None:
        return None
    if arguments.task == "clevr" or arguments.renderer == "flat":
        raise UserError("--meshes: shown by --renderer blender in so3, sixdof and shapenet alone; leave it out")
    folder = str(arguments.meshes.resolve())
    for model in find_models(folder):
        box(model.file)  # an unreadable one is better found now
    return folder


def make_twod(arguments: argparse.Namespace) -> list[Path]:
    """Writes 2d.npz; returns its path."""
    path = write_twod(
        arguments.out,
        num_train=arguments.num_train,
        num_val=arguments.num_val,
        seed=arguments.seed,
        overwrite=arguments.overwrite,
    )
    return [path]


def make_images(arguments: argparse.Namespace) -> list[Path]:
    """Draws the images and writes their labels; returns the paths of both."""
    if arguments.min_objects > arguments.max_objects:
        raise UserError(
            f"--min_objects {arguments.min_objects} is more than --max_objects {arguments.max_objects}; change one"
        )
    width, height = arguments.image_size
    if arguments.domain_shift == "ground" and arguments.task in NO_GROUND:
        raise UserError(f"--domain_shift ground: task {arguments.task} has no ground; choose another shift")
    recipe = Recipe(
        arguments.task,
        arguments.seed,
        width,
        height,
        arguments.min_objects,
        arguments.max_objects,
        arguments.domain_shift,
        _meshes(arguments),
        arguments.rotation_unit,
    )
    return write_dataset(
        arguments.out,
        recipe,
        num_train=arguments.num_train,
        num_val=arguments.num_val,
        workers=arguments.workers,
        overwrite=arguments.overwrite,
        options=renderer_options(arguments),
        shard=arguments.shard,
    )


def make_own(arguments: argparse.Namespace) -> list[Path]:
    """Draws views of the user's scenes and writes their labels; returns the paths of both."""
    options = renderer_options(arguments)
    if options.name != "blender":
        raise UserError("--from: scenes of your own are drawn by Blender alone; add --renderer blender")
    files = find_scenes(arguments.scenes)
    validation = len(files) // 10 if arguments.num_val_scenes is None else arguments.num_val_scenes
    if validation >= len(files):
        raise UserError(f"--num_val_scenes {validation}: leaves none of {len(files)} scenes to train on")
    if not 0 <= arguments.camera_jitter <= 100:
        raise UserError(f"--camera_jitter must be 0 to 100 scene units, not {arguments.camera_jitter}")
    width, height = arguments.image_size
    jitter, seed = arguments.camera_jitter, arguments.seed
    views = Views(files, arguments.task, seed, width, height, arguments.views, jitter, validation)
    info = {**dataclasses.asdict(views), "rotation_unit": COMPOSERS[arguments.task].rotation_unit}
    info["files"] = [f"{path.name}, {path.stat().st_size} bytes" for path in files]
    return write_examples(
        arguments.out,
        functools.partial(draw_view, views=views),
        views.counts,
        info,
        options,
        workers=arguments.workers,
        overwrite=arguments.overwrite,
        shard=arguments.shard,
    )


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code. Raises: UserError for anything the user can mend."""
    is_own = any(argument.partition("=")[0] == "--from" for argument in argv)
    arguments = (build_from_parser() if is_own else build_parser()).parse_args(argv)
    start = time.monotonic()
    make = make_own if is_own else make_twod if arguments.task == "twod" else make_images
    try:
        written = make(arguments)
    except KeyboardInterrupt:
        progress.note(f"interrupted: run the same command again, and {arguments.out} is finished from there")
        return INTERRUPTED
    for path in written:
        progress.result(str(path))
    if not written:
        progress.note(f"this shard is done; the run that finishes the last one completes {arguments.out}")
    progress.note(f"made in {time.monotonic() - start:.1f} s")
    return 0
