"""Decoding under a grammar: every answer parses, and each token is the likeliest of those that may follow."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from igllm_jax.batch import PromptLayout
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decoding import decode_step, grammar, ngram_drafts
from igllm_jax.decoding.decode import make_decode, prepare
from igllm_jax.decoding.decode_options import DecodeOptions
from igllm_jax.decoding.grammar import compile_grammar
from igllm_jax.decoding.sampling import GREEDY, SamplingOptions
from igllm_jax.models.vlm import skeleton
from igllm_jax.scene.code import fill, read
from igllm_jax.scene.language import SHIPPED, find_language
from tests import small

ROOT = Path(__file__).parents[2]
CASES = [("clevr", "", True), (str(ROOT / "docs/languages/room.toml"), "", True), ("so3", "euler_int", False)]
ROWS, MOST, SEED = 6, 65, 7  # these weights write calls


@cache
def tokenizer():
    return Tokenizer.load(ROOT / "tests" / "scene" / "golden")


@cache
def config():
    found = small.model()
    return replace(found, decoder=replace(found.decoder, vocab_size=tokenizer().vocab_size + 5))


@cache
def params():
    """Random weights that are sure of what they choose, and choose much else than code, and the end seldom."""
    found = dict(small.params(config(), SEED))
    found["decoder/head/kernel"] = 30 * found["decoder/head/kernel"].at[:, tokenizer().eos_id].set(0.0)
    return found


def options(as_tokens, **changes):
    found = DecodeOptions(
        before=(1, 11), after=(12, 13, 14), max_new_tokens=MOST, end_id=tokenizer().eos_id,
        number_id=tokenizer().float_id if as_tokens else -1, vocab_size=tokenizer().vocab_size, forbidden=(),
    )  # fmt: skip
    return replace(found, **changes)


@cache
def compiled(task, rep, as_tokens):
    language, size = find_language(task), config().decoder.vocab_size
    make = partial(compile_grammar, language, tokenizer(), rotation_rep=rep, numbers_as_tokens=as_tokens)
    return language, make(shuffle_attributes=True, vocab_size=size)


def written(found, as_tokens, **changes):
    wanted = options(as_tokens, **changes)
    images, table = small.batch(rows=ROWS).images, ngram_drafts.empty() if wanted.num_drafts else None
    decode = jax.jit(make_decode(config(), wanted))
    return decode(prepare(params(), config()), images, jnp.arange(ROWS) < ROWS - 1, table, found)


@pytest.mark.parametrize(
    ("task", "rep", "as_tokens"),
    [CASES[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[1:])],
    ids=["clevr", "room", "so3"],
)
def test_every_answer_parses_and_guesses_change_none(task, rep, as_tokens):
    language, found = compiled(task, rep, as_tokens)
    plain = written(found, as_tokens=as_tokens)
    guessed = written(found, as_tokens=as_tokens, num_drafts=3)
    np.testing.assert_array_equal(guessed.tokens, plain.tokens)
    np.testing.assert_allclose(guessed.numbers, plain.numbers, rtol=1e-5, atol=1e-6)
    assert plain.is_finite.all() and guessed.num_steps < plain.num_steps  # what must follow is a guess
    assert plain.lengths[-1] == 0  # a row that only fills the batch
    for row in range(ROWS - 1):
        assert problems(plain, row, language, rep, as_tokens=as_tokens) == ()


def problems(answers, row, language, rep, *, as_tokens, most=MOST):
    """What can't be read of an answer, which has to end in what room there was."""
    length, tokens = int(answers.lengths[row]), np.asarray(answers.tokens[row])
    assert 0 < length < most and int(tokens[length]) == tokenizer().eos_id
    ids = tokens[:length]
    text = tokenizer().decode(ids.tolist())
    if as_tokens:
        values = np.asarray(answers.numbers[row][:length])[ids == tokenizer().float_id].tolist()
        text = fill(text, values, language, in_range=True)
    assert text.startswith(language.answer_start)
    return tuple(read(text, language, rotation_rep=rep).problems)


