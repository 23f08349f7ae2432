"""A picture of a run's first rows: the images as the model sees them, beside the code that it learns to write."""

import io
import textwrap

import numpy as np
from PIL import Image, ImageDraw

from igllm_jax import files
from igllm_jax.batch import Batch
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.paths import FilePath
from igllm_jax.scene.reading import FLOAT_TOKEN
from igllm_jax.training.monitor import answer_text

SAMPLES_FILE = "samples.png"  # in a run's folder
MOST_ROWS = 8
_SIDE, _MARGIN, _TEXT_WIDTH, _COLUMNS = 336, 12, 760, 120  # pixels, and characters of a line


def write_samples(folder: FilePath, batch: Batch, tokenizer: Tokenizer) -> None:
    """Writes folder/samples.png of the first rows of a batch. Raises: UserError where it can't be written."""
    images = np.asarray(batch.images)[:MOST_ROWS]
    strips = [_strip(image, answer_text(batch, row, tokenizer)) for row, image in enumerate(images)]
    sheet = Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    files.write_bytes(folder / SAMPLES_FILE, buffer.getvalue())


def _strip(image: np.ndarray, text: str) -> Image.Image:
    """One image, its pixels enlarged where they are few, with its text to the right."""
    side = image.shape[0] * max(1, _SIDE // image.shape[0])
    lines = "\n".join("\n".join(textwrap.wrap(line, _COLUMNS)) or line for line in text.split("\n"))
    height = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), _drawable(lines))[3]
    strip = Image.new("RGB", (side + _TEXT_WIDTH, max(side, int(height)) + 2 * _MARGIN), "white")
    strip.paste(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST), (_MARGIN, _MARGIN))
    draw = ImageDraw.Draw(strip)
    draw.rectangle((_MARGIN - 1, _MARGIN - 1, _MARGIN + side, _MARGIN + side), outline="silver")  # some are white
    draw.multiline_text((side + 3 * _MARGIN, _MARGIN), _drawable(lines), fill="black")
    return strip


def _drawable(text: str) -> str:
    """What Pillow's own font can draw; numbers stand in braces alone, and the rest becomes question marks."""
    return text.replace(FLOAT_TOKEN, "").encode("latin-1", "replace").decode("latin-1")
