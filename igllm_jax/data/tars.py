"""Images by number: out of an uncompressed tar (local or in a bucket), a folder, files, or drawn from a 2D file."""

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from igllm_jax import paths, progress
from igllm_jax.data.bucket_folder import BucketFolder, bucket_files
from igllm_jax.data.content import digest_some
from igllm_jax.data.file_images import FileImages
from igllm_jax.data.images import decode_image, draw_disc
from igllm_jax.data.names import SUFFIXES, HeldImages, Names, digest, is_image
from igllm_jax.data.options import EXACT, PixelOptions
from igllm_jax.data.records import Records, is_records
from igllm_jax.data.stores import FILE_PREFIX, ByteStore, LocalFile, cache_file, is_remote, keep, kept, open_bytes
from igllm_jax.data.tar_index import TarIndex, read_index, said
from igllm_jax.errors import BadSampleError, DataError, UserError
from igllm_jax.scene.labels import npz_name, npz_spec, read_points

KEPT_FROM = 1000  # members from which reading an index costs more than keeping it
IMAGES_HELP = "TAR | FOLDER | 2d.npz:SPLIT | image files | a pattern of them in quotes, as 'shots/*.png'"  # of --images
_SAID: set[str] = set()


@runtime_checkable  # for the types that tests check
class ImageSource(Protocol):
    """N images with names. `read` is safe in threads, and the source may be sent to other processes."""

    origin: str
    names: list[str]

    def __len__(self) -> int: ...

    def read(self, index: int, pixels: PixelOptions = EXACT) -> Image.Image:
        """The image, RGB. Raises: BadSampleError where it cannot be decoded."""

    def find(self, name: str) -> int:
        """The number of the image that a label calls `name`. Raises: UserError where none or several fit."""

    @property
    def fingerprint(self) -> str:
        """Stands for names and sizes."""

    @property
    def content(self) -> str:
        """Stands for names, sizes, and what is in the files (their ends, and some whole), wherever they are."""

    @property
    def state(self) -> str:
        """Stands for the files of this folder or tar, as they were last changed."""


class TarReader(Names):
    """Random access to the images of an uncompressed tar, in the tar's order; other members are passed over.

    Reading the index takes one small read per member; from KEPT_FROM members on it is kept for the next time.
    """

    def __init__(self, path: str | Path):
        """Raises: UserError where the file is not a plain, whole tar with images."""
        self.origin = str(path)
        self._store = open_bytes(path)
        file = cache_file("tar", self._store.identity)
        text = kept(file)
        if text is not None:
            index = TarIndex.from_json(text)
        else:
            index = read_index(self._store, self.origin)
            if len(index.images) >= KEPT_FROM:
                keep(file, index.to_json())
        if not index.images:
            raise UserError(f"{self.origin}: holds no images ({', '.join(SUFFIXES)})")
        self.passed_over = index.passed_over
        _say_passed_over(self.origin, index.passed_over)
        self._members = index.images
        self.names = [member.name for member in index.images]

    def read_bytes(self, index: int) -> bytes:
        """One image file's content."""
        member = self._members[index]
        parts = [self._store.read(offset, size) for offset, _, size in member.pieces]
        if any(len(part) != size for part, (_, _, size) in zip(parts, member.pieces, strict=True)):
            raise BadSampleError(f"{self.origin}: is cut off within {member.name}; copy or download it again")
        if len(parts) == 1 and len(parts[0]) == member.size:
            return parts[0]
        content = bytearray(member.size)
        for part, (_, start, size) in zip(parts, member.pieces, strict=True):
            content[start : start + size] = part
        return bytes(content)

    def read(self, index: int, pixels: PixelOptions = EXACT) -> Image.Image:
        return decode_image(self.read_bytes(index), f"{self.origin}: image {self.names[index]}", pixels)

    @property
    def fingerprint(self) -> str:
        return digest("files", sorted((member.name, member.size) for member in self._members))

    @cached_property
    def content(self) -> str:
        return digest("endings", sorted(member[:3] for member in self._members), digest_some(self))

    @property
    def state(self) -> str:
        return self._store.identity


class Folder(FileImages):
    """The images of a folder and the folders in it, linked ones too, ordered by name."""

    def __init__(self, path: str | Path):
        """Raises: UserError where there are none, or a folder cannot be read."""
        self.origin = str(path)
        self._root = Path(path)
        passed_over: Counter[str] = Counter()
        self.names = sorted(_walk(self._root, "", (), passed_over))
        if not self.names:
            raise UserError(f"{path}: the folder holds no images ({', '.join(SUFFIXES)})")
        self.passed_over = dict(passed_over)
        _say_passed_over(self.origin, self.passed_over)

    def read_bytes(self, index: int) -> bytes:
        """One image file's content."""
        try:
            return (self._root / self.names[index]).read_bytes()
        except OSError as error:
            raise BadSampleError(
                f"{self.origin}: image {self.names[index]} cannot be read ({error.strerror}); put it back"
            ) from None

    @property
    def state(self) -> str:
        stats = (self._stat(name) for name in self.names)
        return digest([(name, s.st_size, s.st_mtime_ns) for name, s in zip(self.names, stats, strict=True)])

    def _stat(self, name: str) -> os.stat_result:
        try:
            return (self._root / name).stat()
        except OSError as error:
            raise DataError(f"{self.origin}: image {name} cannot be read ({error.strerror}); put it back") from None

    def _size(self, name: str) -> int:
        return self._stat(name).st_size

    def _store(self, name: str) -> ByteStore:
        return LocalFile(self._root / name)


