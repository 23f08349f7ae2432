"""The float head: a number read from the hidden state that predicts a float token."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from igllm_jax.models.layers import Linear

FLOAT_HEADS = ("none", "linear", "tanh_mlp_gelu")


class FloatHead(nnx.Module):
    """`linear`: Linear(d, 1). `tanh_mlp_gelu`: Tanh, Linear(d, d), exact GELU, Linear(d, 1). All with bias, float32."""

    def __init__(self, kind: str, width: int, rngs: nnx.Rngs):
        if kind not in FLOAT_HEADS[1:]:
            raise ValueError(f"head is {kind!r}; choose one of {FLOAT_HEADS}")
        is_mlp = kind == "tanh_mlp_gelu"
        self.hidden = Linear((width, width), (None, "embed"), rngs, bias=True) if is_mlp else None
        self.out = Linear((width, 1), ("embed", None), rngs, bias=True)

    def __call__(self, hidden: Float[Array, "... d"]) -> Float[Array, "..."]:
        """Numbers in the label's unit, float32."""
        x = hidden.astype(jnp.float32)
        if self.hidden is not None:
            x = jax.nn.gelu(self.hidden(jnp.tanh(x)), approximate=False)
        return self.out(x)[..., 0]
