"""Bytes: what a device holds of arrays, what it has, and a rough bound of what a training step adds."""

import math
import os
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from igllm_jax.models.llama import DecoderConfig, layer_flops, layer_projections
from igllm_jax.models.remat import find_policy
from igllm_jax.models.vlm import VLMConfig
from igllm_jax.planning.flops import recomputed


def own_bytes(tree: Any) -> float:
    """What one device holds of these arrays, bytes."""
    leaves: Iterable[Any] = jax.tree.leaves(tree)
    return float(sum(math.prod(x.sharding.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize for x in leaves))


def whole_bytes(tree: Any) -> float:
    """What these arrays take on a disk, bytes."""
    return float(sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree)))


def local_memory(device: Any) -> float:
    """Bytes that programs may take of one device; of a CPU's fake devices, each its share of the machine's memory."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.local_device_count()


def activation_bound(model: VLMConfig, *, rows: float, length: int, loss_chunk: int, trains_vision: bool) -> float:
    """Bytes of a training step beside weights, gradients and optimizer, on one device: rough, and rather too much.

    What the backward pass keeps of every layer, what one layer takes while it is differentiated, and the vocabulary's
    logits of one chunk. The compiler shares and fuses; `igllm plan` asks it.

    rows: examples that the device sees at once. length: positions of a row, image included. loss_chunk: answer
    positions whose logits exist at once. trains_vision: whether the tower is differentiated, too.
    """
    decoder = model.decoder
    size = element_bytes(model)
    kept = kept_elements(model, length)[0] * decoder.num_layers + _all_of_a_layer(decoder, length)
    tower = sum(
        (8 * vision.width + 2 * vision.mlp_width + 2 * vision.num_heads * vision.num_patches)
        * (vision.num_blocks if trains_vision else 1)
        for vision in model.towers.values()
    )
    logits = 2 * 4 * min(loss_chunk, length) * decoder.vocab_size  # float32, and their gradient
    return rows * (size * (length * kept + model.vision.num_patches * tower) + logits)


def element_bytes(model: VLMConfig) -> int:
    """Of a number that is computed with."""
    return jax.numpy.dtype(model.dtype).itemsize


def kept_elements(model: VLMConfig, length: int) -> tuple[float, float]:
    """Elements that the backward pass keeps of a layer, per position: on the device, and in the host's memory."""
    decoder = model.decoder
    policy = find_policy(decoder.remat)
    if decoder.remat == "none":
        return _all_of_a_layer(decoder, length), 0.0
    sizes = _named(model, length)
    names = ("qkv", "context", "residual", "residual", "gate_up") if policy.names is None else policy.names
    on_device = [sizes[name] for name in names if name not in policy.offloaded]
    return decoder.width + sum(on_device), sum(sizes[name] for name in policy.offloaded)


def _named(model: VLMConfig, length: int) -> dict[str, float]:
    """Elements of what remat.TENSORS names, per position of a layer."""
    decoder = model.decoder
    heads, kv_heads = decoder.num_heads * decoder.head_dim, decoder.num_kv_heads * decoder.head_dim
    return {
        "qkv": heads + 2 * kv_heads,
        "context": heads,
        "residual": decoder.width,
        "gate_up": 2 * decoder.mlp_width,
        "low": model.lora.rank * len(layer_projections(decoder)),
        "weights": decoder.num_heads * length if decoder.attention == "xla" else 0,
    }


def weight_passes(decoder: DecoderConfig) -> int:
    """How often a training step reads every weight: forward, for gradients, and where products are
    recomputed."""
    names = find_policy(decoder.remat).names
    return 2 if names is None or {"qkv", "residual", "gate_up"} <= set(names) else 3


def train_traffic(model: VLMConfig, length: int) -> float:
    """Bytes that one row's activations at least move to and from memory in a training step: what the decoder's products
    take and make, each time they run, and what is kept for the backward pass, read once more."""
    decoder = model.decoder
    forward = layer_flops(decoder, model.lora, length)
    runs = 2 + recomputed(decoder, forward) / forward.total
    moved = sum(sum(size) for size, _ in layer_projections(decoder).values())
    kept = sum(kept_elements(model, length))
    return element_bytes(model) * length * decoder.num_layers * (runs * moved + kept)


def host_traffic(model: VLMConfig, length: int) -> float:
    """Bytes of one row that go to the host's memory in a training step, and come back."""
    kept = kept_elements(model, length)[1]
    return 2 * element_bytes(model) * length * model.decoder.num_layers * kept


def _all_of_a_layer(decoder: DecoderConfig, length: int) -> float:
    """Elements that a layer computes for one position, attention weights among them where the kernel keeps them."""
    heads, kv_heads = decoder.num_heads * decoder.head_dim, decoder.num_kv_heads * decoder.head_dim
    weights = 2 * decoder.num_heads * length if decoder.attention == "xla" else 0
    return 6 * decoder.width + 3 * heads + 3 * kv_heads + 4 * decoder.mlp_width + weights
