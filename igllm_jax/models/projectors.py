"""From the vision tower's width to the decoder's."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from igllm_jax.models.layers import Linear, linear_flops


class Projector(nnx.Module):
    """What every projector is: made from the tower's width and the decoder's, applied to each patch."""

    def __init__(self, vision_width: int, width: int, rngs: nnx.Rngs):
        raise NotImplementedError

    def __call__(self, x: Float[Array, "b n v"]) -> Float[Array, "b n d"]:
        raise NotImplementedError

    @staticmethod
    def flops(vision_width: int, width: int) -> float:
        """Of one patch's forward pass."""
        raise NotImplementedError


class LinearProjector(Projector):
    """One linear projection with bias (LLaVA 1)."""

    def __init__(self, vision_width: int, width: int, rngs: nnx.Rngs):
        self.linear1 = Linear((vision_width, width), (None, "embed"), rngs, bias=True)

    def __call__(self, x: Float[Array, "b n v"]) -> Float[Array, "b n d"]:
        return self.linear1(x)

    @staticmethod
    def flops(vision_width: int, width: int) -> float:
        return linear_flops((vision_width, width))


class MLPProjector(Projector):
    """Linear, exact GELU, linear, with bias (LLaVA 1.5)."""

    def __init__(self, vision_width: int, width: int, rngs: nnx.Rngs):
        self.linear1 = Linear((vision_width, width), (None, "embed"), rngs, bias=True)
        self.linear2 = Linear((width, width), (None, "embed"), rngs, bias=True)

    def __call__(self, x: Float[Array, "b n v"]) -> Float[Array, "b n d"]:
        return self.linear2(jax.nn.gelu(self.linear1(x), approximate=False))

    @staticmethod
    def flops(vision_width: int, width: int) -> float:
        return linear_flops((vision_width, width), (width, width))


# `model.projector` of a config -> what it is
PROJECTORS: dict[str, type[Projector]] = {"linear": LinearProjector, "mlp2x_gelu": MLPProjector}
