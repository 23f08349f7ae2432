"""The float head: a number read from the hidden state that predicts a float token."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from igllm_jax.models.layers import Linear, linear_flops


class FloatHead(nnx.Module):
    """What every float head is: made from the decoder's width D; all arithmetic in float32."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        raise NotImplementedError

    def __call__(self, hidden: Float[Array, "... d"]) -> Float[Array, "..."]:
        """Numbers in the label's unit, float32."""
        raise NotImplementedError

    @staticmethod
    def flops(width: int) -> float:
        """Of one state's forward pass."""
        raise NotImplementedError


class LinearHead(FloatHead):
    """Linear(d, 1), with bias."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.out = Linear((width, 1), ("embed", None), rngs, bias=True)

    def __call__(self, hidden: Float[Array, "... d"]) -> Float[Array, "..."]:
        return self.out(hidden.astype(jnp.float32))[..., 0]

    @staticmethod
    def flops(width: int) -> float:
        return linear_flops((width, 1))


class TanhMLPHead(FloatHead):
    """Tanh, Linear(d, d), exact GELU, Linear(d, 1), with bias."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.hidden = Linear((width, width), (None, "embed"), rngs, bias=True)
        self.out = Linear((width, 1), ("embed", None), rngs, bias=True)

    def __call__(self, hidden: Float[Array, "... d"]) -> Float[Array, "..."]:
        x = self.hidden(jnp.tanh(hidden.astype(jnp.float32)))
        return self.out(jax.nn.gelu(x, approximate=False))[..., 0]

    @staticmethod
    def flops(width: int) -> float:
        return linear_flops((width, width), (width, 1))


# `head` of a config -> what it is; None writes numbers as text
FLOAT_HEADS: dict[str, type[FloatHead] | None] = {"none": None, "linear": LinearHead, "tanh_mlp_gelu": TanhMLPHead}
