"""A text file that grows line by line. In a bucket, where nothing grows, it is a folder of numbered objects.

`metrics.jsonl` is the file `metrics.jsonl` on a disk, and the objects `metrics/000001.jsonl`, `metrics/000002.jsonl`...
in a bucket. An object `000007-all.jsonl` stands for all before it too, so that lines can be taken back at one stroke.
"""

import contextlib
import re
import threading

from igllm_jax import files, paths, progress
from igllm_jax.paths import FilePath

EVERY_SECONDS = 10.0  # an object is written at most so often, where nobody waits for it
_CHUNK = re.compile(r"(\d{6,})(-all)?")


def read(path: FilePath) -> bytes | None:
    """Everything that was written, or None where nothing was. Raises: OSError."""
    if not paths.is_remote(path):
        return path.read_bytes() if path.is_file() else None
    chunks = _chunks(path)
    whole = [number for number, name in chunks.items() if name.endswith(f"-all{path.suffix}")]
    names = [name for number, name in sorted(chunks.items()) if number >= max(whole, default=0)]
    return b"".join((_folder(path) / name).read_bytes() for name in names) if names else None


def remove(path: FilePath) -> None:
    """Deletes it, as far as that is possible."""
    if paths.is_remote(path):
        files.remove_folder(_folder(path))
        return
    with contextlib.suppress(OSError):
        path.unlink()


def open_log(path: FilePath, text: str | None = None) -> "DiskLog | BucketLog":
    """The log to go on with; `text` replaces what was there. Raises: UserError."""
    return BucketLog(path, text) if paths.is_remote(path) else DiskLog(path, text)


class DiskLog:
    """A file of this machine."""

    def __init__(self, path: FilePath, text: str | None):
        self.path = path
        if text is not None:
            files.write_text(path, text)
        try:
            self.file = path.open("a", buffering=1, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            files.refuse(path, error)

    def write(self, text: str) -> None:
        """Adds lines; the system has them when this returns."""
        try:
            self.file.write(text)
        except OSError as error:
            files.refuse(self.path, error)

    def sync(self) -> None:
        """Waits until all is on the disk."""
        files.sync(self.path)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a line that did not fit was an error when it was written
            self.file.close()


class BucketLog:
    """Objects in a bucket, written by a thread of its own: a step does not wait for them.

    What cannot be written is kept, and tried again; that it could not is an error when somebody waits for it.
    """

    def __init__(self, path: FilePath, text: str | None):
        self.path = path
        try:
            there = _chunks(path)
        except OSError as error:
            files.refuse(path, error)
        self._number = max(there, default=0) + 1
        self._lines: list[str] = []
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._is_closed, self._is_told = threading.Event(), False
        if text is not None:
            if text or there:
                self._put(text, f"{self._number:06d}-all")
            for name in there.values():
                with contextlib.suppress(OSError):  # nobody reads them any more
                    (_folder(path) / name).unlink()
        self._thread = threading.Thread(target=self._keep_writing, daemon=True, name=f"log {path.name}")
        self._thread.start()

    def write(self, text: str) -> None:
        """Adds lines; they are in the bucket within EVERY_SECONDS, or after `sync`."""
        with self._lock:
            self._lines.append(text)

    def sync(self) -> None:
        """Waits until all is in the bucket. Raises: UserError."""
        with self._writing:
            with self._lock:
                text = "".join(self._lines)
                count = len(self._lines)
            if text:
                self._put(text, f"{self._number:06d}")
            with self._lock:
                del self._lines[:count]

    def close(self) -> None:
        """As `sync`, and no more can be written."""
        self._is_closed.set()
        self._thread.join()
        self.sync()

    def _put(self, text: str, name: str) -> None:
        files.write_text(_folder(self.path) / f"{name}{self.path.suffix}", text)
        self._number += 1

    def _keep_writing(self) -> None:
        while not self._is_closed.wait(EVERY_SECONDS):
            try:
                self.sync()
            except Exception as error:  # the next time may be better, and `close` raises it else
                if not self._is_told:
                    progress.note(f"{error}; it is tried again every {EVERY_SECONDS:g} s")
                self._is_told = True


def _folder(path: FilePath) -> FilePath:
    return path.with_suffix("")


def _chunks(path: FilePath) -> dict[int, str]:
    """Number -> name of the objects that are there."""
    below = [file.name for file in paths.files_below(_folder(path)) if file.parent == _folder(path)]
    found = {name: _CHUNK.fullmatch(name.removesuffix(path.suffix)) for name in below}
    return {int(match[1]): name for name, match in found.items() if match}
