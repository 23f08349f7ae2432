"""The rows of a float token that was added to a vocabulary: they train by themselves, over tables that stay frozen."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from igllm_jax.models import params

PREFIX = "decoder/number_row/"
MULTIPLE = 64  # of rows, where some are added: what meshes shard evenly
# a row's path -> that of the table which it is a row of, and the table's axis of tokens
TABLES = {f"{PREFIX}embedding": ("decoder/embedding", 0), f"{PREFIX}head": ("decoder/head/kernel", 1)}


class NumberRow(nnx.Module):
    """embedding [D], and head [D] where the vocabulary's head is not tied to it. token: whose rows they are."""

    def __init__(self, token: int, width: int, rngs: nnx.Rngs, *, has_head: bool):
        self.token = token
        self.embedding = params.parameter(rngs, (width,), ("embed",), params.EMBEDDING_STD)
        self.head = params.parameter(rngs, (width,), ("embed",), params.EMBEDDING_STD) if has_head else None

    def embedded(self, x: Float[Array, "b t d"], tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """Embeddings, this token's in its positions."""
        return jnp.where((tokens == self.token)[..., None], self.embedding[...].astype(x.dtype), x)

    def in_head(self, kernel: Float[Array, "d v"]) -> Float[Array, "d v"]:
        """The vocabulary head with this token's column. A mask instead of an update: it stays local where the
        vocabulary is sharded. Its gradient has the kernel's size, so a step takes one product with the vocabulary
        more than one of frozen tables alone."""
        row = (self.embedding if self.head is None else self.head)[...].astype(kernel.dtype)
        return jnp.where(jnp.arange(kernel.shape[1]) == self.token, row[:, None], kernel)


def room(rows: int, tokens: int) -> int:
    """Rows of a table that has to hold `tokens`: as it is, or grown to a multiple."""
    return rows if tokens <= rows else -(-tokens // MULTIPLE) * MULTIPLE


def merged(values: Mapping[str, Any], token: int) -> params.Params:
    """Path -> array with the rows written into their tables; as it is where there are none."""
    found = dict(values)
    for path, (table, axis) in TABLES.items():
        if path in found:
            found[table] = with_row(found[table], found.pop(path), token, axis)
    return found


def with_row(table: Any, row: Any, token: int, axis: int) -> jax.Array:
    """A table (of JAX or NumPy) with one row, along `axis`, that is `row`."""
    return jnp.moveaxis(jnp.moveaxis(jnp.asarray(table), axis, 0).at[token].set(jnp.asarray(row, table.dtype)), 0, axis)


def with_more_rows(table: jax.Array, size: int, axis: int) -> jax.Array:
    """A table of `size` rows along `axis`, the new ones the mean of those there.

    Source: Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models".
    """
    mean = jnp.mean(table, axis=axis, keepdims=True, dtype=jnp.float32).astype(table.dtype)
    return jnp.concatenate([table, jnp.repeat(mean, size - table.shape[axis], axis=axis)], axis=axis)
