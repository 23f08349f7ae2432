"""Bytes by offset, from local files and from buckets, and the folder for what need not be computed twice."""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any, Protocol

from igllm_jax import files, paths
from igllm_jax.errors import DataError, UserError
from igllm_jax.paths import FilePath

FILE_PREFIX = "file://"  # goes the bucket's way, for trying that way out

_FARTHEST = 1 << 60  # bytes: above any object
TIMEOUT_SECONDS = 120  # for one read; tensorstore itself tries again for very long


class ByteStore(Protocol):
    """Random access into one file; safe to share between threads, and to send to other processes."""

    name: str

    @property
    def identity(self) -> str:
        """Changes where the file's content does."""

    def read(self, offset: int, size: int) -> bytes:
        """The bytes from `offset` on, fewer than `size` only where the file ends."""


class LocalFile:
    """A file of this machine, read with `os.pread`, which needs no seek and so no lock."""

    def __init__(self, path: str | FilePath):
        self.name = str(path)
        self._descriptor: int | None = None
        self._open()

    def _open(self) -> int:
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise UserError(f"{self.name}: cannot be opened ({error.strerror}); check the path") from None
        return self._descriptor

    @property
    def identity(self) -> str:
        state = os.fstat(self._open())
        return f"{os.path.realpath(self.name)} {state.st_size} {state.st_mtime_ns}"

    def read(self, offset: int, size: int) -> bytes:
        descriptor = self._open()
        size = min(size, os.fstat(descriptor).st_size - offset)  # a damaged file asks for any number of bytes
        if size <= 0 or offset < 0:
            return b""
        try:
            return os.pread(descriptor, size, offset)
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read ({error.strerror}); check the disk, and the path") from None

    def __reduce__(self):  # descriptors do not travel
        return LocalFile, (self.name,)

    def __del__(self):
        descriptor, self._descriptor = getattr(self, "_descriptor", None), None
        if descriptor is not None:
            os.close(descriptor)


def store_spec(folder: str) -> dict[str, Any]:
    """What tensorstore is told of `folder`, an address or a path that ends in a slash. Not the address itself: it would
    take `#`, `?` and `%20` in it for those of a URL.

    $AWS_ENDPOINT_URL names another S3 than Amazon's, as it does for Amazon's own tools; tensorstore does not read it.
    """
    scheme, _, rest = folder.partition("://")
    bucket, _, path = rest.partition("/")
    if scheme not in ("gs", "s3"):
        return {"driver": "file", "path": folder.removeprefix(FILE_PREFIX)}
    spec: dict[str, Any] = {"driver": "gcs" if scheme == "gs" else "s3", "bucket": bucket, "path": path}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if scheme == "s3" and {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= os.environ.keys():
        spec["aws_credentials"] = {"type": "environment"}  # it looks for others first, else, and prints that
    if scheme == "s3" and endpoint:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        spec |= {"endpoint": endpoint, "aws_region": region}
    return spec


def _open_store(folder: str) -> Any:
    import tensorstore  # a second to import, and only buckets need it

    return tensorstore.KvStore.open(store_spec(folder)).result()


class RemoteFile:
    """An object in a bucket (`gs://BUCKET/KEY`, `s3://BUCKET/KEY`), read by byte ranges with tensorstore."""

    def __init__(self, url: str):
        self.name = url
        self._store: Any = None
        self._end = _FARTHEST  # bytes, once a read has met it
        self._key = url.rpartition("/")[2]

    def _read(self, byte_range: slice) -> Any:
        if self._store is None:
            self._store = _open_store(self.name.rpartition("/")[0] + "/")
        result = self._store.read(self._key, byte_range=byte_range).result(timeout=TIMEOUT_SECONDS)
        if result.state == "missing":
            raise UserError(f"{self.name}: does not exist, or may not be read; check the address and your credentials")
        return result

    def _ask(self, byte_range: slice) -> Any:
        try:
            return self._read(byte_range)
        except UserError:
            raise
        except TimeoutError:
            raise DataError(
                f"{self.name}: no answer within {TIMEOUT_SECONDS} s; check the address, the network and credentials"
            ) from None
        except Exception as error:  # tensorstore maps the many kinds of failure to many kinds of exceptions
            if "OUT_OF_RANGE" in str(error):
                raise EOFError from None
            raise DataError(f"{self.name}: cannot be read ({error}); check the address and your credentials") from None

    @property
    def identity(self) -> str:
        try:
            return f"{self.name} {self._ask(slice(0, 1)).stamp.generation!r}"
        except EOFError:
            return f"{self.name} empty"

    def read(self, offset: int, size: int) -> bytes:
        """As ByteStore.read. Stores refuse a range beyond the object's end, so such a one is asked for open-ended."""
        if size <= 0 or not 0 <= offset < self._end:  # a damaged file asks for any number of bytes
            return b""
        try:
            return self._ask(slice(offset, min(offset + size, _FARTHEST))).value
        except EOFError:
            pass
        try:
            rest = self._ask(slice(offset, None)).value
            self._end = offset + len(rest)
            return rest[:size]
        except EOFError:
            return b""

    def __reduce__(self):
        return RemoteFile, (self.name,)


def list_folder(url: str) -> list[str]:
    """The names of the objects directly under `url` (`gs://BUCKET/FOLDER`), sorted. Raises: UserError."""
    try:
        keys = _open_store(url.rstrip("/") + "/").list().result(timeout=TIMEOUT_SECONDS)
    except UserError:
        raise
    except Exception as error:  # as in RemoteFile
        raise UserError(f"{url}: cannot be listed ({error}); check the address and your credentials") from None
    return sorted(key.decode() for key in keys if b"/" not in key)


def is_remote(path: str | FilePath) -> bool:
    """Whether it is the address of something in a bucket. Raises: UserError for an address that cannot be one."""
    if paths.is_remote(path) and not str(path).startswith(FILE_PREFIX):
        paths.check_address(str(path))
    return paths.is_remote(path)


def open_bytes(path: str | FilePath) -> ByteStore:
    """Random access into a local file or a bucket's object. Raises: UserError where a local file cannot be opened."""
    return RemoteFile(str(path)) if is_remote(path) else LocalFile(path)


def read_whole(path: str | FilePath) -> bytes:
    """All bytes of a local or remote file."""
    store = open_bytes(path)
    pieces = []
    offset = 0
    while piece := store.read(offset, 1 << 24):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)


def cache_file(kind: str, identity: str, suffix: str = ".json") -> Path:
    """Where to keep what was computed from the thing of this identity: in $IGLLM_CACHE or the user's cache folder."""
    folder = os.environ.get("IGLLM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "igllm_jax"
    return Path(folder).expanduser() / f"{kind}-{hashlib.sha256(identity.encode()).hexdigest()[:24]}{suffix}"


def keep(file: FilePath, content: str) -> None:
    """Writes a cache file, whole or not at all; where the cache cannot be written, nothing is kept."""
    with contextlib.suppress(UserError):  # a cache is a convenience: the next process computes the same again
        files.write_bytes(file, f"{_checksum(content.encode())}\n{content}".encode(), is_synced=False)


def kept(file: FilePath) -> str | None:
    """What `keep` wrote there; None where there is nothing, or not all of it as it was written."""
    try:
        checksum, _, content = file.read_bytes().partition(b"\n")
    except OSError:
        return None
    return content.decode() if checksum == _checksum(content).encode() else None


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
