"""Files in buckets through etils' epath and fsspec (gcsfs, s3fs), with failures as the system's own errors.

Imported where an address is met, not before. A bucket has no folders: whatever has a name with slashes is there, and an
object appears whole, when all of it has arrived. So nothing is renamed, and `mkdir` does nothing.
"""

import contextlib
import errno
import importlib
import logging
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import fsspec
from etils.epath import backend, gpath

from igllm_jax.errors import UserError

PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}  # scheme of an address -> what reads and writes there
_LOGIN = {
    "gs": "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS with a key file",
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials",
}
_TOLD_PACKAGES = ("aiohttp", "aiobotocore", "botocore", "gcsfs", "google", "requests", "s3fs")  # whose errors are told
_REFUSED = ("Forbidden", "Access Denied", "AccessDenied", "Anonymous caller", "InvalidAccessKeyId", "SignatureDoesNot")
_NO_KEY = ("open a bucket", "non key-like path")  # gcsfs, s3fs
_NO_CREDENTIALS = ("NoCredentialsError", "DefaultCredentialsError", "RefreshError", "PartialCredentialsError")


@cache
def file_system(scheme: str) -> Any:
    """fsspec's file system. Raises: UserError where the package for it is not installed."""
    package = PACKAGES[scheme]
    # gcsfs would ask another service (over gRPC, which no emulator has) for every bucket's kind
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"{scheme}:// needs {package}, which is not installed: pip install 'igllm_jax[buckets]'"
        ) from None
    for name in (package, "fsspec", "google", "botocore", "aiobotocore"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they log before they raise
    names = ("gcs", "gs") if scheme == "gs" else ("s3",)
    for name in names:  # fsspec's own settings: epath's file systems, and so Orbax's, have them too
        settings = fsspec.config.conf.setdefault(name, {})
        settings.setdefault("use_listings_cache", False)  # other processes write, too
        if scheme == "gs" and os.environ.get("STORAGE_EMULATOR_HOST"):
            settings.setdefault("token", "anon")  # an emulator knows no accounts
    return fsspec.filesystem("gcs" if scheme == "gs" else scheme)


def _of(address: str) -> Any:
    return file_system(address.partition("://")[0])


class _ToldBackend:
    """epath's way to buckets, whose errors name the address and are the system's."""

    def __getattr__(self, name: str) -> Any:
        method = getattr(backend.fsspec_backend, name)

        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            with told(os.fspath(path)):
                return method(path, *arguments, **options)

        return call


_TOLD = _ToldBackend()


class BucketPath(gpath.PosixGPath):
    """An address in a bucket with the methods of `pathlib.Path`. Raises: OSError and its kinds, naming the address."""

    @property
    def _backend(self) -> Any:
        _of(self._path_str)
        return _TOLD

    def write_bytes(self, data: bytes) -> int:
        """The object has these bytes, or those that it had before."""
        with told(os.fspath(self), writes=True):
            _of(self._path_str).pipe_file(os.fspath(self), bytes(data))
        return len(data)

    def write_text(self, data: str, encoding: str | None = None, errors: str | None = None) -> int:
        return self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        self.write_bytes(b"")

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a bucket has no folders."""

    def absolute(self) -> "BucketPath":
        return self

    def resolve(self, strict: bool = False) -> "BucketPath":
        return self


def find(folder: os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """What lies below an address: name from there on -> fsspec's account of the object (`size`, ...)."""
    address = os.fspath(folder).rstrip("/")
    with told(address):
        found = _of(address).find(address, detail=True)
    start = len(address.partition("://")[2]) + 1
    return {name[start:]: about for name, about in found.items() if len(name) > start and not name.endswith("/")}


def about(path: os.PathLike[str]) -> dict[str, Any]:
    """fsspec's account of an object (`size`, ...). Raises: FileNotFoundError."""
    with told(os.fspath(path)):
        return _of(os.fspath(path)).info(os.fspath(path))


def matching(pattern: os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Address -> account of the objects that a pattern fits (`*` within a folder, `**` for any folders), sorted."""
    address = os.fspath(pattern)
    with told(address):
        found = _of(address).glob(address, detail=True)
    scheme = address.partition("://")[0]
    return {f"{scheme}://{name}": about for name, about in sorted(found.items()) if about["type"] == "file"}


def upload(source: Path, target: os.PathLike[str]) -> None:
    """Copies a file of this machine; it appears when all of it has arrived."""
    with told(os.fspath(target), writes=True):
        _of(os.fspath(target)).put_file(os.fspath(source), os.fspath(target))


def download(source: os.PathLike[str], target: Path) -> None:
    """Copies an object, or everything below an address, to this machine. Raises: FileNotFoundError for nothing."""
    address = os.fspath(source)
    names = find(source)
    pairs = [(f"{address.rstrip('/')}/{name}", target / name) for name in names] or [(address, target)]
    for remote, file in pairs:
        file.parent.mkdir(parents=True, exist_ok=True)
        with told(remote):
            _of(address).get_file(remote, os.fspath(file))


def delete_all(folder: os.PathLike[str]) -> None:
    """Deletes everything below an address."""
    address = os.fspath(folder)
    names = [f"{address.rstrip('/')}/{name}" for name in find(folder)]
    if names:
        with told(address, writes=True):
            _of(address).rm(names)


def move_all(source: os.PathLike[str], target: os.PathLike[str]) -> None:
    """Copies everything below an address, then deletes it there: first what lies directly below, which in a checkpoint
    says that it is complete."""
    start, end = os.fspath(source).rstrip("/"), os.fspath(target).rstrip("/")
    names = sorted(find(source), key=lambda name: ("/" in name, name))
    with told(end, writes=True):
        for name in names:
            _of(end).cp_file(f"{start}/{name}", f"{end}/{name}")
    with told(start, writes=True):
        for name in names:
            _of(start).rm_file(f"{start}/{name}")


@contextlib.contextmanager
def told(address: str, *, writes: bool = False) -> Iterator[None]:
    """Turns what the packages raise into OSErrors of the fitting kind, one line each, that name the address."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each package has many kinds of its own
        found = _as_os_error(error, address, writes)
        if found is None:
            raise
        raise found from error


def _as_os_error(error: Exception, address: str, writes: bool) -> OSError | None:
    scheme, _, rest = address.partition("://")
    bucket = f"{scheme}://{rest.partition('/')[0]}"
    if any(words in str(error) for words in _NO_KEY):
        return OSError(errno.EISDIR, "is a bucket, not an object in it", address)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return error
    if isinstance(error, FileNotFoundError):
        reason = f"there is no bucket {bucket}" if writes else f"no such object, or no bucket {bucket}"
        return OSError(errno.ENOENT, reason, address)
    if isinstance(error, FileExistsError):
        return OSError(errno.EEXIST, "exists already", address)
    number, reason = failure(error, scheme) or (None, "")
    return None if number is None else OSError(number, reason, address)


def failure(error: BaseException, scheme: str = "gs") -> tuple[int, str] | None:
    """(errno, one line) of an exception that says that a bucket's server refused or failed; None for any other."""
    package, name = type(error).__module__.partition(".")[0], type(error).__name__
    text = " ".join(str(error).split()).strip(", ")[:300] or name  # gcsfs begins with a message that may be empty
    code = getattr(error, "code", None) or getattr(error, "status", None)
    if name in _NO_CREDENTIALS:
        return errno.EACCES, f"no credentials ({text}); give {_LOGIN[scheme]}"
    if code in (401, 403, "401", "403") or isinstance(error, PermissionError) or any(w in text for w in _REFUSED):
        return errno.EACCES, f"no permission ({text}); credentials are {_LOGIN[scheme]}"
    if package in _TOLD_PACKAGES or isinstance(error, OSError | TimeoutError):
        return errno.EIO, f"no good answer from the bucket's server ({name}: {text}); check address and network"
    return None
