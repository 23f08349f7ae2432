"""Types of command line arguments, shared by the commands that draw."""

import argparse
import dataclasses

from igllm_jax import flags, paths
from igllm_jax.errors import UserError
from igllm_jax.render.blender.environment import find_blender
from igllm_jax.render.renderers import RENDERERS, RendererOptions
from igllm_jax.render.spec import LARGEST_SIDE, SMALLEST_SIDE

CLEVR_FILES = (
    "base_scene.blend",
    *(f"shapes/{name}.blend" for name in ("SmoothCube_v2", "Sphere", "SmoothCylinder")),
    *(f"materials/{name}.blend" for name in ("Rubber", "MyMetal")),
)


def image_size(text: str) -> tuple[int, int]:
    """An argparse type: WIDTHxHEIGHT in pixels."""
    width, _, height = text.lower().partition("x")
    side = flags.whole(SMALLEST_SIDE, LARGEST_SIDE)
    try:
        return side(width), side(height)
    except argparse.ArgumentTypeError:
        expected = f"expected WIDTHxHEIGHT with sides of {SMALLEST_SIDE} to {LARGEST_SIDE} pixels, such as 480x320"
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}") from None


def add_renderer(parser: argparse.ArgumentParser) -> None:
    """--renderer and what belongs to Blender; `renderer_options` reads them."""
    parser.add_argument(
        "--renderer",
        choices=list(RENDERERS),
        default="flat",
        help="flat: quick, shaded, by NumPy; blender: CLEVR's look by Cycles, after `igllm render --setup`",
    )
    blender = parser.add_argument_group("options of --renderer blender")
    blender.add_argument(
        "--blender", type=flags.local_program, metavar="PATH", help="an installed Blender, or a Python that has bpy"
    )
    blender.add_argument(
        "--samples", type=flags.SAMPLES, metavar="N", help="of Cycles per pixel (default: 4, denoised)"
    )
    blender.add_argument("--device", choices=["cpu", "gpu"], help="what Cycles runs on (default: cpu)")
    blender.add_argument(
        "--clevr_assets", type=flags.source, metavar="DIR", help="CLEVR's own data folder, with base_scene.blend"
    )


def renderer_options(arguments: argparse.Namespace) -> RendererOptions:
    """The renderer of `add_renderer`.

    Raises: UserError for Blender's options with another renderer, where there is no Blender, or no assets.
    """
    given = [name for name in ("blender", "samples", "device", "clevr_assets") if getattr(arguments, name) is not None]
    if given and arguments.renderer != "blender":
        raise UserError(f"--{given[0]} is of the renderer blender; add --renderer blender, or leave it out")
    if arguments.renderer == "blender":
        find_blender(arguments.blender)  # before anything is written
    assets = arguments.clevr_assets
    if assets is not None:
        assets = paths.fetch(assets).resolve()
        missing = [name for name in CLEVR_FILES if not (assets / name).is_file()]
        if missing:
            raise UserError(f"--clevr_assets {assets}: {missing[0]} is not there; give the `data` folder of CLEVR")
    options = RendererOptions(
        arguments.renderer, arguments.blender, clevr_assets=None if assets is None else str(assets)
    )
    if arguments.samples is not None:
        options = dataclasses.replace(options, samples=arguments.samples)
    return dataclasses.replace(options, device=(arguments.device or "cpu").upper())
