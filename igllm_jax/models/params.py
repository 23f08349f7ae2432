"""Parameters by name: how a module declares one, and the flat `path -> array` view that everything outside uses."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

# Standard deviation of embeddings (of tokens, positions and the class) at the start; loaded weights bring their own. It
# is our choice for training from scratch: with the usual 0.02 what a patch shows drowns out where it is.
EMBEDDING_STD = 0.1
Params = dict[str, Any]  # "decoder/layers/q/kernel" -> array (or shape)


def parameter(
    rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str | None, ...], init: float | Callable[..., jax.Array]
) -> nnx.Param:
    """A float32 parameter that states its shape, its axis names and how it starts.

    init: standard deviation of a normal, or a function (key, shape) -> array.
    """
    if len(axes) != len(shape):
        raise ValueError(f"{len(shape)} dimensions {shape} with {len(axes)} axis names {axes}")
    key = rngs.params()
    value = init(key, shape) if callable(init) else init * jax.random.normal(key, shape, jnp.float32)
    return nnx.Param(value, axes=axes)


def zeros(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Starts at zero."""
    return jnp.zeros(shape, jnp.float32)


def ones(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Starts at one."""
    return jnp.ones(shape, jnp.float32)


def normal_fan_in(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Normal with standard deviation 1/sqrt(fan in), the last dimension but one being the input: what comes out is as
    large as what goes in, whatever the width. (LLaMA's and CLIP's own 0.02 is that at their widths, and too little for
    a narrow model: attention starts flat and its layers next to silent.)

    Source: LeCun et al. 1998, "Efficient BackProp".
    """
    return jax.random.normal(key, shape, jnp.float32) / math.sqrt(shape[-2])


def uniform_fan_in(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform in ±1/sqrt(fan in), the last dimension but one being the input.

    Source: torch's kaiming_uniform_ with a = sqrt(5), which PEFT uses for LoRA's A.
    """
    bound = 1 / math.sqrt(shape[-2])
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


@dataclass(frozen=True)
class Skeleton:
    """A module without its arrays: builds the module again from `path -> array`.

    shapes: path -> ShapeDtypeStruct (float32, as declared). axes: path -> axis names.
    """

    graphdef: Any
    variables: tuple[tuple[tuple[Any, ...], Any], ...]

    @classmethod
    def of(cls, create: Callable[[nnx.Rngs], nnx.Module]) -> "Skeleton":
        """The skeleton of `create(rngs)`; nothing is allocated."""
        graphdef, state = nnx.split(nnx.eval_shape(lambda: create(nnx.Rngs(params=0))))
        return cls(graphdef, tuple(nnx.to_flat_state(state)))

    @property
    def shapes(self) -> Params:
        return {path_of(path): jax.ShapeDtypeStruct(v.shape, v.dtype) for path, v in self.variables}

    @property
    def axes(self) -> dict[str, tuple[str | None, ...]]:
        return {path_of(path): v.get_metadata()["axes"] for path, v in self.variables}

    def build(self, params: Mapping[str, Any]) -> Any:
        """The module around these arrays.

        Raises: KeyError naming the first parameter that is missing.
        """
        state = [(path, variable.replace(params[path_of(path)])) for path, variable in self.variables]
        return nnx.merge(self.graphdef, nnx.from_flat_state(state))


def path_of(path: tuple[Any, ...]) -> str:
    """("decoder", "layers", "q") -> "decoder/layers/q"."""
    return "/".join(str(part) for part in path)


def flatten(module: nnx.Module) -> Params:
    """Path -> array of a live module."""
    return {path_of(path): variable[...] for path, variable in nnx.to_flat_state(nnx.split(module)[1])}


def nest(params: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}, the form that checkpoints are written in."""
    tree: dict[str, Any] = {}
    for path, value in params.items():
        *parents, leaf = path.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = value
    return tree


def unnest(tree: Mapping[str, Any], prefix: str = "") -> Params:
    """The inverse of `nest`."""
    params: Params = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        params.update(unnest(value, f"{path}/") if isinstance(value, Mapping) else {path: value})
    return params
