"""Words and numbers of objects tried one by one, each kept where the image is explained better by more than noise."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from igllm_jax.refine.alternatives import LOOKS, Things, inserted, object_at, other_words, stands_apart
from igllm_jax.refine.lens import Lens, information, lens, picture_size, target_of
from igllm_jax.refine.pictures import PictureOptions, penalties, picture_difference
from igllm_jax.refine.problems import (
    Start,
    Terms,
    count_for,
    kinds_shown,
    layout_of,
    moved_things,
    problem_of,
    start_of_things,
)
from igllm_jax.refine.search import Level, search
from igllm_jax.refine.time_limit import TimeLimit
from igllm_jax.refine.vectors import SearchProblem, moves_of_all
from igllm_jax.render.camera import Camera
from igllm_jax.render.flat.rays import Array
from igllm_jax.render.spec import Light

WORDS, COUNT = "words", "count"
KINDS_OF_MOVES = (WORDS, COUNT)
LONGER = 120  # pixels of the longer side of the pictures that are compared while words are tried
BLUR, OUTLIER = 3.3, 0.3  # of the lens that decides
LEAST_NOISE = 0.2  # of a pixel: words and numbers of objects change for what is seen plainly


def _level(blur: float, steps: int, outlier: float, scans_yaws: bool = False) -> Level:
    return Level(blur, steps, outlier, scans_yaws, least_noise=LEAST_NOISE)


FIRST = (_level(6.7, 6, 0.5), _level(6.7, 4, 0.5, scans_yaws=True), _level(BLUR, 4, OUTLIER))  # of all numbers
BETWEEN = (_level(BLUR, 4, OUTLIER),)
OF_NEW = (_level(13.0, 4, 0.5), _level(BLUR, 3, OUTLIER))  # of a new object's numbers alone
OF_ONE = (_level(BLUR, 3, OUTLIER),)
NOISE, SHARE = 6.0, 0.02  # of the negative log-probability, and of what it is: what a change gains that is kept
LEAST_SHARE = 0.5  # of that: what an object explains that is kept; one that stands within another has to explain all
ROUNDS = 4
SPOTS = 3  # of the picture, least explained first, where an object is tried
SPOT = 6.7  # blur of the lens that finds them
NEAR = 0.12  # of the image's width: how far from a spot is what may be wrong there
LEAST_OBJECTS = 10  # of the compiled program: one for nearly all scenes


class Draft(NamedTuple):
    """A scene while it is revised: its calls, the camera and the lamps."""

    things: Things
    camera: Camera
    lights: tuple[Light, ...]

    def start(self, terms: Terms) -> Start:
        """What a search begins with."""
        start = start_of_things(self.things, terms, self.camera)
        return dataclasses.replace(start, spec=dataclasses.replace(start.spec, lights=self.lights))


class Reviser:
    """Revises the scene of one image. moves: of KINDS_OF_MOVES. seconds: at most, or None."""

    def __init__(self, image: Image.Image, terms: Terms, moves: Iterable[str], seconds: float | None = None):
        self.terms, self.moves = terms, frozenset(moves)
        self.size = picture_size(*image.size, LONGER)
        self.target = target_of(image, self.size)
        self.view = lens(self.size, BLUR, OUTLIER, LEAST_NOISE)
        self.limit = TimeLimit(seconds)

    def best(self, starts: Sequence[Start]) -> Draft:
        """The best of several starts, after all that may change has been tried."""
        drafts = [self.searched(self._draft(start), FIRST) for start in starts]
        draft = drafts[int(np.argmin(self._losses(drafts)))]
        for _ in range(ROUNDS):
            before = draft.things
            if COUNT in self.moves:
                draft = self._without_surplus(draft)
            if WORDS in self.moves:
                draft = self._with_other_words(draft)
            draft = self._reworked(draft)
            if draft.things == before or self.limit.is_over:
                break
            draft = self.searched(draft, BETWEEN)
        return draft

    def searched(self, draft: Draft, levels: Sequence[Level], only: int | None = None) -> Draft:
        """The draft with its numbers searched; only: those of one call."""
        start, how = draft.start(self.terms), self._how(draft)
        if not start.spec.objects:
            return draft
        problems = self._problems([draft], how)
        if only is not None:
            drawn = [thing.index for thing in start.spec.objects].index(only)
            own = np.zeros(how.layout.size, np.float32)
            count = len(how.layout.free)
            own[drawn * count : (drawn + 1) * count] = 1
            problems = problems._replace(is_free=problems.is_free * own)
        vectors = search(problems, self.target[None], how=how, levels=levels, seconds=self.limit.left).vector
        moves = jax.tree.map(lambda rows: rows[0], jax.device_get(moves_of_all(vectors, problems, how.layout)))
        moved = Draft(
            moved_things(start, moves.objects, self.terms),
            dataclasses.replace(draft.camera, position=_sum(draft.camera.position, moves.camera)),
            tuple(
                dataclasses.replace(lamp, position=_sum(lamp.position, move))
                for lamp, move in zip(draft.lights, moves.lamps, strict=True)
            ),
        )
        return self._better([moved], draft, is_noisy=False)

    def _draft(self, start: Start) -> Draft:
        return Draft(start.things, start.spec.camera, start.spec.lights)

    def _how(self, draft: Draft) -> PictureOptions:
        count = count_for(max(len(draft.things), LEAST_OBJECTS))
        return PictureOptions(*self.size, kinds_shown(self.terms.language), layout_of(self.terms.language, count))

    def _problems(self, drafts: Sequence[Draft], how: PictureOptions) -> SearchProblem:
        rows = [problem_of(draft.start(self.terms), self.terms, how.layout) for draft in drafts]
        return jax.tree.map(lambda *arrays: np.stack(arrays), *rows)

    def _losses(self, drafts: Sequence[Draft]) -> np.ndarray:
        """float32 [N]: `lens.penalty` of each."""
        how = self._how(max(drafts, key=lambda draft: len(draft.things)))
        targets = np.broadcast_to(self.target, (len(drafts), *self.target.shape))
        vectors = np.zeros((len(drafts), how.layout.size), np.float32)
        return penalties(self._problems(drafts, how), vectors, targets, self.view, how=how)

    def _better(self, others: Sequence[Draft], draft: Draft, is_noisy: bool = True) -> Draft:
        """The best of other drafts where it gains more than noise (is_noisy=False: than nothing), else the draft."""
        if not others:
            return draft
        losses = self._losses([draft, *others])
        best = int(np.argmin(losses[1:]))
        unit = self._unit(draft)
        gain = float(losses[0] - losses[1 + best]) * unit
        return others[best] if gain > is_noisy * _noise(unit, losses[0]) else draft

    def _difference(self, draft: Draft) -> np.ndarray:
        """float32 [3, P]: what is compared, of the draft's picture and the image."""
        how = self._how(draft)
        problem = jax.tree.map(lambda rows: rows[0], self._problems([draft], how))
        return np.asarray(difference_of(problem, self.target, self.view, how=how))

    def _unit(self, draft: Draft) -> float:
        return float(information(self._difference(draft), self.view))

    def _with_other_words(self, draft: Draft) -> Draft:
        for number in range(len(draft.things)):
            if self.limit.is_over:
                break
            others = other_words(draft.things[number], self.terms.language, draft.camera)
            drafts = [_replaced(draft, number, thing) for thing in others]
            if drafts:
                # another shape or size may first have to be moved to explain more
                nearest = drafts[int(np.argmin(self._losses(drafts)))]
                draft = self._better([nearest, self.searched(nearest, OF_ONE, number)], draft)
        return draft

    def _without_surplus(self, draft: Draft) -> Draft:
        """Without the objects that explain no more of the image than chance may, one after the other."""
        while draft.things and not self.limit.is_over:
            numbers = range(len(draft.things))
            others = [_without(draft, number) for number in numbers]
            losses = self._losses([draft, *others])
            apart = np.array([stands_apart(draft.things, number, self.terms.language) for number in numbers])
            unit = self._unit(draft)
            needed = np.where(apart, LEAST_SHARE, 1.0) * _noise(unit, losses[0])
            explained = (losses[1:] - losses[0]) * unit
            least = int(np.argmin(explained - needed))
            if explained[least] >= needed[least]:
                break
            draft = others[least]
        return draft

    def _reworked(self, draft: Draft) -> Draft:
        """The draft with other objects where the picture explains least: one more, or one instead of one or two."""
        while not self.limit.is_over:
            loss = float(self._losses([draft])[0])
            for x, y in self._spots(draft):
                found = self._best_at(draft, x, y, loss)
                if found is not None:
                    draft = found
                    break
            else:
                break
        return draft

    def _best_at(self, draft: Draft, x: float, y: float, loss: float) -> Draft | None:
        """What explains most around a point of the image; None where nothing gains more than chance may.

        One object more has to gain twice what one in another's place has, one in the place of two anything."""
        near = self._near(draft, x, y)
        found = list[Draft]()
        if COUNT in self.moves:
            found += self._added(draft, x, y)
        if WORDS in self.moves:
            for number, pixel in near:
                found += self._added(_without(draft, number), *pixel)
        if COUNT in self.moves and len(near) == 2:
            numbers, pixels = zip(*near, strict=True)
            found += self._added(_without(draft, *numbers), *np.mean(pixels, axis=0).tolist())
        if not found:
            return None
        unit = self._unit(draft)
        gains = (loss - self._losses(found)) * unit
        more = np.array([len(other.things) - len(draft.things) for other in found])
        margins = gains - (1 + more) * _noise(unit, loss)
        best = int(np.argmax(margins))
        return found[best] if margins[best] > 0 else None

    def _near(self, draft: Draft, x: float, y: float) -> list[tuple[int, tuple[float, float]]]:
        """Number and point of the image of up to two objects near a point, the nearest first."""
        location = self.terms.language.functions[0].by_role["location"].name
        found = []
        for number, thing in enumerate(draft.things):
            if location in thing:
                column, row = (float(v) for v in draft.camera.project(np.array(thing[location]))[0, :2])
                found.append((math.hypot(column - x, row - y), number, (column, row)))
        limit = NEAR * draft.camera.width
        return [(number, pixel) for away, number, pixel in sorted(found)[:2] if away < limit]

    def _spots(self, draft: Draft) -> list[tuple[float, float]]:
        """Points of the image, in its pixels, around which picture and image differ most, and by more than noise."""
        width, height = self.size
        difference = self._difference(draft)
        squares = (difference**2).sum(axis=0)
        wide = lens(self.size, SPOT, OUTLIER)
        energy = wide.rows @ squares.reshape(height, width) @ wide.columns.T
        least = 2 * NOISE / float(information(difference, self.view) * wide.area)
        row, column = np.mgrid[:height, :width]
        scale, found = draft.camera.width / width, list[tuple[float, float]]()
        for _ in range(SPOTS):
            y, x = np.unravel_index(np.argmax(energy), energy.shape)
            if energy[y, x] < least:
                break
            found.append((float(x + 0.5) * scale, float(y + 0.5) * scale))
            energy = np.where((row - y) ** 2 + (column - x) ** 2 < (0.06 * width) ** 2, 0, energy)
        return found

    def _added(self, draft: Draft, x: float, y: float) -> list[Draft]:
        """The draft and an object of each size that explains most there, where none stands within another."""
        language = self.terms.language
        found = []
        for size in LOOKS["size"]:
            balls = [object_at(x, y, size, color, language, draft.camera) for color in LOOKS["color"]]
            rows = [inserted(draft.things, ball, language, draft.camera) for ball in balls]
            best = int(np.argmin(self._losses([draft._replace(things=row) for row in rows])))
            number = rows[best].index(balls[best])
            one = self.searched(draft._replace(things=rows[best]), OF_NEW, number)
            for _ in range(2):
                others = other_words(one.things[number], language, one.camera)
                one = self._better([_replaced(one, number, thing) for thing in others], one, is_noisy=False)
                one = self.searched(one, OF_ONE, number)
            found += [one] if stands_apart(one.things, number, language) else []
        return found


@functools.partial(jax.jit, static_argnames="how")
def difference_of(problem: SearchProblem, target: Array, view: Lens, *, how: PictureOptions) -> Array:
    """float32 [3, P]: what is compared of the picture of a problem's start and of its image."""
    return picture_difference(problem, np.zeros(how.layout.size, np.float32), target, view, how)


def _noise(unit: float, loss: float) -> float:
    """Of the negative log-probability: what a change of a draft may gain by chance. unit, loss: the draft's."""
    return NOISE + SHARE * unit * float(loss)


def _without(draft: Draft, *numbers: int) -> Draft:
    return draft._replace(things=tuple(thing for number, thing in enumerate(draft.things) if number not in numbers))


def _replaced(draft: Draft, number: int, thing) -> Draft:
    return draft._replace(things=(*draft.things[:number], thing, *draft.things[number + 1 :]))


def _sum(position: Sequence[float], move: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (np.asarray(position) + move).tolist()
    return x, y, z
