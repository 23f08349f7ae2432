"""The images of a folder in a bucket, or of files and patterns there, by number."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from igllm_jax import paths
from igllm_jax.data.file_images import FileImages
from igllm_jax.data.names import SUFFIXES, digest, is_image
from igllm_jax.data.stores import ByteStore, RemoteFile
from igllm_jax.errors import DataError, UserError

_CHANGES = ("generation", "ETag", "etag", "md5Hash", "LastModified", "updated")  # what servers change with an object


class BucketFiles(FileImages):
    """As tars.ImageFiles; sizes come from listings, and the images are read one by one where they are asked for, which
    a tar does with fewer requests."""

    def __init__(self, origin: str, root: str, about: Mapping[str, Mapping[str, Any]]):
        """root: what stands before every name. about: name -> fsspec's account of the object (`size`, ...)."""
        self.origin, self._root, self._about = origin, root, about
        self.names = list(about)
        self.passed_over: dict[str, int] = {}

    def read_bytes(self, index: int) -> bytes:
        """One image file's content."""
        name = self.names[index]
        content = self._store(name).read(0, self._size(name))
        if len(content) != self._size(name):
            raise DataError(f"{self.origin}: image {name} has changed since the run began; start the command again")
        return content

    @property
    def state(self) -> str:
        return digest(
            [(n, self._size(n), *(str(a[key]) for key in _CHANGES if key in a)) for n, a in self._about.items()]
        )

    def _size(self, name: str) -> int:
        return int(self._about[name]["size"])

    def _store(self, name: str) -> ByteStore:
        return RemoteFile(f"{self._root}/{name}")


class BucketFolder(BucketFiles):
    """As tars.Folder."""

    def __init__(self, address: str):
        """Raises: UserError where there are none, or the folder cannot be listed."""
        from igllm_jax import buckets

        root = address.rstrip("/")
        try:
            found = buckets.find(paths.to_path(root))
        except OSError as error:
            raise UserError(f"{address}: cannot be listed ({error.strerror or error}); check the address") from None
        about = {name: about for name, about in sorted(found.items()) if is_image(name)}
        if not about:
            raise UserError(f"{address}: the folder holds no images ({', '.join(SUFFIXES)})")
        super().__init__(root, root, about)
        others = len(found) - len(about)
        self.passed_over = dict(Counter({"files that are no images": others})) if others else {}


def bucket_files(specs: Sequence[str], origin: str) -> BucketFiles:
    """Image files in buckets and patterns of them, each once, in the order given; their names begin below the folder
    that all of them lie in. Raises: UserError where one names anything else."""
    found: dict[str, Mapping[str, Any]] = {}
    for spec in specs:
        found |= _matching(spec)
    schemes = {address.partition("://")[0] for address in found}
    if len(schemes) > 1:
        raise UserError(f"images {origin}: some are in gs:// and some in s3://; give those of one kind")
    keys = {address.partition("://")[2]: about for address, about in found.items()}
    root = os.path.commonpath([os.path.dirname(key) for key in keys])
    named = {key.removeprefix(root).lstrip("/"): about for key, about in keys.items()}
    return BucketFiles(origin, f"{schemes.pop()}:/{'/' if root else ''}{root}", named)


def _matching(spec: str) -> dict[str, Mapping[str, Any]]:
    """Address -> fsspec's account, of the image files that an address or a pattern names."""
    from igllm_jax import buckets

    path = paths.to_path(spec)
    try:
        is_pattern = paths.WILD & set(spec) and not path.exists()
        found = buckets.matching(path) if is_pattern else {spec: buckets.about(path)}
    except OSError as error:
        raise UserError(f"images {spec}: cannot be read ({error.strerror or error}); check the address") from None
    images: dict[str, Mapping[str, Any]] = {address: about for address, about in found.items() if is_image(address)}
    if not images:
        told = f"matches {len(found)} files, none of which is an image" if found else "matches no file"
        told = told if is_pattern else "is no image file"
        raise UserError(f"images {spec}: {told} ({', '.join(SUFFIXES)}); check the address")
    return images
