"""From the vision tower's width to the decoder's."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from igllm_jax.models.layers import Linear

PROJECTORS = ("linear", "mlp2x_gelu")


class Projector(nnx.Module):
    """`linear`: one linear map (LLaVA 1). `mlp2x_gelu`: linear, exact GELU, linear (LLaVA 1.5). All with bias."""

    def __init__(self, kind: str, vision_width: int, width: int, rngs: nnx.Rngs):
        if kind not in PROJECTORS:
            raise ValueError(f"model.projector is {kind!r}; choose one of {PROJECTORS}")
        self.linear1 = Linear((vision_width, width), (None, "embed"), rngs, bias=True)
        is_mlp = kind == "mlp2x_gelu"
        self.linear2 = Linear((width, width), (None, "embed"), rngs, bias=True) if is_mlp else None

    def __call__(self, x: Float[Array, "b n v"]) -> Float[Array, "b n d"]:
        x = self.linear1(x)
        return x if self.linear2 is None else self.linear2(jax.nn.gelu(x, approximate=False))
