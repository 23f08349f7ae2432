"""Every image tower against transformers: features at its own size and at another, and back into transformers."""

import shutil
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from igllm_jax.errors import UserError
from igllm_jax.interop import exporting
from igllm_jax.interop.hf_vision import TOWERS
from igllm_jax.models.vision import RESIZES
from igllm_jax.models.vlm import skeleton
from tests.parity import reference
from tests.parity.test_outputs import assert_near, hugging_face_logits, load, outputs

SIZES = {
    "hidden_size": reference.VISION_WIDTH, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 21,
    "patch_size": 7, "layer_norm_eps": 3e-3,
}  # fmt: skip
# name -> (class of the config, what is special about it, positions before the patches)
CASES = {
    "clip": (transformers.CLIPVisionConfig, {"intermediate_size": 29, "hidden_act": "gelu"}, 1),
    "siglip": (transformers.SiglipVisionConfig, {"intermediate_size": 29}, 0),
    "dinov2": (transformers.Dinov2Config, {"mlp_ratio": 2}, 1),
    "dinov2_registers": (transformers.Dinov2WithRegistersConfig, {"mlp_ratio": 2, "num_register_tokens": 3}, 4),
}


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    kind, special, num_prefix = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    theirs = reference.build(
        folder, projector_kind="mlp2x_gelu", head_kind="none", vision=kind(**SIZES, **special), num_prefix=num_prefix
    )
    reference.imported(folder)
    return theirs, folder


def features(config, params, images):
    return skeleton(config).build(params).vision(jnp.asarray(images), jnp.dtype("float32"))


def test_features(pair):
    theirs, folder = pair
    config, params = load(folder / "base")
    images = reference.batch().images
    assert_near(features(config, params, images), theirs.features(images))


@pytest.mark.parametrize("size", [14, 35])
def test_features_of_images_of_another_size(pair, size):
    theirs, folder = pair
    config, params = load(folder / "base")
    vision = replace(config.vision, image_size=size, position_grid=3)
    images = np.random.default_rng(size).integers(0, 256, (2, size, size, 3)).astype(np.uint8)
    with torch.no_grad():
        settings = {} if "dinov2" in theirs.vision.config.model_type else {"interpolate_pos_encoding": True}
        hidden = theirs.vision(reference.normalised(images), output_hidden_states=True, **settings).hidden_states
    assert_near(features(replace(config, vision=vision), params, images), hidden[-2][:, theirs.num_prefix :])


def test_transformers_loads_the_merged_llava(pair):
    theirs, folder = pair
    again = exporting.from_folder(folder / "base")
    if theirs.vision.config.model_type == "dinov2_with_registers":
        with pytest.raises(UserError, match="would take the tower's registers for features"):
            exporting.export(again, "llava-hf", folder / "hf")
        return
    exporting.export(again, "llava-hf", folder / "hf")
    loaded = reference.loaded_llava(folder / "hf")
    loaded.save_pretrained(folder / "theirs")
    shutil.copy(folder / "hf" / "preprocessor_config.json", folder / "theirs")
    batch = reference.batch()
    rows = outputs(folder / "base", batch)[0]
    with torch.no_grad():
        assert_near(rows, hugging_face_logits(loaded, batch)[..., : rows.shape[-1]])
    reference.imported(folder, "again", vision=None, decoder=None, adapter=None, llava=folder / "theirs")
    np.testing.assert_allclose(outputs(folder / "again", batch)[0][..., : rows.shape[-1]], rows, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", RESIZES)
def test_a_level_line_stays_level_and_the_same_size_as_it_is(name):
    weights = RESIZES[name](5, 8)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(RESIZES[name](7, 7), np.eye(7), atol=1e-6)


def test_every_tower_has_a_case():
    assert {kind.model_type for kind, *_ in CASES.values()} == set(TOWERS)