@pytest.mark.slow
@pytest.mark.parametrize("as_tokens", [True, False], ids=["float-head", "text"])
@pytest.mark.parametrize("task", [*SHIPPED, "room", "drawing"])
def test_a_thousand_answers_of_random_models_parse(task, as_tokens, monkeypatch):
    """Of ten models of one layer: 500 the likeliest words, 500 drawn, each of another image."""
    monkeypatch.setattr("igllm_jax.decoding.decode.LEAST_PIECE", 1000)  # fewer loops to compile
    name = task if task in SHIPPED else str(ROOT / f"docs/languages/{task}.toml")
    rep, most, rows, parsed, lengths = find_language(name).rotation_reps[-1], 150, 100, 0, set()
    model = replace(config(), decoder=replace(config().decoder, num_layers=1))
    language, found = compiled(name, rep, as_tokens)
    found, used = jax.tree.map(jnp.asarray, found), jnp.ones(rows, bool)
    for sampling in (GREEDY, SamplingOptions(1.0)):
        decode = jax.jit(make_decode(model, options(as_tokens, max_new_tokens=most, sampling=sampling, num_drafts=3)))
        for seed in range(5):
            ids = None if sampling.is_greedy else jnp.arange(rows, dtype=jnp.uint32)
            images = small.batch(rows=rows, seed=seed).images
            weights = prepare(small.params(model, seed), model)
            answers = jax.device_get(decode(weights, images, used, ngram_drafts.empty(), found, ids))
            lengths |= set(answers.lengths.tolist())
            for row in range(rows):
                parsed += problems(answers, row, language, rep, as_tokens=as_tokens, most=most) == ()
    assert parsed == 1000 and len(lengths) > 5


@pytest.mark.parametrize("most_of_vocabulary", [0.0, 1.0], ids=["whole", "own-head"])
def test_each_token_is_the_likeliest_of_those_that_may_follow(most_of_vocabulary, monkeypatch):
    """Held against one pass over the whole answer, with the masks of the arrays on NumPy; whether or not the tokens
    that the language has get a head of their own."""
    monkeypatch.setattr(decode_step, "MOST_OF_VOCABULARY", most_of_vocabulary)
    _, found = compiled(*CASES[0])
    answers = written(found, as_tokens=True, has_log_probabilities=True)
    opened, tokens = options(True), np.asarray(answers.tokens[: ROWS - 1])
    rows = np.tile(np.array([*opened.before, *opened.after], np.int32), (len(tokens), 1))
    model, row = skeleton(config()).build(params()), np.concatenate([rows, tokens], axis=1)
    layout = PromptLayout(len(opened.before), rows.shape[1])
    states = model.answer_states(small.batch(rows=ROWS).images[: len(tokens)], jnp.asarray(row), layout)
    logits = np.asarray(states @ model.decoder.head_kernel())
    state, num_changed = found.starts(len(tokens), MOST), 0
    for position in range(MOST):
        allowed = grammar.mask(found, state)
        likeliest = np.where(allowed, logits[:, position], -np.inf).argmax(axis=1)
        is_open = position <= np.asarray(answers.lengths[: ROWS - 1])
        np.testing.assert_array_equal(tokens[is_open, position], likeliest[is_open])
        sure = log_softmax(np.where(allowed, logits[:, position], -np.inf), axis=1).max(axis=1)
        found_sure = np.asarray(answers.log_probabilities)[: ROWS - 1, position]
        np.testing.assert_allclose(found_sure[is_open], sure[is_open], atol=1e-4)
        num_changed += np.sum(likeliest != logits[:, position].argmax(axis=1))
        state = grammar.advance(found, state, tokens[:, position])
    assert num_changed > 50  # without the grammar these weights write no code
