from collections import Counter

import numpy as np
import pytest

from igllm_jax.data.order import WINDOW_STEPS, Order, Visits, choose_lengths, draw_rng
from igllm_jax.errors import UserError


def test_every_example_once_per_epoch():
    visits = Visits([7], [1.0], seed=3)
    epochs = visits.examples(0, 21).reshape(3, 7)
    assert (np.sort(epochs) == np.arange(7)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 3  # shuffled anew
    assert (Visits([7], [1.0], seed=3).examples(0, 21) == epochs.ravel()).all()
    assert (Visits([7], [1.0], seed=4).examples(0, 21) != epochs.ravel()).any()


@pytest.mark.parametrize("weights", [[1.0, 1.0], [3, 1], [0.7, 0.2, 0.1], [1, 1e-3]])
def test_mixtures(weights):
    sizes = [5, 11, 3][: len(weights)]
    visits = Visits(sizes, weights, seed=0)
    stream = visits.examples(0, 3000)
    starts = np.cumsum([0, *sizes])
    sources = np.searchsorted(starts, stream, side="right") - 1
    for source, weight in enumerate(weights):
        share = weight / sum(weights)
        counts = np.cumsum(sources == source)
        assert abs(counts - share * np.arange(1, 3001)).max() <= len(weights)
        own = stream[sources == source] - starts[source]
        whole = own[: len(own) // sizes[source] * sizes[source]].reshape(-1, sizes[source])
        assert (np.sort(whole) == np.arange(sizes[source])).all()
    for start in (0, 1, 17, 1999):  # any stretch by itself, far from the start too
        assert (Visits(sizes, weights, seed=0).examples(start, start + 97) == stream[start : start + 97]).all()


def test_far_from_the_start():
    far = 10**12
    examples = Visits([97, 89], [0.3333, 0.6667], seed=1).examples(far, far + 1000)
    assert ((examples >= 0) & (examples < 186)).all()
    assert abs((examples < 97).sum() - 333) < 3


def test_weights_must_be_positive():
    with pytest.raises(UserError, match=r"weights must be above 0, got \[1.0, 0.0\]"):
        Visits([3, 3], [1.0, 0.0], seed=0)


def orders(bounds, lengths, batch_size=4, seed=5):
    return Order(Visits([len(bounds)], [1.0], seed), bounds, lengths, batch_size=batch_size, seed=seed)


def test_one_length_keeps_the_order_of_visits():
    order = orders(np.full(10, 3), [8])
    steps = [order.step(step) for step in range(5)]
    assert np.concatenate([visits for visits, _, _ in steps]).tolist() == list(range(20))
    assert {length for _, _, length in steps} == {8}


def test_windows_visit_everything_once_and_fit():
    bounds = np.random.default_rng(0).integers(10, 100, 101)
    order = orders(bounds, [40, 70, 104])
    steps = [order.step(step) for step in range(2 * WINDOW_STEPS)]
    visits = np.concatenate([visits for visits, _, _ in steps])
    half = WINDOW_STEPS * 4
    assert sorted(visits[:half]) == list(range(half)) and sorted(visits[half:]) == list(range(half, 2 * half))
    stream = Visits([101], [1.0], 5).examples(0, 2 * half)
    for step_visits, examples, length in steps:
        assert (stream[step_visits] == examples).all()
        longest = bounds[examples].max()
        assert length == min(known for known in (40, 70, 104) if known >= longest)
    assert len(Counter(length for _, _, length in steps)) == 3
    # random access: another object, another order of asking
    other = orders(bounds, [40, 70, 104])
    for step in (2 * WINDOW_STEPS - 1, 0, 33, 5):
        assert (other.step(step)[0] == steps[step][0]).all()
    lengths = [length for _, _, length in steps[:WINDOW_STEPS]]
    assert lengths != sorted(lengths)  # steps of a window are shuffled


def test_choose_lengths():
    assert choose_lengths(np.array([9, 9, 9, 30]), count=2, multiple=8) == [16, 32]
    assert choose_lengths(np.array([9, 9, 9, 30]), count=1, multiple=8) == [32]
    assert choose_lengths(np.array([9, 9, 9, 30]), count=9, multiple=8) == [16, 32]
    assert choose_lengths(np.array([9, 30]), count=1, multiple=16, extra=7) == [41]
    # the many rows decide where the only other length goes, or their weights do
    assert choose_lengths(np.array([1] * 50 + [20] + [30]), count=2, multiple=1) == [1, 30]
    assert choose_lengths(np.array([1, 20, 30]), 2, 1, weights=np.array([1.0, 50.0, 1.0])) == [20, 30]


def test_choose_lengths_is_the_best_choice():
    from itertools import combinations

    bounds = np.random.default_rng(1).integers(1, 12, 40)
    candidates = sorted(set(bounds))

    def total(lengths):
        return sum(min(length for length in lengths if length >= bound) for bound in bounds)

    for count in (2, 3):
        best = min(total([*some, candidates[-1]]) for some in combinations(candidates[:-1], count - 1))
        assert total(choose_lengths(bounds, count, 1)) == best


def test_padding_on_clevr_lengths():
    """At most 5 % of the positions hold nothing, on 10 000 scenes of 3 to 10 objects; with one length it is a sixth."""
    rng = np.random.default_rng(0)
    bounds = 55 + 20 + 35 * rng.integers(3, 11, 10_000)
    shares = {}
    for count in (1, 4):
        lengths = choose_lengths(bounds, count, multiple=8, extra=576)
        order = orders(bounds, lengths, batch_size=32)
        steps = [order.step(step) for step in range(10_000 // 32)]
        used = sum((bounds[examples] + 576).sum() for _, examples, _ in steps)
        shares[count] = 1 - used / sum(32 * (length + 576) for _, _, length in steps)
    assert shares[4] < 0.05 < shares[1]


def test_draws_differ_by_visit():
    numbers = {draw_rng(seed, visit).random() for seed in (0, 1) for visit in (0, 1, 2)}
    assert len(numbers) == 6
