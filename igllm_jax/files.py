"""Writing files and folders whole or not at all. A leaf: every module may import it.

What is written gets a temporary name beside its own, reaches the disk, and is renamed; so a reader, a killed process
or a full disk never leaves half of it under the final name. In a bucket (`gs://...`, `s3://...`) an object appears when
all of it has arrived; files that take long, and folders, are made on this machine first, and then uploaded.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from igllm_jax import paths
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath

PARTIAL = ".partial"  # ends every temporary name
UNFINISHED = ".unfinished"  # marks a folder as one that we began


def write_text(path: str | FilePath, text: str, *, is_synced: bool = True) -> None:
    """Writes `text` as UTF-8, lone surrogates escaped (names that are not UTF-8 hold them); makes the folder.

    is_synced: wait until it is on the disk, so that a crash of the machine doesn't undo it.
    Raises: UserError naming the path where that is not possible.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"), is_synced=is_synced)


def write_bytes(path: str | FilePath, content: bytes, *, is_synced: bool = True) -> None:
    """As `write_text`, for bytes."""
    if paths.is_remote(path):
        try:
            paths.to_path(path).write_bytes(content)
        except OSError as error:
            refuse(path, error)
        return
    with whole_file(path, is_synced=is_synced) as temporary, temporary.open("wb") as file:
        file.write(content)


