"""Model FLOPs, added up from the counts that stand beside each part of the model: the compiler's own count sees every
loop body once and no kernel at all.

Two counts, so that nobody flatters: *useful* is what the mathematics asks for (MFU is useful over peak), *executed*
adds what rematerialisation recomputes (HFU). Frozen weights have no weight gradients, and what stands between products
is left out.
"""

from collections.abc import Collection
from dataclasses import dataclass

from igllm_jax.models import vision
from igllm_jax.models.attention import attend_flops
from igllm_jax.models.float_heads import FLOAT_HEADS
from igllm_jax.models.llama import DecoderConfig, attention_flops, layer_flops, vocabulary_flops
from igllm_jax.models.lora import NO_LORA
from igllm_jax.models.projectors import PROJECTORS
from igllm_jax.models.remat import LayerFlops, find_policy
from igllm_jax.models.vlm import VLMConfig


@dataclass(frozen=True)
class Flops:
    """FLOPs of one example by part.

    forward: the decoder's frozen-shaped products. gradients: of activations through them. weight_gradients: of base
    weights (0 where they are frozen). lora: forward and both gradients. attention: forward and backward. head: the
    vocabulary's. vision: the tower's. small: projector and float head. recomputed: what the backward pass computes once
    more.
    """

    forward: float
    gradients: float
    weight_gradients: float
    lora: float
    attention: float
    head: float
    vision: float
    small: float
    recomputed: float

    @property
    def useful(self) -> float:
        return self.executed - self.recomputed

    @property
    def executed(self) -> float:
        return sum(vars(self).values())


def train_flops(model: VLMConfig, *, length: int, answer_length: int, trainable: Collection[str]) -> Flops:
    """One example's forward and backward pass.

    length: positions, image included. answer_length: positions with logits. trainable: the parameters that
    train, by path.

    Example: 7B with LoRA 128, length 1024, answer_length 393: 29.9e12 useful, 41.1e12 executed with remat "full".
    """
    base, tower = "decoder/layers/q/kernel" in trainable, "vision/blocks/q/kernel" in trainable
    forward = layer_flops(model.decoder, model.lora, length)
    logits = answer_length * vocabulary_flops(model.decoder)
    return Flops(
        forward=forward.kernels,
        gradients=forward.kernels,
        weight_gradients=forward.kernels if base else 0.0,
        lora=3 * forward.lora,
        attention=3 * forward.attention,
        head=(3 if base else 2) * logits,
        vision=(3 if tower else 1) * _vision(model),
        small=3 * (_projector(model) + answer_length * _float_head(model)),
        # where the vocabulary is frozen, its gradient is computed with its logits
        recomputed=recomputed(model.decoder, forward) + (logits if base else 0.0),
    )


def recomputed(decoder: DecoderConfig, forward: LayerFlops) -> float:
    """FLOPs that the layers' backward pass computes once more. Kernels but "xla" have no attention weights to keep: a
    policy that names them runs those again."""
    policy = find_policy(decoder.remat)
    runs_attention = "weights" in (policy.names or ()) and decoder.attention != "xla"
    return policy.recomputed(forward) + (forward.attention if runs_attention else 0.0)


def prefill_flops(model: VLMConfig, *, length: int, shared: int) -> float:
    """A prompt of `length` positions, image included; LoRA merged, one position with logits. Projector and
    float head are left out.

    shared: how many of them stand before the image; they are computed once for all rows and not counted.
    """
    decoder = model.decoder
    kernels = layer_flops(decoder, NO_LORA, length - shared).kernels
    attention = attention_flops(decoder, length) - attention_flops(decoder, shared)
    return kernels + attention + vocabulary_flops(decoder) + _vision(model)


def token_flops(model: VLMConfig, *, length: int) -> float:
    """One token decoded against `length` positions of cache."""
    decoder = model.decoder
    local = sum(map(decoder.is_local, range(decoder.num_layers)))
    seen = local * min(length, decoder.window) + (decoder.num_layers - local) * length
    attention = attend_flops(1, seen, decoder.num_heads, decoder.head_dim)
    return layer_flops(decoder, NO_LORA, 1).kernels + attention + vocabulary_flops(decoder)


def _vision(model: VLMConfig) -> float:
    """One image's forward pass through all towers."""
    return sum(map(vision.flops, model.towers.values()))


def _projector(model: VLMConfig) -> float:
    """One image's forward pass."""
    flops = PROJECTORS[model.projector].flops(model.vision_width, model.decoder.width)
    return model.vision.num_patches * flops


def _float_head(model: VLMConfig) -> float:
    """One state's forward pass."""
    head = FLOAT_HEADS[model.head]
    return 0.0 if head is None else head.flops(model.decoder.width)
