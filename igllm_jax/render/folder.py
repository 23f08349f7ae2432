"""A folder of rendered scenes: what `igllm render` leaves, and what `evaluate` and reports read.

    render.json                       what was drawn from what, and what could not be drawn; written last
    true/NAME.png                     the label's scene; true_ids/NAME.png: which object each pixel shows
    predicted/NAME.png                the prediction's scene, by the same camera; predicted_ids/NAME.png
    input/NAME.png                    the image itself, where it was given
    exports/{true,predicted}/NAME.*   the scenes as files

Id images have 16 bits: 0 is no object, `i + 1` object number i of the label or the code.
"""

import dataclasses
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from igllm_jax import files
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath
from igllm_jax.render.camera import Camera
from igllm_jax.render.rendering import Rendering
from igllm_jax.render.spec import from_value

INDEX = "render.json"
TRUE, PREDICTED, INPUT, EXPORTS = "true", "predicted", "input", "exports"
MOST_OBJECTS = 2**16 - 2  # that an id image can tell apart
PNG_LEVEL = 1  # the quickest


@dataclass(frozen=True)
class RenderedScene:
    """One scene of the folder. image: its name in label and predictions. name: of its files, without suffix.

    camera: of its pictures. camera_from: where that comes from (`scenes.STORED` and so on). sides: which of TRUE,
    PREDICTED and INPUT are there.
    num_problems: what could not be read or drawn of the prediction; problems: the first of them, in words.
    """

    image: str
    name: str
    camera: Camera
    camera_from: str
    sides: tuple[str, ...]
    num_problems: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class RenderIndex:
    """The content of `render.json`. labels, predictions, images: what was given, or None."""

    renderer: str
    task: str
    labels: str | None
    predictions: str | None
    images: str | None
    scenes: tuple[RenderedScene, ...]
    num_unlabelled: int = 0  # predictions of images that no label has
    version: int = 1


def write_picture(path: FilePath, picture: Image.Image) -> None:
    """A PNG, whole or not there."""
    png = io.BytesIO()
    picture.save(png, "PNG", compress_level=PNG_LEVEL)
    files.write_bytes(path, png.getvalue(), is_synced=False)


def write_rendering(folder: FilePath, side: str, name: str, rendering: Rendering) -> None:
    """Picture and ids of one side of a scene."""
    write_picture(folder / f"{side}_ids" / f"{name}.png", Image.fromarray(rendering.ids.astype(np.uint16)))
    write_picture(folder / side / f"{name}.png", rendering.image)


def write_index(folder: FilePath, index: RenderIndex) -> None:
    """`render.json`. ASCII only: predicted text can hold anything, and stays what it is, text."""
    files.write_text(folder / INDEX, json.dumps(dataclasses.asdict(index), indent=1) + "\n")


def read_index(folder: FilePath) -> RenderIndex:
    """What the folder holds. Raises: UserError that names the file."""
    path = folder / INDEX
    try:
        content: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); is it a folder of igllm render?"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); render again") from None
    return from_value(RenderIndex, content, str(path))


def read_picture(folder: FilePath, side: str, name: str) -> np.ndarray:
    """uint8 [H, W, 3]. Raises: UserError that names the file."""
    return np.asarray(_open(folder / side / f"{name}.png").convert("RGB"))


def read_ids(folder: FilePath, side: str, name: str) -> np.ndarray:
    """int32 [H, W]. Raises: UserError that names the file."""
    return np.asarray(_open(folder / f"{side}_ids" / f"{name}.png")).astype(np.int32)


def _open(path: FilePath) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except Exception as error:  # PIL raises many kinds on broken files
        raise UserError(f"{path}: cannot be read ({error}); render again") from None
    return image
