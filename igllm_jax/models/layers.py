"""Linear projections and norms, alone or stacked (a leading axis of layers, for `jax.lax.scan`)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from igllm_jax.models import axes, params

Names = tuple[str | None, str | None]


def stacked(layers: int | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Leading shape and axis names of a parameter that stands in `layers` layers (None: one layer, no leading axis)."""
    return ((), ()) if layers is None else ((layers,), ("layers",))


def linear_flops(*sizes: tuple[int, int]) -> float:
    """FLOPs of one position through linear projections [in, out]: a product of [m, k] and [k, n] is 2mkn."""
    return float(sum(2 * inputs * outputs for inputs, outputs in sizes))


class Linear(nnx.Module):
    """y = x W (+ b). kernel [in, out], bias [out]; the product runs in x's dtype."""

    def __init__(self, width: tuple[int, int], names: Names, rngs: nnx.Rngs, *, bias: bool, layers: int | None = None):
        lead, lead_names = stacked(layers)
        self.names = names
        self.kernel = params.parameter(rngs, (*lead, *width), (*lead_names, *names), params.normal_fan_in)
        self.bias = params.parameter(rngs, (*lead, width[1]), (*lead_names, names[1]), params.zeros) if bias else None

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        y = x @ axes.weight(self.kernel[...], *self.names).astype(x.dtype)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, in float32, returned in x's dtype. Source: Zhang and Sennrich 2019.

    unit_offset: the parameter is the scale less 1 (Gemma).
    """

    def __init__(
        self,
        width: int,
        epsilon: float,
        rngs: nnx.Rngs,
        *,
        layers: int | None = None,
        unit_offset: bool = False,
    ):
        lead, lead_names = stacked(layers)
        self.epsilon, self.unit_offset = epsilon, unit_offset
        start = params.zeros if unit_offset else params.ones
        self.scale = params.parameter(rngs, (*lead, width), (*lead_names, "norm"), start)

    def __call__(self, x: Float[Array, "..."], *, axis: int = -1) -> Float[Array, "..."]:
        """axis: of x that holds the width, the last (-1) or the first (0)."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=axis, keepdims=True) + self.epsilon)
        scale = self.scale[...].astype(jnp.float32)
        scale = 1 + scale if self.unit_offset else scale
        scale = scale if axis == -1 else scale.reshape(-1, *[1] * (x.ndim - 1))
        return (y * scale).astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean) / std * scale + bias, in float32, returned in x's dtype. Source: Ba et al. 2016."""

    def __init__(self, width: int, epsilon: float, rngs: nnx.Rngs, *, layers: int | None = None):
        lead, lead_names = stacked(layers)
        self.epsilon = epsilon
        self.scale = params.parameter(rngs, (*lead, width), (*lead_names, "norm"), params.ones)
        self.bias = params.parameter(rngs, (*lead, width), (*lead_names, "norm"), params.zeros)

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.epsilon)
        return (y * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)).astype(x.dtype)