@contextlib.contextmanager
def whole_file(path: str | FilePath, *, is_synced: bool = True) -> Iterator[Path]:
    """Yields where to write a file; it gets the name `path` when the block ends well, and goes when it does not.

    Raises: UserError naming the path where the system refuses (a full disk, no rights).
    """
    if paths.is_remote(path):
        with _uploaded(path) as temporary:
            yield temporary
        return
    target = Path(path)
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
def whole_folder(
    path: str | FilePath, *, is_synced: bool = True, replaces: bool = False, is_shared: bool = False
) -> Iterator[Path]:
    """Yields an empty folder to fill; it gets the name `path` when the block ends well, and goes when it does not.

    What a killed process left under the temporary name is removed first. replaces: a folder of this machine that has
    the name goes when the new one is whole. is_shared: other processes of this machine may be making the same folder;
    that of the first one stays.
    Raises: UserError where `path` exists, where something else has the temporary name, or as `whole_file`.
    """
    if paths.is_remote(path):
        with _uploaded_folder(path) as temporary:
            yield temporary
        return
    target = Path(path if replaces or is_shared else check_absent(path)).absolute()
    temporary = partial_name(target) if is_shared else target.with_name(f".{target.name}{PARTIAL}")
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
        if replaces:
            shutil.rmtree(target, ignore_errors=True)
        with contextlib.suppress(OSError) if is_shared else contextlib.nullcontext():
            temporary.rename(target)
        if is_synced:
            _sync(target.parent)
    except OSError as error:
        refuse(path, error)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def whole_set(folder: FilePath, names: Sequence[str]) -> Iterator[Path]:
    """Yields a hidden folder to write files into whose names in `folder` are `names` (with folders, which are made).

    They are moved there when the block ends well, in this order, so what marks the set as complete comes last; files
    that had these names go before anything new arrives. When the block does not end well, nothing changes.
    Raises: OSError.
    """
    # what goes into a bucket is made on this machine, and uploaded
    temporary = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}-", dir=None if paths.is_remote(folder) else folder))
    try:
        for name in names:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        for path in (folder / name for name in names):
            if path.exists():
                path.unlink()
        for name in names:
            move_in(temporary / name, folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def finish_folder(source: Path, target: FilePath, without: Collection[str]) -> None:
    """Gives a folder that was filled in several goes its final name, which may be in a bucket; `source` is gone.

    without: names of its writer's own files in it, which `target` doesn't have. Raises: OSError.
    """
    if paths.is_remote(target):
        upload_folder(source, target, without)
        shutil.rmtree(source)
        return
    sync_folder(source)
    source.rename(target)
    for name in without:
        (target / name).unlink()


def copy(source: str | FilePath, path: str | FilePath) -> None:
    """Copies a file, whole or not at all; makes the folder. Raises: UserError."""
    with paths.local_copy(source) as found, whole_file(path) as temporary:
        shutil.copyfile(found, temporary)


@contextlib.contextmanager
def _uploaded(path: str | FilePath) -> Iterator[Path]:
    """`whole_file` in a bucket."""
    from igllm_jax import buckets

    target = paths.to_path(path)
    with tempfile.TemporaryDirectory(prefix="igllm-") as folder:
        temporary = Path(folder) / target.name
        try:
            yield temporary
            buckets.upload(temporary, target)
        except OSError as error:
            refuse(path, error)


@contextlib.contextmanager
def _uploaded_folder(path: str | FilePath) -> Iterator[Path]:
    """`whole_folder` in a bucket: until all has arrived, an object says that more is to come (see `is_unfinished`)."""
    target = check_absent(path)
    with tempfile.TemporaryDirectory(prefix="igllm-") as folder:
        temporary = Path(folder) / target.name
        temporary.mkdir()
        try:
            yield temporary
            upload_folder(temporary, target)
        except OSError as error:
            refuse(path, error)


def check_absent(path: str | FilePath) -> FilePath:
    """The path of a folder that is to be made. Raises: UserError where it is there, whole."""
    target = paths.to_path(path)
    if target.exists() and not is_unfinished(target):
        raise UserError(f"{path} exists: give another --out, or remove it")
    return target


def upload_folder(source: Path, target: FilePath, without: Collection[str] = ()) -> None:
    """Puts a folder into a bucket, instead of what a stopped upload left; `without` files of these names in it.

    Raises: OSError naming what could not be put there.
    """
    from igllm_jax import buckets

    buckets.delete_all(target)
    (target / UNFINISHED).touch()
    names = [file.relative_to(source).as_posix() for file in paths.files_below(source)]
    for name in (name for name in names if name not in without):
        buckets.upload(source / name, target / name)
    (target / UNFINISHED).unlink()


class MirroredFolder:
    """A folder that others write into, at their own pace. `here` is on this machine: the folder itself, or where it
    lies in a bucket, one whose files `close` uploads."""

    def __init__(self, path: FilePath):
        self.path = path
        self._copy = tempfile.TemporaryDirectory(prefix="igllm-") if paths.is_remote(path) else None
        self.here = Path(self._copy.name) if self._copy else Path(path)

    def close(self) -> None:
        """Raises: UserError naming the address that could not be written."""
        if self._copy is None:
            return
        for file in paths.files_below(self.here):
            with _uploaded(self.path / file.relative_to(self.here).as_posix()) as temporary:
                shutil.move(file, temporary)
        self._copy.cleanup()


def is_unfinished(folder: FilePath) -> bool:
    """Whether an upload was stopped before all of the folder had arrived in its bucket."""
    return paths.is_remote(folder) and (folder / UNFINISHED).exists()


def check_finished(folder: FilePath) -> FilePath:
    """The folder itself. Raises: UserError where an upload of it was stopped, so that half of it is read by nobody."""
    if is_unfinished(folder):
        raise UserError(f"{folder} is not complete: its upload was stopped; run the command that makes it again")
    return folder


def move_in(source: Path, target: FilePath) -> None:
    """Gives a file of this machine, whole by now, its final name, which may be in a bucket. Raises: OSError."""
    if paths.is_remote(target):
        from igllm_jax import buckets

        buckets.upload(source, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def move_folder(source: FilePath, target: FilePath) -> None:
    """Gives a folder another name. Raises: OSError."""
    if not paths.is_remote(source):
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        return
    from igllm_jax import buckets

    buckets.move_all(source, target)


def remove_folder(folder: FilePath) -> None:
    """Deletes a folder and all in it, as far as that is possible."""
    if not paths.is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    from igllm_jax import buckets

    with contextlib.suppress(OSError):
        buckets.delete_all(folder)


def sync_folder(folder: Path) -> None:
    """Waits until everything in the folder is on the disk, so that its final name never stands for less."""
    for file in (folder, *folder.rglob("*")):
        _sync(file)


def try_writing(path: str | FilePath, flag: str = "--out") -> None:
    """Finds out, before the work, whether a file of this name can be written; leaves nothing but the folder.

    Raises: UserError naming the flag.
    """
    target = paths.to_path(path)
    with _told_by_flag(path, flag):
        is_folder = paths.is_bucket(os.fspath(path)) if paths.is_remote(path) else target.is_dir()
        if is_folder:
            raise UserError(f"{flag} {path} is a folder: give the name of a file in it")
        _try(target.parent, partial_name(target))


def try_folder(path: str | FilePath, flag: str = "--out") -> None:
    """Finds out, before the work, whether files can be written in a folder of this name; leaves it there.

    Raises: UserError naming the flag.
    """
    folder = paths.to_path(path)
    with _told_by_flag(path, flag):
        _try(folder, partial_name(folder / "try"))


def _try(folder: FilePath, temporary: FilePath) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(b"")
    temporary.unlink()


@contextlib.contextmanager
def _told_by_flag(path: str | FilePath, flag: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be written ({error.strerror or error}); give another {flag}") from None


def partial_name(path: FilePath) -> FilePath:
    """The temporary name beside `path`: hidden, and this process's own."""
    return path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")


def refuse(path: str | FilePath, error: OSError) -> NoReturn:
    """Raises: UserError for what the system said about writing `path`."""
    raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


def sync(path: FilePath) -> None:
    """Waits until a file of this machine is on the disk. Raises: UserError naming it where that is not possible."""
    try:
        _sync(paths.local(path, "waiting for"))
    except OSError as error:
        refuse(path, error)


def _sync(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
