"""The images of a folder in a bucket, by number."""

import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

from PIL import Image

from igllm_jax import paths
from igllm_jax.data.content import digest_some
from igllm_jax.data.images import decode_image
from igllm_jax.data.names import SUFFIXES, Names, digest, is_image
from igllm_jax.data.options import EXACT, PixelOptions
from igllm_jax.data.stores import RemoteFile
from igllm_jax.data.tar_index import ENDING
from igllm_jax.errors import DataError, UserError

_THREADS = 16  # that wait for a server
_CHANGES = ("generation", "ETag", "etag", "md5Hash", "LastModified", "updated")  # what servers change with an object


class BucketFolder(Names):
    """As tars.Folder; names and sizes come from one listing, and the images are read one by one where they are asked
    for, which a tar does with fewer requests."""

    def __init__(self, address: str):
        """Raises: UserError where there are none, or the folder cannot be listed."""
        from igllm_jax import buckets

        self.origin = address.rstrip("/")
        try:
            found = buckets.find(paths.to_path(self.origin))
        except OSError as error:
            raise UserError(f"{address}: cannot be listed ({error.strerror or error}); check the address") from None
        self._about = {name: about for name, about in sorted(found.items()) if is_image(name.rpartition("/")[2])}
        self.names = list(self._about)
        if not self.names:
            raise UserError(f"{address}: the folder holds no images ({', '.join(SUFFIXES)})")
        others = len(found) - len(self.names)
        self.passed_over = dict(Counter({"files that are no images": others})) if others else {}

    def read_bytes(self, index: int) -> bytes:
        """One image file's content."""
        name = self.names[index]
        content = RemoteFile(f"{self.origin}/{name}").read(0, self._size(name))
        if len(content) != self._size(name):
            raise DataError(f"{self.origin}: image {name} has changed since the run began; start the command again")
        return content

    def read(self, index: int, pixels: PixelOptions = EXACT) -> Image.Image:
        return decode_image(self.read_bytes(index), f"{self.origin}: image {self.names[index]}", pixels)

    @property
    def fingerprint(self) -> str:
        return digest("files", [(name, self._size(name)) for name in self.names])

    @cached_property
    def content(self) -> str:
        with ThreadPoolExecutor(_THREADS) as pool:
            endings = list(pool.map(self._ending, self.names))
        return digest("endings", endings, digest_some(self))

    @property
    def state(self) -> str:
        return digest(
            [(n, self._size(n), *(str(a[key]) for key in _CHANGES if key in a)) for n, a in self._about.items()]
        )

    def _size(self, name: str) -> int:
        return int(self._about[name]["size"])

    def _ending(self, name: str) -> tuple[str, int, int]:
        size = self._size(name)
        return name, size, zlib.crc32(RemoteFile(f"{self.origin}/{name}").read(max(0, size - ENDING), ENDING))
