"""The LLaMA decoder's layer as decoding runs it: LoRA merged, no dropout, a cache, and one token or a few at a time.

A step is bound by reading the weights. Kernels are therefore [out, in], an output's weights side by side, and a step's
activations are columns, [width, B * T]: a CPU then reads them up to half again as fast. Accelerators don't mind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from igllm_jax.models import axes, params
from igllm_jax.models.attention import soft_capped
from igllm_jax.models.layers import Names
from igllm_jax.models.llama import (
    ACTIVATIONS,
    DecoderConfig,
    LayerKind,
    by_head,
    config_causal,
    head_norm,
    layer_norm,
    layer_projections,
    normed,
    post_norm,
    scaled_queries,
)
from igllm_jax.models.rope import apply_rope

CosSin = tuple[Float[Array, "... n half"], Float[Array, "... n half"]]
Position = Int[Array, ""] | Int[Array, "b"]  # one for all rows or one for each


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys (after rope) and values of one layer at S positions in a row, heads before positions: [B, G, S, K], or
    [1, G, S, K] where all rows share them."""

    keys: jax.Array
    values: jax.Array

    @classmethod
    def of(cls, k: Float[Array, "b t g k"], v: Float[Array, "b t g k"], length: int) -> "Cache":
        """The first T positions filled, the others zero."""
        pad = ((0, 0), (0, 0), (0, length - k.shape[1]), (0, 0))
        return cls(*(jnp.pad(z.swapaxes(1, 2), pad) for z in (k, v)))

    def grown(self, length: int) -> "Cache":
        """The same with zeros behind, `length` positions in all."""
        pad = ((0, 0), (0, 0), (0, length - self.keys.shape[2]), (0, 0))
        return Cache(jnp.pad(self.keys, pad), jnp.pad(self.values, pad))

    def written(self, k: Float[Array, "b g t k"], v: Float[Array, "b g t k"], position: Position) -> "Cache":
        """The same with T positions from `position` on replaced."""
        return Cache(_updated(self.keys, k, position), _updated(self.values, v, position))


def _updated(
    whole: Float[Array, "b g s k"], new: Float[Array, "b g t k"], position: Position
) -> Float[Array, "b g s k"]:
    if position.ndim == 0:
        return jax.lax.dynamic_update_slice(whole, new, (0, 0, position, 0))
    return jax.vmap(lambda row, part, start: jax.lax.dynamic_update_slice(row, part, (0, start, 0)))(
        whole, new, position
    )


class DecodeLinear(nnx.Module):
    """y = W x (+ b), kernel [out, in], bias [out]."""

    def __init__(self, size: tuple[int, int], names: Names, rngs: nnx.Rngs, *, bias: bool):
        self.names = names
        self.kernel = params.parameter(rngs, size, names, params.zeros)
        self.bias = params.parameter(rngs, size[:1], names[:1], params.zeros) if bias else None

    def rows(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        y = jnp.einsum("...i,oi->...o", x, self._kernel(x.dtype))
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)

    def columns(self, x: Float[Array, "i b"]) -> Float[Array, "o b"]:
        y = self._kernel(x.dtype) @ x
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)[:, None]

    def _kernel(self, dtype: jnp.dtype) -> jax.Array:
        return axes.weight(self.kernel[...], *self.names).astype(dtype)


