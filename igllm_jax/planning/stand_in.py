"""What a decoder reads beside weights and images, where no run and no tokenizer is at hand: shapes are what counts."""

import tempfile

import numpy as np

from igllm_jax.data.options import DataOptions
from igllm_jax.data.rows import sample_texts
from igllm_jax.data.tokens import train_small
from igllm_jax.decoding.grammar import Grammar, compile_grammar
from igllm_jax.models.vlm import VLMConfig
from igllm_jax.scene.examples import example_scene
from igllm_jax.scene.language import find_language

NUM_TEXTS, MOST_CALLS, VOCABULARY = 64, 10, 400


def grammar_like(data: DataOptions, model: VLMConfig) -> Grammar:
    """The grammar of a run's language, in a small vocabulary that made-up scenes teach, padded to the model's: that
    of another vocabulary takes a few hundred kilobytes more or less."""
    language, rng = find_language(data.task), np.random.default_rng(0)
    scenes = [example_scene(language, rng, calls=1 + number % MOST_CALLS) for number in range(NUM_TEXTS)]
    texts = sample_texts(scenes, data, seed=0, count=NUM_TEXTS)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_small(texts, folder, min(VOCABULARY, model.decoder.vocab_size))
    return compile_grammar(
        language,
        tokenizer,
        rotation_rep=data.rotation_rep,
        numbers_as_tokens=model.has_float_head,
        shuffle_attributes=data.shuffle_attributes,
        vocab_size=model.decoder.vocab_size,
    )
