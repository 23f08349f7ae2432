"""Predicted scenes made better by looking again: a search of each one's numbers, and of its words where asked for."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from igllm_jax.refine.discs import refine_disc
from igllm_jax.refine.lens import information_left, lens, picture_size, target_of
from igllm_jax.refine.moves import LOCATION, Moves
from igllm_jax.refine.pictures import PictureOptions, penalties
from igllm_jax.refine.problems import (
    Start,
    Terms,
    count_for,
    kinds_shown,
    layout_of,
    moved_things,
    problem_of,
    start_of,
    turns_seen,
)
from igllm_jax.refine.refined import Refined, covariance, flag_of, picture_loss, standard_errors
from igllm_jax.refine.revise import Reviser
from igllm_jax.refine.search import LEVELS, Level, State, search
from igllm_jax.refine.vectors import Layout, SearchProblem, moves_of_all
from igllm_jax.render.roles import check_renderable
from igllm_jax.render.twod import disc_attribute
from igllm_jax.scene.language import Language

MOST_OBJECTS = 48  # of a scene that is searched
MOST_STARTS = 8  # of a scene, where words are tried
SHARE_HELD = 0.2  # of the time: for camera and lamps alone
WORTH = 2.0  # of the negative log-probability: what moving objects has to gain for each number, else they stay


@dataclass(frozen=True)
class RefineOptions:
    """levels: of the search. seconds: a scene at most, or None. at_once: scenes side by side, see `draw_batch`. moves:
    beside those of numbers, of `revise.KINDS_OF_MOVES`."""

    levels: tuple[Level, ...] = LEVELS
    seconds: float | None = None
    at_once: int = 1
    moves: tuple[str, ...] = ()


@dataclass(frozen=True)
class SceneGroup:
    """Scenes that are searched together: their starts, and everything in the shapes of one program."""

    starts: tuple[Start, ...]
    problems: SearchProblem
    targets: np.ndarray
    how: PictureOptions


def check_drawable(language: Language) -> None:
    """Raises: UserError for a language whose scenes neither are of three dimensions nor one disc."""
    if disc_attribute(language) is None:
        check_renderable(language)


def refine_texts(
    texts: Sequence[str],
    images: Sequence[Image.Image],
    terms: Terms,
    options: RefineOptions | None = None,
    others: Sequence[Sequence[str]] | None = None,
) -> list[Refined]:
    """The outcome of each text's search, of images of one size. What is not drawn (a scene without an object in reach,
    or with more than MOST_OBJECTS) keeps its text. others: what else a search may begin with, of each text; where words
    and numbers of objects stay (options.moves), none is looked at."""
    if disc_attribute(terms.language) is not None:
        return [refine_disc(text, image, terms) for text, image in zip(texts, images, strict=True)]
    options = options or RefineOptions()
    starts = [start_of(text, terms, *image.size) for text, image in zip(texts, images, strict=True)]
    outcome = _refined_starts(starts, texts, images, terms, dataclasses.replace(options, moves=()))
    if not options.moves:
        return outcome
    if options.seconds is not None:
        options = dataclasses.replace(options, seconds=options.seconds / 3)  # this, a search, and that before
    for index, (image, own) in enumerate(zip(images, others or [()] * len(texts), strict=True)):
        more = [start_of(text, terms, *image.size) for text in dict.fromkeys(own) if text != texts[index]]
        begun = [start for start in [starts[index], *more[: MOST_STARTS - 1]] if _is_in_reach(start, least=0)]
        if not begun:
            continue
        reviser = Reviser(image, terms, options.moves, options.seconds)
        revised = reviser.best(begun).start(terms)
        text = terms.write(revised.things)
        (result,) = _refined_starts([revised], [text], [image], terms, options)
        outcome[index] = _better(outcome[index], result)
    return outcome


def _better(numbers: Refined, words: Refined) -> Refined:
    """Of a search of numbers, and one of words, too: which explains the image better. The losses are of two starts, and
    the first is that of what was predicted."""
    if words.loss_after is None or (numbers.loss_after is not None and words.loss_after >= numbers.loss_after):
        return numbers
    return dataclasses.replace(words, loss_before=numbers.loss_before)


def _is_in_reach(start: Start, least: int = 1) -> bool:
    return least <= len(start.spec.objects) <= MOST_OBJECTS


def _refined_starts(
    starts: Sequence[Start], texts: Sequence[str], images: Sequence[Image.Image], terms: Terms, options: RefineOptions
) -> list[Refined]:
    outcome = [Refined(text) for text in texts]
    drawn = [index for index, start in enumerate(starts) if _is_in_reach(start)]
    for size in sorted({count_for(len(starts[index].spec.objects)) for index in drawn}):
        own = [index for index in drawn if count_for(len(starts[index].spec.objects)) == size]
        group = group_of([starts[index] for index in own], [images[index] for index in own], terms)
        for index, result in zip(own, refine_group(group, terms, options), strict=True):
            outcome[index] = result
    return outcome


def group_of(starts: Sequence[Start], images: Sequence[Image.Image], terms: Terms) -> SceneGroup:
    """Scenes whose images have one size."""
    size = picture_size(*images[0].size)
    targets = np.stack([target_of(image, size) for image in images])
    layout = layout_of(terms.language, count_for(max(len(start.spec.objects) for start in starts)))
    rows = [problem_of(start, terms, layout) for start in starts]
    problems = jax.tree.map(lambda *arrays: np.stack(arrays), *rows)
    return SceneGroup(tuple(starts), problems, targets, PictureOptions(*size, kinds_shown(terms.language), layout))


def refine_group(group: SceneGroup, terms: Terms, options: RefineOptions) -> list[Refined]:
    """The outcome of each scene's search. What is found is written where that brings picture and image together."""
    searched = _searched(group, options)
    return [_refined(group, searched, index, terms) for index in range(len(group.starts))]


