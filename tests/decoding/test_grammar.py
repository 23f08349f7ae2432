"""The grammar arrays: all that the writer writes is allowed, and whatever is allowed can be read."""

import os
import re
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igllm_jax.data.prompts import answer
from igllm_jax.data.tokens import Tokenizer, train_small
from igllm_jax.decoding import grammar, grammar_calls
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
# so3, sixdof and shapenet have the same attributes: one of them in every representation is enough
CASES = [(task, rep) for task, rep in TASK_REPS if task not in ("sixdof", "shapenet") or rep == "euler"]
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
    """The position of the first token that may not follow, None where all may."""
    state = found.starts(1, most)[0]
    for position, token in enumerate(tokens):
        only = grammar.forced(found, state)
        if not grammar.mask(found, state)[token] or only not in (-1, token):
            return position
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
    reading = read(text.replace(FLOAT_TOKEN, "0.5"), language, rotation_rep=rep)
    found = [problem.reason for problem in reading.problems]
    return [reason for reason in found if FLOAT_TOKEN not in text or not OUT_OF_RANGE.search(reason)]


@pytest.mark.parametrize("as_tokens", [True, False], ids=["float-head", "text"])
@pytest.mark.parametrize(("task", "rep"), CASES)
def test_what_is_written_is_allowed_and_what_is_allowed_is_read(task: str, rep: str, as_tokens: bool) -> None:
    language = find_language(task)
    found = compiled(language, rep, as_tokens)

    @settings(max_examples=6, deadline=None, derandomize=True, database=None)
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


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(languages(), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_any_language(text: str, as_tokens: bool, is_shuffled: bool, seed: int) -> None:
    language, rng = parse_language(text, "random.toml"), np.random.default_rng(seed)
    rep = language.rotation_reps[-1]
    found = compiled(language, rep, as_tokens, is_shuffled)
    for calls in (0, 1, 4):
        scene = example_scene(language, rng, calls=calls)
        written = write(
            scene, language, rotation_rep=rep, numbers_as_tokens=as_tokens, rng=rng, shuffle_attributes=is_shuffled,
            use_synonyms=True,
        )  # fmt: skip
        tokens = tokens_of(written.text, language, tokenizer())
        if not problems(tokens[:-1], language, tokenizer(), rep):  # a number may have been rounded out of its range
            assert refused(found, tokens, 4 * len(tokens)) is None, written.text
    for tokens in random_answers(found, rng, 8, found.shortest + 60, tokenizer().eos_id):
        assert problems(tokens, language, tokenizer(), rep) == []


ROOM = """name = "room"
answer_start = ""
answer_end = ""
[[functions]]
name = "wall"
[[functions.attributes]]
name = "height"
kind = "number"
digits = 1
minimum = -0.2
maximum = 12.3
[[functions]]
name = "door"
[[functions.attributes]]
name = "wall"
kind = "reference"
to = "wall"
required = true
[[functions.attributes]]
name = "style"
kind = "word"
words = ["sliding", "hinged"]
synonyms = { hinged = ["swing"] }
[[functions.attributes]]
name = "leaves"
kind = "integer"
minimum = 1
maximum = 2
only_for = { style = ["hinged"] }
[[functions.attributes]]
name = "note"
kind = "word"
longest = 3
absent_for = { style = ["sliding"] }
"""
WALLS = "wall()\n" * 12
# code -> the part of it after which it leaves the language, None where all of it is in the language
LINES = {
    "wall(height=-0.2)\nwall(height=12.3)\nwall(height=-0.0)\n": None,
    "wall(height=12.4)\n": "wall(height=12.",
    "wall(height=-0.3)\n": "wall(height=-0.",
    "wall(height=01.0)\n": "wall(height=0",
    "wall(height=1.0, height=1.0)\n": "wall(height=1.0",
    "door(wall=0)\n": "",
    "wall()\ndoor(wall=0)\n": None,
    "wall()\ndoor(wall=1)\n": "wall()\ndoor(wall=",
    "wall()\ndoor()\n": "wall()\ndoor(",
    f"{WALLS}door(wall=11)\n": None,
    f"{WALLS}door(wall=12)\n": f"{WALLS}door(wall=1",
    f"{WALLS}door(wall=2, leaves=2, style='swing')\n": None,
    f"{WALLS}door(style='sliding', leaves=2)\n": f"{WALLS}door(style='sliding', ",
    f"{WALLS}door(leaves=2, style='sliding')\n": f"{WALLS}door(leaves=2, style='s",
    f"{WALLS}door(leaves=2, wall=0)\n": f"{WALLS}door(leaves=2, wall=0",
    f"{WALLS}door(leaves=3)\n": f"{WALLS}door(leaves=",
    f"{WALLS}door(note='a鶦é', wall=0)\n": None,
    f"{WALLS}door(note='abcd')\n": f"{WALLS}door(note='abc",
    f"{WALLS}door(note='', style='sliding')\n": f"{WALLS}door(note='', style='s",
    f"{WALLS}door(style='sliding', note='')\n": f"{WALLS}door(style='sliding', ",
}


@pytest.fixture(scope="module")
def characters(tmp_path_factory) -> Tokenizer:
    """A vocabulary of single characters, so that what is allowed can be told character by character."""
    return train_small(["".join(map(chr, range(32, 127)))], tmp_path_factory.mktemp("characters"), 355)


@pytest.mark.parametrize("code", LINES)
def test_where_a_text_leaves_the_language(code: str, characters: Tokenizer) -> None:
    language = parse_language(ROOM, "room.toml")
    found = compile_grammar(language, characters, rotation_rep="", numbers_as_tokens=False, shuffle_attributes=True)
    tokens = tokens_of(code, language, characters)
    assert max(len(characters.surface(token)) for token in tokens) == 1
    position = refused(found, tokens, 300)
    assert (None if position is None else characters.decode(tokens[:position])) == LINES[code]


def test_the_written_order_alone(characters: Tokenizer) -> None:
    language = find_language("twod")
    found = compile_grammar(language, characters, rotation_rep="", numbers_as_tokens=True, shuffle_attributes=False)
    right, wrong = (tokens_of(code, language, characters) for code in ("add(x=数, y=数)\n", "add(y=数, x=数)\n"))
    assert refused(found, right, 200) is None and refused(found, wrong, 200) is not None


def test_an_answer_ends_in_time() -> None:
    language = find_language("twod")
    found = compiled(language, "", True)
    tokens = tokens_of("add(x=数, y=数)\n", language, tokenizer())
    assert refused(found, tokens, len(tokens)) is None
    assert refused(found, tokens, len(tokens) - 1) is not None
    empty = tokens_of("", language, tokenizer())
    assert found.shortest == len(empty) and refused(found, empty, len(empty)) is None
    with pytest.raises(UserError, match=f"max_new_tokens={len(empty) - 1} is too few: the shortest answer"):
        found.starts(1, len(empty) - 1)
    state = found.starts(1, len(empty))[0]
    for token in [*empty, tokenizer().eos_id]:
        state = grammar.advance(found, state, np.int32(token))
    assert np.flatnonzero(grammar.mask(found, state)).tolist() == [tokenizer().eos_id]
    after_nonsense = grammar.advance(found, found.starts(1, 50)[0], np.int32(tokenizer().bos_id))
    assert not grammar.mask(found, after_nonsense).any()


def test_compiled_loops_see_the_same() -> None:
    """JAX under jit, batched, against NumPy, row by row; and what is forced is all that may follow."""
    language = find_language("clevr")
    found = compiled(language, "", True)
    rng, states = np.random.default_rng(1), found.starts(3, 60)
    device = jax.tree.map(jax.numpy.asarray, found)
    advance, mask, forced = (jax.jit(f) for f in (grammar.advance, grammar.mask, grammar.forced))
    for _ in range(60):
        allowed = np.asarray(mask(device, states))
        only = np.asarray(forced(device, states))
        for row in range(3):
            np.testing.assert_array_equal(allowed[row], grammar.mask(found, states[row]))
            if only[row] >= 0:
                assert np.flatnonzero(allowed[row]).tolist() == [only[row]]
        tokens = np.array([rng.choice(np.flatnonzero(row)) for row in allowed], np.int32)
        after = grammar.advance(found, states, tokens)
        np.testing.assert_array_equal(np.asarray(advance(device, states, tokens)), after)
        assert after.dtype == np.int32 == advance(device, states, tokens).dtype
        states = after


def test_ids_that_a_padded_model_has_besides() -> None:
    language, more = find_language("twod"), tokenizer().vocab_size + 24
    found = compile_grammar(
        language, tokenizer(), rotation_rep="", numbers_as_tokens=True, shuffle_attributes=True, vocab_size=more
    )
    allowed = grammar.mask(found, found.starts(2, 100))
    assert allowed.shape == (2, more) and not allowed[:, tokenizer().vocab_size :].any() and allowed[0].any()


def test_mistakes_are_one_line(characters: Tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(grammar_calls, "MOST_MEMORIES", 100)
    kinds = {"rotation_rep": "", "numbers_as_tokens": False, "shuffle_attributes": True}
    attributes = "".join(f'[[functions.attributes]]\nname = "a{index}"\nkind = "integer"\n' for index in range(7))
    many = parse_language(f'name = "many"\n[[functions]]\nname = "add"\n{attributes}', "many.toml")
    with pytest.raises(UserError, match="language many: a grammar can't hold the ways to say the arguments of add"):
        compile_grammar(many, characters, **kinds)
    text = ROOM.replace('answer_end = ""', 'answer_end = "wall(end"')
    with pytest.raises(UserError, match="answer_end begins like a call of wall"):
        compile_grammar(parse_language(text, "room.toml"), characters, **kinds)


@pytest.mark.parametrize("as_tokens", [True, False])
def test_llamas_vocabulary(as_tokens: bool) -> None:
    model = Path(os.environ.get("IGLLM_SHARED") or ROOT.parent / "shared") / "tokenizer" / "llama.model"
    if not model.exists():
        pytest.skip(f"needs LLaMA's vocabulary as {model}")
    vocabulary, language = Tokenizer.load(model), find_language("clevr")
    found = compile_grammar(language, vocabulary, rotation_rep="", numbers_as_tokens=as_tokens, shuffle_attributes=True)
    assert found.num_bytes < 2**20
    item = Object(size="small", color="gray", material="rubber", shape="sphere", location=(1.5, -2.0, 0.7))
    scene = Scene((item.replace(pixel=(1.0, 0.0, 0.0)),), "i")
    written = write(
        scene, language, rotation_rep="", numbers_as_tokens=as_tokens, rng=None, shuffle_attributes=False,
        use_synonyms=False,
    )  # fmt: skip
    tokens = tokens_of(written.text, language, vocabulary)
    assert refused(found, tokens, len(tokens)) is None
