"""A query against several caches is a query against one that holds them all."""

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


@pytest.mark.parametrize("dtype, close", [("float32", 1e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("heads_per_group", [1, 2])
def test_caches_that_all_rows_share_and_their_own(dtype, close, heads_per_group):
    q = normal(9, dtype, BATCH, GROUPS * heads_per_group, WIDTH)
    shared, past, own = cache(1, dtype, 1, 5), cache(3, dtype, BATCH, 4), cache(5, dtype, BATCH, 7)
    found = jax.jit(attend_cached)(q, [shared, past, own], jnp.array(2))
    whole = [
        jnp.concatenate([jnp.broadcast_to(a, (BATCH, *a.shape[1:])), b, c[:, :, :3]], axis=2)
        for a, b, c in ((shared.keys, past.keys, own.keys), (shared.values, past.values, own.values))
    ]
    keys, values = (jnp.repeat(x.astype(jnp.float32), heads_per_group, axis=1) for x in whole)
    weights = jax.nn.softmax(jnp.einsum("bhk,bhsk->bhs", q.astype(jnp.float32), keys) / WIDTH**0.5, axis=-1)
    assert found.dtype == q.dtype
    np.testing.assert_allclose(found.astype(jnp.float32), jnp.einsum("bhs,bhsk->bhk", weights, values), atol=close)
