"""Features, logits, numbers and greedy tokens of imported weights against transformers, peft and torch, in float32."""

import json
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from igllm_jax import generate
from igllm_jax.data.prompts import find_prompt
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decoding.decode import make_decode, prepare
from igllm_jax.decoding.decode_options import DecodeOptions
from igllm_jax.interop.files import open_weights
from igllm_jax.interop.importing import run
from igllm_jax.interop.sources import ImportRequest
from igllm_jax.models.attention import soft_capped
from igllm_jax.models.vlm import skeleton
from igllm_jax.weights import base_folder
from tests.interop import made
from tests.parity import reference

TOLERANCE = 1e-4
CASES = [("linear", "none"), ("mlp2x_gelu", "linear"), ("linear", "tanh_mlp_gelu")]


@pytest.fixture(scope="module", params=CASES, ids=["-".join(case) for case in CASES])
def pair(request, tmp_path_factory):
    """(the reference's model, folder of its files and of what was imported from them)."""
    folder = tmp_path_factory.mktemp("pair")
    theirs = reference.build(folder, projector_kind=request.param[0], head_kind=request.param[1])
    reference.imported(folder)
    return theirs, folder


QUICK = {"xla_backend_optimization_level": "0"}  # compiles in half the time


def load(folder):
    """(its config, its parameters)."""
    return base_folder.read_config(folder), base_folder.restore(folder, base_folder.paths(folder))


def outputs(folder, batch):
    """(logits, numbers) of the answer's positions."""
    config, params = load(folder)
    model_skeleton, layout = skeleton(config), reference.LAYOUT

    def compute(params, images, tokens):
        ours = model_skeleton.build(params)
        states = ours.answer_states(images, tokens, layout)
        logits = states @ ours.decoder.head_kernel()
        return soft_capped(logits, config.decoder.logit_softcap), ours.numbers(states)

    return tuple(map(np.asarray, jax.jit(compute, compiler_options=QUICK)(params, batch.images, batch.tokens)))


def assert_near(found, expected):
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    assert np.abs(expected).max() > 0.1  # something is there to be compared
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_vision_features(pair):
    theirs, folder = pair
    config, params = load(folder / "base")
    images = reference.batch().images
    assert_near(skeleton(config).build(params).vision(images, jnp.dtype("float32")), theirs.features(images))


def test_logits_and_numbers(pair):
    theirs, folder = pair
    batch = reference.batch()
    logits, numbers = outputs(folder / "base", batch)
    with torch.no_grad():
        states, expected = theirs.states(batch)
        assert_near(logits, expected)
        if theirs.head is not None:
            assert_near(numbers, theirs.head(states)[..., 0])


def test_merged_lora_gives_the_same(pair):
    _, folder = pair
    reference.imported(folder, "merged", merge_lora=True)
    batch = reference.batch()
    for found, expected in zip(outputs(folder / "merged", batch), outputs(folder / "base", batch), strict=True):
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_greedy_generation_gives_the_same_tokens(pair):
    theirs, folder = pair
    if theirs.head_kind != "tanh_mlp_gelu":
        pytest.skip("the float head changes no token: one compilation is enough")
    config, params = load(folder / "base")
    before, after, _ = reference.prompt()
    images = reference.batch(rows=2).images
    tokens = np.tile([*before, *after], (2, 1))
    count, end = 23, 5
    embedded = theirs.embed(images, tokens)
    settings = {"do_sample": False, "max_new_tokens": count, "eos_token_id": end, "pad_token_id": end}
    with torch.no_grad():
        free = theirs.decoder.generate(inputs_embeds=embedded, **settings).numpy()
    written = [int(token) for token in free[0] if token != end]
    forbidden = ((written[0], written[1]), (written[3],))
    for sequences in ((), forbidden):
        bad = {"bad_words_ids": [list(sequence) for sequence in sequences]} if sequences else {}
        with torch.no_grad():
            expected = theirs.decoder.generate(inputs_embeds=embedded, **settings, **bad).numpy()
        options = DecodeOptions(before, after, count, end, 7, made.VOCAB, sequences)
        decoded = jax.jit(make_decode(config, options), compiler_options=QUICK)(
            prepare(params, config), images, jnp.ones(2, bool)
        )
        padded = np.full((2, count), end)
        padded[:, : expected.shape[1]] = expected
        np.testing.assert_array_equal(decoded.tokens, padded)
    assert not np.array_equal(free, expected)  # what was forbidden had been written


