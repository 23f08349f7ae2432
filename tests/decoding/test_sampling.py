"""Drawn tokens: their distribution, and that an answer depends on seed, image and its number alone."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from igllm_jax.decoding import ngram_drafts, sampling
from igllm_jax.decoding.decode import make_decode, prepare
from igllm_jax.decoding.sampling import SamplingOptions, image_ids, row_keys
from tests import small
from tests.decoding.test_decode import CONFIG, OPTIONS, full_forward, images

WARM = SamplingOptions(temperature=0.7, seed=5)
DRAWS = 10_000


@pytest.fixture(scope="module")
def params():
    """Weights that are half sure of what they choose."""
    found = dict(small.params(CONFIG))
    return found | {"decoder/head/kernel": 2 * found["decoder/head/kernel"]}


@pytest.fixture(scope="module")
def prepared(params):
    return prepare(params, CONFIG)


@cache
def decoder(options):
    return jax.jit(make_decode(CONFIG, options))


def sampled(prepared, ids, rows=None, table=None, **changes):
    wanted = replace(OPTIONS, **{"sampling": WARM, "has_log_probabilities": True, **changes})
    pictures = images() if rows is None else images()[np.asarray(rows)]
    return decoder(wanted)(prepared, pictures, jnp.ones(len(pictures), bool), table, None, jnp.asarray(ids))


def is_likely(tokens, probabilities):
    """Whether tokens come from a distribution, by chi-square over those that are expected five times."""
    counts = np.bincount(tokens, minlength=len(probabilities))
    order = np.argsort(-probabilities)
    expected, seen = probabilities[order] * len(tokens), counts[order]
    num_own = max(int(np.sum(expected >= 5)), 1)
    expected = np.append(expected[:num_own], expected[num_own:].sum())
    seen = np.append(seen[:num_own], seen[num_own:].sum())
    keep = expected > 0
    assert seen[~keep].sum() == 0
    return chisquare(seen[keep], expected[keep] * seen.sum() / expected[keep].sum()).pvalue > 1e-3


@pytest.mark.parametrize("num_drafts", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_tokens_follow_the_models_distribution(params, prepared, num_drafts):
    """10 000 draws of two tokens after one prompt: the first against the model's own distribution, the second against
    that after the likeliest first one. With guesses, of which some are right and some are not."""
    wanted = replace(OPTIONS, max_new_tokens=3, end_id=60, num_drafts=num_drafts, num_samples=500, sampling=WARM)
    decode, table, found = jax.jit(make_decode(CONFIG, wanted)), None, []
    for number in range(DRAWS // wanted.num_samples):
        ids = jnp.array([number], jnp.uint32)
        found.append(decode(prepared, images(1), jnp.ones(1, bool), table, None, ids))
        if num_drafts:
            assert found[-1].table.acceptance_rate < 1 and (number == 0 or found[-1].num_steps <= 2)
            table = replace(found[-1].table, acceptance_rate=np.ones((), np.float32))  # guesses are always checked
    tokens = np.concatenate([np.asarray(some.tokens) for some in found])
    first = np.bincount(tokens[:, 0]).argmax()
    where = {0: np.ones(DRAWS, bool), 1: tokens[:, 0] == first}
    logits = full_forward(params, CONFIG, jnp.array([[first, 0]]))[0][0]
    for position, is_here in where.items():
        expected = np.asarray(jax.nn.softmax(logits[position] / WARM.temperature), np.float64)
        assert is_here.sum() > 500 and expected.max() < 0.95
        assert is_likely(tokens[is_here, position], expected)
        wrong = np.asarray(jax.nn.softmax(logits[position]), np.float64)
        assert not is_likely(tokens[is_here, position], wrong)  # the test can tell


@pytest.mark.slow
def test_an_answer_is_the_same_in_any_batch_and_order_and_with_guesses(prepared):
    ids = image_ids([f"{n}.png" for n in range(8)])
    whole = sampled(prepared, ids, num_samples=2)
    order = [5, 2, 7]
    part = sampled(prepared, ids[order], order, num_samples=2)
    rows = np.ravel([[2 * n, 2 * n + 1] for n in order])
    np.testing.assert_array_equal(part.tokens, np.asarray(whole.tokens)[rows])
    np.testing.assert_allclose(part.log_probabilities, np.asarray(whole.log_probabilities)[rows], atol=1e-4)
    single = sampled(prepared, ids)
    np.testing.assert_array_equal(single.tokens, np.asarray(whole.tokens)[::2])  # the first sample is the answer
    assert not np.array_equal(whole.tokens[::2], whole.tokens[1::2])
    first = sampled(prepared, ids, num_drafts=3, table=ngram_drafts.empty())
    again = sampled(prepared, ids, num_drafts=3, table=replace(first.table, acceptance_rate=np.ones((), np.float32)))
    for found in (first, again):
        np.testing.assert_array_equal(found.tokens, single.tokens)
    assert again.num_steps < single.num_steps
    other = sampled(prepared, ids, sampling=replace(WARM, seed=6))
    assert not np.array_equal(other.tokens, single.tokens)


def test_nucleus_and_min_p_leave_out_what_is_unlikely():
    """Of 0.5, 0.3, 0.15, 0.05: the fewest that make the share, and those that are a share of the likeliest."""
    logits = jnp.log(jnp.array([0.3, 0.05, 0.5, 0.15]))[:, None]
    cases = [
        ({"top_p": 0.79}, [0, 2]),
        ({"top_p": 0.81}, [0, 2, 3]),
        ({"top_p": 1e-6}, [2]),
        ({"min_p": 0.29}, [0, 2, 3]),
    ]
    cases += [({"min_p": 1.0}, [2]), ({"top_p": 0.79, "min_p": 0.61}, [2]), ({}, [0, 1, 2, 3])]
    keys = row_keys(jnp.arange(200, dtype=jnp.uint32), 1, 0)
    for settings, wanted in cases:
        options = SamplingOptions(temperature=1.0, **settings)
        scores = sampling.draw(jnp.tile(logits, 200), keys, jnp.zeros((200, 1), jnp.int32), options)
        assert sorted(set(np.argmax(scores, axis=0).tolist())) == wanted, settings
        assert np.isfinite(np.asarray(scores)[wanted]).all()


def test_almost_no_temperature_is_greedy(prepared):
    ids = image_ids("abcdefgh")
    greedy = sampled(prepared, ids, sampling=SamplingOptions())
    cold = sampled(prepared, ids, sampling=SamplingOptions(temperature=1e-4))
    np.testing.assert_array_equal(cold.tokens, greedy.tokens)


def test_images_without_ids_are_told(prepared):
    decode = make_decode(CONFIG, replace(OPTIONS, sampling=WARM))
    with pytest.raises(ValueError, match="need ids"):
        decode(prepared, images(1), jnp.ones(1, bool))
