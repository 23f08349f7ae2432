"""The images of a folder in a bucket, by number."""

from collections import Counter

from igllm_jax import paths
from igllm_jax.data.file_images import FileImages
from igllm_jax.data.names import SUFFIXES, digest, is_image
from igllm_jax.data.stores import ByteStore, RemoteFile
from igllm_jax.errors import DataError, UserError

_CHANGES = ("generation", "ETag", "etag", "md5Hash", "LastModified", "updated")  # what servers change with an object


class BucketFolder(FileImages):
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
        return RemoteFile(f"{self.origin}/{name}")
