"""Checksums of arrays that do not depend on how an array is sharded, to notice what a disk changed.

Each element's bits are mixed with its index and the results are added modulo 2**32: a sum has no order, so shards and
processes add up to the same number. Any change of one element changes it; other damage goes unnoticed once in 2**32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_CHUNK = 1 << 22  # elements that NumPy takes at once
# Source: finalizer of MurmurHash3 (A. Appleby, public domain); one-to-one, so that no two values of an element collide.
_MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35)
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def checksums(tree: Any) -> dict[str, int]:
    """Path -> checksum, for a tree of arrays (NumPy's, or JAX's of up to four bytes an element on any mesh).

    Example: of one float32 zero, `checksums({"w": np.zeros(1, np.float32)})` is `{"w": 0}`.
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    arrays = {jax.tree_util.keystr(path, simple=True, separator="/"): array for path, array in leaves}
    is_here = jax.default_backend() == "cpu"  # where NumPy has it at once, and nothing needs to be compiled
    by_numpy = {
        path
        for path, array in arrays.items()
        if isinstance(array, np.ndarray | np.generic) or (is_here and array.is_fully_addressable)
    }
    # One program for all of them: several in flight, each with collectives, dead-lock devices that share threads.
    sums = jax.device_get(_of_jax({path: array for path, array in arrays.items() if path not in by_numpy}))
    return {path: _of_numpy(np.asarray(arrays[path])) if path in by_numpy else int(sums[path]) for path in arrays}


def _mixed(bits: Any, index: Any) -> Any:
    """uint32 in, uint32 out, NumPy's or JAX's, multiplied modulo 2**32."""
    value = bits ^ (index * np.uint32(0x9E3779B1))  # the golden ratio's fraction: neighbours differ in many bits
    for shift, multiplier in zip((16, 13), _MULTIPLIERS, strict=True):
        value = (value ^ (value >> np.uint32(shift))) * np.uint32(multiplier)
    return value ^ (value >> np.uint32(16))


def _of_numpy(array: np.ndarray) -> int:
    bits = np.ascontiguousarray(array).reshape(-1).view(_UNSIGNED[min(array.dtype.itemsize, 4)])
    total = 0
    for start in range(0, bits.size, _CHUNK):
        part = bits[start : start + _CHUNK].astype(np.uint32)
        index = np.arange(start, start + part.size, dtype=np.uint64).astype(np.uint32)
        total += int(_mixed(part, index).sum(dtype=np.uint64))
    return total % 2**32


@jax.jit
def _of_jax(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {path: _of_one(array) for path, array in arrays.items()}


def _of_one(array: jax.Array) -> jax.Array:
    unsigned = _UNSIGNED[array.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
    index = jnp.zeros(array.shape, jnp.uint32)
    stride = 1
    for axis in range(array.ndim - 1, -1, -1):
        index += jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis) * np.uint32(stride % 2**32)
        stride *= array.shape[axis]
    return _mixed(bits, index).sum(dtype=jnp.uint32)
