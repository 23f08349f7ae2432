"""What a path is: a file of this machine (`pathlib.Path`), or an address in a bucket (`gs://BUCKET/KEY`, `s3://...`),
whose path has the same methods. A leaf: every module may import it.

`pathlib.Path("gs://b/x")` would be `gs:/b/x`: what a user gives goes through `to_path`. How to write is in files.py.
"""

import atexit
import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from igllm_jax.errors import UserError

if TYPE_CHECKING:
    FilePath = Path  # what buckets.BucketPath can do as well
else:
    FilePath = os.PathLike

SCHEMES = ("gs", "s3")  # of addresses
WILD = set("*?[")  # of patterns of file names


def is_remote(path: str | FilePath) -> bool:
    """Whether it is an address (`SCHEME://...`) instead of a path of this machine's."""
    return "://" in os.fspath(path)


def to_path(path: str | FilePath) -> FilePath:
    """The path of what a user gave. Raises: UserError for an address that cannot be one, or whose package is absent."""
    if not is_remote(path):
        return Path(check_slashes(os.fspath(path)))
    check_address(os.fspath(path))
    from igllm_jax import buckets  # half a second to import, and only buckets need it

    buckets.file_system(os.fspath(path).partition("://")[0])
    return buckets.BucketPath(os.fspath(path))


def check_slashes(text: str) -> str:
    """The text itself. Raises: UserError for `gs:/BUCKET`, as some tools leave an address, which is no path of ours."""
    scheme, slash, rest = text.partition(":/")
    if slash and scheme in SCHEMES:
        raise UserError(f"{text}: an address has two slashes; write {scheme}://{rest.lstrip('/')}")
    return text


def check_address(address: str) -> None:
    """Raises: UserError where the address is of another kind than gs:// and s3://, or names no bucket."""
    scheme, _, rest = address.partition("://")
    if scheme not in SCHEMES:
        known = " or ".join(f"{known}://" for known in SCHEMES)
        raise UserError(f"{address}: {scheme}:// is no bucket's; give a path, or an address that begins with {known}")
    if not rest.partition("/")[0]:
        raise UserError(f"{address}: names no bucket; expected {scheme}://BUCKET/PATH")


def is_bucket(address: str) -> bool:
    """Whether an address names a bucket and nothing in it."""
    return not address.partition("://")[2].strip("/").partition("/")[2]


def local(path: str | FilePath, what: str) -> Path:
    """A path that can only be of this machine. Raises: UserError, one line, for an address; `what` needs it here."""
    if is_remote(path):
        raise UserError(f"{what} {os.fspath(path)}: must be on a disk of this machine, not in a bucket; give a path")
    return Path(path)


def absolute(path: str | FilePath) -> FilePath:
    """The path from the root on; an address is one already."""
    path = to_path(path)
    return path if is_remote(path) else path.absolute()


def name_of(path: str | FilePath) -> str:
    """The last part of a path, links followed: the name of what lies there."""
    path = to_path(path)
    return path.name if is_remote(path) else path.resolve().name


def size(path: FilePath) -> int:
    """Bytes of a file."""
    stat = path.stat()
    return int(stat.length if is_remote(path) else stat.st_size)  # type: ignore[attr-defined]


def files_below(folder: FilePath) -> list[FilePath]:
    """Every file in a folder and the folders in it, sorted."""
    if not is_remote(folder):
        return sorted(path for path in folder.rglob("*") if path.is_file())
    from igllm_jax import buckets

    return [folder / name for name in sorted(buckets.find(folder))]


def fetch(path: str | FilePath) -> Path:
    """The file or folder itself where it is on this machine, else a copy of it that lasts as long as this process.

    Raises: UserError where it cannot be read.
    """
    return _fetched(os.fspath(path)) if is_remote(path) else Path(path)


@functools.cache
def _fetched(address: str) -> Path:
    copies = contextlib.ExitStack()
    atexit.register(copies.close)
    try:
        return copies.enter_context(local_copy(address))
    except OSError as error:
        raise UserError(f"{address}: cannot be read ({error.strerror or error}); check the address") from None


@contextlib.contextmanager
def local_copy(path: str | FilePath) -> Iterator[Path]:
    """Yields the file or folder itself where it is on this machine, else a copy of it, which goes when the block ends.

    Raises: FileNotFoundError where there is nothing; OSError naming the address where it cannot be read.
    """
    path = to_path(path)
    if not is_remote(path):
        yield path
        return
    from igllm_jax import buckets

    with tempfile.TemporaryDirectory(prefix="igllm-") as folder:
        target = Path(folder) / path.name
        buckets.download(path, target)
        yield target
