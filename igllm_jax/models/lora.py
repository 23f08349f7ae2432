"""LoRA: a low-rank update beside a frozen weight, with dropout on its input.

Source: Hu et al. 2021 (arXiv 2106.09685); y = x W + dropout(x) A B * alpha / r.
"""

from dataclasses import dataclass, replace

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from igllm_jax.models import axes, params
from igllm_jax.models.layers import Linear, Names, linear_flops, stacked

DROPOUT_KINDS = ("hash", "threefry")
# Multipliers of hashes, all odd. LOWBIAS: of lowbias32, found by search for little bias (Wellons 2018, "Prospecting for
# hash functions"). GOLDEN: 2^32 / golden ratio. MURMUR: the first of MurmurHash3's finaliser (Appleby 2011).
LOWBIAS_1, LOWBIAS_2, GOLDEN, MURMUR = 0x7FEB352D, 0x846CA68B, 0x9E3779B9, 0x85EBCA6B
PI_DIGITS = (0x243F6A88, 0x13198A2E)  # words 0 and 2 of pi's fraction: numbers with nothing up their sleeve


@dataclass(frozen=True)
class LoRAConfig:
    """rank 0 leaves LoRA out. The update is scaled by alpha / rank; dropout is the share of inputs set to 0."""

    rank: int
    alpha: float
    dropout: float
    dropout_kind: str  # "hash": a counter hash that fuses into the product; "threefry": JAX's own generator

    def __post_init__(self) -> None:
        if self.dropout_kind not in DROPOUT_KINDS:
            raise ValueError(f"model.lora.dropout_kind is {self.dropout_kind!r}; choose one of {DROPOUT_KINDS}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.lora.dropout is {self.dropout}; it must lie in [0, 1)")


NO_LORA = LoRAConfig(rank=0, alpha=1.0, dropout=0.0, dropout_kind="hash")


def is_lora(path: str) -> bool:
    """Whether a parameter's path is LoRA's."""
    return path.endswith(("/lora_a", "/lora_b"))


def lora_flops(config: LoRAConfig, *sizes: tuple[int, int]) -> float:
    """FLOPs of one position through the updates of linear projections [in, out]."""
    return sum(linear_flops((inputs, config.rank), (config.rank, outputs)) for inputs, outputs in sizes)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DropoutSeed:
    """Two uint32 words from which every mask of one step follows; `fold` gives a layer or a projection its own."""

    words: jax.Array  # uint32 [2]

    def fold(self, number: int | jax.Array) -> "DropoutSeed":
        number = jnp.asarray(number, jnp.uint32) + jnp.uint32(1)
        first = _mix(self.words[0] ^ (number * jnp.uint32(GOLDEN)))
        second = _mix(self.words[1] + number * jnp.uint32(MURMUR))
        return replace(self, words=jnp.stack([first, second]))


def dropout_seed(seed: int | jax.Array, step: int | jax.Array) -> DropoutSeed:
    """The seed of one step, a function of (run seed, step) alone, so that a resumed run draws the same masks."""
    words = jnp.array(PI_DIGITS, jnp.uint32)
    return DropoutSeed(words).fold(seed).fold(step)


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of 32-bit words in which every input bit moves every output bit (lowbias32)."""
    x = (x ^ (x >> 16)) * jnp.uint32(LOWBIAS_1)
    x = (x ^ (x >> 15)) * jnp.uint32(LOWBIAS_2)
    return x ^ (x >> 16)


def dropout(x: Float[Array, "*s"], seed: DropoutSeed, config: LoRAConfig) -> Float[Array, "*s"]:
    """x with a share `config.dropout` of its elements at 0 and the others scaled by 1 / (1 - share)."""
    if config.dropout_kind == "threefry":
        key = jax.random.wrap_key_data(seed.words, impl="threefry2x32")
        is_kept = jax.random.bernoulli(key, 1 - config.dropout, x.shape)
    else:
        # A hash of the element's index: nothing is stored, nothing crosses devices, and XLA fuses it into the product.
        index = jnp.zeros(x.shape, jnp.uint32)
        for axis, size in enumerate(x.shape):
            index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        bits = (index ^ seed.words[0]) * jnp.uint32(LOWBIAS_1)
        bits = (bits ^ (bits >> 15)) * (seed.words[1] | jnp.uint32(1))
        is_kept = (bits ^ (bits >> 16)) >= jnp.uint32(round(config.dropout * 2**32))
    return jnp.where(is_kept, x * jnp.asarray(1 / (1 - config.dropout), x.dtype), jnp.zeros((), x.dtype))


@jax.custom_vjp
def product(x: Float[Array, "... i"], w: Float[Array, "i o"]) -> Float[Array, "... o"]:
    """x @ w in x's dtype; the gradient of w is summed in float32, over devices too."""
    return x @ w.astype(x.dtype)


