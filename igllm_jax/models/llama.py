"""The LLaMA decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU, LoRA on all seven maps of a layer.

Source: Touvron et al. 2023; rotary embedding in the half-split form of the released Hugging Face weights.
"""

from dataclasses import dataclass

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from igllm_jax.models import axes, params
from igllm_jax.models.attention import causal
from igllm_jax.models.layers import Linear, RMSNorm
from igllm_jax.models.lora import DropoutSeed, LoRAConfig, LoRALinear

REMAT_POLICIES = {
    "none": None,
    "elementwise": jax.checkpoint_policies.save_only_these_names(
        "qkv", "weights", "context", "residual", "gate_up", "low"
    ),
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "qkvctx": jax.checkpoint_policies.save_only_these_names("qkv", "context"),
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the decoder as its checkpoint gives them. head_dim: of one head, often width / num_heads."""

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_width: int
    rms_norm_epsilon: float
    rope_theta: float
    tie_embeddings: bool
    attention: str  # see attention.KERNELS
    remat: str  # what the backward pass computes again: see REMAT_POLICIES

    def __post_init__(self) -> None:
        if self.remat not in REMAT_POLICIES:
            raise ValueError(f"model.decoder.remat is {self.remat!r}; choose one of {tuple(REMAT_POLICIES)}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not divisible by num_kv_heads {self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"model.decoder.head_dim {self.head_dim} is odd; rotary positions need pairs")


class Layer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); stacked over `layers`."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, rngs: nnx.Rngs, *, layers: int):
        width, mlp = config.width, config.mlp_width
        heads, kv_heads = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim

        def linear(site: int, size: tuple[int, int], *names: str) -> LoRALinear:
            return LoRALinear(size, (names[0], names[1]), lora, rngs, site=site, layers=layers)

        self.config = config
        self.attention_norm = RMSNorm(width, config.rms_norm_epsilon, rngs, layers=layers)
        self.q = linear(0, (width, heads), "embed", "heads")
        self.k = linear(1, (width, kv_heads), "embed", "kv_heads")
        self.v = linear(2, (width, kv_heads), "embed", "kv_heads")
        self.o = linear(3, (heads, width), "heads", "embed")
        self.mlp_norm = RMSNorm(width, config.rms_norm_epsilon, rngs, layers=layers)
        self.gate = linear(4, (width, mlp), "embed", "mlp")
        self.up = linear(5, (width, mlp), "embed", "mlp")
        self.down = linear(6, (mlp, width), "mlp", "embed")

    def __call__(self, x: Float[Array, "b t d"], seed: DropoutSeed | None) -> Float[Array, "b t d"]:
        """A whole sequence from position 0."""
        y = self.attention_norm(x)
        q, k, v = queries_keys_values(self.q(y, seed), self.k(y, seed), self.v(y, seed), self.config)
        q, k, v = (jax.ad_checkpoint.checkpoint_name(y, "qkv") for y in (q, k, v))
        context = causal(q, k, v, kernel=self.config.attention)
        context = jax.ad_checkpoint.checkpoint_name(context, "context").reshape(*x.shape[:2], -1)
        x = axes.activation(x + self.o(context, seed), "batch", None, None)
        x = jax.ad_checkpoint.checkpoint_name(x, "residual")
        y = self.mlp_norm(x)
        gate, up = (jax.ad_checkpoint.checkpoint_name(f(y, seed), "gate_up") for f in (self.gate, self.up))
        y = axes.activation(jax.nn.silu(gate) * up, "batch", None, "mlp")
        return axes.activation(x + self.down(y, seed), "batch", None, None)


def queries_keys_values(
    q: Float[Array, "b t q"], k: Float[Array, "b t v"], v: Float[Array, "b t v"], config: DecoderConfig, start: int = 0
) -> tuple[Float[Array, "b t h k"], Float[Array, "b t g k"], Float[Array, "b t g k"]]:
    """By head, queries and keys with RoPE applied, from `start` on."""
    q, k, v = (z.reshape(*z.shape[:2], -1, config.head_dim) for z in (q, k, v))
    cos, sin = rope_cos_sin(start + jnp.arange(q.shape[1]), config.head_dim, config.rope_theta)
    q, k = (apply_rope(z, cos[:, None], sin[:, None]) for z in (q, k))
    k, v = (axes.activation(z, "batch", None, "kv_heads", None) for z in (k, v))
    return axes.activation(q, "batch", None, "heads", None), k, v


def rope_cos_sin(
    positions: Int[Array, "t"], width: int, theta: float
) -> tuple[Float[Array, "t half"], Float[Array, "t half"]]:
    """Cosine and sine (float32) of the angles of rotary positions, position / theta^(2i/K) radians for the pair i.

    Source: Su et al. 2021.
    """
    half = width // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles_rad = positions[:, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles_rad), jnp.sin(angles_rad)


def apply_rope(x: Float[Array, "... k"], cos: jax.Array, sin: jax.Array) -> Float[Array, "... k"]:
    """The pair (i, i + K/2) of x turned by the angle i, computed in float32. cos, sin: [..., K/2], broadcast."""
    half = x.shape[-1] // 2
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class Decoder(nnx.Module):
    """embedding [V, D], layers (stacked; absent for 0), final_norm, head/kernel [D, V] (absent where tied)."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, rngs: nnx.Rngs):
        self.config = config
        self.embedding = params.parameter(rngs, (config.vocab_size, config.width), ("vocab", "embed"), 0.1)
        self.layers = Layer(config, lora, rngs, layers=config.num_layers) if config.num_layers else None
        self.final_norm = RMSNorm(config.width, config.rms_norm_epsilon, rngs)
        has_head = not config.tie_embeddings
        size = (config.width, config.vocab_size)
        self.head = Linear(size, ("embed", "vocab"), rngs, bias=False) if has_head else None

    def embed(self, tokens: Int[Array, "b t"], dtype: jnp.dtype) -> Float[Array, "b t d"]:
        table = axes.weight(self.embedding[...], "vocab", "embed")
        return axes.activation(table.astype(dtype)[tokens], "batch", None, None)

    def __call__(self, x: Float[Array, "b t d"], seed: DropoutSeed | None) -> Float[Array, "b t d"]:
        """The last layer's output, before the final norm (which only the positions that count need)."""
        if self.layers is None:
            return x
        graphdef, state = nnx.split(self.layers)

        def body(x: jax.Array, layer: tuple[nnx.State, jax.Array]) -> tuple[jax.Array, None]:
            own_seed = None if seed is None else seed.fold(layer[1])
            return nnx.merge(graphdef, layer[0])(x, own_seed), None

        policy = REMAT_POLICIES[self.config.remat]
        scanned = body if policy is None else jax.checkpoint(body, policy=policy, prevent_cse=False)
        x, _ = jax.lax.scan(scanned, x, (state, jnp.arange(self.config.num_layers)))
        return x

    def head_kernel(self) -> Float[Array, "d v"]:
        """The vocabulary head's weights."""
        if self.head is None:
            return axes.weight(self.embedding[...].T, "embed", "vocab")
        return axes.weight(self.head.kernel[...], "embed", "vocab")
