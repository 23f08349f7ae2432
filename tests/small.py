"""Small models and batches that several tests share; sizes are distinct primes, or as near as heads allow."""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igllm_jax.batch import Batch, PromptLayout
from igllm_jax.models.llama import DecoderConfig
from igllm_jax.models.lora import LoRAConfig
from igllm_jax.models.vision import VisionConfig
from igllm_jax.models.vlm import VLMConfig, draw, skeleton

LAYOUT = PromptLayout(image_offset=2, answer_offset=5)
NUMBER_ID, END_ID = 7, 2
# what decoder families add to LLaMA's first
PLAIN = {
    "rope_scaling": (), "qkv_bias": False, "qk_norm": False, "activation": "silu", "window": 0, "global_every": 0,
    "local_rope_theta": 0.0, "nope_every": 0, "query_scalar": 0.0, "attention_softcap": 0.0, "logit_softcap": 0.0,
    "unit_offset": False, "post_norms": False, "scaled_embedding": False, "number_row": -1,
}  # fmt: skip
# of a second tower, whose images are smaller and patches as many
SECOND = {
    "image_size": 15, "patch_size": 5, "width": 14, "class_token": False, "pre_norm": False, "patch_bias": True,
    "activation": "gelu", "image_mean": (0.2, 0.3, 0.6), "image_std": (0.5, 0.6, 0.7),
}  # fmt: skip


def model(
    *,
    head: str = "tanh_mlp_gelu",
    rank: int = 3,
    dropout: float = 0.0,
    remat: str = "none",
    attention: str = "xla",
    projector: str = "linear",
    layers: int = 3,
    tied: bool = False,
    dtype: str = "float32",
    dropout_kind: str = "hash",
    feature_layer: int = -2,
    two_towers: bool = False,
    **flags: Any,
) -> VLMConfig:
    """flags: of the decoder, in which families differ."""
    vision = VisionConfig(
        image_size=21, patch_size=7, width=22, num_layers=3, num_heads=2, mlp_width=29, layer_norm_epsilon=1e-5,
        activation="quick_gelu", feature_layer=feature_layer, class_token=True, registers=0, pre_norm=True,
        patch_bias=False, layer_scale=False, position_grid=0, position_resize="bicubic",
        image_mean=(0.5, 0.4, 0.3), image_std=(0.2, 0.3, 0.4),
    )  # fmt: skip
    decoder = DecoderConfig(
        vocab_size=53, width=26, num_layers=layers, num_heads=4, num_kv_heads=2, head_dim=6, mlp_width=31,
        rms_norm_epsilon=1e-5, rope_theta=5000.0, attention=attention, remat=remat,
        **PLAIN | {"tie_embeddings": tied} | flags,
    )  # fmt: skip
    lora = LoRAConfig(rank=rank, alpha=5.0, dropout=dropout, dropout_kind=dropout_kind)
    second = replace(vision, **SECOND) if two_towers else None
    return VLMConfig(vision, second, projector, decoder, lora, head, dtype)


def batch(rows: int = 8, tokens: int = 19, seed: int = 0, image_size: int = 21) -> Batch:
    """Random rows whose answers differ in length; a third of the answers' tokens are numbers."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(8, 53, (rows, tokens)).astype(np.int32)
    lengths = rng.integers(LAYOUT.answer_offset + 3, tokens + 1, rows)
    position = np.arange(tokens)[None]
    is_answer = (position >= LAYOUT.answer_offset) & (position < lengths[:, None])
    is_number = is_answer & (rng.random((rows, tokens)) < 0.3)
    ids = np.where(is_number, NUMBER_ID, ids)
    ids[:, : LAYOUT.answer_offset] = np.arange(10, 10 + LAYOUT.answer_offset)
    numbers = np.where(is_number, rng.normal(size=ids.shape), 0).astype(np.float32)
    images = rng.integers(0, 256, (rows, image_size, image_size, 3)).astype(np.uint8)
    fields = (images, ids, is_answer, is_number, numbers, np.ones(rows, np.float32))
    return Batch(*map(jnp.asarray, fields))


@cache
def params(config: VLMConfig, seed: int = 3) -> dict[str, jax.Array]:
    """Random parameters by path; LoRA's B, which starts at 0, is random too, so that LoRA does something."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {
        path: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here) for path, s in skeleton(config).shapes.items()
    }
    values = draw(config, wanted, seed)
    rng = np.random.default_rng(seed)
    return {
        path: jnp.asarray(0.1 * rng.normal(size=x.shape), x.dtype) if path.endswith("lora_b") else x
        for path, x in values.items()
    }
