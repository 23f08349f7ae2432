"""The decoder of LLaMA, Mistral, Qwen and Gemma: RMSNorm, rotary positions, grouped-query attention, a gated MLP; LoRA
on all seven projections. In what families differ are values of `DecoderConfig`.

Source: Touvron et al. 2023; rotary embedding in the half-split form of the released Hugging Face weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

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
from igllm_jax.models.rope import ROPE_SCALINGS, apply_rope, rope_cos_sin

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


class LayerKind(NamedTuple):
    """In what layers of one decoder may differ, bool or, while a scan runs over several kinds, traced.

    is_local: it sees its window alone. is_rotated: its queries and keys are turned by their positions.
    """

    is_local: bool | jax.Array
    is_rotated: bool | jax.Array


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the decoder as its checkpoint gives them.

    head_dim: of one head, often width / num_heads. rope_scaling: see `rope_cos_sin`. qkv_bias: queries, keys and values
    have one (Qwen 2). qk_norm: queries and keys are normalised head by head, before their rotation (Qwen 3, Gemma 3).
    activation: of the MLP's gate, a key of ACTIVATIONS. window: how many positions a local layer sees, itself included
    (0: no layer is local); every global_every-th layer sees all (0: none does) (Mistral, Gemma). local_rope_theta: of
    local layers, whose rotation isn't scaled then; 0 for that of all. nope_every: every so-many-th layer knows no
    positions (SmolLM3); 0: all do. query_scalar: scores are divided by its square
    root (0: by that of head_dim). softcap of scores and of logits: see `soft_capped`, 0 for none. unit_offset: norms
    keep their scale less 1; post_norms: what attention and MLP add is normalised too; scaled_embedding: a token's
    embedding is multiplied by sqrt(width) (Gemma).
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
    activation: str
    window: int
    global_every: int
    local_rope_theta: float
    nope_every: int
    query_scalar: float
    attention_softcap: float
    logit_softcap: float
    unit_offset: bool
    post_norms: bool
    scaled_embedding: bool
    tie_embeddings: bool
    attention: str  # see attention.KERNELS
    remat: str  # what the backward pass recomputes: see remat.py
    number_row: int  # the token whose rows stand apart: see number_row.py; -1: none's do

    def __post_init__(self) -> None:
        find_policy(self.remat)
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"model.decoder.activation is {self.activation!r}; choose one of {tuple(ACTIVATIONS)}")
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

    def is_local(self, layer: Any) -> Any:
        """Whether a layer, by its number, sees its window alone: a bool, traced where the number is and it counts."""
        if not (self.window and self.global_every):
            return self.window > 0
        return (layer + 1) % self.global_every != 0

    def kind(self, layer: Any) -> LayerKind:
        """What a layer is, by its number."""
        return LayerKind(self.is_local(layer), not self.nope_every or (layer + 1) % self.nope_every != 0)


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
        attention=0.0,
        low=length * linear_flops(*((inputs, lora.rank) for inputs, _ in sizes.values())),
        qkv=outputs("q", "k", "v"),
        o=outputs("o"),
        gate_up=outputs("gate", "up"),
        down=outputs("down"),
        down_b=length * linear_flops((lora.rank, sizes["down"][1])),
    )
    flops = {part: config.num_layers * flops for part, flops in vars(per_layer).items()}
    return LayerFlops(**flops | {"attention": attention_flops(config, length)})


def attention_flops(config: DecoderConfig, length: int) -> float:
    """Of one sequence's causal products through all layers."""
    windows = [config.window if config.is_local(layer) else 0 for layer in range(config.num_layers)]
    return sum(causal_flops(length, config.num_heads, config.head_dim, window) for window in windows)


def vocabulary_flops(config: DecoderConfig) -> float:
    """Of one position's logits."""
    return linear_flops((config.width, config.vocab_size))


