"""What the backward pass of a decoder's layer keeps, in which memory, and the FLOPs of what it computes once more.

A policy is a name of REMAT_POLICIES, or tensors joined by +, such as `qkv+residual+gate_up@host`: those are kept beside
a layer's input, the ones with @host in the host's memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax


@dataclass(frozen=True)
class LayerFlops:
    """FLOPs of a forward pass through layers. kernels: products with the kernels. lora: with LoRA's. attention: its two
    products, causal. The first two again by output: low, what LoRA's A makes; qkv, queries, keys and values; o;
    gate_up; down. down_b: LoRA's share of the last."""

    kernels: float
    lora: float
    attention: float
    low: float
    qkv: float
    o: float
    gate_up: float
    down: float
    down_b: float

    @property
    def total(self) -> float:
        return self.kernels + self.lora + self.attention


@dataclass(frozen=True)
class Remat:
    """What the backward pass keeps. policy: of jax.checkpoint, None for no checkpoint at all. names: of what is kept
    beside a layer's input; None where the policy has none. recomputed: the FLOPs that are computed once more (the last
    product of a layer never is: nothing in the layer reads its output). offloaded: those of `names` that the host's
    memory holds."""

    policy: Any
    names: tuple[str, ...] | None
    recomputed: Callable[[LayerFlops], float]
    offloaded: tuple[str, ...] = ()

    @classmethod
    def keeping(cls, *names: str, offloaded: tuple[str, ...] = ()) -> "Remat":
        policies = jax.checkpoint_policies
        policy = policies.save_only_these_names(*names)
        if offloaded:
            policy = policies.save_and_offload_only_these_names(
                names_which_can_be_saved=[name for name in names if name not in offloaded],
                names_which_can_be_offloaded=list(offloaded),
                offload_src="device",
                offload_dst="pinned_host",
            )

        def recomputed(flops: LayerFlops) -> float:
            return sum((getattr(flops, part) for name, part in _REPLACES.items() if name not in names), 0.0)

        return cls(policy, names, recomputed, offloaded)


# what is kept -> what need not be computed again; no kernel but "xla" has weights to keep, and all need more than their
# output (context) to go without running again
_REPLACES = {"qkv": "qkv", "weights": "attention", "residual": "o", "gate_up": "gate_up", "low": "low"}
TENSORS = (*_REPLACES, "context")
HOST = "@host"
REMAT_POLICIES: dict[str, Remat] = {
    "none": Remat(None, None, lambda flops: 0.0),
    "elementwise": Remat.keeping("qkv", "weights", "context", "residual", "gate_up", "low"),
    "dots": Remat(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        None,
        lambda flops: flops.attention + flops.lora - flops.down_b,
    ),
    "qkvres": Remat.keeping("qkv", "residual"),
    "qkvctx": Remat.keeping("qkv", "context"),
    "full": Remat.keeping(),
}
EXPECTED = (
    f"one of {', '.join(REMAT_POLICIES)}, or tensors to keep, each once, joined by +, of {', '.join(TENSORS)}, with "
    f"{HOST} behind those that the host's memory holds"
)


@cache
def find_policy(text: str) -> Remat:
    """Raises: ValueError for what is no policy."""
    if text in REMAT_POLICIES:
        return REMAT_POLICIES[text]
    parts = text.split("+")
    names = tuple(part.removesuffix(HOST) for part in parts)
    if len(set(names)) < len(names) or not set(names) <= set(TENSORS):
        raise ValueError(f"model.decoder.remat is {text[:80]!r}; expected {EXPECTED}")
    offloaded = tuple(part.removesuffix(HOST) for part in parts if part.endswith(HOST))
    return Remat.keeping(*names, offloaded=offloaded)
