"""Decoded images in one memory-mapped file, written once and shared by all processes of a machine."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from igllm_jax import progress
from igllm_jax.data.names import digest
from igllm_jax.errors import UserError

if TYPE_CHECKING:
    from igllm_jax.data.examples import Examples

_CHUNK = 64  # images between two marks of how far the writing is


class CachedImages:
    """uint8 [N, S, S, 3] in a file; `cached[n]` is image n. May be sent to other processes, which map the file too."""

    def __init__(self, file: Path, shape: tuple[int, int, int, int]):
        self.file = file
        self.shape = shape

    @classmethod
    def open(cls, folder: str | Path, examples: "Examples") -> "CachedImages":
        """The cache of these examples in `folder`, written first where it is not there yet.

        The name holds the data's fingerprint and how images are prepared, so other data has another file. One process
        writes, others wait for it; where it is killed, the next one goes on where it stopped.

        Raises: UserError where the folder cannot be written or has no room.
        """
        options = examples.options
        shape = (len(examples), options.image_size, options.image_size, 3)
        key = digest(examples.fingerprint, options.image_size, options.image_aspect_ratio, list(options.image_mean))
        file = Path(folder) / f"images-{key}.u8"
        if not file.exists():
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
                with _locked(file.with_suffix(".lock")):
                    if not file.exists():
                        _write(file, shape, examples)
            except OSError as error:
                raise UserError(f"data.cache={folder}: cannot be written ({error.strerror}); choose another") from None
        return cls(file, shape)

    @cached_property
    def _images(self) -> np.ndarray:
        return np.memmap(self.file, np.uint8, mode="r", shape=self.shape)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._images[index]

    def __reduce__(self):  # the map itself would travel as all its bytes
        return CachedImages, (self.file, self.shape)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Holds the lock that the system takes back from a process that dies."""
    with open(file, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(file: Path, shape: tuple[int, int, int, int], examples: "Examples") -> None:
    partial, mark = file.with_suffix(".partial"), file.with_suffix(".done")
    done = int(mark.read_text()) if mark.exists() and partial.exists() else 0
    size = int(np.prod(shape))
    free = shutil.disk_usage(file.parent).free + (partial.stat().st_blocks * 512 if partial.exists() else 0)
    if free < size:  # a full disk would end the process without a word when the map is written
        raise UserError(
            f"data.cache={file.parent}: needs {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; "
            'choose a larger disk, or set data.cache=""'
        )
    images = np.memmap(partial, np.uint8, mode="r+" if done else "w+", shape=shape)

    def put(index: int) -> None:
        images[index] = examples.fresh_image(index)

    chunks = range(done, len(examples), _CHUNK)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in progress.track(chunks, label=f"decoding images into {file.parent}", unit=f"x{_CHUNK} images"):
            stop = min(start + _CHUNK, len(examples))
            for _ in pool.map(put, range(start, stop)):
                pass
            images.flush()
            _replace(mark, str(stop))
    images.flush()
    partial.rename(file)
    mark.unlink(missing_ok=True)


def _replace(file: Path, content: str) -> None:
    """Writes a small file so that a killed process leaves the old content or the new."""
    fresh = file.with_suffix(".mark")
    fresh.write_text(content)
    fresh.rename(file)