class Layer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), what is added normalised or not; stacked over `layers`."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, rngs: nnx.Rngs, *, layers: int):
        projections = layer_projections(config)

        def linear(name: str) -> LoRALinear:
            size, names = projections[name]
            site, bias = list(projections).index(name), config.has_bias(name)
            return LoRALinear(size, names, lora, rngs, site=site, bias=bias, layers=layers)

        self.config = config
        self.attention_norm = layer_norm(config, rngs, layers=layers)
        self.q, self.k, self.v, self.o = (linear(name) for name in "qkvo")
        self.q_norm, self.k_norm = (head_norm(config, rngs, layers=layers) for _ in "qk")
        self.attention_post_norm = post_norm(config, rngs, layers=layers)
        self.mlp_norm = layer_norm(config, rngs, layers=layers)
        self.gate, self.up, self.down = (linear(name) for name in ("gate", "up", "down"))
        self.mlp_post_norm = post_norm(config, rngs, layers=layers)

    def __call__(self, x: Float[Array, "b t d"], seed: DropoutSeed | None, kind: LayerKind) -> Float[Array, "b t d"]:
        """A whole sequence from position 0. kind: of this layer of the stack."""
        y, norms = self.attention_norm(x), (self.q_norm, self.k_norm)
        q, k, v = by_head(self.q(y, seed), self.k(y, seed), self.v(y, seed), self.config, norms, kind)
        q, k, v = (jax.ad_checkpoint.checkpoint_name(y, "qkv") for y in (q, k, v))
        context = config_causal(q, k, v, self.config, kind)
        context = jax.ad_checkpoint.checkpoint_name(context, "context").reshape(*x.shape[:2], -1)
        x = axes.activation(x + normed(self.o(context, seed), self.attention_post_norm), "batch", None, None)
        x = jax.ad_checkpoint.checkpoint_name(x, "residual")
        y = self.mlp_norm(x)
        gate, up = (jax.ad_checkpoint.checkpoint_name(f(y, seed), "gate_up") for f in (self.gate, self.up))
        y = axes.activation(ACTIVATIONS[self.config.activation](gate) * up, "batch", None, "mlp")
        return axes.activation(x + normed(self.down(y, seed), self.mlp_post_norm), "batch", None, None)


HeadNorms = tuple[RMSNorm | None, RMSNorm | None]  # of queries and of keys


def layer_norm(
    config: DecoderConfig, rngs: nnx.Rngs, *, width: int | None = None, layers: int | None = None
) -> RMSNorm:
    """A norm of this decoder. width: the decoder's, where it isn't given."""
    wide = config.width if width is None else width
    return RMSNorm(wide, config.rms_norm_epsilon, rngs, layers=layers, unit_offset=config.unit_offset)


def post_norm(config: DecoderConfig, rngs: nnx.Rngs, *, layers: int | None = None) -> RMSNorm | None:
    """The norm of what attention or MLP adds, None where the family has none."""
    return layer_norm(config, rngs, layers=layers) if config.post_norms else None


def head_norm(config: DecoderConfig, rngs: nnx.Rngs, *, layers: int | None = None) -> RMSNorm | None:
    """The norm of one head's queries or keys, None where the family has none."""
    return layer_norm(config, rngs, width=config.head_dim, layers=layers) if config.qk_norm else None


def normed(x: Float[Array, "..."], norm: RMSNorm | None, *, axis: int = -1) -> Float[Array, "..."]:
    return x if norm is None else norm(x, axis=axis)


def by_head(
    q: Float[Array, "b t q"],
    k: Float[Array, "b t v"],
    v: Float[Array, "b t v"],
    config: DecoderConfig,
    norms: HeadNorms,
    kind: LayerKind,
    start: int = 0,
) -> tuple[Float[Array, "b t h k"], Float[Array, "b t g k"], Float[Array, "b t g k"]]:
    """By head, queries and keys normalised and with RoPE applied, from `start` on."""
    q, k, v = (z.reshape(*z.shape[:2], -1, config.head_dim) for z in (q, k, v))
    q, k = (normed(z, norm) for z, norm in zip((q, k), norms, strict=True))
    cos, sin = config_cos_sin(start + jnp.arange(q.shape[1]), config, kind)
    q, k = (apply_rope(z, cos[:, None], sin[:, None]) for z in (scaled_queries(q, config), k))
    k, v = (axes.activation(z, "batch", None, "kv_heads", None) for z in (k, v))
    return axes.activation(q, "batch", None, "heads", None), k, v


def scaled_queries(q: Float[Array, "*s k"], config: DecoderConfig) -> Float[Array, "*s k"]:
    """Queries that attention, which divides scores by sqrt(head_dim), takes for ones divided by sqrt(query_scalar)."""
    if config.query_scalar in (0, config.head_dim):
        return q
    return q * jnp.asarray(math.sqrt(config.head_dim / config.query_scalar), q.dtype)


