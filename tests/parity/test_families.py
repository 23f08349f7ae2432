"""Every decoder family against transformers: outputs, greedy answers, merged LoRA, and back into transformers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers

from igllm_jax.decoding.decode import make_decode, prepare
from igllm_jax.decoding.decode_options import DecodeOptions
from igllm_jax.interop import exporting
from igllm_jax.interop.hf_decoder import FAMILIES
from igllm_jax.interop.importing import run
from igllm_jax.interop.sources import ImportRequest
from igllm_jax.models.attention import soft_capped
from igllm_jax.models.vlm import skeleton
from tests.interop import made
from tests.parity import reference
from tests.parity.test_outputs import QUICK, TOLERANCE, assert_near, hugging_face_logits, load, outputs

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 17}
# windows shorter than a prompt with its image
GEMMA = {
    "sliding_window": 7, "query_pre_attn_scalar": 11, "final_logit_softcapping": 2.0, "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 511.0, "factor": 3.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 53.0},
}
# name -> (class of the config, what is special about it)
CASES = {
    "llama3": (transformers.LlamaConfig, {"rope_parameters": {"rope_type": "llama3", "rope_theta": 29.0, **LLAMA3}}),
    "smollm2": (transformers.LlamaConfig, {"tie_word_embeddings": True, "rope_theta": 100003.0}),
    # its special tokens are by default those of 128 256
    "smollm3": (transformers.SmolLM3Config, {"no_rope_layer_interval": 2, "pad_token_id": None}),
    "mistral": (transformers.MistralConfig, {"sliding_window": None}),
    "mistral_windows": (transformers.MistralConfig, {"sliding_window": 7}),
    # its heads are as wide as together they fill the model
    "qwen2": (transformers.Qwen2Config, {"tie_word_embeddings": True, "num_attention_heads": 2, "head_dim": 14}),
    "qwen3": (transformers.Qwen3Config, {}),
    "gemma2": (transformers.Gemma2Config, {**GEMMA, "attn_logit_softcapping": 3.0}),
    "gemma3": (transformers.Gemma3TextConfig, {**GEMMA, "rope_parameters": GEMMA3_ROPE}),
}


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """(their model, folder of its files and of what was imported from them)."""
    kind, special = CASES[request.param]
    config = kind(**{"rope_theta": 511.0, **reference.SIZES, **special}, attn_implementation="eager")
    folder = tmp_path_factory.mktemp(request.param)
    theirs = reference.build(folder, projector_kind="linear", head_kind="tanh_mlp_gelu", seed=7, decoder=config)
    reference.imported(folder)
    return theirs, folder


def test_outputs_and_merged_lora(pair):
    theirs, folder = pair
    batch = reference.batch()
    logits, numbers = outputs(folder / "base", batch)
    with torch.no_grad():
        states, expected = theirs.states(batch)
        assert_near(logits, expected)
        assert_near(numbers, theirs.head(states)[..., 0])
    reference.imported(folder, "merged", merge_lora=True)
    for found, wanted in zip(outputs(folder / "merged", batch), (logits, numbers), strict=True):
        np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=0)


def test_greedy_answers_with_guesses(pair):
    """What the cached decoder writes, guesses checked, is what transformers writes and what a whole pass would say."""
    theirs, folder = pair
    config, params = load(folder / "base")
    before, after, layout = reference.prompt()
    images = reference.batch(rows=2).images
    tokens = np.tile([*before, *after], (2, 1))
    count, end = 19, made.VOCAB - 1
    with torch.no_grad():
        settings = {"do_sample": False, "max_new_tokens": count, "eos_token_id": end, "pad_token_id": end}
        expected = theirs.decoder.generate(inputs_embeds=theirs.embed(images, tokens), **settings).numpy()
    options = DecodeOptions(before, after, count, end, 7, made.VOCAB, (), num_drafts=3)
    decode = jax.jit(make_decode(config, options), compiler_options=QUICK)
    found = np.asarray(decode(prepare(params, config), images, jnp.ones(2, bool)).tokens)
    padded = np.full((2, count), end)
    padded[:, : expected.shape[1]] = expected
    np.testing.assert_array_equal(found, padded)
    ours = skeleton(config).build(params)
    states = ours.answer_states(images, jnp.asarray(np.concatenate([tokens, found], axis=1)), layout)
    whole = np.asarray(jnp.argmax(states @ ours.decoder.head_kernel(), axis=-1))
    lengths = [row.tolist().index(end) + 1 if end in row else count for row in found]
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(whole[row, :length], found[row, :length])


def test_transformers_loads_the_merged_llava(pair):
    _, folder = pair
    exporting.export(exporting.from_folder(folder / "base"), "llava-hf", folder / "hf")
    loaded = reference.loaded_llava(folder / "hf")
    batch = reference.batch()
    with torch.no_grad():
        rows = outputs(folder / "base", batch)[0]
        logits = hugging_face_logits(loaded, batch)[..., : rows.shape[-1]]
        before = exporting.from_folder(folder / "base").config.decoder
        assert_near(rows, soft_capped(jnp.asarray(logits), before.logit_softcap))  # which LLaVAs don't do
    run(ImportRequest(out=folder / "again", llava=folder / "hf", tokenizer=folder / "decoder"))
    after = exporting.from_folder(folder / "again").config.decoder
    assert after == replace(before, vocab_size=after.vocab_size, logit_softcap=0.0)


def test_peft_loads_the_adapter_again(pair):
    theirs, folder = pair
    exporting.export(exporting.from_folder(folder / "base"), "peft", folder / "peft")
    decoder = transformers.AutoModelForCausalLM.from_pretrained(folder / "decoder", attn_implementation="eager")
    again = replace(theirs, decoder=peft.PeftModel.from_pretrained(decoder, folder / "peft").eval())
    batch = reference.batch()
    with torch.no_grad():
        assert_near(outputs(folder / "base", batch)[0], again.states(batch)[1])


def test_every_family_has_a_case():
    named = {kind.model_type for kind, _ in CASES.values()}
    assert named == set(FAMILIES)
