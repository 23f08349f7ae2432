"""Guesses of the next tokens, looked up in what was written before.

Scene code repeats itself: most of its tokens follow from the few before them. Decoding checks several guesses in one
pass over the weights and keeps those that the model would have written itself (speculative decoding, Leviathan et al.
2023, its greedy case, with n-grams in index of a small model), so guesses change how long an answer takes and not what
it says.

The table holds, for the last tokens of a text (by their hash, for a long context and for a short one), the token that
last came after them. Contexts whose hashes collide cost a wrong guess, no more.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

CONTEXTS = (8, 3)  # tokens; the longer one is asked first
LONGEST = max(CONTEXTS)
BITS = 15  # 2^BITS entries for each
UNKNOWN = -1
# The factor of the FNV hash (Fowler, Noll, Vo), here of polynomial digits; and 2^32 / golden ratio, whose product
# spreads numbers over its high bits (Knuth, The Art of Computer Programming 3, section 6.4).
FNV_PRIME, GOLDEN = 16777619, 2654435769
MIN_ACCEPTANCE_RATE = 0.5  # from which on guesses are worth their time
ACCEPTANCE_EMA_WEIGHT = 0.2  # a step's share of the exponential moving average


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Table:
    """entries: int32 [contexts, entries]. acceptance_rate: float32 [], of late, of the first guesses, 0 to 1."""

    entries: Any  # arrays, or what JAX has instead while it compiles: shapes, shardings
    acceptance_rate: Any

    @property
    def is_accepting(self) -> jax.Array:
        """Whether to have several guesses checked in a step, which then takes longer."""
        return jnp.asarray(self.acceptance_rate >= MIN_ACCEPTANCE_RATE)


def empty() -> Table:
    """A table that knows nothing."""
    return Table(np.full((len(CONTEXTS), 2**BITS), UNKNOWN, np.int32), np.zeros((), np.float32))


def judge(table: Table, guesses: Int[Array, "b"], tokens: Int[Array, "b"], is_new: Bool[Array, "b"]) -> Table:
    """The table after a step, whose first guesses are compared with the tokens then written (is_new: in which rows)."""
    share = jnp.sum((guesses == tokens) & is_new) / jnp.maximum(jnp.sum(is_new), 1)
    return replace(
        table, acceptance_rate=(1 - ACCEPTANCE_EMA_WEIGHT) * table.acceptance_rate + ACCEPTANCE_EMA_WEIGHT * share
    )


def guess(table: Table, recent: Int[Array, "b m"], count: int) -> Int[Array, "b count"]:
    """The next `count` tokens of every row, each from the guesses before it; UNKNOWN where the table has none.

    recent: the last tokens written, newest last, at least LONGEST of them.
    """
    found: list[jax.Array] = []
    for _ in range(count):
        token = jnp.full(len(recent), UNKNOWN, jnp.int32)
        for entries, index in zip(jnp.asarray(table.entries), _entry_indices(recent), strict=True):
            token = jnp.where(token == UNKNOWN, entries[index], token)
        found.append(token)
        recent = jnp.concatenate([recent[:, 1:], token[:, None]], axis=1)
    return jnp.stack(found, axis=1) if found else jnp.zeros((len(recent), 0), jnp.int32)


def learn(table: Table, recent: Int[Array, "n m"], tokens: Int[Array, "n"], is_written: Bool[Array, "n"]) -> Table:
    """The table after tokens that were written (or not: those are left out), each after its own `recent`.

    Of several tokens for one entry the last one stays, on every device and in every run the same.
    """
    order = jnp.arange(len(tokens))
    rows = []
    for entries, index in zip(jnp.asarray(table.entries), _entry_indices(recent), strict=True):
        is_later = (index[:, None] == index) & is_written & (order[:, None] < order)
        is_kept = is_written & ~jnp.any(is_later, axis=1)
        rows.append(entries.at[jnp.where(is_kept, index, len(entries))].set(tokens, mode="drop"))
    return replace(table, entries=jnp.stack(rows))


def _entry_indices(recent: Int[Array, "b m"]) -> list[Int[Array, "b"]]:
    """Each context's entry: its tokens are the digits of a number modulo 2^32, whose product's highest bits count."""
    indices = []
    for length in CONTEXTS:
        digits = jnp.array([pow(FNV_PRIME, power, 2**32) for power in range(length)], jnp.uint32)
        number = jnp.sum(recent[:, -length:].astype(jnp.uint32) * digits, axis=1, dtype=jnp.uint32)
        indices.append(((number * jnp.uint32(GOLDEN)) >> (32 - BITS)).astype(jnp.int32))
    return indices
