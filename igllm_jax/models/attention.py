"""Causal attention, by whichever kernel the config names."""

import math

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from igllm_jax.models import axes

KERNELS = ("xla", "chunked", "cudnn", "splash")
QUERY_CHUNK = 256
SPLASH_BLOCK = 512  # the largest block that is tried; it must divide T
HEADS = ("batch", None, "heads", None)


def causal(
    q: Float[Array, "b t h k"], k: Float[Array, "b t g k"], v: Float[Array, "b t g k"], *, kernel: str
) -> Float[Array, "b t h k"]:
    """Softmax(q k' / sqrt(K)) v, each position seeing itself and what comes before; G key heads serve H query heads.

    kernel: "xla" holds [B, H, T, T]; "chunked" holds [B, H, 256, T]; "cudnn" (GPU) and "splash" (TPU) hold neither.
    Raises: ValueError for another name, and where the kernel can't take these sizes.
    """
    if kernel == "xla":
        return attend(q, k, v, causal_mask(q.shape[1], k.shape[1], 0))
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
            "make data.length_multiple 128, or set model.decoder.attention=chunked"
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
