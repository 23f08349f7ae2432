"""The decoder of LLaMA, Mistral and Qwen: RMSNorm, rotary positions, grouped-query attention, SwiGLU; LoRA on all seven
projections. In what families differ are values of `DecoderConfig`.

Source: Touvron et al. 2023; rotary embedding in the half-split form of the released Hugging Face weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from igllm_jax.models import axes, params
from igllm_jax.models.attention import causal, causal_flops
from igllm_jax.models.layers import Linear, Names, RMSNorm, linear_flops
from igllm_jax.models.lora import DropoutSeed, LoRAConfig, LoRALinear, lora_flops
from igllm_jax.models.number_row import NumberRow
from igllm_jax.models.remat import LayerFlops, find_policy


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the decoder as its checkpoint gives them.

    head_dim: of one head, often width / num_heads. rope_scaling: see `rope_cos_sin`. qkv_bias: queries, keys and values
    have one (Qwen 2). qk_norm: queries and keys are normalised head by head, before their rotation (Qwen 3).
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_width: int
    rms_norm_epsilon: float
    rope_theta: float
    rope_scaling: tuple[float, ...]
    qkv_bias: bool
    qk_norm: bool
    tie_embeddings: bool
    attention: str  # see attention.KERNELS
    remat: str  # what the backward pass recomputes: see remat.py
    number_row: int = -1  # the token whose rows stand apart: see number_row.py; -1: none's do

    def __post_init__(self) -> None:
        find_policy(self.remat)
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not divisible by num_kv_heads {self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"model.decoder.head_dim {self.head_dim} is odd; rotary positions need pairs")
        if len(self.rope_scaling) not in ROPE_SCALINGS:
            raise ValueError(f"model.decoder.rope_scaling has {len(self.rope_scaling)} numbers, not 0, 1 or 4")
        if len(self.rope_scaling) == 4 and not self.rope_scaling[1] < self.rope_scaling[2]:
            raise ValueError("model.decoder.rope_scaling: its low frequency factor is not below its high one")

    def has_bias(self, projection: str) -> bool:
        return self.qkv_bias and projection in ("q", "k", "v")


def layer_projections(config: DecoderConfig) -> dict[str, tuple[tuple[int, int], Names]]:
    """The seven projections of a layer: name -> (input and output width, their axis names)."""
    width, mlp = config.width, config.mlp_width
    heads, kv_heads = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "q": ((width, heads), ("embed", "heads")),
        "k": ((width, kv_heads), ("embed", "kv_heads")),
        "v": ((width, kv_heads), ("embed", "kv_heads")),
        "o": ((heads, width), ("heads", "embed")),
        "gate": ((width, mlp), ("embed", "mlp")),
        "up": ((width, mlp), ("embed", "mlp")),
        "down": ((mlp, width), ("mlp", "embed")),
    }


def layer_flops(config: DecoderConfig, lora: LoRAConfig, length: int) -> LayerFlops:
    """Of one sequence of `length` positions through all layers."""
    sizes = {name: size for name, (size, _) in layer_projections(config).items()}

    def outputs(*names: str) -> float:
        return length * sum(linear_flops(sizes[name], (lora.rank, sizes[name][1])) for name in names)

    per_layer = LayerFlops(
        kernels=length * linear_flops(*sizes.values()),
        lora=length * lora_flops(lora, *sizes.values()),
        attention=causal_flops(length, config.num_heads, config.head_dim),
        low=length * linear_flops(*((inputs, lora.rank) for inputs, _ in sizes.values())),
        qkv=outputs("q", "k", "v"),
        o=outputs("o"),
        gate_up=outputs("gate", "up"),
        down=outputs("down"),
        down_b=length * linear_flops((lora.rank, sizes["down"][1])),
    )
    return LayerFlops(*(config.num_layers * flops for flops in vars(per_layer).values()))


def vocabulary_flops(config: DecoderConfig) -> float:
    """Of one position's logits."""
    return linear_flops((config.width, config.vocab_size))