def config_causal(
    q: Float[Array, "b t h k"],
    k: Float[Array, "b t g k"],
    v: Float[Array, "b t g k"],
    config: DecoderConfig,
    kind: LayerKind,
    kernel: str = "",
) -> Float[Array, "b t h k"]:
    """`causal` of one layer of this decoder. kernel: another than the config's.

    Layers of both kinds run in one scan over one stack of weights (how many there are is seldom a multiple of
    global_every), so a layer chooses between two kernels while it runs; it need not where the window holds all.
    """
    full = partial(causal, kernel=kernel or config.attention, softcap=config.attention_softcap)
    local = partial(full, window=config.window)
    if isinstance(kind.is_local, bool):
        return (local if kind.is_local else full)(q, k, v)
    return full(q, k, v) if q.shape[1] <= config.window else jax.lax.cond(kind.is_local, local, full, q, k, v)


def config_cos_sin(
    positions: Int[Array, "t"], config: DecoderConfig, kind: LayerKind
) -> tuple[Float[Array, "t half"], Float[Array, "t half"]]:
    """`rope_cos_sin` of one layer of this decoder."""
    cos, sin = rope_cos_sin(positions, config.head_dim, config.rope_theta, config.rope_scaling)
    if kind.is_local is not False and config.local_rope_theta:
        of_local = rope_cos_sin(positions, config.head_dim, config.local_rope_theta)
        cos, sin = jax.tree.map(partial(jnp.where, kind.is_local), of_local, (cos, sin))
    if kind.is_rotated is True:
        return cos, sin
    return jnp.where(kind.is_rotated, cos, 1.0), jnp.where(kind.is_rotated, sin, 0.0)


class Decoder(nnx.Module):
    """embedding [V, D], layers (stacked; absent for 0), final_norm, head/kernel [D, V] (absent where tied)."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, rngs: nnx.Rngs):
        self.config = config
        table = (config.vocab_size, config.width)
        self.embedding = params.parameter(rngs, table, ("vocab", "embed"), params.EMBEDDING_STD)
        self.layers = Layer(config, lora, rngs, layers=config.num_layers) if config.num_layers else None
        self.final_norm = layer_norm(config, rngs)
        has_head = not config.tie_embeddings
        size = (config.width, config.vocab_size)
        self.head = Linear(size, ("embed", "vocab"), rngs, bias=False) if has_head else None
        token = config.number_row
        self.number_row = NumberRow(token, config.width, rngs, has_head=has_head) if token >= 0 else None

    def embed(self, tokens: Int[Array, "b t"], dtype: jnp.dtype) -> Float[Array, "b t d"]:
        x = axes.weight(self.embedding[...], "vocab", "embed").astype(dtype)[tokens]
        x = x if self.number_row is None else self.number_row.embedded(x, tokens)
        x = x * jnp.asarray(math.sqrt(self.config.width), dtype) if self.config.scaled_embedding else x
        return axes.activation(x, "batch", None, None)

    def __call__(self, x: Float[Array, "b t d"], seed: DropoutSeed | None) -> Float[Array, "b t d"]:
        """The last layer's output, before the final norm (which only the positions that count need)."""
        if self.layers is None:
            return x
        graphdef, state = nnx.split(self.layers)

        def body(x: jax.Array, layer: tuple[nnx.State, jax.Array]) -> tuple[jax.Array, None]:
            own_seed = None if seed is None else seed.fold(layer[1])
            return nnx.merge(graphdef, layer[0])(x, own_seed, self.config.kind(layer[1])), None

        policy = find_policy(self.config.remat).policy
        scanned = body if policy is None else jax.checkpoint(body, policy=policy, prevent_cse=False)
        x, _ = jax.lax.scan(scanned, x, (state, jnp.arange(self.config.num_layers)))
        return x

    def head_kernel(self) -> Float[Array, "d v"]:
        """The vocabulary head's weights."""
        kernel = self.embedding[...].T if self.head is None else self.head.kernel[...]
        kernel = axes.weight(kernel, "embed", "vocab")
        return kernel if self.number_row is None else self.number_row.in_head(kernel)
