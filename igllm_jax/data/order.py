"""Which example each row of each step holds, and how long the step's rows are: functions of seed and step alone.

A *visit* is one time that one example is seen. Visits are numbered from 0 on without end; steps are taken from them.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from igllm_jax.errors import UserError

WINDOW_STEPS = 32  # steps whose visits are sorted by length together: the more, the less padding, and the less mixing
# What a stream of random numbers is for; with the seed it starts the stream, so that no two uses share one.
_EPOCH, _WINDOW, _DRAW, _AUGMENT, _FLIP = 0, 1, 2, 3, 4


class Visits:
    """An endless stream over one or several sources: each is shuffled anew every time it has been seen through.

    Sources take turns as their weights say, spread as evenly as whole numbers can be: after n visits a source of weight
    share p has had p·n of them, give or take one per source.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int):
        """sizes: number of examples of each source; weights: positive, in any unit."""
        if any(not weight > 0 for weight in weights):
            raise UserError(f"data.sources: weights must be above 0, got {list(weights)}; leave out what is not wanted")
        self._sizes = list(sizes)
        self._seed = seed
        exact = [Fraction(weight).limit_denominator(10_000) for weight in weights]
        # Of the visits that the sources before leave, how many are this one's; small numbers, so that int64 does.
        self._shares = [(exact[i] / sum(exact[i:])).limit_denominator(10_000) for i in range(len(exact))]
        self._starts = np.cumsum([0, *sizes])
        self._permutations: dict[tuple[int, int], np.ndarray] = {}

    def examples(self, start: int, stop: int) -> np.ndarray:
        """int64 [stop - start]: the examples of these visits, numbered through all sources."""
        examples = np.empty(stop - start, np.int64)
        slots = np.arange(stop - start)  # those that are still to be filled
        edges = np.arange(start, stop + 1)  # how many visits lie before each of them, and before the end
        for source, share in enumerate(self._shares):
            taken = edges * share.numerator // share.denominator
            is_own = np.diff(taken) == 1
            examples[slots[is_own]] = self._starts[source] + self._own(source, taken[:-1][is_own])
            slots = slots[~is_own]
            left = edges - taken
            edges = np.arange(left[0], left[-1] + 1)
        return examples

    def _own(self, source: int, visits: np.ndarray) -> np.ndarray:
        """A source's examples for its own visits, which are numbered from 0."""
        size = self._sizes[source]
        epochs, positions = np.divmod(visits, size)
        examples = np.empty(len(visits), np.int64)
        for epoch in np.unique(epochs):
            is_epoch = epochs == epoch
            examples[is_epoch] = self._permutation(source, int(epoch))[positions[is_epoch]]
        return examples

    def _permutation(self, source: int, epoch: int) -> np.ndarray:
        key = (source, epoch)
        if key not in self._permutations:
            if len(self._permutations) > 2 * len(self._sizes) + 2:
                self._permutations = {}
            rng = np.random.default_rng([self._seed, _EPOCH, source, epoch])
            self._permutations[key] = rng.permutation(self._sizes[source])
        return self._permutations[key]


class Order:
    """Splits the visits into steps of rows of about one length.

    With one length, steps are taken in order. With several, the visits of WINDOW_STEPS steps at a time are sorted by
    length, split into steps, and the steps shuffled: every visit still happens exactly once, and about at its turn.
    """

    def __init__(self, visits: Visits, bounds: np.ndarray, lengths: Sequence[int], *, batch_size: int, seed: int):
        """bounds: int [N], the row length of every example. lengths: the T that steps may have, ascending."""
        self._visits = visits
        self._bounds = bounds
        self._lengths = np.array(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._windows: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def step(self, step: int) -> tuple[np.ndarray, np.ndarray, int]:
        """The step's visits int64 [B], their examples int64 [B], and its T."""
        if len(self._lengths) == 1:
            visits = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
            return visits, self._visits.examples(visits[0], visits[-1] + 1), int(self._lengths[0])
        window, position = divmod(step, WINDOW_STEPS)
        windows = self._windows
        if window not in windows:
            self._windows = windows = {
                **dict(list(windows.items())[-2:]),
                window: self._window(window),
            }  # threads read on
        visits, examples = (array[position] for array in windows[window])
        longest = self._bounds[examples].max()
        return visits, examples, int(self._lengths[np.searchsorted(self._lengths, longest)])

    def _window(self, window: int) -> tuple[np.ndarray, np.ndarray]:
        count = WINDOW_STEPS * self._batch_size
        visits = np.arange(window * count, (window + 1) * count)
        examples = self._visits.examples(visits[0], visits[-1] + 1)
        by_length = np.argsort(self._bounds[examples], kind="stable").reshape(WINDOW_STEPS, self._batch_size)
        by_length = np.random.default_rng([self._seed, _WINDOW, window]).permutation(by_length)
        return visits[by_length], examples[by_length]


def draw_rng(seed: int, visit: int) -> np.random.Generator:
    """What draws the order of attributes and the synonyms at one visit."""
    return np.random.default_rng([seed, _DRAW, int(visit)])


def augment_rng(seed: int, visit: int) -> np.random.Generator:
    """What draws how the image of one visit is varied."""
    return np.random.default_rng([seed, _AUGMENT, int(visit)])


def is_flipped(seed: int, visit: int) -> bool:
    """Whether one visit sees the mirrored image, where images are flipped: every second visit, on average."""
    return bool(np.random.default_rng([seed, _FLIP, int(visit)]).random() < 0.5)


def choose_lengths(
    bounds: np.ndarray, count: int, multiple: int, extra: int = 0, weights: np.ndarray | None = None
) -> list[int]:
    """At most `count` lengths T, ascending, that waste the least if every row takes the smallest that it fits in.

    bounds: int [N], row lengths. multiple, extra: T + extra is a multiple of `multiple`. weights: float [N], how often
    each row is seen.

    Example: `choose_lengths([9, 9, 9, 30], count=2, multiple=8)` is `[16, 32]`.
    """
    rounded = -(-(np.asarray(bounds) + extra) // multiple) * multiple - extra
    candidates, kinds = np.unique(rounded, return_inverse=True)
    mass = np.concatenate([[0.0], np.cumsum(np.bincount(kinds, weights))])
    # best[j]: least total length of the rows up to candidate j, the longest length chosen being candidate j - 1.
    best = np.concatenate([[0.0], candidates * mass[1:]])
    came_from = []
    for _ in range(count - 1):
        # totals[i, j]: rows up to candidate i are served by fewer lengths, those from i to j by candidate j - 1
        totals = best[:, None] + np.concatenate([[0], candidates])[None] * (mass[None] - mass[:, None])
        totals[np.tril_indices(len(best), -1)] = np.inf
        came_from.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
    chosen, end = set(), len(candidates)
    for previous in reversed([np.zeros(len(best), int), *came_from]):
        if end:
            chosen.add(int(candidates[end - 1]))
            end = int(previous[end])
    return sorted(chosen)
