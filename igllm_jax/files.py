"""Writing files and folders whole or not at all. A leaf: every module may import it.

What is written gets a temporary name beside its own, reaches the disk, and is renamed; so a reader, a killed process
or a full disk never leaves half of it under the final name. Paths are `str` or `Path`; an address in a bucket
(`gs://...`) stays a `str`, since `Path` would fold its slashes.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from igllm_jax.errors import UserError

PARTIAL = ".partial"  # ends every temporary name
UNFINISHED = ".unfinished"  # marks a folder as one that we began


def is_remote(path: str | Path) -> bool:
    """Whether it is an address (`SCHEME://...`) instead of a path of this machine's."""
    return "://" in str(path)


def write_text(path: str | Path, text: str, *, is_synced: bool = True) -> None:
    """Writes `text` as UTF-8, lone surrogates escaped (names that are not UTF-8 hold them); makes the folder.

    is_synced: wait until it is on the disk, so that a crash of the machine doesn't undo it.
    Raises: UserError naming the path where that is not possible.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"), is_synced=is_synced)


def write_bytes(path: str | Path, content: bytes, *, is_synced: bool = True) -> None:
    """As `write_text`, for bytes."""
    with whole_file(path, is_synced=is_synced) as temporary, temporary.open("wb") as file:
        file.write(content)


def append_text(path: str | Path, text: str) -> None:
    """Adds `text` to the end of a file, and waits until it is on the disk. A process killed meanwhile may leave a part
    of it. Raises: UserError naming the path where that is not possible."""
    try:
        with _local(path).open("ab") as file:
            file.write(text.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        refuse(path, error)


@contextlib.contextmanager
def whole_file(path: str | Path, *, is_synced: bool = True) -> Iterator[Path]:
    """Yields where to write a file; it gets the name `path` when the block ends well, and goes when it does not.

    Raises: UserError naming the path where the system refuses (a full disk, no rights).
    """
    target = _local(path)
    temporary = partial_name(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if is_synced:
            _sync(temporary)
        temporary.replace(target)
        if is_synced:
            _sync(target.parent)
    except OSError as error:
        refuse(path, error)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def whole_folder(path: str | Path, *, is_synced: bool = True) -> Iterator[Path]:
    """Yields an empty folder to fill; it gets the name `path` when the block ends well, and goes when it does not.

    What a killed process left under the temporary name is removed first.
    Raises: UserError where `path` exists, where something else has the temporary name, or as `whole_file`.
    """
    target = _local(path).absolute()
    temporary = target.with_name(f".{target.name}{PARTIAL}")
    if target.exists():
        raise UserError(f"{path} exists: give another --out, or remove it")
    if temporary.exists() and not (temporary / UNFINISHED).exists():
        raise UserError(f"{temporary} is in the way, and nothing of ours left it: move it, or give another name")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        (temporary / UNFINISHED).touch()
        yield temporary
        (temporary / UNFINISHED).unlink()
        if is_synced:
            sync_folder(temporary)
        temporary.rename(target)
        if is_synced:
            _sync(target.parent)
    except OSError as error:
        refuse(path, error)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy(source: str | Path, path: str | Path) -> None:
    """Copies a file, whole or not at all; makes the folder. Raises: UserError."""
    with whole_file(path) as temporary:
        shutil.copyfile(_local(source), temporary)


def sync_folder(folder: Path) -> None:
    """Waits until everything in the folder is on the disk, so that its final name never stands for less."""
    for file in (folder, *folder.rglob("*")):
        _sync(file)


def try_writing(path: str | Path, flag: str = "--out") -> None:
    """Finds out, before the work, whether a file of this name can be written; leaves nothing but the folder.

    Raises: UserError naming the flag.
    """
    target = _local(path)
    if target.is_dir():
        raise UserError(f"{flag} {path} is a folder: give the name of a file in it")
    temporary = partial_name(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(b"")
        temporary.unlink()
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be written ({error.strerror or error}); give another {flag}") from None


def try_folder(path: str | Path, flag: str = "--out") -> None:
    """Finds out, before the work, whether files can be written in a folder of this name; leaves it there.

    Raises: UserError naming the flag.
    """
    folder = _local(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = partial_name(folder / "try")
        temporary.write_bytes(b"")
        temporary.unlink()
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be written ({error.strerror or error}); give another {flag}") from None


def partial_name(path: Path) -> Path:
    """The temporary name beside `path`: hidden, and this process's own."""
    return path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")


def refuse(path: str | Path, error: OSError) -> NoReturn:
    """Raises: UserError for what the system said about writing `path`."""
    raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


def _local(path: str | Path) -> Path:
    if is_remote(path):
        raise UserError(f"{path}: only folders of this machine can be written; give a path")
    return Path(path)


def _sync(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