class DecodeLayer(nnx.Module):
    """What `llama.Layer` computes, with its parameters' names and every kernel transposed.

    kind: of the layer, see `DecoderConfig.kind`.
    """

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs, *, kind: LayerKind):
        projections = layer_projections(config)

        def linear(name: str) -> DecodeLinear:
            (inputs, outputs), (from_axis, to_axis) = projections[name]
            return DecodeLinear((outputs, inputs), (to_axis, from_axis), rngs, bias=config.has_bias(name))

        self.config, self.kind = config, kind
        self.attention_norm = layer_norm(config, rngs)
        self.q, self.k, self.v, self.o = (linear(name) for name in "qkvo")
        self.q_norm, self.k_norm = (head_norm(config, rngs) for _ in "qk")
        self.attention_post_norm = post_norm(config, rngs)
        self.mlp_norm = layer_norm(config, rngs)
        self.gate, self.up, self.down = (linear(name) for name in ("gate", "up", "down"))
        self.mlp_post_norm = post_norm(config, rngs)

    def prefill(
        self, x: Float[Array, "b t d"], cache_length: int, shared: Cache | None = None
    ) -> tuple[Float[Array, "b t d"], Cache]:
        """A part of the prompt, and its keys and values in a cache of `cache_length` positions.

        shared: the prompt before it, the same for all rows (None: there is none).
        """
        q, k, v = self._queries_keys_values(x, shared)
        context = self._attend(q, k, v, shared).reshape(*x.shape[:2], -1)
        x = axes.activation(x + normed(self.o.rows(context), self.attention_post_norm), "batch", None, None)
        y = self.mlp_norm(x)
        y = axes.activation(self._activation(self.gate.rows(y)) * self.up.rows(y), "batch", None, "mlp")
        x = axes.activation(x + normed(self.down.rows(y), self.mlp_post_norm), "batch", None, None)
        return x, Cache.of(k, v, cache_length)

    def prefill_last(
        self, x: Float[Array, "b t d"], cache_length: int, shared: Cache, rope: CosSin
    ) -> tuple[Float[Array, "d b"], Cache]:
        """`prefill` of the decoder's last layer, of whose output only the last position is wanted."""
        _, k, v = self._queries_keys_values(x, shared)
        last = jnp.array(x.shape[1] - 1, jnp.int32)
        return self.step(x[:, -1].T, rope, shared, Cache.of(k, v, cache_length), last)

    def step(
        self, x: Float[Array, "d bt"], rope: CosSin, shared: Cache, cache: Cache, position: Position
    ) -> tuple[Float[Array, "d bt"], Cache]:
        """T tokens of every row, side by side, that stand at `position` of `cache` and after it.

        rope: cosine and sine of their angles, see `llama.rope_cos_sin`: [T, K/2], or [B, T, K/2] where rows differ.
        """
        y = self.attention_norm(x, axis=0)
        by_row = (-1, self.config.head_dim, len(cache.keys), x.shape[1] // len(cache.keys))
        q, k, v = (f.columns(y).reshape(by_row).transpose(2, 0, 3, 1) for f in (self.q, self.k, self.v))
        q, k = scaled_queries(normed(q, self.q_norm), self.config), normed(k, self.k_norm)
        cos, sin = (z[..., None, :, :] for z in rope)
        q, k = (apply_rope(z, cos, sin) for z in (q, k))
        q = axes.activation(q, "batch", "heads", None, None)
        k, v = (axes.activation(z, "batch", "kv_heads", None, None) for z in (k, v))
        cache = cache.written(k, v, position)
        window = self.config.window if self.kind.is_local else 0
        context = attend_cached(q, [shared, cache], position, window=window, softcap=self.config.attention_softcap)
        context = context.transpose(1, 3, 0, 2).reshape(-1, x.shape[1])
        x = axes.activation(x + normed(self.o.columns(context), self.attention_post_norm, axis=0), None, "batch")
        y = self.mlp_norm(x, axis=0)
        y = axes.activation(self._activation(self.gate.columns(y)) * self.up.columns(y), "mlp", "batch")
        return axes.activation(x + normed(self.down.columns(y), self.mlp_post_norm, axis=0), None, "batch"), cache

    def _activation(self, x: jax.Array) -> jax.Array:
        return ACTIVATIONS[self.config.activation](x)

    def _queries_keys_values(self, x: jax.Array, shared: Cache | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        y = self.attention_norm(x)
        start = 0 if shared is None else shared.keys.shape[2]
        norms = self.q_norm, self.k_norm
        return by_head(self.q.rows(y), self.k.rows(y), self.v.rows(y), self.config, norms, self.kind, start)

    def _attend(self, q: jax.Array, k: jax.Array, v: jax.Array, shared: Cache | None) -> Float[Array, "b t h k"]:
        # the TPU's kernel takes multiples of 128 positions only, and a prompt is as long as it is
        kernel = "chunked" if self.config.attention == "splash" else self.config.attention
        if shared is None:
            return config_causal(q, k, v, self.config, self.kind, kernel)
        # the kernels take as many queries as keys: what the shared positions ask is zero, and its answer left out
        start = shared.keys.shape[2]
        q = jnp.pad(q, ((0, 0), (start, 0), (0, 0), (0, 0)))
        k, v = (
            jnp.concatenate([jnp.broadcast_to(old.swapaxes(1, 2), (len(new), start, *new.shape[2:])), new], axis=1)
            for old, new in ((shared.keys, k), (shared.values, v))
        )
        return config_causal(q, k, v, self.config, self.kind, kernel)[:, start:]


def attend_cached(
    q: Float[Array, "b h t k"],
    caches: Sequence[Cache],
    position: Position,
    *,
    window: int = 0,
    softcap: float = 0.0,
) -> Float[Array, "b h t k"]:
    """T queries against all positions of all caches but the last, and those of the last up to their own, which begin at
    `position`. window: how many positions up to its own a query sees (0: all). softcap: see `attention.soft_capped`."""
    batch, heads, count, width = q.shape
    q = (q * (width**-0.5)).reshape(batch, caches[-1].keys.shape[1], -1, width)
    scores = [soft_capped(_product("bgrk,bgsk->bgrs", q, cache.keys), softcap) for cache in caches]
    ends = np.cumsum([cache.keys.shape[2] for cache in caches]).tolist()
    last = (position[..., None] + jnp.arange(count)).reshape(-1, 1, 1, count, 1)
    has_window = 0 < window < ends[-1]
    for number, part in enumerate(scores):
        is_own = number == len(caches) - 1
        if not is_own and not has_window:
            continue
        keys = jnp.arange(part.shape[-1])
        is_seen = keys <= last if is_own else jnp.array(True)
        if has_window:  # positions counted from the last cache's first
            is_seen &= keys + (ends[number] - part.shape[-1] - ends[-1] + scores[-1].shape[-1]) > last - window
        own = part.reshape(*q.shape[:2], -1, count, part.shape[-1])
        scores[number] = jnp.where(is_seen, own, jnp.finfo(jnp.float32).min).reshape(part.shape)
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
    shares = jnp.split(weights, ends[:-1], axis=-1)
    context = jnp.zeros(q.shape, jnp.float32)
    for own, cache in zip(shares, caches, strict=True):
        context += _weighted_sum(own, cache.values)
    return context.reshape(batch, heads, count, width).astype(q.dtype)


def _weighted_sum(weights: Float[Array, "b g r s"], values: Float[Array, "_ g s k"]) -> Float[Array, "b g r k"]:
    """Float32. Where every query head has its own values, a product would use each of them once: multiplying and adding
    without one reads them at the memory's speed."""
    if weights.shape[2] == 1 and len(values) == len(weights):
        return jnp.sum(weights[:, :, 0, :, None] * values.astype(jnp.float32), axis=2)[:, :, None]
    return _product("bgrs,bgsk->bgrk", weights.astype(values.dtype), values)


def _product(spec: str, x: Float[Array, "b g r _"], y: Float[Array, "_ g s k"]) -> Float[Array, "b g r _"]:
    """einsum, summed in float32; where all rows share y, it is read once."""
    if len(y) == len(x):
        return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32)
    # a CPU multiplies bfloat16 in some orders of axes only
    return jnp.einsum(spec.replace(",b", ","), x.astype(jnp.float32), y[0].astype(jnp.float32))
