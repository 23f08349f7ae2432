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
    q: Float[Array, "b t h k"], k: Float[Array, "b t g k"], v: Float[Array, "b t g k"], *, kernel: str
) -> Float[Array, "b t h k"]:
    """Softmax(q k' / sqrt(K)) v, each position seeing itself and what comes before; G key heads serve H query heads.

    kernel: "xla" keeps half of [B, H, T, T] for the backward pass; "chunked" holds [B, H, 256, T], and recomputes it;
    "cudnn" (GPU) and "splash" (TPU) hold neither.
    Raises: ValueError for another name, and where the kernel can't take these sizes.
    """
    if kernel == "xla":
        return _blocked(q, k, v)
    if kernel == "chunked":
        return _chunked(q, k, v)
    if kernel == "cudnn":
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
    if kernel == "splash":
        return _splash(q, k, v)
    raise ValueError(f"model.decoder.attention is {kernel!r}; choose one of {KERNELS}")


def causal_mask(queries: int, keys: int, first_query: int | jax.Array) -> Bool[Array, "q s"]:
    """True where key position s <= query position first_query + q."""
    positions = first_query + jnp.arange(queries)
    return jnp.arange(keys)[None, :] <= positions[:, None]


def attend(
    q: Float[Array, "b t h k"],
    k: Float[Array, "b s g k"],
    v: Float[Array, "b s g k"],
    is_seen: Bool[Array, "t s"] | None,
) -> Float[Array, "b t h k"]:
    """Attention by two products and a float32 softmax. is_seen: which keys each query sees (None: all)."""
    batch, queries, heads, width = q.shape
    groups = k.shape[2]
    q = (q * (1 / math.sqrt(width))).reshape(batch, queries, groups, heads // groups, width)
    scores = jnp.einsum("btgrk,bsgk->bgrts", q, k, preferred_element_type=jnp.float32)
    if is_seen is not None:
        scores = jnp.where(is_seen, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bgrts,bsgk->btgrk", weights, v).reshape(batch, queries, heads, width)


def causal_flops(length: int, heads: int, head_dim: int) -> float:
    """Of one sequence's forward pass: both products over half a square."""
    return 2.0 * length**2 * heads * head_dim


def attend_flops(queries: int, keys: int, heads: int, head_dim: int) -> float:
    """Of one sequence's forward pass where every query sees every key."""
    return 4.0 * queries * keys * heads * head_dim


@jax.custom_vjp
def _blocked(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Queries in blocks, each against the keys up to its end, so that little of the masked half is computed.

    Left to autodiff, the softmax keeps its exponentials and its weights; here the weights alone are kept.
    """
    return _blocked_forward(q, k, v)[0]


def _blocked_forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple]:
    scaled = q * (1 / math.sqrt(q.shape[-1]))
    q_heads, k_heads, v_heads = (_heads_first(x, k.shape[2]) for x in (scaled, k, v))
    parts, kept = [], []
    for start, stop in _blocks(q.shape[1]):
        seen = slice(0, stop)
        scores = jnp.einsum(
            "bgrtk,bgsk->bgrts", q_heads[..., start:stop, :], k_heads[:, :, 0, seen], preferred_element_type=jnp.float32
        )
        scores = jnp.where(causal_mask(stop - start, stop, start), scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        weights = jax.ad_checkpoint.checkpoint_name(weights, "weights")
        kept.append(weights)
        parts.append(jnp.einsum("bgrts,bgsk->bgrtk", weights, v_heads[:, :, 0, seen]))
    out = jax.ad_checkpoint.checkpoint_name(_positions_first(jnp.concatenate(parts, axis=3)), "context")
    return out, (q, k, v, tuple(kept), out)


def _blocked_backward(saved: tuple, d_out: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Source: d scores = weights * (d weights - sum(d out * out)), as in Dao et al. 2022, appendix B."""
    q, k, v, kept, out = saved
    groups, scale = k.shape[2], 1 / math.sqrt(q.shape[-1])
    q_heads, k_heads, v_heads, d_heads, out_heads = (_heads_first(x, groups) for x in (q * scale, k, v, d_out, out))
    total = jnp.sum(d_heads.astype(jnp.float32) * out_heads.astype(jnp.float32), axis=-1, keepdims=True)
    d_q, d_k, d_v = [], [], []
    for weights, (start, stop) in zip(kept, _blocks(q.shape[1]), strict=True):
        own, seen = slice(start, stop), slice(0, stop)
        d_part = d_heads[..., own, :]
        d_weights = jnp.einsum("bgrtk,bgsk->bgrts", d_part, v_heads[:, :, 0, seen], preferred_element_type=jnp.float32)
        d_scores = (weights.astype(jnp.float32) * (d_weights - total[..., own, :])).astype(q.dtype)
        d_q.append(jnp.einsum("bgrts,bgsk->bgrtk", d_scores, k_heads[:, :, 0, seen]) * scale)
        rest = ((0, 0), (0, 0), (0, q.shape[1] - stop), (0, 0))
        d_k.append(jnp.pad(_sum_over_queries(d_scores, q_heads[..., own, :]), rest))
        d_v.append(jnp.pad(_sum_over_queries(weights, d_part), rest))
    whole_k, whole_v = (
        _positions_first(functools.reduce(jnp.add, parts)[:, :, None]).astype(k.dtype) for parts in (d_k, d_v)
    )
    return _positions_first(jnp.concatenate(d_q, axis=3)), whole_k, whole_v


_blocked.defvjp(_blocked_forward, _blocked_backward)


def _sum_over_queries(weights: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.einsum("bgrts,bgrtk->bgsk", weights, x, preferred_element_type=jnp.float32)


def _blocks(queries: int) -> list[tuple[int, int]]:
    return [(start, min(start + QUERY_BLOCK, queries)) for start in range(0, queries, QUERY_BLOCK)]


def _heads_first(x: Float[Array, "b t h k"], groups: int) -> Float[Array, "b g r t k"]:
    batch, length, heads, width = x.shape
    return x.reshape(batch, length, groups, heads // groups, width).transpose(0, 2, 3, 1, 4)


def _positions_first(x: Float[Array, "b g r t k"]) -> Float[Array, "b t h k"]:
    batch, groups, each, length, width = x.shape
    return x.transpose(0, 3, 1, 2, 4).reshape(batch, length, groups * each, width)


def _chunked(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Query chunks one after the other; each recomputed in the backward pass, keys after the chunk left out."""

    def one(start: int) -> jax.Array:
        stop = min(start + QUERY_CHUNK, q.shape[1])
        part = jax.checkpoint(lambda q, k, v: attend(q, k, v, causal_mask(stop - start, stop, start)))
        return part(q[:, start:stop], k[:, :stop], v[:, :stop])

    return jnp.concatenate([one(start) for start in range(0, q.shape[1], QUERY_CHUNK)], axis=1)


def _splash(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
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
        mask = splash.MultiHeadMask([splash.CausalMask((tokens, tokens))] * heads)
        kernel = splash.make_splash_mha_single_device(mask=mask, block_sizes=sizes)
        q = q * jnp.asarray(1 / math.sqrt(q.shape[-1]), q.dtype)
        k, v = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (k, v))
        return jax.vmap(kernel)(*(x.swapaxes(1, 2) for x in (q, k, v))).swapaxes(1, 2)

    return axes.per_shard(local, (HEADS, ("batch", None, "kv_heads", None), ("batch", None, "kv_heads", None)), HEADS)(
        q, k, v
    )
