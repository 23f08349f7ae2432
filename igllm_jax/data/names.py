"""How images are named, and found by what labels call them."""

import hashlib
import json
from functools import cached_property
from pathlib import PurePosixPath

from igllm_jax.errors import UserError

_MOST_FOLDERS = 32  # that a label may name: deeper paths would make the table of endings grow with their square
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def plain_name(name: str) -> str:
    """The name without `./` or `/` in front, as tars and labels differ in these."""
    return str(PurePosixPath(name)).lstrip("/")


def is_image(name: str) -> bool:
    """Whether a file of that name is an image. `._x.png` is none: macOS writes these beside x.png."""
    file = PurePosixPath(name).name
    return file.lower().endswith(SUFFIXES) and not file.startswith("._")


def digest(*parts: object) -> str:
    """16 hex digits that stand for what can be said in JSON."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class Names:
    """The part of an image source that knows names; folders in front may be missing in the source or in the label."""

    origin: str
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    @cached_property
    def _by_ending(self) -> dict[str, list[int]]:
        """`a/b/x.png`, `b/x.png` and `x.png` -> the first two images whose names end so: two are as bad as many."""
        by_ending: dict[str, list[int]] = {}
        for index, name in enumerate(self.names):
            parts = name.split("/")
            for start in range(max(0, len(parts) - _MOST_FOLDERS), len(parts)):
                found = by_ending.setdefault("/".join(parts[start:]), [])
                if len(found) < 2:
                    found.append(index)
        return by_ending

    def find(self, name: str) -> int:
        """The number of the image that a label calls `name`.

        Raises: UserError where none or several fit.
        """
        name = plain_name(name)
        if name in self._by_name:
            return self._by_name[name]
        found = self._by_ending.get(name) or self._by_ending.get(PurePosixPath(name).name, [])
        if len(found) == 1:
            return found[0]
        if found:
            both = " and ".join(self.names[index] for index in found[:2])
            raise UserError(f"{self.origin}: image {name} may be {both}; put folders into the label's image_filename")
        raise UserError(
            f"{self.origin}: holds no image {name}, which the labels name (it has {len(self.names)}, "
            f"the first is {self.names[0]}); do images and labels belong together?"
        )


class HeldImages(Names):
    """Images that are held or drawn, in no file of their own: their fingerprint knows the pixels, so it stands for
    their content and their state as well."""

    @property
    def fingerprint(self) -> str:
        """Stands for names and pixels."""
        raise NotImplementedError

    @property
    def content(self) -> str:
        return self.fingerprint

    @property
    def state(self) -> str:
        return self.fingerprint
