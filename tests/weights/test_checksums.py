"""Checksums of arrays: the same on every mesh, another for every change."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from igllm_jax.weights import checksums as module
from igllm_jax.weights.checksums import checksums


def test_one_zero_is_zero_and_paths_are_those_of_the_tree() -> None:
    assert checksums({"w": np.zeros(1, np.float32)}) == {"w": 0}
    tree = {"a": {"b": jnp.ones(3)}, "c": (np.float32(1.0), jnp.int32(7))}
    assert list(checksums(tree)) == ["a/b", "c/0", "c/1"]


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.int32, np.int8])
def test_sharded_on_a_device_and_whole_on_the_host_are_the_same(dtype, monkeypatch) -> None:
    """As an accelerator computes it, and as NumPy does in chunks."""
    monkeypatch.setattr(module, "_CHUNK", 7)
    array = np.random.default_rng(0).normal(size=(8, 3, 5)).astype(dtype)
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    sharded = jax.device_put(array, NamedSharding(mesh, PartitionSpec("a")))
    assert int(module._of_jax({"w": sharded})["w"]) == checksums({"w": sharded})["w"] == checksums({"w": array})["w"]


def test_every_flipped_bit_and_every_exchange_is_noticed() -> None:
    array = np.arange(23, dtype=np.float32)
    was = checksums({"w": array})
    for index in range(23):
        for bit in range(32):
            array.view(np.uint32)[index] ^= np.uint32(1 << bit)
            assert checksums({"w": array}) != was
            array.view(np.uint32)[index] ^= np.uint32(1 << bit)
    assert checksums({"w": array}) == was
    array[[3, 4]] = array[[4, 3]]
    assert checksums({"w": array}) != was
