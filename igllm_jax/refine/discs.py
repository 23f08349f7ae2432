"""Answers of languages whose image is one disc: the disc is drawn at every pixel, and stands where it explains most."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.signal import correlate

from igllm_jax.data.images import DISC_IMAGE_SIZE, DISC_RADIUS, draw_disc
from igllm_jax.refine.lens import features, lens, penalty, picture_size, target_of
from igllm_jax.refine.problems import Terms
from igllm_jax.refine.refined import UNEXPLAINED, Refined, picture_loss
from igllm_jax.refine.search import LEVELS
from igllm_jax.render.twod import disc_attribute, disc_picture
from igllm_jax.scene.language import Language
from igllm_jax.scene.reading import scene_of
from igllm_jax.scene.scene import Object

ERROR = float(1 / DISC_IMAGE_SIZE / np.sqrt(12))  # image sides: all places of a pixel look alike
MOST_LEFT = 0.5  # of what differs from white paper: with more left, the disc does not explain the image


def refine_disc(text: str, image: Image.Image, terms: Terms) -> Refined:
    """The answer with its first call's disc where it explains the image; the text stays where it says no disc, or where
    none explains more."""
    things, attribute = _things(text, terms), disc_attribute(terms.language)
    if attribute is None or not things or attribute.name not in things[0]:
        return Refined(text)
    moved = (things[0].replace(**{attribute.name: best_position(image)}), *things[1:])
    before, after = (disc_loss(image, calls, terms.language) for calls in (things, moved))
    left = min(before, after)
    is_explained = left <= MOST_LEFT * disc_loss(image, (), terms.language)
    names = attribute.arguments if len(attribute.arguments) == 2 else ("x", "y")
    return Refined(
        terms.write(moved) if after < before else text,
        before,
        left,
        standard_errors={"0": dict.fromkeys(names, ERROR)} if is_explained else {},
        flag="" if is_explained else UNEXPLAINED,
    )


def score_disc(image: Image.Image, code: str, terms: Terms) -> float:
    """How well a text's disc explains an image: minus `disc_loss`."""
    return -disc_loss(image, _things(code, terms), terms.language)


def _things(text: str, terms: Terms) -> tuple[Object, ...]:
    how = {"rotation_rep": terms.rotation_rep, "rotation_unit": terms.rotation_unit}
    return scene_of(terms.read(text), terms.language, **how, image="").objects


def disc_loss(image: Image.Image, calls: Sequence[Object], language: Language) -> float:
    """By how much the calls' picture and the image differ, of 255, compared as pictures of other tasks are."""
    size = picture_size(*image.size)
    view = lens(size, LEVELS[-1].blur, LEVELS[-1].outlier)
    difference = target_of(disc_picture(calls, language), size) - target_of(image, size)
    return picture_loss(float(penalty(features(difference, view), view)), size[0] * size[1])


def best_position(image: Image.Image) -> tuple[float, float]:
    """The middle of the pixel, in image sides, around which a disc leaves the least squares of an image."""
    side = DISC_IMAGE_SIZE
    darkness = 1 - target_of(image, (side, side)).reshape(3, side, side)
    middle = side // 2
    box = [edge + middle for edge in (-DISC_RADIUS, -DISC_RADIUS, DISC_RADIUS + 1, DISC_RADIUS + 1)]
    disc = draw_disc(*[(middle + 0.5) / side] * 2).crop(tuple(box))  # type: ignore[arg-type]
    own = 1 - np.asarray(disc, np.float32).transpose(2, 0, 1) / 255
    explained = sum(correlate(seen, kernel, mode="same") for seen, kernel in zip(darkness, own, strict=True))
    # of a disc at the border, what lies beyond is not seen
    size = correlate(np.ones((side, side), np.float32), (own**2).sum(axis=0), mode="same")
    row, column = np.unravel_index(np.argmin(size - 2 * explained), (side, side))
    return (float(column) + 0.5) / side, (float(row) + 0.5) / side
