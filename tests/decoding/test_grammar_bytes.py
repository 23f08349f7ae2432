"""Grammars of byte-level vocabularies, whose texts are split into words before they are merged."""

from functools import cache

import numpy as np
import pytest

from igllm_jax.data.prompts import answer
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decoding.grammar import compile_grammar
from igllm_jax.scene.code import write
from igllm_jax.scene.examples import example_scene
from igllm_jax.scene.language import Language, find_language, parse_language
from tests.data import byte_level
from tests.decoding.test_grammar import LINES, ROOM, problems, random_answers, refused, tokens_of


def said(language: Language, rep: str, rng: np.random.Generator, *, as_tokens: bool) -> str:
    return write(
        example_scene(language, rng, calls=4), language, rotation_rep=rep, numbers_as_tokens=as_tokens, rng=rng,
        shuffle_attributes=True, use_synonyms=True,
    ).text  # fmt: skip


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    pytest.importorskip("tokenizers")

    @cache
    def make(words: str) -> Tokenizer:
        rng, texts = np.random.default_rng(0), []
        for language in map(find_language, ("clevr", "so3", "twod")):
            rep = language.rotation_reps[0]
            texts += [answer(said(language, rep, rng, as_tokens=i % 2 > 0), language) for i in range(60)]
        folder = tmp_path_factory.mktemp("words")
        return Tokenizer.load(byte_level.folder(folder, byte_level.train(texts, words=words, size=420)))

    return make


@pytest.mark.parametrize(
    ("words", "task", "as_tokens"),
    [
        ("LLAMA3", "clevr", True),
        ("LLAMA3", "twod", False),
        ("GPT2", "so3", True),
        pytest.param("LLAMA3", "clevr", False, marks=pytest.mark.slow),
        pytest.param("GPT2", "clevr", False, marks=pytest.mark.slow),
    ],
)
def test_what_is_written_is_allowed_and_what_is_allowed_is_read(make, words: str, task: str, as_tokens: bool) -> None:
    vocabulary, language = make(byte_level.WORDS[words]), find_language(task)
    assert vocabulary.text_start == "" and vocabulary.vocabulary.has_words
    rep, rng = language.rotation_reps[0], np.random.default_rng(1)
    found = compile_grammar(
        language, vocabulary, rotation_rep=rep, numbers_as_tokens=as_tokens, shuffle_attributes=True
    )
    for _ in range(40):
        tokens = tokens_of(said(language, rep, rng, as_tokens=as_tokens), language, vocabulary)
        assert refused(found, tokens, 4 * len(tokens)) is None
    for tokens in random_answers(found, rng, 12, 200, vocabulary.eos_id):
        assert problems(tokens, language, vocabulary, rep) == []


def test_answers_of_nothing_but_code(make) -> None:
    """Without a space or a sentence before it, the text begins with the code itself."""
    vocabulary, language = make(byte_level.WORDS["LLAMA3"]), parse_language(ROOM, "room.toml")
    found = compile_grammar(language, vocabulary, rotation_rep="", numbers_as_tokens=False, shuffle_attributes=True)
    for code, part in LINES.items():
        assert (refused(found, tokens_of(code, language, vocabulary), 300) is None) == (part is None), code


def test_another_token_may_end_answers(make) -> None:
    vocabulary, language = make(byte_level.WORDS["LLAMA3"]), find_language("twod")
    end = vocabulary.vocabulary.id_of("<|im_end|>")
    assert end != vocabulary.eos_id
    found = compile_grammar(
        language, vocabulary, rotation_rep="", numbers_as_tokens=True, shuffle_attributes=True, end_id=end
    )
    *tokens, own = tokens_of("add(x=数, y=数)\n", language, vocabulary)
    assert refused(found, [*tokens, end], 99) is None and refused(found, [*tokens, own], 99) == len(tokens)
