"""The grammar arrays: all that the writer writes is allowed, and whatever is allowed can be read."""

import re
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igllm_jax.data.prompts import answer, code_of
from igllm_jax.data.tokens import Tokenizer, train_small
from igllm_jax.decoding import grammar
from igllm_jax.decoding.grammar import Grammar, compile_grammar
from igllm_jax.errors import UserError
from igllm_jax.scene.code import FLOAT_TOKEN, read, write
from igllm_jax.scene.examples import example_scene
from igllm_jax.scene.language import Language, find_language, parse_language
from igllm_jax.scene.scene import Object, Scene
from tests.scene.languages import languages
from tests.strategies import TASK_REPS, scenes

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "scene" / "golden"
OUT_OF_RANGE = re.compile(r"must be (between .* and|.* or more|.* or less)")


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.load(GOLDEN)


@cache
def compiled(language: Language, rep: str, as_tokens: bool, is_shuffled: bool = True) -> Grammar:
    return compile_grammar(
        language, tokenizer(), rotation_rep=rep, numbers_as_tokens=as_tokens, shuffle_attributes=is_shuffled
    )


def refused(found: Grammar, tokens: list[int], most: int) -> int | None:
    """The place of the first token that may not follow, None where all may."""
    state = found.starts(1, most)[0]
    for place, token in enumerate(tokens):
        only = grammar.forced(found, state)
        if not grammar.mask(found, state)[token] or only not in (-1, token):
            return place
        state = grammar.advance(found, state, np.int32(token))
    return None


def tokens_of(text: str, language: Language, vocabulary: Tokenizer) -> list[int]:
    return [*vocabulary.encode(answer(text, language)), vocabulary.eos_id]


def random_answers(found: Grammar, rng: np.random.Generator, rows: int, most: int, end: int) -> list[list[int]]:
    """Answers of which every token is drawn among those that may follow."""
    states, ended, written = found.starts(rows, most), np.zeros(rows, bool), []
    for _ in range(most):
        allowed = grammar.mask(found, states)
        assert allowed.any(axis=1).all()
        # The tokens that end something are few among those of an open word: now and then one class is drawn first.
        classes = np.where(rng.random((rows, 1)) < 0.5, found.classes, np.arange(allowed.shape[1]))
        weight = rng.random((rows, allowed.shape[1]))
        weight = np.where(allowed, np.take_along_axis(weight, classes % weight.shape[1], axis=1), -1)
        token = np.argmax(weight, axis=1)
        written.append(token)
        states = grammar.advance(found, states, token)
        ended |= token == end
    assert ended.all()
    return [row[: row.index(end)] for row in np.stack(written, axis=1).tolist()]


def problems(tokens: list[int], language: Language, vocabulary: Tokenizer, rep: str) -> list[str]:
    """What is wrong with the text of an answer; numbers of float tokens are the float head's business."""
    text = vocabulary.decode(tokens)
    assert text.startswith(language.answer_start) and text.endswith(language.answer_end)
    code = text[len(language.answer_start) : len(text) - len(language.answer_end)]
    reading = read(code.replace(FLOAT_TOKEN, "0.5"), language, rotation_rep=rep)
    found = [problem.reason for problem in reading.problems]
    return [reason for reason in found if FLOAT_TOKEN not in code or not OUT_OF_RANGE.search(reason)]


@pytest.mark.parametrize("as_tokens", [True, False], ids=["float-head", "text"])
@pytest.mark.parametrize(("task", "rep"), TASK_REPS)
def test_what_is_written_is_allowed_and_what_is_allowed_is_read(task: str, rep: str, as_tokens: bool) -> None:
    language = find_language(task)
    found = compiled(language, rep, as_tokens)

    @settings(max_examples=10, deadline=None, derandomize=True, database=None)
    @given(scenes(task), st.integers(0, 99))
    def check(scene: Scene, seed: int) -> None:
        written = write(
            scene, language, rotation_rep=rep, numbers_as_tokens=as_tokens, rng=np.random.default_rng(seed),
            shuffle_attributes=True, use_synonyms=True,
        )  # fmt: skip
        tokens = tokens_of(written.text, language, tokenizer())
        assert refused(found, tokens, 4 * len(tokens)) is None

    check()
    for tokens in random_answers(found, np.random.default_rng(0), 16, 150, tokenizer().eos_id):
        assert problems(tokens, language, tokenizer(), rep) == []