class Layer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); stacked over `layers`."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, rngs: nnx.Rngs, *, layers: int):
        projections = layer_projections(config)

        def linear(name: str) -> LoRALinear:
            size, names = projections[name]
            site, bias = list(projections).index(name), config.has_bias(name)
            return LoRALinear(size, names, lora, rngs, site=site, bias=bias, layers=layers)

        self.config = config
        self.attention_norm = RMSNorm(config.width, config.rms_norm_epsilon, rngs, layers=layers)
        self.q, self.k, self.v, self.o = (linear(name) for name in "qkvo")
        self.q_norm, self.k_norm = (head_norm(config, rngs, layers=layers) for _ in "qk")
        self.mlp_norm = RMSNorm(config.width, config.rms_norm_epsilon, rngs, layers=layers)
        self.gate, self.up, self.down = (linear(name) for name in ("gate", "up", "down"))

    def __call__(self, x: Float[Array, "b t d"], seed: DropoutSeed | None) -> Float[Array, "b t d"]:
        """A whole sequence from position 0."""
        y = self.attention_norm(x)
        q, k, v = by_head(self.q(y, seed), self.k(y, seed), self.v(y, seed), self.config, (self.q_norm, self.k_norm))
        q, k, v = (jax.ad_checkpoint.checkpoint_name(y, "qkv") for y in (q, k, v))
        context = causal(q, k, v, kernel=self.config.attention)
        context = jax.ad_checkpoint.checkpoint_name(context, "context").reshape(*x.shape[:2], -1)
        x = axes.activation(x + self.o(context, seed), "batch", None, None)
        x = jax.ad_checkpoint.checkpoint_name(x, "residual")
        y = self.mlp_norm(x)
        gate, up = (jax.ad_checkpoint.checkpoint_name(f(y, seed), "gate_up") for f in (self.gate, self.up))
        y = axes.activation(jax.nn.silu(gate) * up, "batch", None, "mlp")
        return axes.activation(x + self.down(y, seed), "batch", None, None)


HeadNorms = tuple[RMSNorm | None, RMSNorm | None]  # of queries and of keys


def head_norm(config: DecoderConfig, rngs: nnx.Rngs, *, layers: int | None = None) -> RMSNorm | None:
    """The norm of one head's queries or keys, None where the family has none."""
    return RMSNorm(config.head_dim, config.rms_norm_epsilon, rngs, layers=layers) if config.qk_norm else None


def head_normed(x: Float[Array, "*s k"], norm: RMSNorm | None) -> Float[Array, "*s k"]:
    return x if norm is None else norm(x)


def by_head(
    q: Float[Array, "b t q"],
    k: Float[Array, "b t v"],
    v: Float[Array, "b t v"],
    config: DecoderConfig,
    norms: HeadNorms,
    start: int = 0,
) -> tuple[Float[Array, "b t h k"], Float[Array, "b t g k"], Float[Array, "b t g k"]]:
    """By head, queries and keys normalised and with RoPE applied, from `start` on."""
    q, k, v = (z.reshape(*z.shape[:2], -1, config.head_dim) for z in (q, k, v))
    q, k = (head_normed(z, norm) for z, norm in zip((q, k), norms, strict=True))
    cos, sin = config_cos_sin(start + jnp.arange(q.shape[1]), config)
    q, k = (apply_rope(z, cos[:, None], sin[:, None]) for z in (q, k))
    k, v = (axes.activation(z, "batch", None, "kv_heads", None) for z in (k, v))
    return axes.activation(q, "batch", None, "heads", None), k, v


def config_cos_sin(
    positions: Int[Array, "t"], config: DecoderConfig
) -> tuple[Float[Array, "t half"], Float[Array, "t half"]]:
    """`rope_cos_sin` of this decoder."""
    return rope_cos_sin(positions, config.head_dim, config.rope_theta, config.rope_scaling)


