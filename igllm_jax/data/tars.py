"""Images by number: out of an uncompressed tar (local or in a bucket), a folder, or drawn from a 2D file."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Protocol

from PIL import Image

from igllm_jax.data.images import decode_image, draw_disc
from igllm_jax.data.names import SUFFIXES, Names, digest, is_image, plain_name
from igllm_jax.data.records import Records, is_records
from igllm_jax.data.stores import cache_file, is_remote, keep, open_bytes
from igllm_jax.errors import UserError
from igllm_jax.scene.scene import npz_name, npz_spec, read_points

KEPT_FROM = 1000  # members from which reading an index costs more than keeping it
_HEADER_READ = 2048  # bytes: a header, and a long name before it, in one request
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


class ImageSource(Protocol):
    """N images with names. `read` is safe in threads, and the source may be sent to other processes."""

    names: list[str]

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image.Image:
        """The image, RGB. Raises: UserError where it cannot be decoded."""

    def find(self, name: str) -> int:
        """The number of the image that a label calls `name`. Raises: UserError where none or several fit."""

    @property
    def fingerprint(self) -> str:
        """Stands for the content, cheaply: names and sizes."""


class TarReader(Names):
    """Random access to the images of an uncompressed tar, in the tar's order; other members are passed over.

    Reading the index takes one small read per member; from KEPT_FROM members on it is kept for the next time.
    """

    def __init__(self, path: str | Path):
        """Raises: UserError where the file is not a plain, whole tar with images."""
        self.origin = str(path)
        self._store = open_bytes(path)
        file = cache_file("tar", self._store.identity)
        if file.exists():
            index = json.loads(file.read_text())
        else:
            index = self._scan()
            if len(index) >= KEPT_FROM:
                keep(file, json.dumps(index))
        if not index:
            raise UserError(f"{self.origin}: holds no images ({', '.join(SUFFIXES)})")
        self.names = [name for name, _, _ in index]
        self._places = [(offset, size) for _, offset, size in index]

    def _scan(self) -> list[tuple[str, int, int]]:
        """(name, offset, size) of every image; of several members with one name the last, as tar itself has it."""
        start = self._store.read(0, 8)
        for magic, kind in _COMPRESSED.items():
            if start.startswith(magic):
                raise UserError(
                    f"{self.origin}: is compressed ({kind}), which allows no random access; unpack it to a plain .tar"
                )
        members: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(fileobj=_Seekable(self._store), mode="r:") as tar:
                for member in tar:
                    name = plain_name(member.name)
                    if member.islnk() and plain_name(member.linkname) in members:
                        members[name] = members[plain_name(member.linkname)]
                    elif member.isreg():
                        members[name] = (member.offset_data, member.size)
                if self._store.read(tar.offset, 512).strip(b"\0") or not self._store.read(tar.offset, 1):
                    raise tarfile.ReadError("unexpected end of data: no end mark")  # tarfile would pass over it
        except tarfile.ReadError as error:
            if members or "end of" in str(error):
                raise UserError(f"{self.origin}: is cut off ({error}); copy or download it again") from None
            raise UserError(f"{self.origin}: is not a tar ({error}); give a TAR, a folder or 2d.npz:SPLIT") from None
        return [(name, *place) for name, place in members.items() if is_image(name)]

    def read_bytes(self, index: int) -> bytes:
        """One image file's content."""
        offset, size = self._places[index]
        content = self._store.read(offset, size)
        if len(content) != size:
            raise UserError(f"{self.origin}: is cut off within {self.names[index]}; copy or download it again")
        return content

    def read(self, index: int) -> Image.Image:
        return decode_image(self.read_bytes(index), f"{self.origin}: image {self.names[index]}")

    @property
    def fingerprint(self) -> str:
        return digest("files", sorted(zip(self.names, (size for _, size in self._places), strict=True)))


class _Seekable(io.RawIOBase):
    """A ByteStore as `tarfile` wants it: what a header needs comes in one request."""

    def __init__(self, store):
        self._store = store
        self._position = 0
        self._start, self._block = 0, b""

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence != io.SEEK_END, "the length of a bucket's object is not known"
        self._position = offset if whence == io.SEEK_SET else self._position + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        begin = self._position - self._start
        if begin < 0 or begin + size > len(self._block):
            self._start, begin = self._position, 0
            self._block = self._store.read(self._position, max(size, _HEADER_READ))
        piece = self._block[begin : begin + size]
        self._position += len(piece)
        return piece


class Folder(Names):
    """The images of a folder and the folders in it, ordered by name."""

    def __init__(self, path: str | Path):
        """Raises: UserError where there are none."""
        self.origin = str(path)
        self._root = Path(path)
        found = (file for file in self._root.rglob("*") if is_image(file.name) and file.is_file())
        self.names = sorted(file.relative_to(self._root).as_posix() for file in found)
        if not self.names:
            raise UserError(f"{path}: the folder holds no images ({', '.join(SUFFIXES)})")

    def read_bytes(self, index: int) -> bytes:
        """One image file's content."""
        return (self._root / self.names[index]).read_bytes()

    def read(self, index: int) -> Image.Image:
        return decode_image(self.read_bytes(index), f"{self.origin}: image {self.names[index]}")

    @property
    def fingerprint(self) -> str:
        return digest("files", [(name, (self._root / name).stat().st_size) for name in self.names])


class Discs(Names):
    """The images of one split of a 2D file; they are drawn when read."""

    def __init__(self, path: str, split: str):
        """Raises: UserError where the file or the split is missing or empty."""
        self.origin = f"{path}:{split}"
        self._points = read_points(path, split)
        if not len(self._points):
            raise UserError(f"{self.origin}: the split is empty")
        self.names = [npz_name(path, split, index) for index in range(len(self._points))]

    def read(self, index: int) -> Image.Image:
        return draw_disc(*self._points[index])

    @property
    def fingerprint(self) -> str:
        return digest("discs", hashlib.sha256(self._points.tobytes()).hexdigest())


def open_images(spec: str | Path) -> ImageSource:
    """The images of a TAR (also `gs://…` or `s3://…`), a FOLDER, `2d.npz:SPLIT`, or a prepared `tfds:NAME/SPLIT`.

    Raises: UserError where there is no such thing, or no image in it.
    """
    if is_records(spec):
        return Records(str(spec))
    npz = npz_spec(spec)
    if npz is not None:
        return Discs(*npz)
    if is_remote(spec):
        return TarReader(spec)
    path = Path(spec)
    if not path.exists():
        raise UserError(f"images {path}: does not exist; give a TAR, a folder, 2d.npz:SPLIT or tfds:NAME/SPLIT")
    return Folder(path) if path.is_dir() else TarReader(path)
