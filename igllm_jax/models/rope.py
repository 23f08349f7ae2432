"""Rotary positions, in the half-split form of the released Hugging Face weights."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def rope_cos_sin(
    positions: Int[Array, "t"], width: int, theta: float, scaling: tuple[float, ...] = ()
) -> tuple[Float[Array, "t half"], Float[Array, "t half"]]:
    """Cosine and sine (float32) of the angles of rotary positions, position / theta^(2i/K) radians for the pair i.

    scaling: () for none, or the numbers of a row of ROPE_SCALINGS.
    Source: Su et al. 2021.
    """
    half = width // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    frequencies = ROPE_SCALINGS[len(scaling)](frequencies, *scaling)
    angles_rad = positions[:, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles_rad), jnp.sin(angles_rad)


def _llama3_scaled(frequencies: jax.Array, factor: float, low: float, high: float, length: float) -> jax.Array:
    """Frequencies that turn less than `low` times in `length` positions are divided by the factor, those that turn more
    than `high` times stay, and between them lies a straight line. Source: Llama 3.1's model card and released code.
    """
    kept = jnp.clip((frequencies * length / (2 * math.pi) - low) / (high - low), 0.0, 1.0)
    return frequencies * ((1 - kept) / factor + kept)


# how many numbers `rope_scaling` has -> frequencies scaled with them
ROPE_SCALINGS: dict[int, Callable[..., jax.Array]] = {
    0: lambda frequencies: frequencies,
    1: lambda frequencies, factor: frequencies / factor,  # linear: Chen et al. 2023
    4: _llama3_scaled,  # factor, low and high frequency factor, positions of the pretraining
}


def apply_rope(x: Float[Array, "... k"], cos: jax.Array, sin: jax.Array) -> Float[Array, "... k"]:
    """Rotates the pair (i, i + K/2) of x by the angle i, computed in float32. cos, sin: [..., K/2], broadcast."""
    half = x.shape[-1] // 2
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