def _product_forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(x, w), (x, w)


def _product_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = saved
    rows = tuple(range(x.ndim - 1))
    # XLA transposes the first operand, so it is the narrow one: a copy of `rank` columns.
    is_narrow = x.shape[-1] <= dy.shape[-1]
    first, second = (x, dy) if is_narrow else (dy, x)
    dw = jax.lax.dot_general(first, second, ((rows, rows), ((), ())), preferred_element_type=jnp.float32)
    return dy @ w.astype(dy.dtype).T, (dw if is_narrow else dw.T).astype(w.dtype)


product.defvjp(_product_forward, _product_backward)


class LoRALinear(nnx.Module):
    """A linear projection with its low-rank update: kernel [in, out], lora_a [in, r], lora_b [r, out], bias [out]
    where there is one; all with a leading axis of `layers`, one slice of which is called.

    At the start lora_b is 0, so the update is too. `site` numbers the projection inside its layer, for its own mask.
    """

    def __init__(
        self,
        width: tuple[int, int],
        names: Names,
        config: LoRAConfig,
        rngs: nnx.Rngs,
        *,
        site: int,
        bias: bool,
        layers: int,
    ):
        lead, lead_names = stacked(layers)
        self.config, self.site, self.names = config, site, names
        linear = Linear(width, names, rngs, bias=bias, layers=layers)
        self.kernel, self.bias = linear.kernel, linear.bias
        rank = config.rank
        has_lora = rank > 0
        a_axes, b_axes = (*lead_names, _of_lora(names[0]), "rank"), (*lead_names, "rank", _of_lora(names[1]))
        a_shape, b_shape = (*lead, width[0], rank), (*lead, rank, width[1])
        self.lora_a = params.parameter(rngs, a_shape, a_axes, params.uniform_fan_in) if has_lora else None
        self.lora_b = params.parameter(rngs, b_shape, b_axes, params.zeros) if has_lora else None

    def __call__(self, x: Float[Array, "... i"], seed: DropoutSeed | None) -> Float[Array, "... o"]:
        """seed: draws the dropout mask; None switches dropout off."""
        y = x @ axes.weight(self.kernel[...], *self.names).astype(x.dtype)
        y = y if self.bias is None else y + self.bias[...].astype(x.dtype)
        if self.lora_a is None or self.lora_b is None:
            return y
        if seed is not None and self.config.dropout > 0:
            x = dropout(x, seed.fold(self.site), self.config)
        a = axes.weight(self.lora_a[...], _of_lora(self.names[0]), "rank")
        b = axes.weight(self.lora_b[...], "rank", _of_lora(self.names[1]))
        low = jax.ad_checkpoint.checkpoint_name(product(x, a), "low")
        return y + product(low * jnp.asarray(self.config.alpha / self.config.rank, x.dtype), b)


def _of_lora(name: str | None) -> str | None:
    """LoRA's own names for the axes that it shares with the kernel: layouts may shard them otherwise."""
    return None if name is None else f"lora_{name}"


def merge(parameters: params.Params, config: LoRAConfig) -> params.Params:
    """Adds every update to its kernel (float32 sum, kernel's dtype) and drops lora_a and lora_b.

    parameters: path -> array, as `params.flatten` gives them; works for stacked and single layers.
    """
    merged = {path: value for path, value in parameters.items() if not is_lora(path)}
    for path in [path for path in parameters if path.endswith("/lora_a")]:
        prefix = path.removesuffix("/lora_a")
        kernel = parameters[f"{prefix}/kernel"]
        a, b = parameters[path].astype(jnp.float32), parameters[f"{prefix}/lora_b"].astype(jnp.float32)
        update = (a @ b) * (config.alpha / config.rank)
        merged[f"{prefix}/kernel"] = (kernel.astype(jnp.float32) + update).astype(kernel.dtype)
    return merged
