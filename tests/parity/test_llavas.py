"""LLaVAs of new pairs as transformers writes them, in every spelling; OneVision's single image; what is refused."""

import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from igllm_jax.errors import UserError
from igllm_jax.interop.files import open_weights
from igllm_jax.interop.importing import run
from igllm_jax.interop.sources import ImportRequest
from igllm_jax.models.vlm import skeleton
from igllm_jax.weights import base_folder
from tests.interop import made
from tests.parity import reference
from tests.parity.test_families import GEMMA, GEMMA3_ROPE
from tests.parity.test_outputs import assert_near, hugging_face_logits, load, outputs
from tests.parity.test_towers import SIZES

SIGLIP = transformers.SiglipVisionConfig(**SIZES, intermediate_size=29)
TEXT = {
    "qwen2": lambda: transformers.Qwen2Config(
        **reference.SIZES | {"num_attention_heads": 2, "head_dim": 14}, rope_theta=511.0, tie_word_embeddings=True
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(**reference.SIZES | GEMMA, rope_parameters=GEMMA3_ROPE),
}
PARTS = (
    r"(?:model\.)?vision_tower\.(?:vision_model\.)?(?P<tower>.*)",
    r"(?:language_model\.model|model\.language_model)\.(?P<decoder>.*)",
    r"(?:language_model\.)?(?P<head>lm_head.*)",
    r"(?:model\.)?(?P<projector>multi_modal_projector.*)",
)
# the year of transformers -> what stands before the names of tower, decoder, head and projector
SPELLINGS = {
    "2023": ("vision_tower.vision_model.", "language_model.model.", "language_model.", ""),
    "2025": ("model.vision_tower.vision_model.", "model.language_model.", "", "model."),
    "2026": ("vision_tower.", "language_model.model.", "language_model.", ""),
    "2026 in memory": ("model.vision_tower.", "model.language_model.", "", "model."),
}


def spelled(name, prefixes):
    """A name of any spelling in the one of these prefixes."""
    for pattern, prefix in zip(PARTS, prefixes, strict=True):
        if found := re.fullmatch(pattern, name):
            return prefix + next(iter(found.groupdict().values()))
    raise AssertionError(name)


@pytest.fixture(scope="module", params=TEXT)
def pair(request, tmp_path_factory):
    """(their model, folder with `llava` and `tokenizer`)."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(3)
    config = transformers.LlavaConfig(
        vision_config=SIGLIP, text_config=TEXT[request.param](), image_token_index=made.VOCAB - 1, image_seq_length=9,
        vision_feature_select_strategy="full", attn_implementation="eager",
    )  # fmt: skip
    theirs = reference.shaken(transformers.LlavaForConditionalGeneration(config), 0.1)
    theirs.tie_weights()
    theirs.save_pretrained(folder / "llava")
    made.put_json(folder / "llava/preprocessor_config.json", {"image_mean": reference.MEAN, "image_std": reference.STD})
    made.tokenizer(folder / "tokenizer")
    return theirs, folder


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_same_model(pair, spelling, tmp_path):
    theirs, folder = pair
    shutil.copytree(folder / "llava", tmp_path / "llava")
    weights = open_weights(folder / "llava")
    named = {spelled(name, SPELLINGS[spelling]): np.array(weights.read(name)) for name in weights.infos}
    made.save(named, tmp_path / "llava" / "model.safetensors")
    run(ImportRequest(out=tmp_path / "base", llava=tmp_path / "llava", tokenizer=folder / "tokenizer"))
    batch = reference.batch()
    with torch.no_grad():
        assert_near(outputs(tmp_path / "base", batch)[0], hugging_face_logits(theirs, batch))


def test_onevision_s_image_without_its_tiles_and_newline(tmp_path):
    torch.manual_seed(4)
    config = transformers.LlavaOnevisionConfig(
        vision_config=SIGLIP, text_config=TEXT["qwen2"](), image_grid_pinpoints=[[21, 21]], attn_implementation="eager"
    )
    theirs = reference.shaken(transformers.LlavaOnevisionForConditionalGeneration(config), 0.1)
    theirs.tie_weights()
    theirs.save_pretrained(tmp_path / "llava")
    colours = {"image_mean": reference.MEAN, "image_std": reference.STD}
    made.put_json(tmp_path / "llava/preprocessor_config.json", colours)
    made.tokenizer(tmp_path / "tokenizer")
    run(ImportRequest(out=tmp_path / "base", llava=tmp_path / "llava", tokenizer=tmp_path / "tokenizer"))
    told = base_folder.read_model(tmp_path / "base")
    assert told["left_out"]["LLaVA-OneVision's newline, which ends rows of tiles"] == 1
    assert any("also saw an image's tiles" in note for note in told["notes"]) and told["image_aspect_ratio"] == "pad"
    batch, layout = reference.batch(), reference.LAYOUT
    tokens, sizes = torch.tensor(np.asarray(batch.tokens)).long(), torch.tensor([[21, 21]] * 3)
    with torch.no_grad():
        pixels = reference.normalised(batch.images)
        found = theirs.get_image_features(pixels, sizes, batch_num_images=torch.tensor([3])).pooler_output
        image = torch.stack(list(found))[:, :-1]  # the last is the newline
        text = theirs.get_input_embeddings()(tokens)
        row = torch.cat([text[:, : layout.image_offset], image, text[:, layout.image_offset :]], dim=1)
        logits = theirs(inputs_embeds=row).logits[:, layout.answer_offset + 8 : -1]
    ours = skeleton(load(tmp_path / "base")[0]).build(load(tmp_path / "base")[1])
    assert_near(ours.projector(ours.features(jnp.asarray(batch.images), jnp.dtype("float32"))), image)
    assert_near(outputs(tmp_path / "base", batch)[0], logits)


@pytest.mark.parametrize("kind", ["llava_next", "llava_next_video", "video_llava", "vipllava"])
def test_kin_that_sees_images_otherwise_is_refused_by_name(kind, tmp_path):
    made.put_json(tmp_path / "llava" / "config.json", {"model_type": kind, "vision_config": {}, "text_config": {}})
    made.save({"x": np.zeros(1, np.float32)}, tmp_path / "llava" / "model.safetensors")
    with pytest.raises(UserError, match=f"model_type is '{kind}'; supported: llava, llava_onevision"):
        run(ImportRequest(out=tmp_path / "base", llava=tmp_path / "llava"))
