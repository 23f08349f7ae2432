"""Sets of outputs that are finished or not there."""

import contextlib
import errno
import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from igllm_jax import files
from igllm_jax.endings import interruptible
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath

# What a disk says that is full, over its quota, read-only, failing, or not ours
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EACCES, errno.EPERM)


def check_outputs(folder: FilePath, names: Sequence[str], *, overwrite: bool) -> None:
    """Raises: UserError when some of `names` exist in `folder` and `overwrite` is false."""
    existing = [name for name in names if (folder / name).exists()]
    if existing and not overwrite:
        raise UserError(
            f"{folder / existing[0]} exists already ({len(existing)} of {len(names)} outputs do); "
            "choose another --out, or give --overwrite to replace them"
        )


@contextlib.contextmanager
def finished_outputs(folder: FilePath, names: Sequence[str], *, overwrite: bool) -> Iterator[Path]:
    """Yields a hidden folder to write `names` (paths relative to `folder`) into; moves them into `folder` on success,
    in this order (`files.whole_set`).

    When the body raises or is interrupted (Ctrl-C, SIGTERM), nothing is moved and the hidden folder is removed.
    Raises: UserError when outputs exist and `overwrite` is false, or when `folder` can't be made or written.
    """
    check_outputs(folder, names, overwrite=overwrite)
    files.try_folder(folder)
    try:
        with files.whole_set(folder, names) as partial, interruptible():
            yield partial
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise UserError(f"can't write into {folder}: {error.strerror}; make room, or choose another --out") from error


class TarWriter:
    """An uncompressed tar whose bytes depend on the files' names and contents alone (no times, no owners)."""

    def __init__(self, path: Path) -> None:
        # USTAR: one header block in front of each file, so readers can seek by offset.
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(self, name: str, content: bytes) -> None:
        """Appends one file."""
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        self._tar.addfile(entry, io.BytesIO(content))

    def __enter__(self) -> "TarWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()
