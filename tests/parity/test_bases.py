"""The tensors of every named base at full size, by name and shape, against transformers; nothing is allocated."""

import math
from dataclasses import replace

import pytest
import torch
import transformers

from configs import bases
from igllm_jax import config as configs
from igllm_jax.errors import UserError
from igllm_jax.interop import formats
from igllm_jax.interop.hf_decoder import decoder_to_json
from igllm_jax.interop.hf_vision import type_of, vision_to_json
from igllm_jax.models.vlm import skeleton
from tests.interop.test_formats import names

# as published, in millions, to three digits
MILLIONS = {
    "vicuna_7b": 6740, "llama31_8b": 8030, "mistral_7b": 7250, "qwen3_8b": 8190, "qwen25_3b": 3090, "smollm2_135m": 135,
    "gemma3_4b": 3880, "smollm3_3b": 3080,
}  # fmt: skip


def model_of(base):
    return configs.model_config(bases.get_config(f"base={base}"))


def theirs(described, kind):
    with torch.device("meta"):
        model = kind.from_config(transformers.AutoConfig.for_model(**described))
    return {as_saved(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def as_saved(name):
    """DINOv2's attention has other names in memory (since transformers 5) than in files."""
    if not name.startswith("encoder.layer."):
        return name
    for now, saved in {
        "q": "attention.query",
        "k": "attention.key",
        "v": "attention.value",
        "o": "output.dense",
    }.items():
        name = name.replace(f"attention.{now}_proj.", f"attention.{saved}.")
    return name


def ours(model, part):
    shapes = {path: tuple(shape.shape) for path, shape in skeleton(model).shapes.items()}
    return {path: shape for path, shape in shapes.items() if path.startswith(part) and "/lora_" not in path}


@pytest.mark.parametrize("name", bases.DECODERS)
def test_decoders(name):
    model = model_of(name)
    shapes = ours(model, "decoder/")
    described = decoder_to_json(model.decoder, vocab_size=model.decoder.vocab_size, dtype="bfloat16")
    expected = theirs(described, transformers.AutoModelForCausalLM)
    if model.decoder.tie_embeddings:
        del expected["lm_head.weight"]
    assert names(formats.decoder(model.decoder.post_norms), shapes) == expected
    assert float(f"{sum(map(math.prod, shapes.values())) / 1e6:.3g}") == MILLIONS[name]


@pytest.mark.parametrize("name", bases.TOWERS)
def test_towers(name):
    model = model_of(f"{name}+smollm2")
    kind = type_of(model.vision)
    # images of the size that the table of positions is for
    vision = replace(model.vision, image_size=model.vision.table_grid * model.vision.patch_size, position_grid=0)
    described = vision_to_json(vision)
    found = names(formats.TOWERS[kind], ours(model, "vision/"))
    expected = theirs(described, transformers.AutoModel)
    plain = {key.removeprefix("vision_model."): shape for key, shape in found.items()}
    left = {key: shape for key, shape in expected.items() if key.removeprefix("vision_model.") not in plain}
    assert plain == {key.removeprefix("vision_model."): expected[key] for key in expected if key not in left}
    assert all("layernorm" in key for key in left)


def test_names_and_their_beginnings():
    config = bases.get_config("base=siglip2+qwen3_8b")
    assert config.model.vision.width == 1152 and config.data.image_size == 384 and config.model.decoder.qk_norm
    assert configs.check(config) is config
    assert config.data.prompt == "chatml" and bases.get_config("base=vicuna").data.prompt == "vicuna_v1"
    with pytest.raises(UserError, match="'qwen' is no decoder; choose one of qwen3_8b, qwen25_3b"):
        bases.get_config("base=qwen")
    two = configs.model_config(configs.check(bases.get_config("base=dinov2_l+siglip2+qwen3_8b")))
    assert two.vision_width == 1024 + 1152 and two.second_vision.grid == two.vision.grid == 24
    assert two.second_vision.table_grid == 27 and two.second_vision.image_mean == bases.HALF
    assert configs.model_config(bases.get_config("base=dinov2_l+clip+qwen3_8b")).second_vision.num_blocks == 23
    with pytest.raises(UserError, match="base has 4 parts"):
        bases.get_config("base=clip+siglip2+dinov2_l+qwen3_8b")