class _Searched(NamedTuple):
    """What a search found of S scenes: moves, 0 where they were not better, their covariance [S, K, K], and penalties
    [S] before and after."""

    moves: Moves
    covariance: np.ndarray
    before: np.ndarray
    after: np.ndarray


def _searched(group: SceneGroup, options: RefineOptions) -> _Searched:
    how, at_once = group.how, options.at_once
    may_hold = bool(group.problems.is_free[:, how.layout.num_own :].any())

    def searched(problems: SearchProblem, levels: Sequence[Level], share: float) -> State:
        seconds = None if options.seconds is None else share * options.seconds
        return search(problems, group.targets, how=how, levels=levels, seconds=seconds, at_once=at_once)

    state = searched(group.problems, options.levels, 1 - SHARE_HELD if may_hold else 1.0)
    found = np.asarray(state.vector)
    view = lens((how.width, how.height), options.levels[-1].blur, options.levels[-1].outlier)

    def losses(problems: SearchProblem, vectors: np.ndarray) -> np.ndarray:
        return penalties(problems, vectors, group.targets, view, how=how, at_once=at_once)

    before, after = losses(group.problems, 0 * found), losses(group.problems, found)
    found = np.where((after < before)[:, None], found, 0)
    after = np.minimum(before, after)
    moves = jax.device_get(moves_of_all(found, group.problems, how.layout))
    if may_hold:
        held = _held(group.problems, how.layout)
        levels = [level._replace(scans_yaws=False) for level in (options.levels[0], options.levels[-1])]
        vectors = np.asarray(searched(held, levels, SHARE_HELD).vector)
        without = losses(held, vectors)
        own = jax.device_get(moves_of_all(vectors, held, how.layout))
        numbers = group.problems.is_free[:, : how.layout.num_own].sum(axis=1)
        worth = (without - after) * information_left(after, view)
        stay = (without < before) & (worth < WORTH * numbers)
        after = np.where(stay, without, after)
        moves = jax.tree.map(lambda new, old: np.where(stay.reshape(-1, *[1] * (old.ndim - 1)), new, old), own, moves)
    rows = (np.asarray(x) for x in (state.curvature, state.pull, group.problems.spreads, group.problems.is_free))
    covariances = np.stack([covariance(*row) for row in zip(*rows, strict=True)])
    return _Searched(moves, covariances, before, after)


def _held(problems: SearchProblem, layout: Layout) -> SearchProblem:
    """The problems in which camera and lamps alone may move."""
    is_stage = np.arange(layout.size) >= layout.num_own
    return problems._replace(is_free=problems.is_free * is_stage, is_held=np.ones_like(problems.is_held))


def _moves(searched: _Searched, index: int) -> Moves:
    return Moves(*(array[index] for array in searched.moves))


def _refined(group: SceneGroup, searched: _Searched, index: int, terms: Terms) -> Refined:
    start, moves, how = group.starts[index], _moves(searched, index), group.how
    errors = np.sqrt(np.maximum(np.diag(searched.covariance[index]), 0))
    before, after = (picture_loss(side[index], how.width * how.height) for side in (searched.before, searched.after))
    camera = tuple((np.asarray(start.spec.camera.position) + moves.camera).tolist())
    text = terms.write(moved_things(start, moves.objects, terms))
    flag = flag_of(np.linalg.norm(moves.objects[:, LOCATION], axis=1), turns_seen(start, moves.objects, terms), after)
    return Refined(text, before, after, camera, standard_errors(start, how.layout, errors), flag)
