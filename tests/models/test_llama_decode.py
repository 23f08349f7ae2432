"""Queries against several caches are queries against one that holds them all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igllm_jax.models.llama_decode import Cache, attend_cached

BATCH, GROUPS, WIDTH = 3, 2, 8


def normal(seed, dtype, *shape):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def cache(seed, dtype, batch, length):
    return Cache(*(normal(seed + part, dtype, batch, GROUPS, length, WIDTH) for part in (0, 1)))


def by_hand(q, caches, seen, window=1000, softcap=1e6):
    """seen: [B, T] positions of all caches, one after the other, that a query may see, and no more than its window."""
    keys, values = (
        jnp.concatenate([jnp.broadcast_to(z, (BATCH, *z.shape[1:])) for z in parts], axis=2).astype(jnp.float32)
        for parts in zip(*((cache.keys, cache.values) for cache in caches), strict=True)
    )
    keys, values = (jnp.repeat(z, q.shape[1] // GROUPS, axis=1) for z in (keys, values))
    scores = jnp.einsum("bhtk,bhsk->bhts", q.astype(jnp.float32), keys) / WIDTH**0.5
    scores = softcap * jnp.tanh(scores / softcap)
    last = jnp.asarray(seen)[:, None, :, None]
    is_seen = (jnp.arange(keys.shape[2]) < last) & (jnp.arange(keys.shape[2]) >= last - window)
    weights = jax.nn.softmax(jnp.where(is_seen, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhts,bhsk->bhtk", weights, values)


@pytest.mark.parametrize("dtype, close", [("float32", 1e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("heads_per_group", [1, 2])
@pytest.mark.parametrize("position, count", [(2, 1), ((2, 0, 4), 3)])
def test_caches_that_all_rows_share_and_their_own(dtype, close, heads_per_group, position, count):
    q = normal(9, dtype, BATCH, GROUPS * heads_per_group, count, WIDTH)
    caches = cache(1, dtype, 1, 5), cache(3, dtype, BATCH, 4), cache(5, dtype, BATCH, 7)
    found = jax.jit(attend_cached)(q, caches, jnp.array(position))
    seen = 9 + np.broadcast_to(position, BATCH)[:, None] + np.arange(count) + 1
    assert found.dtype == q.dtype
    np.testing.assert_allclose(found.astype(jnp.float32), by_hand(q, caches, seen), atol=close)


@pytest.mark.parametrize("window", [1, 3, 6, 16])
def test_windows_over_several_caches(window):
    q = normal(9, "float32", BATCH, 2 * GROUPS, 3, WIDTH)
    caches, position = (cache(1, "float32", 1, 5), cache(5, "float32", BATCH, 7)), (2, 0, 4)
    found = attend_cached(q, caches, jnp.array(position), window=window, softcap=0.7)
    seen = 5 + np.array(position)[:, None] + np.arange(3) + 1
    np.testing.assert_allclose(found, by_hand(q, caches, seen, window, 0.7), atol=1e-6)


def test_rows_are_written_where_they_stand():
    whole, new = cache(1, "float32", BATCH, 7), cache(3, "float32", BATCH, 2)
    starts = (4, 0, 5)
    found = whole.written(new.keys, new.values, jnp.array(starts))
    for row, start in enumerate(starts):
        expected = np.array(whole.values[row])
        expected[:, start : start + 2] = new.values[row]
        np.testing.assert_array_equal(found.values[row], expected)
    same = whole.written(new.keys, new.values, jnp.array(3))
    np.testing.assert_array_equal(same.keys[:, :, 3:5], new.keys)
