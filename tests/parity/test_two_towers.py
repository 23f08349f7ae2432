"""Two image towers beside each other, DINOv2's and SigLIP's, against transformers; and back into transformers."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from torch import nn

from igllm_jax.errors import UserError
from igllm_jax.interop import exporting
from igllm_jax.interop.importing import run
from igllm_jax.interop.parts_exporting import BESIDE, export_parts
from igllm_jax.interop.sources import ImportRequest
from igllm_jax.models.vision import resized
from igllm_jax.models.vlm import skeleton
from tests.interop import made
from tests.parity import reference
from tests.parity.test_outputs import assert_near, load, outputs
from tests.parity.test_towers import SIZES

MEAN, STD, WIDTH = (0.2, 0.6, 0.3), (0.31, 0.27, 0.22), 14


class Fused(reference.Reference):
    """The reference's model with a second tower, which sees the same image in another size."""

    def features(self, images):
        first = super().features(images)
        pixels = torch.tensor(np.asarray(resized(jnp.asarray(images), 15))).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, STD))
        second = self.second((pixels - mean) / std, output_hidden_states=True).hidden_states[-2]
        return torch.cat([first, second], dim=-1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(their model, folder of the files of all parts and of what was imported from them)."""
    folder = tmp_path_factory.mktemp("two")
    first = transformers.Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2, num_register_tokens=3)
    theirs = reference.build(folder, projector_kind="linear", head_kind="none", vision=first, num_prefix=4)
    second = transformers.SiglipVisionConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, image_size=15, patch_size=5, intermediate_size=19
    )
    theirs = Fused(**vars(theirs))
    theirs.second = reference.shaken(transformers.AutoModel.from_config(second))
    theirs.projector = nn.Linear(reference.VISION_WIDTH + WIDTH, reference.WIDTH)
    theirs.second.save_pretrained(folder / "second")
    made.put_json(folder / "second" / "preprocessor_config.json", {"image_mean": MEAN, "image_std": STD})
    reference.save_adapter(theirs, folder / "adapter")
    reference.imported(folder, second_vision=folder / "second")
    return theirs, folder


def test_features_and_logits(pair):
    theirs, folder = pair
    config, params = load(folder / "base")
    batch = reference.batch()
    features = skeleton(config).build(params).features(jnp.asarray(batch.images), jnp.dtype("float32"))
    with torch.no_grad():
        assert_near(features, theirs.features(batch.images))
        assert_near(outputs(folder / "base", batch)[0], theirs.states(batch)[1])


def test_parts_go_out_and_come_back(pair):
    _, folder = pair
    model = exporting.from_folder(folder / "base")
    with pytest.raises(UserError, match="one image tower and this model two"):
        exporting.export(model, "llava-hf", folder / "hf")
    export_parts(model, folder / "parts")
    for name, kind in (("vision", "AutoModel"), ("second_vision", "AutoModel"), ("decoder", "AutoModelForCausalLM")):
        _, report = getattr(transformers, kind).from_pretrained(folder / "parts" / name, output_loading_info=True)
        assert not report["unexpected_keys"] and not set(report["missing_keys"]) - {"embeddings.mask_token"}
    sources = {part: folder / "parts" / part for part in ("vision", "second_vision", "decoder")}
    run(ImportRequest(out=folder / "again", projector=folder / "parts" / BESIDE, feature_layer=-1, **sources))
    after = load(folder / "again")[0]
    assert replace(after.second_vision, num_layers=2, feature_layer=-2) == model.config.second_vision
    batch = reference.batch()
    again, before = (outputs(folder / name, batch)[0] for name in ("again", "base"))
    np.testing.assert_allclose(again, before, atol=1e-5, rtol=0)


def test_grids_that_differ_are_an_error(pair):
    config, _ = load(pair[1] / "base")
    with pytest.raises(ValueError, match=r"has 5 patches on a side and model.vision 3; .* set image_size and"):
        replace(config, second_vision=replace(config.second_vision, image_size=25))
