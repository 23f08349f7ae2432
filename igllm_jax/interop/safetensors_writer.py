"""Writing safetensors one tensor at a time, whole or in shards with Hugging Face's index."""

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from igllm_jax import progress
from igllm_jax.interop.files import SAFETENSORS_NAMES

SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Outgoing:
    """A tensor to be written: its shape and dtype, known beforehand, and how to get its values."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_sharded(tensors: Mapping[str, Outgoing], folder: Path) -> None:
    """Writes model.safetensors, or shards of at most SHARD_BYTES and their index."""
    shards: list[dict[str, Outgoing]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and sum(t.size for t in shards[-1].values()) + tensor.size > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = tensor
    if len(shards) == 1:
        write(tensors, folder / "model.safetensors")
        return
    files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for file, shard in zip(files, shards, strict=True):
        write(shard, folder / file)
    index = {
        "metadata": {"total_size": sum(tensor.size for tensor in tensors.values())},
        "weight_map": {name: file for file, shard in zip(files, shards, strict=True) for name in shard},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def write(tensors: Mapping[str, Outgoing], path: Path) -> None:
    """Writes one file, reading each tensor when its turn comes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.size
        header[name] = {
            "dtype": SAFETENSORS_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in progress.track(tensors.items(), total=len(tensors), label=path.name, unit="tensor"):
            array = np.asarray(tensor.read(), tensor.dtype, order="C")
            if array.shape != tensor.shape:
                raise AssertionError(f"{name} has shape {array.shape}, announced as {tensor.shape}")
            file.write(array.reshape(-1).view(np.uint8).data)  # tofile would not say why a disk takes no more
