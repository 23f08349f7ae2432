"""The image tower of CLIP, SigLIP and DINOv2: a ViT whose features come from a block of the config's choice. In what
families differ are values of `VisionConfig`.

Source: Dosovitskiy et al. 2021; Radford et al. 2021 (CLIP), Zhai et al. 2023 (SigLIP), Oquab et al. 2023 (DINOv2),
Darcet et al. 2023 (registers).
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from igllm_jax.models import axes, params
from igllm_jax.models.attention import attend, attend_flops
from igllm_jax.models.layers import LayerNorm, Linear, linear_flops

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the tower as its checkpoint gives them.

    num_layers: of the checkpoint. feature_layer: which hidden state feeds the projector, counted as in the checkpoint's
    hidden states (0 is the embedding, -1 the last block's output, -2 the last but one's); later blocks are not built.
    image_mean, image_std: of RGB in [0, 1]. class_token, registers (how many): positions before the patches, which are
    no features. pre_norm: before the first block (CLIP). layer_scale: a factor for each channel that a block adds
    (DINOv2). position_grid: positions on a side of the checkpoint's table, 0 for as many as the image has; where they
    differ, `position_resize` interpolates the table (a key of RESIZES).
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
    class_token: bool
    registers: int
    pre_norm: bool
    patch_bias: bool
    layer_scale: bool
    position_grid: int
    position_resize: str
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.position_resize not in RESIZES:
            raise ValueError(
                f"model.vision.position_resize is {self.position_resize!r}; choose one of {tuple(RESIZES)}"
            )
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
    def grid(self) -> int:
        """Patches on a side of the image."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        return self.grid**2

    @property
    def table_grid(self) -> int:
        """Positions on a side of the table."""
        return self.position_grid or self.grid

    @property
    def num_prefix(self) -> int:
        """Positions before the patches."""
        return int(self.class_token) + self.registers


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), what is added scaled by channel or not; stacked over `layers`."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs, *, layers: int):
        width, mlp = config.width, config.mlp_width

        def linear(size: tuple[int, int], *names: str) -> Linear:
            return Linear(size, (names[0], names[1]), rngs, bias=True, layers=layers)

        self.num_heads, self.activation = config.num_heads, config.activation

        def scale() -> nnx.Param | None:
            shape, names = (layers, width), ("layers", "norm")
            return params.parameter(rngs, shape, names, params.ones) if config.layer_scale else None

        self.norm1 = LayerNorm(width, config.layer_norm_epsilon, rngs, layers=layers)
        self.q, self.k, self.v = (linear((width, width), "embed", "heads") for _ in range(3))
        self.out = linear((width, width), "heads", "embed")
        self.norm2 = LayerNorm(width, config.layer_norm_epsilon, rngs, layers=layers)
        self.fc1 = linear((width, mlp), "embed", "mlp")
        self.fc2 = linear((mlp, width), "mlp", "embed")
        self.scale1, self.scale2 = scale(), scale()

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        batch, length, width = x.shape
        y = self.norm1(x)
        q, k, v = (f(y).reshape(batch, length, self.num_heads, -1) for f in (self.q, self.k, self.v))
        x = x + _scaled(self.out(attend(q, k, v, None).reshape(batch, length, width)), self.scale1)
        y = ACTIVATIONS[self.activation](self.fc1(self.norm2(x)))
        return axes.activation(x + _scaled(self.fc2(y), self.scale2), "batch", None, None)


def _scaled(x: Float[Array, "b n d"], scale: nnx.Param | None) -> Float[Array, "b n d"]:
    return x if scale is None else x * scale[...].astype(x.dtype)


