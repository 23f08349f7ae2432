"""Guesses: what a table learns and says, and that decoding writes the same with good guesses, bad ones and none."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igllm_jax.decoding import ngram_drafts
from igllm_jax.decoding.decode import make_decode, prepare
from tests import small
from tests.decoding.test_decode import CONFIG, OPTIONS, USED, eager_to_count, images

MEMORY = ngram_drafts.LONGEST


@pytest.fixture(scope="module")
def prepared():
    return prepare(eager_to_count(CONFIG), CONFIG)


@pytest.fixture(scope="module")
def plain(prepared):
    return jax.jit(make_decode(CONFIG, OPTIONS))(prepared, images(), USED)


def decoder(**changes):
    return jax.jit(make_decode(CONFIG, replace(OPTIONS, **changes)))


def same(found, expected):
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    np.testing.assert_allclose(found.numbers, expected.numbers, atol=1e-5)


def recent_of(text):
    """The last tokens before each token of `text`."""
    padded = [-1] * MEMORY + text
    return jnp.array([padded[i : i + MEMORY] for i in range(len(text))])


def learnt(text, table=None):
    table = ngram_drafts.empty() if table is None else table
    return jax.jit(ngram_drafts.learn)(table, recent_of(text), jnp.array(text), jnp.ones(len(text), bool))


def guessed(table, text, count):
    return jax.jit(partial(ngram_drafts.guess, count=count))(table, recent_of([*text, 0])[-1:]).tolist()[0]


def test_a_text_is_guessed_after_it_was_read():
    text = list(range(100, 140))
    table = learnt(text)
    assert guessed(table, text[:20], 5) == text[20:25]
    assert guessed(table, [7, 8, *text[5:8]], 3) == text[8:11]  # a short context is enough
    assert guessed(table, [7, 8, 9], 2) == [ngram_drafts.UNKNOWN] * 2


def test_the_longer_context_is_asked_first():
    end = [1, 2, 3]
    first, second = [*range(10, 15), *end, 50], [*range(20, 25), *end, 60]
    table = learnt([*first, *second])
    assert guessed(table, first[:-1], 1) == [50] and guessed(table, second[:-1], 1) == [60]
    assert guessed(table, [5, 5, 5, 5, 5, *end], 1) == [60]  # the last that followed the short one


def test_of_several_tokens_for_one_context_the_last_that_was_written_stays():
    recent = jnp.broadcast_to(jnp.arange(MEMORY), (4, MEMORY))
    table = ngram_drafts.learn(ngram_drafts.empty(), recent, jnp.array([5, 6, 7, 8]), jnp.array([1, 1, 1, 0], bool))
    assert np.unique(table.entries).tolist() == [ngram_drafts.UNKNOWN, 7]
    assert ngram_drafts.guess(table, recent[:1], 1).tolist() == [[7]]


@pytest.mark.parametrize("num_drafts", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_guesses_change_nothing_that_is_written(prepared, plain, num_drafts, monkeypatch):
    """From an empty table, from one that knows the answers, and from one that holds nonsense and is trusted; in several
    pieces."""
    monkeypatch.setattr("igllm_jax.decoding.decode.LEAST_PIECE", 5)
    decode = decoder(num_drafts=num_drafts)
    first = decode(prepared, images(), USED, ngram_drafts.empty())
    same(first, plain)
    again = decode(prepared, images(), USED, first.table)
    same(again, plain)
    assert again.num_steps < plain.num_steps and again.table.acceptance_rate > first.table.acceptance_rate
    entries = np.random.default_rng(0).integers(0, 53, ngram_drafts.empty().entries.shape).astype(np.int32)
    nonsense = ngram_drafts.Table(entries, np.ones((), np.float32))
    misled = decode(prepared, images(), USED, nonsense)
    same(misled, plain)
    assert misled.table.acceptance_rate < ngram_drafts.MIN_ACCEPTANCE_RATE
    assert plain.num_steps == OPTIONS.max_new_tokens - 1 and plain.table is None


def test_a_step_writes_as_many_tokens_as_it_guesses_and_one(prepared):
    """Of one image whose answer is known."""
    decode = decoder(num_drafts=3, vocab_size=40)
    one = (prepared, images(1), USED[:1])
    table, counts = ngram_drafts.empty(), []
    for _ in range(4):
        found = decode(*one, table)
        counts.append(int(found.num_steps))
        table = replace(found.table, acceptance_rate=np.ones((), np.float32))
    # a context that comes twice may be followed by two tokens, so not every guess is right
    assert counts[0] > counts[-1] and counts[-1] <= 16 // 2


def test_guesses_are_checked_while_they_are_right_of_late():
    table, guesses, is_new = ngram_drafts.empty(), jnp.array([1, 2, 3, 4]), jnp.array([True, True, True, False])
    seen = []
    for tokens in [guesses] * 5 + [jnp.array([1, 0, 0, 4])] * 12:
        table = ngram_drafts.judge(table, guesses, tokens, is_new)
        seen.append(bool(table.is_accepting))
    assert seen[:6] == [False] * 3 + [True] * 3 and not seen[-1]
    assert 1 / 3 < float(table.acceptance_rate) < 0.4  # one of the three new rows was right


def test_rows_end_where_they_end_without_guesses(prepared, plain):
    """An end within what is guessed, a row that only fills the batch, forbidden sequences."""
    end, banned = int(plain.tokens[0, 4]), tuple(int(token) for token in plain.tokens[1, 1:3])
    changes, used = {"end_id": end, "forbidden": (banned,)}, USED.at[6].set(False)
    expected = decoder(**changes)(prepared, images(), used)
    assert len(np.unique(expected.lengths)) > 2
    decode = decoder(**changes, num_drafts=3)
    first = decode(prepared, images(), used)
    same(first, expected)
    same(decode(prepared, images(), used, first.table), expected)


def test_an_answer_of_one_token_needs_no_guess(prepared, plain):
    found = decoder(max_new_tokens=1, num_drafts=3)(prepared, images(), USED)
    np.testing.assert_array_equal(found.tokens, plain.tokens[:, :1])
    assert int(found.num_steps) == 0


def test_several_queries_share_keys_where_heads_do():
    config = replace(CONFIG, decoder=replace(CONFIG.decoder, num_kv_heads=2))
    weights = prepare(eager_to_count(config), config)
    expected = jax.jit(make_decode(config, OPTIONS))(weights, images(), USED)
    decode = jax.jit(make_decode(config, replace(OPTIONS, num_drafts=2)))
    first = decode(weights, images(), USED)
    same(first, expected)
    same(decode(weights, images(), USED, first.table), expected)


def test_tied_embeddings_decode_with_guesses():
    config = small.model(tied=True, head="none", rank=0)
    weights = prepare(small.params(config), config)
    expected = jax.jit(make_decode(config, OPTIONS))(weights, images(), USED)
    same(jax.jit(make_decode(config, replace(OPTIONS, num_drafts=2)))(weights, images(), USED), expected)
