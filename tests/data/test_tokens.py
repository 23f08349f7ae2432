import pickle

import numpy as np
import pytest

from igllm_jax.data.prompts import answer
from igllm_jax.data.tokens import FORBIDDEN_SPELLINGS, Tokenizer, train_small
from igllm_jax.errors import UserError
from igllm_jax.scene.code import FLOAT_TOKEN
from tests.data import samples


def contains(ids, sequence):
    return any(tuple(ids[i : i + len(sequence)]) == sequence for i in range(len(ids)))


def test_llama_vocabulary(llama):
    assert (llama.vocab_size, llama.bos_id, llama.eos_id, llama.float_id) == (32000, 1, 2, 30354)
    assert llama.encode("The scene", bos=True) == [1, 450, 9088]
    assert llama.forbidden_sequences() == ((313, 13), (313, 29871), (1723,))
    assert llama.splits_digits and llama.splits_lines


def test_tiny_vocabulary(tiny):
    assert tiny.vocab_size == 400
    assert tiny.splits_digits and tiny.splits_lines
    assert tiny.encode("0.25").count(tiny.encode("2")[-1]) == 1
    for spelling, sequence in zip(FORBIDDEN_SPELLINGS, tiny.forbidden_sequences(), strict=True):
        assert spelling in "".join(tiny.surface(token) for token in sequence)


def test_every_text_comes_back(tokenizer):
    for text in samples.texts():
        ids = tokenizer.encode(answer(text, "clevr"), bos=True)
        assert tokenizer.decode([*ids, tokenizer.eos_id]) == answer(text, "clevr")


def test_forbidden_sequences_forbid_no_answer(tokenizer):
    for text in samples.texts():
        ids = tokenizer.encode(answer(text, "clevr"))
        assert not any(contains(ids, sequence) for sequence in tokenizer.forbidden_sequences())


def test_the_float_token_in_bytes_reads_like_the_float_token(tokenizer):
    found = tokenizer.float_token_in_bytes()
    assert found and not any(tokenizer.float_id in spelled for spelled in found)
    assert {tokenizer.decode(spelled) for spelled in found} == {FLOAT_TOKEN}


def test_forbidden_sequences_leave_out_what_a_vocabulary_cannot_spell(tmp_path):
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # its own defaults: blanks at the end are dropped
        sentence_iterator=iter(samples.texts()),
        model_writer=model,
        model_type="bpe",
        vocab_size=200,
        user_defined_symbols=[FLOAT_TOKEN],
        minloglevel=2,
    )
    tokenizer = Tokenizer(model.getvalue(), "blanks")
    assert len(tokenizer.forbidden_sequences()) < 3
    for text in samples.texts():
        ids = tokenizer.encode(answer(text, "clevr"))
        assert not any(contains(ids, sequence) for sequence in tokenizer.forbidden_sequences())


def test_small_vocabulary_is_a_function_of_its_texts(tmp_path):
    texts = samples.texts()
    first, second = train_small(texts, tmp_path / "a"), train_small(texts, tmp_path / "b")
    assert first.model == second.model
    assert Tokenizer.load(tmp_path / "a").fingerprint == first.fingerprint
    assert train_small(texts[::2], tmp_path / "c").fingerprint != first.fingerprint


def test_few_words_give_a_smaller_vocabulary(tmp_path):
    tokenizer = train_small(["add(x=数, y=数)\n"], tmp_path)
    assert 256 < tokenizer.vocab_size < 400
    assert tokenizer.decode(tokenizer.encode("add(x=数, y=数)\n")) == "add(x=数, y=数)\n"


def test_travels_to_other_processes(tiny):
    copy = pickle.loads(pickle.dumps(tiny))
    assert copy.fingerprint == tiny.fingerprint
    assert copy.encode("add(x=数)") == tiny.encode("add(x=数)")


def test_ids_outside_the_vocabulary(tiny):
    with pytest.raises(ValueError, match=r"outside 0\.\.399"):
        tiny.decode(np.array([3, 400]))


def test_errors(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer.model: cannot be read .*check `tokenizer`"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").write_text("no model")
    with pytest.raises(UserError, match="not a sentencepiece model; give LLaMA's"):
        Tokenizer.load(tmp_path)


def test_a_vocabulary_that_splits_the_float_token(tmp_path):
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["add(x=0.250, y=0.125)"] * 9),
        model_writer=model,
        model_type="bpe",
        vocab_size=280,
        byte_fallback=True,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match=r"splits the float token 数; use a vocabulary .* or set head=none"):
        _ = tokenizer.float_id


def test_an_empty_model_is_one_line(tmp_path, capfd):
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(UserError, match="not a sentencepiece model"):
        Tokenizer.load(tmp_path)
    assert not capfd.readouterr().err


def test_a_damaged_piece_is_one_line(tiny):
    damaged = tiny.model.replace("数".encode(), b"\xe6\x95\xff")
    with pytest.raises(UserError, match="not a sentencepiece model"):
        Tokenizer(damaged, "here")