class VisionTower(nnx.Module):
    """uint8 images to patch features.

    patch_embedding/kernel [P*P*3, Dv] (rows, columns, then RGB), class_embedding [Dv], position_embedding [1 + G*G, Dv]
    (the class token's first), register_embedding [R, Dv], pre_norm, blocks (stacked); what the family lacks is absent.
    """

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
        self.config = config
        patch_values = config.patch_size**2 * 3
        self.patch_embedding = Linear((patch_values, config.width), ("pixels", "embed"), rngs, bias=config.patch_bias)

        def table(*shape: int) -> nnx.Param:
            names = (*[None] * (len(shape) - 1), "embed")
            return params.parameter(rngs, shape, names, params.EMBEDDING_STD)

        self.class_embedding = table(config.width) if config.class_token else None
        self.position_embedding = table(int(config.class_token) + config.table_grid**2, config.width)
        self.register_embedding = table(config.registers, config.width) if config.registers else None
        self.pre_norm = LayerNorm(config.width, config.layer_norm_epsilon, rngs) if config.pre_norm else None
        self.blocks = Block(config, rngs, layers=config.num_blocks) if config.num_blocks else None

    def __call__(self, images: UInt8[Array, "b s s 3"], dtype: jnp.dtype) -> Float[Array, "b n d"]:
        """Features of the N patches (row by row, class token and registers dropped), in `dtype`."""
        x = self.patch_embedding(patches(normalise(images, self.config), self.config.patch_size).astype(dtype))
        if self.class_embedding is not None:
            start = jnp.broadcast_to(self.class_embedding[...].astype(dtype), (x.shape[0], 1, x.shape[2]))
            x = jnp.concatenate([start, x], axis=1)
        x = x + resized_positions(self.position_embedding[...], self.config).astype(dtype)
        if self.register_embedding is not None:
            registers = self.register_embedding[...].astype(dtype)
            registers = jnp.broadcast_to(registers, (x.shape[0], *registers.shape))
            at = int(self.config.class_token)
            x = jnp.concatenate([x[:, :at], registers, x[:, at:]], axis=1)
        x = axes.activation(x if self.pre_norm is None else self.pre_norm(x), "batch", None, None)
        if self.blocks is not None:
            graphdef, state = nnx.split(self.blocks)
            x, _ = jax.lax.scan(lambda x, block: (nnx.merge(graphdef, block)(x), None), x, state)
        return x[:, self.config.num_prefix :]


def flops(config: VisionConfig) -> float:
    """Of one image's forward pass."""
    width, positions = config.width, config.num_patches + config.num_prefix
    block = positions * linear_flops(*[(width, width)] * 4, (width, config.mlp_width), (config.mlp_width, width))
    block += attend_flops(positions, positions, config.num_heads, width // config.num_heads)
    return config.num_patches * linear_flops((3 * config.patch_size**2, width)) + config.num_blocks * block


def resized_positions(table: Float[Array, "p d"], config: VisionConfig) -> Float[Array, "n d"]:
    """The table for this image's patches: itself, or interpolated in float32 where it has another number of them."""
    if config.table_grid == config.grid:
        return table
    first = int(config.class_token)
    weights = jnp.asarray(RESIZES[config.position_resize](config.table_grid, config.grid))
    square = table[first:].astype(jnp.float32).reshape(config.table_grid, config.table_grid, -1)
    square = jnp.einsum("yr,xc,rcd->yxd", weights, weights, square, precision=jax.lax.Precision.HIGHEST)
    return jnp.concatenate([table[:first].astype(jnp.float32), square.reshape(config.num_patches, -1)])


def bicubic(old: int, new: int) -> np.ndarray:
    """Float32 [new, old]: how new positions on a line weigh the old ones, beyond whose ends the last one goes on.

    Source: Keys 1981 with a = -0.75, as torch's interpolate(mode="bicubic") has it.
    """
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.zeros((new, old))
    for offset in range(-1, 3):
        at = np.floor(centres).astype(int) + offset
        np.add.at(weights, (np.arange(new), np.clip(at, 0, old - 1)), _cubic(centres - at, -0.75))
    return weights.astype(np.float32)


def bicubic_antialias(old: int, new: int) -> np.ndarray:
    """Like `bicubic`, smoothed where positions become fewer; a = -0.5 and only the old positions count, as with
    torch's antialias=True and in Pillow."""
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale - 0.5
    weights = _cubic((centres[:, None] - np.arange(old)) / max(scale, 1.0), -0.5)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(distance)
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


RESIZES: dict[str, Callable[[int, int], np.ndarray]] = {"bicubic": bicubic, "bicubic_antialias": bicubic_antialias}


def resized(images: UInt8[Array, "b s s 3"], size: int) -> UInt8[Array, "b r r 3"]:
    """Square images in another size, as Pillow's bicubic resizing makes them: row by row, then column by column, with
    whole numbers in between."""
    if images.shape[1] == size:
        return images
    weights, pixels = jnp.asarray(bicubic_antialias(images.shape[1], size)), images
    for product in ("xc,brcd->brxd", "yr,brxd->byxd"):
        found = jnp.einsum(product, weights, pixels.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
        pixels = jnp.clip(jnp.round(found), 0, 255).astype(jnp.uint8)
    return pixels


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
