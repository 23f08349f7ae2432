"""The zip that torch writes tensors into: what it says of itself against what a mapped file gives."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

from igllm_jax.errors import UserError

CHUNK_BYTES = 4 * 2**20  # read at once to check a file
ZIP_START = b"PK\x03\x04"


def is_zip_file(path: Path) -> bool:
    """As torch tells its two formats apart."""
    with path.open("rb") as file:
        return file.read(len(ZIP_START)) == ZIP_START


def records_of(path: Path) -> list[zipfile.ZipInfo]:
    """What a torch file's zip says of its records. Raises: UserError where it is damaged."""
    try:
        with zipfile.ZipFile(path) as whole:
            return whole.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise damaged(path, str(error)) from None


def check_mapped(path: Path, tensors: list[Any], records: list[zipfile.ZipInfo]) -> None:
    """Raises: UserError where tensors take other bytes than their record's: torch does not look where it maps a file.

    Storages lie in memory as their records lie in the file.
    """
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    mapped = [size for _, size in sorted(storages.items()) if size]
    written = sorted(
        (record for record in records if "/data/" in record.filename), key=lambda record: record.header_offset
    )
    if mapped != [record.file_size for record in written if record.file_size]:
        raise damaged(path, "its tensors have other sizes than their records")


def check_bytes(path: Path) -> None:
    """Raises: UserError where a record is not what its checksum says; torch writes them and never looks."""
    if not is_zip_file(path):
        return
    try:
        with zipfile.ZipFile(path) as whole:
            for record in whole.infolist():
                if record.CRC:  # torch can be told to write none
                    with whole.open(record) as content:
                        while content.read(CHUNK_BYTES):
                            pass
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError, zlib.error) as error:
        raise damaged(path, str(error)) from None


def damaged(path: Path, told: str) -> UserError:
    return UserError(f"{path} can't be read, it is damaged or no weight file ({told[:200]}); download it again")
