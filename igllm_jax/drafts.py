"""Guesses of the next tokens, looked up in what was written before.

Scene code repeats itself: most of its tokens follow from the few before them. Decoding checks several guesses in one
pass over the weights and keeps those that the model would have written itself (speculative decoding, Leviathan et al.
2023, its greedy case, with n-grams in place of a small model), so guesses change how long an answer takes and not what
it says.

The table holds, for the last tokens of a text (by their hash, for a long context and for a short one), the token that
last came after them. Contexts whose hashes meet cost a wrong guess, no more.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

CONTEXTS = (8, 3)  # tokens; the longer one is asked first
LONGEST = max(CONTEXTS)
BITS = 15  # 2^BITS entries for each
UNKNOWN = -1
PRIME, GOLDEN = 16777619, 2654435769


def empty() -> np.ndarray:
    """A table that knows nothing, int32 [contexts, entries]."""
    return np.full((len(CONTEXTS), 2**BITS), UNKNOWN, np.int32)


def guess(table: Int[Array, "c e"], recent: Int[Array, "b m"], count: int) -> Int[Array, "b count"]:
    """The next `count` tokens of every row, each from the guesses before it; UNKNOWN where the table has none.

    recent: the last tokens written, newest last, at least LONGEST of them.
    """
    found: list[jax.Array] = []
    for _ in range(count):
        token = jnp.full(len(recent), UNKNOWN, jnp.int32)
        for entries, place in zip(table, _places(recent), strict=True):
            token = jnp.where(token == UNKNOWN, entries[place], token)
        found.append(token)
        recent = jnp.concatenate([recent[:, 1:], token[:, None]], axis=1)
    return jnp.stack(found, axis=1) if found else jnp.zeros((len(recent), 0), jnp.int32)


def learn(
    table: Int[Array, "c e"], recent: Int[Array, "n m"], tokens: Int[Array, "n"], is_written: Bool[Array, "n"]
) -> Int[Array, "c e"]:
    """The table after tokens that were written (or not: those are left out), each after its own `recent`.

    Of several tokens for one entry the last one stays, on every device and in every run the same.
    """
    order = jnp.arange(len(tokens))
    rows = []
    for entries, place in zip(table, _places(recent), strict=True):
        is_later = (place[:, None] == place) & is_written & (order[:, None] < order)
        is_kept = is_written & ~jnp.any(is_later, axis=1)
        rows.append(entries.at[jnp.where(is_kept, place, len(entries))].set(tokens, mode="drop"))
    return jnp.stack(rows)


def _places(recent: Int[Array, "b m"]) -> list[Int[Array, "b"]]:
    """Each context's entry: its tokens are the digits of a number modulo 2^32, whose product's highest bits count."""
    places = []
    for length in CONTEXTS:
        digits = jnp.array([pow(PRIME, power, 2**32) for power in range(length)], jnp.uint32)
        number = jnp.sum(recent[:, -length:].astype(jnp.uint32) * digits, axis=1, dtype=jnp.uint32)
        places.append(((number * jnp.uint32(GOLDEN)) >> (32 - BITS)).astype(jnp.int32))
    return places