def test_the_command_writes_what_torch_writes(tmp_path):
    """`igllm generate --model` against greedy decoding of transformers and a second pass for the numbers."""
    theirs = reference.build(tmp_path, projector_kind="mlp2x_gelu", head_kind="tanh_mlp_gelu")
    tokenizer = Tokenizer.load(tmp_path / "decoder")
    images = np.asarray(reference.batch(rows=2).images)
    often = Counter(written_by_torch(theirs, images[0], tokenizer, 31)[0]).most_common(1)[0][0]
    write_instead(tokenizer.float_id, often, theirs, tmp_path / "decoder" / "model.safetensors")
    reference.imported(tmp_path)
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
    inputs = ["--model", str(tmp_path / "base"), "--images", str(tmp_path / "images")]
    settings = ["--out", str(tmp_path / "o.json"), "--max_new_tokens", "31", "--dtype", "float32", "--grammar", "none"]
    assert generate.main([*inputs, *settings]) == 0
    answers = json.loads((tmp_path / "o.json").read_text())["answers"]
    found = [answers[name]["outputs"] for name in sorted(answers)]
    assert found == [written_by_torch(theirs, image, tokenizer, 31)[1] for image in images]
    numbers = {number for text in found for number in re.findall(r"-?\d+\.\d{3}", text)}
    assert len(numbers) > 3  # several were written, and they differ


def write_instead(token, other, theirs, file):
    """Gives `token` the logits of `other` and a little more, in memory and in the decoder's file."""
    weights = open_weights(file)
    named = {name: weights.read(name) for name in weights.infos}
    named["lm_head.weight"][token] = 1.5 * named["lm_head.weight"][other]
    made.save(named, file)
    with torch.no_grad():
        theirs.decoder.get_output_embeddings().weight.copy_(torch.tensor(named["lm_head.weight"]))


def written_by_torch(theirs, image, tokenizer, count):
    """(tokens, text) by the reference's procedure: greedy, then the float head on one more pass over it all."""
    prompt = find_prompt("vicuna_v1", "clevr")
    before, after = tokenizer.encode(prompt.before_image, bos=True), tokenizer.encode(prompt.after_image)
    embed = theirs.decoder.get_input_embeddings()
    bad = [list(sequence) for sequence in tokenizer.forbidden_sequences()]
    settings = {"do_sample": False, "max_new_tokens": count, "eos_token_id": tokenizer.eos_id, "pad_token_id": 0}
    with torch.no_grad():
        parts = [embed(torch.tensor([before])), theirs.projector(theirs.features(image[None]))]
        row = torch.cat([*parts, embed(torch.tensor([after]))], dim=1)
        ids = theirs.decoder.generate(inputs_embeds=row, bad_words_ids=bad, **settings)
        whole = torch.cat([row, embed(ids)], dim=1)
        states = theirs.decoder(inputs_embeds=whole, output_hidden_states=True).hidden_states[-1]
        numbers = theirs.head(states[:, row.shape[1] - 1 : -1])[0, :, 0].tolist()
    written = [token for token in ids[0].tolist() if token != tokenizer.eos_id]
    text = tokenizer.decode(written)
    for token, number in zip(written, numbers, strict=False):
        if token == tokenizer.float_id:
            text = text.replace("数", f"{number:.3f}", 1)
    return written, text


def hugging_face_llava(folder, *, tied=False):
    """A random LlavaForConditionalGeneration, saved in the folder."""
    torch.manual_seed(1)
    config = transformers.LlavaConfig(
        vision_config=reference.vision_config(),
        text_config=reference.decoder_config(tied=tied),
        image_token_index=made.VOCAB - 1,
        image_seq_length=9,
        tie_word_embeddings=tied,
    )
    theirs = reference.shaken(transformers.LlavaForConditionalGeneration(config), 0.1)
    theirs.tie_weights()
    theirs.save_pretrained(folder)
    made.put_json(folder / "preprocessor_config.json", {"image_mean": reference.MEAN, "image_std": reference.STD})
    return theirs


@pytest.mark.parametrize("tied", [False, True])
def test_a_merged_llava_of_hugging_face(tmp_path, tied):
    theirs = hugging_face_llava(tmp_path / "llava", tied=tied)
    tokenizer = made.tokenizer(tmp_path / "tokenizer")
    assert tokenizer.vocab_size <= made.VOCAB
    run(ImportRequest(out=tmp_path / "base", llava=tmp_path / "llava", tokenizer=tmp_path / "tokenizer"))
    batch = reference.batch()
    with torch.no_grad():
        assert_near(outputs(tmp_path / "base", batch)[0], hugging_face_logits(theirs, batch))


def hugging_face_logits(model, batch):
    """Logits of the answer's positions, the image given as placeholders."""
    layout = reference.LAYOUT
    tokens = torch.tensor(np.asarray(batch.tokens)).long()
    image = torch.full((tokens.shape[0], 9), model.config.image_token_index)
    ids = torch.cat([tokens[:, : layout.image_offset], image, tokens[:, layout.image_offset :]], dim=1)
    logits = model(input_ids=ids, pixel_values=reference.normalised(batch.images)).logits
    return logits[:, layout.answer_offset + 8 : -1]
