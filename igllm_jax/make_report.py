"""`igllm report`: one HTML file that shows predictions beside what is true. It needs no network and no server.

Metrics with intervals, several runs side by side; plots; and a gallery, worst first, of the input, what the predicted
code draws, the difference, and the code with what is wrong marked. Nothing predicted is executed, here or in the page.
"""

import argparse
import os

from igllm_jax import evaluate, files, flags, progress
from igllm_jax.data.tars import IMAGES_HELP, open_images
from igllm_jax.errors import UserError
from igllm_jax.render.arguments import add_renderer, image_size, renderer_options
from igllm_jax.report.content import Options, build_content
from igllm_jax.report.curves import read_run
from igllm_jax.report.html import html_page, is_turning_view
from igllm_jax.scene.labelled import read_labelled

MEGABYTE = 1e6


def build_parser() -> argparse.ArgumentParser:
    """The command line of `igllm report`."""
    parser = flags.Parser(prog="igllm report", description=__doc__)
    parser.add_argument("--labels", type=flags.source, required=True, help="LABELS.json, or FILE.npz:SPLIT for 2D")
    parser.add_argument(
        "--predictions",
        type=flags.source,
        required=True,
        action="append",
        metavar="P.json",
        help="what igllm generate wrote; give it several times to see several side by side",
    )
    parser.add_argument(
        "--images", type=flags.source, metavar="TAR", nargs="+", help=f"the labels' images: {IMAGES_HELP}"
    )
    parser.add_argument(
        "--run",
        type=flags.path,
        action="append",
        default=[],
        help="a run whose curves of training stand besides (repeatable)",
    )
    parser.add_argument("--out", type=flags.path, required=True, metavar="FILE.html", help="the file to write")
    parser.add_argument("--title", default="Predicted scenes", help="what stands on top")
    parser.add_argument(
        "--scenes",
        type=flags.IMAGES,
        default=200,
        help="in the gallery: the worst, and some others (default: 200)",
    )
    add_renderer(parser)
    parser.add_argument(
        "--meshes", type=flags.source, metavar="DIR", help="models that labels of so3, sixdof or shapenet show"
    )
    evaluate.add_settings(parser)
    parser.add_argument("--image_size", type=image_size, metavar="WxH", help="in pixels, where nothing else says it")
    parser.add_argument("--bootstrap", type=flags.RESAMPLES, default=1000, help="resamples (default: 1000)")
    parser.add_argument("--seed", type=flags.SEED, default=0, help="seed of the resamples")
    parser.add_argument("--workers", type=flags.WORKERS, default=os.cpu_count() or 1, help="processes (default: cores)")
    parser.add_argument("--overwrite", action="store_true", help="replace --out where it exists")
    return parser


def main(argv: list[str]) -> int:
    """Writes the file; returns the exit code. Raises: UserError for anything the user can mend."""
    arguments = build_parser().parse_args(argv)
    if not str(arguments.out).lower().endswith((".html", ".htm")):
        raise UserError(f"--out {arguments.out}: give a name that ends in .html")
    if arguments.out.exists() and not arguments.overwrite:
        raise UserError(f"{arguments.out} exists already; choose another --out, or give --overwrite to replace it")
    files.try_writing(arguments.out)
    runs = read_labelled(arguments.labels, arguments.predictions, **evaluate.settings_of(arguments))
    sampling = {"bootstrap": arguments.bootstrap, "seed": arguments.seed}
    reports = [evaluate.evaluate_run(run, **sampling, has_precision=True) for run in runs]
    options = Options(
        title=arguments.title,
        num_scenes=arguments.scenes,
        renderer=renderer_options(arguments),
        meshes=arguments.meshes,
        rotation_unit=arguments.rotation_unit,
        image_size=arguments.image_size,
        workers=arguments.workers,
        trained=[read_run(folder) for folder in dict.fromkeys(arguments.run)],
        **sampling,
    )
    images = open_images(arguments.images) if arguments.images else None
    content = build_content(runs, reports, images, options)
    page = html_page(content)
    files.write_text(arguments.out, page)
    shown = len(content["scenes"])
    progress.result(f"{arguments.out}: {shown} of {content['num_labelled']} scenes, {len(page) / MEGABYTE:.1f} MB")
    if content["view"] == "3d" and not is_turning_view(page):
        progress.result("note: without the 3D view, which needs three.js: pip install 'igllm_jax[report]'")
    return 0
