"""Vocabularies, small data sets, and a cache folder of each test's own."""

import os
from pathlib import Path

import pytest

from igllm_jax.data.prompts import answer, find_prompt
from igllm_jax.data.tokens import Tokenizer, train_small
from tests.data import byte_level, samples


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IGLLM_CACHE", str(tmp_path / "user-cache"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Tokenizer:
    """A small vocabulary trained on every task's text."""
    prompt = find_prompt("short", "clevr")
    texts = [answer(text, "clevr") for text in samples.texts()] + [prompt.after_image]
    return train_small(texts, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def llama() -> Tokenizer:
    """The real vocabulary, where it lies beside the checkout."""
    shared = Path(os.environ.get("IGLLM_SHARED") or Path(__file__).parents[2].parent / "shared")
    model = shared / "tokenizer" / "llama.model"
    if not model.exists():
        pytest.skip(f"needs LLaMA's vocabulary as {model}")
    return Tokenizer.load(model)


@pytest.fixture(scope="session")
def bytewise(tmp_path_factory) -> Tokenizer:
    """A byte-level vocabulary of the same text, as Qwen's is made."""
    pytest.importorskip("tokenizers")
    prompt = find_prompt("chatml", "clevr")
    texts = [answer(text, "clevr") for text in samples.texts()] + [prompt.before_image, prompt.after_image]
    ends = {"tokenizer_config": {"eos_token": "<|im_end|>"}, "generation_config": {"eos_token_id": [2, 0]}}
    return Tokenizer.load(byte_level.folder(tmp_path_factory.mktemp("bytewise"), byte_level.train(texts), **ends))


@pytest.fixture(params=["tiny", "llama", "bytewise"])
def tokenizer(request) -> Tokenizer:
    return request.getfixturevalue(request.param)