def _walk(root: Path, below: str, above: tuple[tuple[int, int], ...], passed_over: Counter[str]) -> Iterator[str]:
    """Names of the images in `root/below` and the folders in it.

    above: device and number of the folders above, so that a link to one of them leads nowhere.
    """
    try:
        own = os.stat(root / below)
        entries = sorted(os.scandir(root / below), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{root / below}: cannot be read ({error.strerror}); check who may read it") from None
    key = (own.st_dev, own.st_ino)
    if key in above:
        passed_over["links to a folder around them"] += 1
        return
    for entry in entries:
        name = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir():
            yield from _walk(root, name, (*above, key), passed_over)
        elif entry.is_file() and is_image(entry.name):
            yield name
        elif is_image(entry.name):
            passed_over["links to what is not there" if entry.is_symlink() else "pipes and devices"] += 1
        elif entry.is_file():
            passed_over["files that are no images"] += 1


def _say_passed_over(origin: str, passed_over: dict[str, int]) -> None:
    """Says it once, however often the images are opened."""
    line = f"{origin}: passed over {said(passed_over)}"
    if passed_over and line not in _SAID:
        _SAID.add(line)
        progress.note(line)


class ImageFiles(Folder):
    """Image files, each once, in the order given; their names begin below the folder that all of them lie in."""

    def __init__(self, paths: Iterable[str | Path], origin: str):
        found = list(dict.fromkeys(os.path.abspath(path) for path in paths))
        self.origin = origin
        self._root = Path(os.path.commonpath([os.path.dirname(path) for path in found]))
        self.names = [str(Path(path).relative_to(self._root)) for path in found]
        self.passed_over = {}


class Discs(HeldImages):
    """The images of one split of a 2D file; they are drawn when read."""

    def __init__(self, path: str, split: str):
        """Raises: UserError where the file or the split is missing or empty."""
        self.origin = f"{path}:{split}"
        self._points = read_points(path, split)
        if not len(self._points):
            raise UserError(f"{self.origin}: the split is empty")
        self.names = [npz_name(path, split, index) for index in range(len(self._points))]

    def read(self, index: int, pixels: PixelOptions = EXACT) -> Image.Image:
        return draw_disc(*self._points[index])

    @property
    def fingerprint(self) -> str:
        return digest("discs", hashlib.sha256(self._points.tobytes()).hexdigest())


def _bucket_images(address: str) -> ImageSource:
    if address.endswith(".tar") or address.startswith(FILE_PREFIX):
        return TarReader(address)
    if is_image(address):
        return bucket_files([address], address)
    path = paths.to_path(address)
    try:
        if path.is_dir():
            return BucketFolder(address)
        is_pattern = paths.WILD & set(address) and not path.exists()
    except OSError as error:
        raise UserError(f"images {address}: cannot be read ({error.strerror or error}); check the address") from None
    if paths.is_bucket(address):
        raise UserError(f"images {address}: there is no bucket of that name, or nothing in it; check the address")
    return bucket_files([address], address) if is_pattern else TarReader(address)


def open_images(spec: str | Path | Sequence[str | Path]) -> ImageSource:
    """The images of a TAR (also `gs://…` or `s3://…`), a FOLDER, `2d.npz:SPLIT`, a prepared `tfds:NAME/SPLIT`, an image
    file, a pattern of image files (`shots/*.png`, with `**` for any folders), or several files and patterns.

    Raises: UserError where there is no such thing, or no image in it.
    """
    specs = [spec] if isinstance(spec, str | os.PathLike) else list(spec)
    if len(specs) > 1:
        origin = f"{specs[0]} and {len(specs) - 1} more"
        remote = [str(one) for one in specs if is_remote(one)]
        if remote and len(remote) < len(specs):
            raise UserError(f"images {origin}: some are on this machine, some in a bucket; give one kind")
        if remote:
            return bucket_files(remote, origin)
        return ImageFiles((file for one in specs for file in _image_files(one)), origin)
    (spec,) = specs
    if is_records(spec):
        return Records(str(spec))
    npz = npz_spec(spec)
    if npz is not None:
        return Discs(*npz)
    if is_remote(spec):
        return _bucket_images(str(spec))
    path = Path(spec)
    if path.is_dir():
        return Folder(path)
    if _is_pattern(spec) or _is_image_file(path):
        return ImageFiles(_image_files(spec), str(spec))
    if not path.exists():
        raise UserError(
            f"images {path}: does not exist; give a TAR, a folder, image files, 2d.npz:SPLIT or tfds:NAME/SPLIT"
        )
    return TarReader(path)


def _is_pattern(spec: str | Path) -> bool:
    return bool(paths.WILD & set(str(spec))) and not os.path.lexists(spec)


def _is_image_file(path: Path) -> bool:
    """Whether a file is an image by its name, or, whatever it is called, by how it begins."""
    if not path.is_file():
        return False
    if is_image(path.name):
        return True
    try:
        with Image.open(path):
            return True
    except Exception:  # PIL raises many kinds; a tar or a label file is none of its formats
        return False


def _image_files(spec: str | Path) -> list[str]:
    """The image files that one of several `--images` names. Raises: UserError where it names anything else."""
    if _is_pattern(spec):
        matching = sorted(glob.glob(str(spec), recursive=True))
        found = [path for path in matching if is_image(path) and os.path.isfile(path)]
        if not found:
            told = f"matches {len(matching)} files, none of which is an image" if matching else "matches no file"
            raise UserError(f"images {spec}: {told} ({', '.join(SUFFIXES)}); check the pattern")
        if len(found) < len(matching):
            _say_passed_over(str(spec), {"others that are no image files": len(matching) - len(found)})
        return found
    if _is_image_file(Path(spec)):
        return [str(spec)]
    there = "is no image file" if os.path.exists(spec) else "does not exist"
    raise UserError(f"images {spec}: {there}; give several image files, or one TAR, folder or 2d.npz:SPLIT")
