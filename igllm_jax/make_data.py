"""`igllm make-data TASK --out DIR`: own data sets in the layout of the released ones."""

import argparse
import os
import sys
import time
from pathlib import Path

from igllm_jax import flags
from igllm_jax.errors import UserError
from igllm_jax.render.arguments import image_size
from igllm_jax.render.compose.composers import COMPOSERS, Composer
from igllm_jax.render.dataset import write_dataset
from igllm_jax.render.recipe import Recipe
from igllm_jax.render.renderers import RENDERERS
from igllm_jax.render.twod import write_twod

IMAGE_TASKS = {
    "clevr": "several solids on a ground; CoGenT A in train and val_ID, B in val_OOD",
    "so3": "one toy airplane, turned anyhow; val_OOD shows turns that training leaves out",
    "sixdof": "one toy airplane, turned and moved, over a ground; val_OOD is painted otherwise",
    "shapenet": "toys of several classes; val_OOD_texture paints them otherwise, val_OOD_shape has other models",
}
INTERRUPTED = 130  # exit code, as shells have it


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
        task.add_argument("--out", type=Path, required=True, help="folder to write into (made if missing)")
        task.add_argument("--seed", type=flags.SEED, default=0, help="the data are a function of it")
        task.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    return parser


def _add_image_options(task: argparse.ArgumentParser, composer: Composer) -> None:
    task.add_argument("--renderer", choices=list(RENDERERS), default="flat", help="flat: quick, shaded, by NumPy")
    task.add_argument("--num_train", type=flags.IMAGES, default=2_000, help="images of the split train")
    task.add_argument("--num_val", type=flags.IMAGES, default=200, help="images of each validation split")
    task.add_argument("--image_size", type=image_size, default=composer.image_size, metavar="WxH", help="in pixels")
    task.add_argument("--workers", type=flags.WORKERS, default=os.cpu_count() or 1, help="processes (default: cores)")
    fewest, most = composer.num_objects or (1, 1)
    if composer.num_objects:
        task.add_argument("--min_objects", type=flags.OBJECTS, default=fewest, help="fewest objects of a scene")
        task.add_argument("--max_objects", type=flags.OBJECTS, default=most, help="most objects of a scene")
    else:
        task.set_defaults(min_objects=fewest, max_objects=most)


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
    recipe = Recipe(arguments.task, arguments.seed, width, height, arguments.min_objects, arguments.max_objects)
    return write_dataset(
        arguments.out,
        recipe,
        num_train=arguments.num_train,
        num_val=arguments.num_val,
        workers=arguments.workers,
        overwrite=arguments.overwrite,
    )


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code. Raises: UserError for anything the user can mend."""
    arguments = build_parser().parse_args(argv)
    start = time.monotonic()
    try:
        written = make_twod(arguments) if arguments.task == "twod" else make_images(arguments)
    except KeyboardInterrupt:
        print(f"interrupted: nothing was written to {arguments.out}", file=sys.stderr)
        return INTERRUPTED
    for path in written:
        print(path)
    print(f"made in {time.monotonic() - start:.1f} s", file=sys.stderr)
    return 0
