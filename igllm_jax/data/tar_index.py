"""Where the files of an uncompressed tar lie, read from its headers: links followed, holes known, damage refused.

Python's tarfile reads each header. It ends quietly where it should not (at a block of zeros, at a header it cannot
read), and it hands out offsets that need not exist; what is here holds it to account.
"""

import io
import json
import posixpath
import tarfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from igllm_jax.data.names import is_image, plain_name
from igllm_jax.data.stores import ByteStore
from igllm_jax.errors import UserError

ENDING = 64  # bytes: a PNG's hold a checksum of its pixels, so two that differ end differently
_BLOCK = tarfile.BLOCKSIZE
_HEADER_READ = 2048  # bytes: a header, and a long name before it, in one request
_LOOK_BACK = 1024  # bytes before a header that come with it: the end of the member before
_MOST_LINKS = 40  # followed one after the other, as Linux has it
_LARGEST_WITH_HOLES = 1 << 30  # bytes: a damaged header may claim a file of any size that holds nothing
_MULTI_VOLUME = b"M"  # GNU tar's type for the rest of a file that began in another archive
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


class Member(NamedTuple):
    """One file: `size` bytes, zeros but for its pieces (offset in the tar, offset in the file, number of bytes).

    ending: CRC-32 of the last ENDING bytes of its last piece.
    """

    name: str
    size: int
    ending: int
    pieces: tuple[tuple[int, int, int], ...]


@dataclass
class TarIndex:
    """The images of a tar in its order, and how many members of which kind were passed over."""

    images: list[Member]
    passed_over: dict[str, int]

    def to_json(self) -> str:
        return json.dumps([self.images, self.passed_over])

    @classmethod
    def from_json(cls, text: str) -> "TarIndex":
        images, passed_over = json.loads(text)
        return cls([Member(n, s, e, tuple(map(tuple, pieces))) for n, s, e, pieces in images], passed_over)


def read_index(store: ByteStore, origin: str) -> TarIndex:
    """Reads every header; of several members with one name the last counts, as when a tar is unpacked.

    Raises: UserError that calls the file `origin`, where it is compressed, no tar, cut off or damaged.
    """
    start = store.read(0, 8)
    for magic, kind in _COMPRESSED.items():
        if start.startswith(magic):
            raise UserError(
                f"{origin}: is compressed ({kind}), which allows no random access; unpack it to a plain .tar"
            )
    reader, found = _Reader(store), _Found(origin)
    at, is_tar = 0, False
    try:
        with tarfile.open(fileobj=reader, mode="r:") as tar:
            while (member := tar.next()) is not None:
                is_tar = True
                if tar.offset <= at:
                    raise tarfile.ReadError("a size below zero")
                found.finish(reader)
                at = tar.offset
                setattr(tar, "members", [])  # noqa: B010  # tarfile would keep every header; typeshed has no such name
                found.add(member, at)
            found.finish(reader)
            at = tar.offset
        _check_end(store, at, origin)
    except UserError:
        raise
    except tarfile.ReadError as error:
        if is_tar or "end of" in str(error):
            raise UserError(f"{origin}: is cut off ({error}); copy or download it again") from None
        given = "give a TAR, a folder, image files or 2d.npz:SPLIT"
        raise UserError(f"{origin}: is not a tar ({error}); {given}") from None
    except Exception as error:  # tarfile raises whatever a damaged field leads to
        what = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{origin}: is damaged, the header near byte {at} cannot be read ({what}); copy or download it again"
        ) from None
    return found.index()


def _check_end(store: ByteStore, at: int, origin: str) -> None:
    """Two blocks of zeros and nothing but zeros end an archive. Anything else would be members lost in silence."""
    mark = store.read(at, 2 * _BLOCK)
    if len(mark) >= _BLOCK and mark[:_BLOCK].strip(b"\0"):
        raise UserError(f"{origin}: is damaged, byte {at} begins no header; copy or download it again")
    if len(mark) < 2 * _BLOCK:
        raise tarfile.ReadError("unexpected end of data: no end mark")
    position = at
    while piece := store.read(position, 1 << 20):
        rest = piece.lstrip(b"\0")
        if rest:
            raise UserError(
                f"{origin}: is damaged, a block of zeros ends it at byte {at} but data follow at byte "
                f"{position + len(piece) - len(rest)}; copy or download it again (or unpack tars that were put behind "
                "each other, and pack them as one)"
            )
        position += len(piece)


