"""Image files that lie side by side: what a folder of this machine and one in a bucket have in common."""

import zlib
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

from PIL import Image

from igllm_jax.data.content import digest_some
from igllm_jax.data.images import decode_image
from igllm_jax.data.names import Names, digest
from igllm_jax.data.options import EXACT, PixelOptions
from igllm_jax.data.stores import ByteStore
from igllm_jax.data.tar_index import ENDING

_THREADS = 16  # that wait for a disk or a server


class FileImages(Names):
    """One file an image, each read where it is asked for."""

    @abstractmethod
    def read_bytes(self, index: int) -> bytes:
        """One image file's content."""

    @abstractmethod
    def _size(self, name: str) -> int:
        """Bytes of a file. Raises: DataError where it is gone."""

    @abstractmethod
    def _store(self, name: str) -> ByteStore:
        """What reads parts of a file."""

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

    def _ending(self, name: str) -> tuple[str, int, int]:
        """As a tar's Member begins: name, size, and the CRC-32 of the last bytes."""
        size = self._size(name)
        return name, size, zlib.crc32(self._store(name).read(max(0, size - ENDING), ENDING))
