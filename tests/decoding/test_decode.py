"""Decoding: batches against single images, numbers against a full forward pass, forbidden sequences, one compile."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igllm_jax.batch import PromptLayout
from igllm_jax.decoding.decode import make_decode, prepare
from igllm_jax.decoding.decode_options import DecodeOptions
from igllm_jax.errors import UserError
from igllm_jax.models.vlm import skeleton
from tests import small

OPTIONS = DecodeOptions(
    before=(1, 11), after=(12, 13, 14), max_new_tokens=17, end_id=small.END_ID, number_id=small.NUMBER_ID,
    vocab_size=53, forbidden=(),
)  # fmt: skip
CONFIG = small.model()
USED = jnp.ones(8, bool)


def images(count=8):
    return small.batch(rows=count).images


def eager_to_count(config):
    """Random weights whose head prefers float tokens now and then, so that numbers are read."""
    found = dict(small.params(config))
    found["decoder/head/kernel"] = 30 * found["decoder/head/kernel"]
    return found


@pytest.fixture(scope="module")
def params():
    return eager_to_count(CONFIG)


@pytest.fixture(scope="module")
def decoded(params):
    return jax.jit(make_decode(CONFIG, OPTIONS))(prepare(params, CONFIG), images(), USED)


def full_forward(params, config, tokens):
    """Logits and numbers of one pass over prompt and answer. tokens: [B, N]."""
    rows = np.tile(np.array([*OPTIONS.before, *OPTIONS.after], np.int32), (len(tokens), 1))
    model = skeleton(config).build(params)
    row = jnp.concatenate([jnp.asarray(rows), tokens], axis=1)
    states = model.answer_states(images(len(tokens)), row, PromptLayout(len(OPTIONS.before), rows.shape[1]))
    return states @ model.decoder.head_kernel(), model.numbers(states)


@pytest.mark.parametrize(
    "kv_heads", (pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow))
)
def test_a_full_forward_pass_chooses_and_reads_the_same(kv_heads):
    """Of 4 query heads, where all share their keys and values, where two do, and where none does."""
    config = replace(CONFIG, decoder=replace(CONFIG.decoder, num_kv_heads=kv_heads))
    params = eager_to_count(config)
    wanted = replace(OPTIONS, has_log_probabilities=True)
    decoded = jax.jit(make_decode(config, wanted))(prepare(params, config), images(), USED)
    logits, numbers = full_forward(params, config, decoded.tokens)
    chosen, sure = jnp.argmax(logits, axis=-1), jnp.max(jax.nn.log_softmax(logits), axis=-1)
    assert np.any(np.asarray(decoded.tokens) == OPTIONS.number_id)
    for row, length in enumerate(np.asarray(decoded.lengths)):
        np.testing.assert_array_equal(decoded.tokens[row, :length], chosen[row, :length])
        np.testing.assert_allclose(decoded.log_probabilities[row, :length], sure[row, :length], atol=1e-4)
        is_number = np.asarray(decoded.tokens[row, :length]) == OPTIONS.number_id
        np.testing.assert_allclose(
            np.asarray(decoded.numbers[row, :length])[is_number],
            np.asarray(numbers[row, :length])[is_number],
            atol=1e-4,
        )
    assert np.all(np.asarray(decoded.numbers)[np.asarray(decoded.tokens) != OPTIONS.number_id] == 0)


def test_a_batch_decodes_as_its_rows_one_by_one(params, decoded):
    decode = jax.jit(make_decode(CONFIG, OPTIONS))
    prepared = prepare(params, CONFIG)
    for row in range(8):
        alone = decode(prepared, images()[row : row + 1], USED[:1])
        np.testing.assert_array_equal(alone.tokens[0], decoded.tokens[row])
        np.testing.assert_allclose(alone.numbers[0], decoded.numbers[row], atol=1e-5)
    assert decode._cache_size() == 1


def test_a_loop_in_pieces_writes_the_same(params, decoded, monkeypatch):
    """16 steps in pieces of 5, 5, 5 and 1."""
    monkeypatch.setattr("igllm_jax.decoding.decode.LEAST_PIECE", 5)
    found = jax.jit(make_decode(CONFIG, OPTIONS))(prepare(params, CONFIG), images(), USED)
    np.testing.assert_array_equal(found.tokens, decoded.tokens)
    np.testing.assert_allclose(found.numbers, decoded.numbers, atol=1e-5)


def test_an_answer_of_one_token(params, decoded):
    found = jax.jit(make_decode(CONFIG, replace(OPTIONS, max_new_tokens=1)))(prepare(params, CONFIG), images(), USED)
    np.testing.assert_array_equal(found.tokens, decoded.tokens[:, :1])


def test_rows_that_only_fill_the_batch_change_nothing(params, decoded):
    half = jnp.arange(8) < 5
    found = jax.jit(make_decode(CONFIG, OPTIONS))(prepare(params, CONFIG), images(), half)
    np.testing.assert_array_equal(found.tokens[:5], decoded.tokens[:5])
    assert np.all(np.asarray(found.tokens[5:]) == OPTIONS.end_id)


def test_forbidden_sequences_are_never_written(params, decoded):
    first = np.asarray(decoded.tokens)[0]
    sequences = ((int(first[0]),), tuple(int(token) for token in first[1:3]))
    found = jax.jit(make_decode(CONFIG, replace(OPTIONS, forbidden=sequences)))(prepare(params, CONFIG), images(), USED)
    for row in np.asarray(found.tokens).tolist():
        assert sequences[0][0] not in row
        assert sequences[1] not in list(itertools.pairwise(row))


def test_ids_outside_the_tokenizer_are_never_written(params, decoded):
    limit = int(np.asarray(decoded.tokens).max())
    found = jax.jit(make_decode(CONFIG, replace(OPTIONS, vocab_size=limit)))(prepare(params, CONFIG), images(), USED)
    assert np.asarray(found.tokens).max() < limit


def test_decoding_ends_with_the_end_token(params, decoded):
    """An end token that the first row writes ends it there, and the length says so."""
    end = int(decoded.tokens[0, 4])
    first = np.asarray(decoded.tokens)[0].tolist().index(end)
    found = jax.jit(make_decode(CONFIG, replace(OPTIONS, end_id=end)))(prepare(params, CONFIG), images(), USED)
    assert int(found.lengths[0]) == first
    assert np.all(np.asarray(found.tokens[0, first:]) == end)


def test_any_of_several_end_tokens_ends_an_answer(params, decoded):
    first, second = (int(decoded.tokens[row, 4]) for row in (0, 1))
    options = replace(OPTIONS, end_id=first, other_ends=(second,))
    found = jax.jit(make_decode(CONFIG, options))(prepare(params, CONFIG), images(), USED)
    for row, tokens in enumerate(np.asarray(decoded.tokens).tolist()):
        ends = [position for position, token in enumerate(tokens) if token in (first, second)]
        length = ends[0] if ends else len(tokens)
        assert int(found.lengths[row]) == length
        assert found.tokens[row, : length + 1].tolist() == tokens[: length + 1]
        assert np.all(np.asarray(found.tokens[row, length + 1 :]) == first)


def test_tied_embeddings_and_no_float_head_decode():
    config = small.model(tied=True, head="none", rank=0)
    found = jax.jit(make_decode(config, OPTIONS))(prepare(small.params(config), config), images(), USED)
    assert found.tokens.shape == (8, 17) and not np.any(np.asarray(found.numbers))


@pytest.mark.parametrize("part", ["decoder/head/kernel", "decoder/layers/v/kernel", "float_head/"])
def test_rows_whose_logits_or_numbers_are_not_finite_are_told(params, decoded, part):
    """One weight is infinite; rows that only fill the batch don't count."""
    assert np.asarray(decoded.is_finite).all()
    path = next(name for name in params if name.startswith(part))
    broken = {**params, path: params[path].at[(0,) * params[path].ndim].set(jnp.inf)}
    found = jax.jit(make_decode(CONFIG, OPTIONS))(prepare(broken, CONFIG), images(), jnp.arange(8) < 5)
    is_finite = np.asarray(found.is_finite)
    assert is_finite[5:].all() and not is_finite[:5].all()


def test_cudnn_attention_in_float32_is_one_line():
    with pytest.raises(UserError, match=r"attention=cudnn takes no float32"):
        small.model(attention="cudnn")
    assert small.model(attention="cudnn", dtype="bfloat16").decoder.attention == "cudnn"
