"""Causal attention, by whichever kernel the config names."""

import functools
import math

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from igllm_jax.models import axes

KERNELS = ("xla", "chunked", "cudnn", "splash")
QUERY_CHUNK = 256  # of "chunked"
QUERY_BLOCK = 128  # of "xla"
SPLASH_BLOCK = 512  # the largest block that is tried; it must divide T
HEADS = ("batch", None, "heads", None)


def causal(
    q: Float[Array, "b t h k"],
    k: Float[Array, "b t g k"],
    v: Float[Array, "b t g k"],
    *,
    kernel: str,
    window: int = 0,
    softcap: float = 0.0,
) -> Float[Array, "b t h k"]:
    """Softmax(q k' / sqrt(K)) v, each position seeing itself and what comes before; G key heads serve H query heads.

    kernel: "xla" keeps half of [B, H, T, T] for the backward pass; "chunked" holds [B, H, 256, T], and recomputes it;
    "cudnn" (GPU) and "splash" (TPU) hold neither. window: how many positions one sees, itself included (0: all before
    it). softcap: see `soft_capped`.
    Raises: ValueError for another name, and where the kernel can't take these sizes or has no soft cap.
    """
    window = window if window < q.shape[1] else 0
    if kernel == "xla":
        return _blocked(q, k, v, window, softcap)
    if kernel == "chunked":
        return _chunked(q, k, v, window, softcap)
    if kernel == "cudnn" and softcap:
        raise ValueError("cudnn attention has no soft cap: set model.decoder.attention=chunked")
    if kernel == "cudnn":
        sides = (window - 1, 0) if window else None
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=sides, implementation="cudnn")
    if kernel == "splash":
        return _splash(q, k, v, window, softcap)
    raise ValueError(f"model.decoder.attention is {kernel!r}; choose one of {KERNELS}")


def causal_mask(queries: int, keys: int, first_query: int | jax.Array, window: int = 0) -> Bool[Array, "q s"]:
    """True where key position s <= query position first_query + q, and within its window where there is one."""
    positions = first_query + jnp.arange(queries)
    is_before = jnp.arange(keys)[None, :] <= positions[:, None]
    return is_before & (jnp.arange(keys)[None, :] > positions[:, None] - window) if window else is_before


def soft_capped(x: Float[Array, "*s"], cap: float) -> Float[Array, "*s"]:
    """x bent to lie in (-cap, cap), cap * tanh(x / cap); as it is for a cap of 0. Source: Gemma Team 2024 (Gemma 2)."""
    return cap * jnp.tanh(x / cap) if cap else x


