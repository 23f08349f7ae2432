"""An answer as people see it: drawn again, as a 3D file, and as a table of its calls."""

from dataclasses import dataclass, replace

from PIL import Image

from igllm_jax.data.options import DataOptions
from igllm_jax.decoding.generated import Generated
from igllm_jax.errors import UserError
from igllm_jax.render.export.glb import glb
from igllm_jax.render.flat.draw import draw
from igllm_jax.render.folder import PREDICTED
from igllm_jax.render.jobs import Reader, code_job
from igllm_jax.render.twod import disc_attribute, disc_picture
from igllm_jax.report.content import view_of
from igllm_jax.scene.language import Language, find_language

SIDE = 480  # of a drawing, at most, in pixels
NUMBER_DIGITS = 3
NO_GLB = "the 3D view needs trimesh: pip install 'igllm_jax[serve]'"
NO_OBJECTS = "the answer has no objects, so there is no 3D view"
LONGEST_VALUE = 200  # characters of a table's cell


@dataclass(frozen=True)
class AnswerDrawing:
    """picture, glb: None where the language's scenes have none. note: why there is none, "" where there is."""

    picture: Image.Image | None
    glb: bytes | None
    note: str = ""


def draw_answer(found: Generated, data: DataOptions, size: tuple[int, int]) -> AnswerDrawing:
    """The answer's scene, seen by the camera that stands without jitter. size: of the image, width and height."""
    language = find_language(data.task)
    view = view_of(language)
    if view != "3d":
        if disc_attribute(language) is not None:
            return AnswerDrawing(disc_picture(found.calls, language), None)
        return AnswerDrawing(None, None, f"scenes of {language.name} can't be drawn")
    scale = min(1.0, SIDE / max(size))
    width, height = (max(16, round(side * scale)) for side in size)
    reader = Reader(language, data.rotation_rep, data.rotation_unit, (width, height))
    spec = code_job(found.code, reader).specs[PREDICTED]
    picture = draw(spec).image
    if not spec.objects:
        return AnswerDrawing(picture, None, NO_OBJECTS)
    try:
        # without the ground, all of which viewers step back to see
        return AnswerDrawing(picture, glb(replace(spec, ground=None)))
    except UserError:  # without trimesh
        return AnswerDrawing(picture, None, NO_GLB)


def table(found: Generated, language: Language) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: each call's function, words and numbers."""
    names = list(dict.fromkeys(name for call in found.calls for name in call))
    rows = [[call.function, *(_cell(call.get(name)) for name in names)] for call in found.calls]
    headers = ["call", *names]
    if len(language.functions) == 1:  # whose name says nothing
        headers, rows = names or ["call"], [row[1:] for row in rows]
    return headers, rows


def agreement_table(found: Generated, language: Language) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: each call of the first of several answers, and how far the others say the same: the share of
    answers that have the call and its words, the spread of its numbers."""
    headers, rows = table(found, language)
    names = list(dict.fromkeys(name for call in found.calls for name in call))
    first = len(headers) - len(names)  # the function's column, where there is one
    for row, call in zip(rows, found.agreement, strict=True):
        for column, name in enumerate(names, first):
            if name in call["words"]:
                row[column] += f" ({call['words'][name]:.0%})"
            elif name in call["spread"]:
                row[column] += f" \u00b1 {_cell(tuple(call['spread'][name]))}"
        row.insert(0, f"{call['found']:.0%}")
    return ["found", *headers], rows


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ", ".join(_cell(part) for part in value)
    return f"{value:.{NUMBER_DIGITS}f}" if isinstance(value, float) else str(value)[:LONGEST_VALUE]