def rope_cos_sin(
    positions: Int[Array, "t"], width: int, theta: float, scaling: tuple[float, ...] = ()
) -> tuple[Float[Array, "t half"], Float[Array, "t half"]]:
    """Cosine and sine (float32) of the angles of rotary positions, position / theta^(2i/K) radians for the pair i.

    scaling: () for none, or the numbers of a row of ROPE_SCALINGS.
    Source: Su et al. 2021.
    """
    half = width // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    frequencies = ROPE_SCALINGS[len(scaling)](frequencies, *scaling)
    angles_rad = positions[:, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles_rad), jnp.sin(angles_rad)


def _llama3_scaled(frequencies: jax.Array, factor: float, low: float, high: float, length: float) -> jax.Array:
    """Frequencies that turn less than `low` times in `length` positions are divided by the factor, those that turn more
    than `high` times stay, and between them lies a straight line. Source: Llama 3.1's model card and released code.
    """
    kept = jnp.clip((frequencies * length / (2 * math.pi) - low) / (high - low), 0.0, 1.0)
    return frequencies * ((1 - kept) / factor + kept)


# how many numbers `rope_scaling` has -> frequencies scaled with them
ROPE_SCALINGS: dict[int, Callable[..., jax.Array]] = {
    0: lambda frequencies: frequencies,
    1: lambda frequencies, factor: frequencies / factor,  # linear: Chen et al. 2023
    4: _llama3_scaled,  # factor, low and high frequency factor, positions of the pretraining
}


def apply_rope(x: Float[Array, "... k"], cos: jax.Array, sin: jax.Array) -> Float[Array, "... k"]:
    """Rotates the pair (i, i + K/2) of x by the angle i, computed in float32. cos, sin: [..., K/2], broadcast."""
    half = x.shape[-1] // 2
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class Decoder(nnx.Module):
    """embedding [V, D], layers (stacked; absent for 0), final_norm, head/kernel [D, V] (absent where tied)."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, rngs: nnx.Rngs):
        self.config = config
        table = (config.vocab_size, config.width)
        self.embedding = params.parameter(rngs, table, ("vocab", "embed"), params.EMBEDDING_STD)
        self.layers = Layer(config, lora, rngs, layers=config.num_layers) if config.num_layers else None
        self.final_norm = RMSNorm(config.width, config.rms_norm_epsilon, rngs)
        has_head = not config.tie_embeddings
        size = (config.width, config.vocab_size)
        self.head = Linear(size, ("embed", "vocab"), rngs, bias=False) if has_head else None
        token = config.number_row
        self.number_row = NumberRow(token, config.width, rngs, has_head=has_head) if token >= 0 else None

    def embed(self, tokens: Int[Array, "b t"], dtype: jnp.dtype) -> Float[Array, "b t d"]:
        x = axes.weight(self.embedding[...], "vocab", "embed").astype(dtype)[tokens]
        x = x if self.number_row is None else self.number_row.embedded(x, tokens)
        return axes.activation(x, "batch", None, None)

    def __call__(self, x: Float[Array, "b t d"], seed: DropoutSeed | None) -> Float[Array, "b t d"]:
        """The last layer's output, before the final norm (which only the positions that count need)."""
        if self.layers is None:
            return x
        graphdef, state = nnx.split(self.layers)

        def body(x: jax.Array, layer: tuple[nnx.State, jax.Array]) -> tuple[jax.Array, None]:
            own_seed = None if seed is None else seed.fold(layer[1])
            return nnx.merge(graphdef, layer[0])(x, own_seed), None

        policy = find_policy(self.config.remat).policy
        scanned = body if policy is None else jax.checkpoint(body, policy=policy, prevent_cse=False)
        x, _ = jax.lax.scan(scanned, x, (state, jnp.arange(self.config.num_layers)))
        return x

    def head_kernel(self) -> Float[Array, "d v"]:
        """The vocabulary head's weights."""
        kernel = self.embedding[...].T if self.head is None else self.head.kernel[...]
        kernel = axes.weight(kernel, "embed", "vocab")
        return kernel if self.number_row is None else self.number_row.in_head(kernel)