@dataclass
class _Found:
    """What the headers said until now."""

    origin: str
    files: dict[str, Member] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)  # symbolic ones, and hard ones to what comes later
    passed_over: Counter[str] = field(default_factory=Counter)
    last: Member | None = None  # whose end is not read yet

    def add(self, member: tarfile.TarInfo, stop: int) -> None:
        """stop: where the next header is."""
        name = plain_name(member.name)
        if member.isdir():
            return
        if member.size < 0:
            raise UserError(f"{self.origin}: is damaged, {name} has {member.size} bytes; copy or download it again")
        if member.type == _MULTI_VOLUME:
            raise UserError(f"{self.origin}: {name} is a part of a file in several volumes; join them to one tar")
        if member.islnk() and plain_name(member.linkname) in self.files:
            self._put(self.files[plain_name(member.linkname)]._replace(name=name))
        elif member.islnk() or member.issym():
            folder = "" if member.islnk() else posixpath.dirname(name)
            self.files.pop(name, None)
            self.links[name] = posixpath.normpath(posixpath.join(folder, member.linkname))
        elif member.isreg() or member.type not in tarfile.SUPPORTED_TYPES:  # unknown types are files, says POSIX
            self.last = Member(name, member.size, 0, self._pieces(member, name, stop))
            self._put(self.last)
        else:
            self.passed_over["pipes and devices"] += 1

    def _put(self, member: Member) -> None:
        self.links.pop(member.name, None)
        self.files[member.name] = member

    def _pieces(self, member: tarfile.TarInfo, name: str, stop: int) -> tuple[tuple[int, int, int], ...]:
        sparse: Any = member.sparse  # [(start, count)], of files with holes
        if sparse is None:
            return ((member.offset_data, 0, member.size),)
        pieces, offset, end = [], member.offset_data, 0
        for start, count in sparse:
            if count == 0:  # of a map's unused rows
                continue
            if start < end or count < 0 or start + count > member.size or offset + count > stop:
                raise UserError(f"{self.origin}: the map of holes of {name} is damaged; copy or download it again")
            pieces.append((offset, start, count))
            offset, end = offset + count, start + count
        if member.size > _LARGEST_WITH_HOLES:
            raise UserError(f"{self.origin}: {name} has holes and {member.size} bytes; pack it without --sparse")
        return tuple(pieces)

    def finish(self, reader: "_Reader") -> None:
        """Reads the end of the last file, which came with the header behind it."""
        if self.last is not None and self.last.pieces:
            offset, _, count = self.last.pieces[-1]
            used = min(count, ENDING)
            ending = zlib.crc32(reader.peek(offset + count - used, used))
            self.files[self.last.name] = self.last._replace(ending=ending)
        self.last = None

    def index(self) -> TarIndex:
        """The images; links stand for what they lead to."""
        images = [member for member in self.files.values() if is_image(member.name)]
        self.passed_over["files that are no images"] += len(self.files) - len(images)
        for name in filter(is_image, self.links):
            target = self._target(name)
            if target in self.files:
                images.append(self.files[target]._replace(name=name))
            else:
                self.passed_over["links to what is not in it"] += 1
        return TarIndex(images, {kind: count for kind, count in self.passed_over.items() if count})

    def _target(self, name: str) -> str:
        """Where a link leads, through other links and linked folders."""
        for _ in range(_MOST_LINKS):
            parts = name.split("/")
            linked = next((n for n in range(1, len(parts) + 1) if "/".join(parts[:n]) in self.links), None)
            if linked is None:
                break
            name = posixpath.normpath(posixpath.join(self.links["/".join(parts[:linked])], *parts[linked:]))
        return name


class _Reader(io.RawIOBase):
    """A ByteStore as `tarfile` wants it: what a header needs comes in one request, with the end of the file before."""

    def __init__(self, store: ByteStore):
        self._store = store
        self._position = 0
        self._start, self._block = 0, b""
        self._empty_reads = 0

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
            self._start = max(0, self._position - _LOOK_BACK)
            begin = self._position - self._start
            self._block = self._store.read(self._start, begin + max(size, _HEADER_READ))
        piece = self._block[begin : begin + size]
        self._position += len(piece)
        self._empty_reads = 0 if piece else self._empty_reads + 1
        if self._empty_reads > 10:  # tarfile looks for the end of a map of holes for ever
            raise tarfile.ReadError("unexpected end of data")
        return piece

    def peek(self, offset: int, size: int) -> bytes:
        """Bytes from anywhere, out of what was read last if they are in it."""
        begin = offset - self._start
        if begin < 0 or begin + size > len(self._block):
            return self._store.read(offset, size)
        return self._block[begin : begin + size]


def said(passed_over: dict[str, int]) -> str:
    """`3 files that are no images, 1 links to what is not in it`."""
    return ", ".join(f"{count} {kind}" for kind, count in passed_over.items())
