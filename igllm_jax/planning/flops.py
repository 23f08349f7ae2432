"""Model FLOPs, counted from the sizes: the compiler's own count sees every loop body once and no kernel at all.

Two counts, so that nobody flatters: *useful* is what the mathematics asks for (MFU is useful over peak), *executed*
adds what rematerialisation computes again (HFU). A product of [m, k] and [k, n] is 2mkn. Frozen weights have no weight
gradients, causal attention is half a square, and what stands between products is left out.
"""

from dataclasses import dataclass

from igllm_jax.models.vlm import VLMConfig
from igllm_jax.training.optim import trainable_paths


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


def train_flops(model: VLMConfig, *, length: int, answer_length: int, trainable: str) -> Flops:
    """One example's forward and backward pass.

    length: positions, image included. answer_length: positions that meet the vocabulary. trainable: of optim.TRAINABLE.

    Example: 7B with LoRA 128, length 1024, answer_length 393: 29.9e12 useful, 44.1e12 executed with remat "full".
    """
    decoder = model.decoder
    paths = {"decoder/layers/q/kernel", "vision/blocks/q/kernel"}
    trains = trainable_paths(paths, trainable)
    base, tower = "decoder/layers/q/kernel" in trains, "vision/blocks/q/kernel" in trains
    forward = 2.0 * length * decoder.num_layers * sum(_layer(model).values())
    lora = 2.0 * length * decoder.num_layers * sum(_lora(model).values())
    attention = decoder.num_layers * 2.0 * length**2 * decoder.num_heads * decoder.head_dim
    head = 2.0 * answer_length * decoder.width * decoder.vocab_size
    vision = _vision(model)
    return Flops(
        forward=forward,
        gradients=forward,
        weight_gradients=forward if base else 0.0,
        lora=3 * lora,
        attention=3 * attention,
        head=(3 if base else 2) * head,
        vision=(3 if tower else 1) * vision,
        small=3 * _small(model, answer_length),
        # where the vocabulary is frozen, its gradient is computed with its logits
        recomputed=_recomputed(model, forward, lora, attention, length) + (head if base else 0.0),
    )


def prefill_flops(model: VLMConfig, *, length: int, shared: int) -> float:
    """A prompt of `length` positions, image included; LoRA merged, one position meets the vocabulary.

    shared: how many of them stand before the image; they are computed once for all rows and not counted.
    """
    decoder = model.decoder
    layers = 2.0 * (length - shared) * decoder.num_layers * sum(_layer(model).values())
    attention = decoder.num_layers * 2.0 * (length**2 - shared**2) * decoder.num_heads * decoder.head_dim
    return layers + attention + 2.0 * decoder.width * decoder.vocab_size + _vision(model)


def token_flops(model: VLMConfig, *, length: int) -> float:
    """One token decoded against `length` positions of cache."""
    decoder = model.decoder
    layers = 2.0 * decoder.num_layers * sum(_layer(model).values())
    attention = decoder.num_layers * 4.0 * length * decoder.num_heads * decoder.head_dim
    return layers + attention + 2.0 * decoder.width * decoder.vocab_size


def _projections(model: VLMConfig) -> dict[str, tuple[int, int]]:
    """Input and output width of a layer's seven projections."""
    decoder = model.decoder
    width, mlp = decoder.width, decoder.mlp_width
    heads, kv_heads = decoder.num_heads * decoder.head_dim, decoder.num_kv_heads * decoder.head_dim
    return {
        "q": (width, heads), "k": (width, kv_heads), "v": (width, kv_heads), "o": (heads, width),
        "gate": (width, mlp), "up": (width, mlp), "down": (mlp, width),
    }  # fmt: skip


def _layer(model: VLMConfig) -> dict[str, int]:
    return {name: inputs * outputs for name, (inputs, outputs) in _projections(model).items()}


def _lora(model: VLMConfig) -> dict[str, int]:
    return {name: model.lora.rank * (inputs + outputs) for name, (inputs, outputs) in _projections(model).items()}


def _recomputed(model: VLMConfig, forward: float, lora: float, attention: float, length: int) -> float:
    """What a layer's backward pass computes once more under the remat policy, over all layers."""
    remat = model.decoder.remat
    if remat in ("none", "elementwise"):
        return 0.0
    if remat == "dots":  # every product with a weight is kept
        return attention
    recomputed = forward + lora + attention
    if remat == "qkvctx":  # the products behind q, k and v are kept (what LoRA's A gives is not)
        saved = sum(_layer(model)[name] + model.lora.rank * _projections(model)[name][1] for name in "qkv")
        recomputed -= 2.0 * length * model.decoder.num_layers * saved
    return recomputed


def _vision(model: VLMConfig) -> float:
    """The tower's forward pass; its attention is not causal."""
    vision = model.vision
    positions = vision.num_patches + 1
    block = 4 * vision.width**2 + 2 * vision.width * vision.mlp_width
    patches = 2.0 * vision.num_patches * 3 * vision.patch_size**2 * vision.width
    return patches + vision.num_blocks * (2.0 * positions * block + 4.0 * positions**2 * vision.width)


def _small(model: VLMConfig, answer_length: int) -> float:
    """Forward pass of projector and float head."""
    width = model.decoder.width
    hidden = width**2 if model.projector == "mlp2x_gelu" else 0
    projector = 2.0 * model.vision.num_patches * (model.vision.width * width + hidden)
    head = {"none": 0, "linear": width, "tanh_mlp_gelu": width**2 + width}[model.head]
    return projector + 2.0 * answer_length * head
