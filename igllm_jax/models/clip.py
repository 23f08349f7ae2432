"""CLIP's image tower: a pre-norm ViT whose features come from a block of the config's choice.

Source: Radford et al. 2021; names and layout as in the released weights (class token, pre-layernorm, quick-GELU).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from igllm_jax.models import axes, params
from igllm_jax.models.attention import attend, attend_flops
from igllm_jax.models.layers import LayerNorm, Linear, linear_flops

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the tower as its checkpoint gives them.

    num_layers: of the checkpoint. feature_layer: which hidden state feeds the projector, counted as in the checkpoint's
    hidden states (0 is the embedding, -1 the last block's output, -2 the last but one's); later blocks are not built.
    image_mean, image_std: of RGB in [0, 1].
    """

    image_size: int
    patch_size: int
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    layer_norm_epsilon: float
    activation: str
    feature_layer: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"model.vision.activation is {self.activation!r}; choose one of {tuple(ACTIVATIONS)}")
        if not 0 <= self.num_blocks <= self.num_layers:
            raise ValueError(f"model.vision.feature_layer {self.feature_layer} lies outside {self.num_layers} layers")
        if self.width % self.num_heads:
            raise ValueError(f"model.vision.width {self.width} is not divisible by num_heads {self.num_heads}")

    @property
    def num_blocks(self) -> int:
        """How many blocks run."""
        return self.feature_layer if self.feature_layer >= 0 else self.num_layers + 1 + self.feature_layer

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); stacked over `layers`."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs, *, layers: int):
        width, mlp = config.width, config.mlp_width

        def linear(size: tuple[int, int], *names: str) -> Linear:
            return Linear(size, (names[0], names[1]), rngs, bias=True, layers=layers)

        self.num_heads, self.activation = config.num_heads, config.activation
        self.norm1 = LayerNorm(width, config.layer_norm_epsilon, rngs, layers=layers)
        self.q, self.k, self.v = (linear((width, width), "embed", "heads") for _ in range(3))
        self.out = linear((width, width), "heads", "embed")
        self.norm2 = LayerNorm(width, config.layer_norm_epsilon, rngs, layers=layers)
        self.fc1 = linear((width, mlp), "embed", "mlp")
        self.fc2 = linear((mlp, width), "mlp", "embed")

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        batch, length, width = x.shape
        y = self.norm1(x)
        q, k, v = (f(y).reshape(batch, length, self.num_heads, -1) for f in (self.q, self.k, self.v))
        x = x + self.out(attend(q, k, v, None).reshape(batch, length, width))
        y = ACTIVATIONS[self.activation](self.fc1(self.norm2(x)))
        return axes.activation(x + self.fc2(y), "batch", None, None)


class VisionTower(nnx.Module):
    """uint8 images to patch features.

    patch_embedding/kernel [P*P*3, Dv] (rows, columns, then RGB), class_embedding [Dv], position_embedding [1 + N, Dv],
    pre_norm, blocks (stacked).
    """

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
        self.config = config
        patch_values = config.patch_size**2 * 3
        self.patch_embedding = Linear((patch_values, config.width), ("pixels", "embed"), rngs, bias=False)
        self.class_embedding = params.parameter(rngs, (config.width,), ("embed",), params.EMBEDDING_STD)
        positions = (1 + config.num_patches, config.width)
        self.position_embedding = params.parameter(rngs, positions, (None, "embed"), params.EMBEDDING_STD)
        self.pre_norm = LayerNorm(config.width, config.layer_norm_epsilon, rngs)
        self.blocks = Block(config, rngs, layers=config.num_blocks) if config.num_blocks else None

    def __call__(self, images: UInt8[Array, "b s s 3"], dtype: jnp.dtype) -> Float[Array, "b n d"]:
        """Features of the N patches (row by row, class token dropped), in `dtype`."""
        x = self.patch_embedding(patches(normalise(images, self.config), self.config.patch_size).astype(dtype))
        start = jnp.broadcast_to(self.class_embedding[...].astype(dtype), (x.shape[0], 1, x.shape[2]))
        x = jnp.concatenate([start, x], axis=1) + self.position_embedding[...].astype(dtype)
        x = axes.activation(self.pre_norm(x), "batch", None, None)
        if self.blocks is not None:
            graphdef, state = nnx.split(self.blocks)
            x, _ = jax.lax.scan(lambda x, block: (nnx.merge(graphdef, block)(x), None), x, state)
        return x[:, 1:]


def flops(config: VisionConfig) -> float:
    """Of one image's forward pass."""
    width, positions = config.width, config.num_patches + 1
    block = positions * linear_flops(*[(width, width)] * 4, (width, config.mlp_width), (config.mlp_width, width))
    block += attend_flops(positions, positions, config.num_heads, width // config.num_heads)
    return config.num_patches * linear_flops((3 * config.patch_size**2, width)) + config.num_blocks * block


def normalise(images: UInt8[Array, "b s s 3"], config: VisionConfig) -> Float[Array, "b s s 3"]:
    """(images / 255 - mean) / std, float32, taken times 255: a pixel at the mean is 0 however that is compiled.

    Rounding noise there would be enough for Adam to move the weights of pixels that never change.
    """
    mean, std = (jnp.array([255 * value for value in f], jnp.float32) for f in (config.image_mean, config.image_std))
    return (images.astype(jnp.float32) - mean) / std


def patches(images: Float[Array, "b s s 3"], size: int) -> Float[Array, "b n p"]:
    """Images split into N = (S / size)^2 patches, row by row, each flattened as rows, columns, RGB."""
    batch, height, width, channels = images.shape
    rows, columns = height // size, width // size
    x = images[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, size * size * channels)