def attend(
    q: Float[Array, "b t h k"],
    k: Float[Array, "b s g k"],
    v: Float[Array, "b s g k"],
    is_seen: Bool[Array, "t s"] | None,
    softcap: float = 0.0,
) -> Float[Array, "b t h k"]:
    """Attention by two products and a float32 softmax. is_seen: which keys each query sees (None: all)."""
    batch, queries, heads, width = q.shape
    groups = k.shape[2]
    q = (q * (1 / math.sqrt(width))).reshape(batch, queries, groups, heads // groups, width)
    scores = soft_capped(jnp.einsum("btgrk,bsgk->bgrts", q, k, preferred_element_type=jnp.float32), softcap)
    if is_seen is not None:
        scores = jnp.where(is_seen, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bgrts,bsgk->btgrk", weights, v).reshape(batch, queries, heads, width)


def causal_flops(length: int, heads: int, head_dim: int, window: int = 0) -> float:
    """Of one sequence's forward pass: both products over half a square, or the band of it that a window leaves."""
    outside = max(length - window, 0) if window else 0
    return 2.0 * (length**2 - outside**2) * heads * head_dim


def attend_flops(queries: int, keys: int, heads: int, head_dim: int) -> float:
    """Of one sequence's forward pass where every query sees every key."""
    return 4.0 * queries * keys * heads * head_dim


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _blocked(q: jax.Array, k: jax.Array, v: jax.Array, window: int, softcap: float) -> jax.Array:
    """Queries in blocks, each against the keys that any of it sees, so that little of what is masked is computed.

    Left to autodiff, the softmax keeps its exponentials and its weights; here the weights alone are kept.
    """
    return _blocked_forward(q, k, v, window, softcap)[0]


def _blocked_forward(q: jax.Array, k: jax.Array, v: jax.Array, window: int, softcap: float) -> tuple[jax.Array, tuple]:
    scaled = q * (1 / math.sqrt(q.shape[-1]))
    q_heads, k_heads, v_heads = (_heads_first(x, k.shape[2]) for x in (scaled, k, v))
    parts, kept = [], []
    for start, stop, first in _blocks(q.shape[1], window):
        seen = slice(first, stop)
        scores = soft_capped(_scores(q_heads[..., start:stop, :], k_heads[:, :, 0, seen]), softcap)
        is_seen = causal_mask(stop - start, stop - first, start - first, window)
        scores = jnp.where(is_seen, scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        weights = jax.ad_checkpoint.checkpoint_name(weights, "weights")
        kept.append(weights)
        parts.append(jnp.einsum("bgrts,bgsk->bgrtk", weights, v_heads[:, :, 0, seen]))
    out = jax.ad_checkpoint.checkpoint_name(_positions_first(jnp.concatenate(parts, axis=3)), "context")
    return out, (q, k, v, tuple(kept), out)


def _blocked_backward(
    window: int, softcap: float, saved: tuple, d_out: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Source: d scores = weights * (d weights - sum(d out * out)), as in Dao et al. 2022, appendix B."""
    q, k, v, kept, out = saved
    groups, scale = k.shape[2], 1 / math.sqrt(q.shape[-1])
    q_heads, k_heads, v_heads, d_heads, out_heads = (_heads_first(x, groups) for x in (q * scale, k, v, d_out, out))
    total = jnp.sum(d_heads.astype(jnp.float32) * out_heads.astype(jnp.float32), axis=-1, keepdims=True)
    d_q, d_k, d_v = [], [], []
    for weights, (start, stop, first) in zip(kept, _blocks(q.shape[1], window), strict=True):
        own, seen = slice(start, stop), slice(first, stop)
        d_part = d_heads[..., own, :]
        d_weights = jnp.einsum("bgrtk,bgsk->bgrts", d_part, v_heads[:, :, 0, seen], preferred_element_type=jnp.float32)
        d_scores = weights.astype(jnp.float32) * (d_weights - total[..., own, :])
        if softcap:
            d_scores *= 1 - jnp.tanh(_scores(q_heads[..., own, :], k_heads[:, :, 0, seen]) / softcap) ** 2
        d_scores = d_scores.astype(q.dtype)
        d_q.append(jnp.einsum("bgrts,bgsk->bgrtk", d_scores, k_heads[:, :, 0, seen]) * scale)
        rest = ((0, 0), (0, 0), (first, q.shape[1] - stop), (0, 0))
        d_k.append(jnp.pad(_sum_over_queries(d_scores, q_heads[..., own, :]), rest))
        d_v.append(jnp.pad(_sum_over_queries(weights, d_part), rest))
    whole_k, whole_v = (
        _positions_first(functools.reduce(jnp.add, parts)[:, :, None]).astype(k.dtype) for parts in (d_k, d_v)
    )
    return _positions_first(jnp.concatenate(d_q, axis=3)), whole_k, whole_v


_blocked.defvjp(_blocked_forward, _blocked_backward)


def _scores(q: Float[Array, "b g r t k"], k: Float[Array, "b g s k"]) -> Float[Array, "b g r t s"]:
    return jnp.einsum("bgrtk,bgsk->bgrts", q, k, preferred_element_type=jnp.float32)


def _sum_over_queries(weights: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.einsum("bgrts,bgrtk->bgsk", weights, x, preferred_element_type=jnp.float32)


def _blocks(queries: int, window: int) -> list[tuple[int, int, int]]:
    """(first query, the one after the last, first key that any of them sees) of each block."""
    return [
        (start, min(start + QUERY_BLOCK, queries), _first_seen(start, window))
        for start in range(0, queries, QUERY_BLOCK)
    ]


def _first_seen(query: int, window: int) -> int:
    return max(query - window + 1, 0) if window else 0


def _heads_first(x: Float[Array, "b t h k"], groups: int) -> Float[Array, "b g r t k"]:
    batch, length, heads, width = x.shape
    return x.reshape(batch, length, groups, heads // groups, width).transpose(0, 2, 3, 1, 4)


def _positions_first(x: Float[Array, "b g r t k"]) -> Float[Array, "b t h k"]:
    batch, groups, each, length, width = x.shape
    return x.transpose(0, 3, 1, 2, 4).reshape(batch, length, groups * each, width)


def _chunked(q: jax.Array, k: jax.Array, v: jax.Array, window: int, softcap: float) -> jax.Array:
    """Query chunks one after the other; each recomputed in the backward pass, keys that none of it sees left out."""

    def one(start: int) -> jax.Array:
        stop, first = min(start + QUERY_CHUNK, q.shape[1]), _first_seen(start, window)
        is_seen = causal_mask(stop - start, stop - first, start - first, window)
        part = jax.checkpoint(lambda q, k, v: attend(q, k, v, is_seen, softcap))
        return part(q[:, start:stop], k[:, first:stop], v[:, first:stop])

    return jnp.concatenate([one(start) for start in range(0, q.shape[1], QUERY_CHUNK)], axis=1)


def _splash(q: jax.Array, k: jax.Array, v: jax.Array, window: int, softcap: float) -> jax.Array:
    """The TPU's block-sparse flash kernel, run by each device on its own batch rows and heads."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    tokens = q.shape[1]
    block = next((size for size in range(SPLASH_BLOCK, 127, -128) if tokens % size == 0), None)
    if block is None:
        raise ValueError(
            f"splash attention takes {tokens} tokens only in blocks of 128 to {SPLASH_BLOCK} that divide them: "
            "make rows a multiple of 128 long, image included, or set model.decoder.attention=chunked"
        )
    sizes = splash.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block,
        block_q_dkv=block, block_kv_dkv=block, block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip

    def local(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        heads = q.shape[2]
        square = (tokens, tokens)
        mask = splash.LocalMask(square, (window - 1, 0), 0) if window else splash.CausalMask(square)
        kernel = splash.make_splash_mha_single_device(
            mask=splash.MultiHeadMask([mask] * heads), block_sizes=sizes, attn_logits_soft_cap=softcap or None
        )
        q = q * jnp.asarray(1 / math.sqrt(q.shape[-1]), q.dtype)
        k, v = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (k, v))
        return jax.vmap(kernel)(*(x.swapaxes(1, 2) for x in (q, k, v))).swapaxes(1, 2)

    return axes.per_shard(local, (HEADS, ("batch", None, "kv_heads", None), ("batch", None, "kv_heads", None)), HEADS)(
        q, k, v
    )
