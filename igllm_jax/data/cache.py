"""Decoded images in one memory-mapped file, written once and shared by all processes of a machine."""

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from igllm_jax import files, paths, progress
from igllm_jax.data.names import digest
from igllm_jax.data.options import DataOptions
from igllm_jax.data.stores import keep, kept
from igllm_jax.data.tars import ImageSource
from igllm_jax.errors import BadSampleError, UserError

_CHUNK = 64  # images between two marks of how far the writing is


class Decodable(Protocol):
    """What a cache is made of: N images, and what their decoding depends on. `Examples` are."""

    images: ImageSource
    image_indices: np.ndarray
    fingerprint: str
    options: DataOptions

    def __len__(self) -> int: ...

    def fresh_image(self, index: int) -> np.ndarray: ...


class CachedImages:
    """uint8 [N, S, S, 3] in a file; `cached[n]` is image n. May be sent to other processes, which map the file too."""

    def __init__(self, file: Path, shape: tuple[int, int, int, int], bad: Mapping[int, str]):
        """bad: why the images of these numbers could not be read."""
        self.file = file
        self.shape = shape
        self.bad = bad

    @classmethod
    def open(cls, folder: str | Path, examples: Decodable) -> "CachedImages":
        """The cache of these examples in `folder`, written first where it is not there yet.

        The name holds the data's fingerprint, when their files were last changed, and how images are prepared, so other
        data has another file, and so have images made anew under their old names. One process
        writes, others wait for it; where it is killed, the next one goes on where it stopped.

        Raises: UserError where the folder cannot be written or has no room.
        """
        options = examples.options
        shape = (len(examples), options.image_size, options.image_size, 3)
        prepared = (options.image_size, options.image_aspect_ratio, options.image_mean, astuple(options.pixel_options))
        skips = options.on_bad_sample == "skip"
        key = digest(examples.fingerprint, examples.images.state, examples.image_indices.tolist(), *prepared, skips)
        folder = paths.local(folder, "data.cache")
        file = folder / f"images-{key}.u8"
        try:
            if not _is_whole(file, shape):
                folder.mkdir(parents=True, exist_ok=True)
                with _locked(file.with_suffix(".lock")):
                    if not _is_whole(file, shape):
                        _write(file, shape, examples)
            return cls(file, shape, _read_bad(file.with_suffix(".bad")) or {})
        except OSError as error:
            raise UserError(f"data.cache={folder}: cannot be written ({error.strerror}); choose another") from None

    @cached_property
    def _images(self) -> np.ndarray:
        return np.memmap(self.file, np.uint8, mode="r", shape=self.shape)

    def __getitem__(self, index: int) -> np.ndarray:
        if index in self.bad:
            raise BadSampleError(self.bad[index])
        return self._images[index]

    def __reduce__(self):  # the map itself would travel as all its bytes
        return CachedImages, (self.file, self.shape, self.bad)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Holds the lock that the system takes back from a process that dies."""
    with open(file, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_whole(file: Path, shape: tuple[int, int, int, int]) -> bool:
    """Whether the images are there; the list of the bad ones is written before them."""
    is_there = file.exists() and file.stat().st_size == math.prod(shape)
    return is_there and _read_bad(file.with_suffix(".bad")) is not None


def _read_bad(file: Path) -> dict[int, str] | None:
    """Why which images could not be read; None where the list is not there or damaged."""
    text = kept(file)
    return None if text is None else {int(index): reason for index, reason in json.loads(text).items()}


def _done(mark: Path, partial: Path, shape: tuple[int, int, int, int]) -> tuple[int, dict[int, str]]:
    """How many of the images a writer that was stopped has written, and which of them were bad."""
    text = kept(mark)
    if text is None or not partial.exists() or partial.stat().st_size != math.prod(shape):
        return 0, {}
    done, bad = json.loads(text)
    return done, {int(index): reason for index, reason in bad.items()}


def _write(file: Path, shape: tuple[int, int, int, int], examples: Decodable) -> None:
    # no `files.whole_file`: what a killed writer had done stays for the next one
    partial, mark = file.with_suffix(files.PARTIAL), file.with_suffix(".done")
    done, bad = _done(mark, partial, shape)
    size = math.prod(shape)
    free = shutil.disk_usage(file.parent).free + (partial.stat().st_blocks * 512 if partial.exists() else 0)
    if free < size:  # a full disk would end the process without a word when the map is written
        raise UserError(
            f"data.cache={file.parent}: needs {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; "
            'choose a larger disk, or set data.cache=""'
        )
    images = np.memmap(partial, np.uint8, mode="r+" if done else "w+", shape=shape)
    skips = examples.options.on_bad_sample == "skip"

    def put(index: int) -> None:
        try:
            images[index] = examples.fresh_image(index)
        except BadSampleError as error:
            if not skips:
                raise
            bad[index] = str(error)

    chunks = range(done, len(examples), _CHUNK)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in progress.track(chunks, label=f"decoding images into {file.parent}", unit=f"x{_CHUNK} images"):
            stop = min(start + _CHUNK, len(examples))
            for _ in pool.map(put, range(start, stop)):
                pass
            images.flush()
            keep(mark, json.dumps([stop, bad]))
    images.flush()
    keep(file.with_suffix(".bad"), json.dumps(bad))
    files.move_in(partial, file)
    mark.unlink(missing_ok=True)
