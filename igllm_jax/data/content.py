"""What stands for the content of many images, without reading them all."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

_SAMPLED = 64  # images that are read whole
_THREADS = 16  # that wait for a disk or a bucket


class _Files(Protocol):
    @property
    def names(self) -> Sequence[str]: ...

    def read_bytes(self, index: int) -> bytes: ...


def digest_some(source: _Files) -> str:
    """Stands for the whole content of 64 images, evenly spread by name: a set that is made anew differs in all."""
    by_name = sorted(range(len(source.names)), key=source.names.__getitem__)
    chosen = np.unique(np.linspace(0, len(by_name) - 1, _SAMPLED).astype(int))
    hashed = hashlib.sha256()
    with ThreadPoolExecutor(_THREADS) as pool:
        for content in pool.map(source.read_bytes, (by_name[index] for index in chosen)):
            hashed.update(hashlib.sha256(content).digest())
    return hashed.hexdigest()
