"""What is done of a data set that is not complete, so that a run that was stopped goes on where it was.

Each example is two files, the picture and then its label, renamed when whole: where the label is, both are. What is
there does not depend on who drew it or when, so runs on several machines may fill one folder.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from igllm_jax import files, paths
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath

FOLDER = ".examples"
OPTIONS = "options.json"


class Unfinished:
    """The examples that are done, in `.examples` of the data set's folder. options: all that they depend on.

    restart: throw away what another run with other options left; else that is an error.
    Raises: UserError where the folder can't be made.
    """

    def __init__(self, folder: FilePath, options: Mapping[str, Any], *, restart: bool) -> None:
        self.folder = folder / FOLDER
        found = self._read_options()
        mine = json.loads(json.dumps(options))
        if found is not None and found != mine:
            if not restart:
                raise UserError(f"{self.folder} holds part of {_difference(found, mine)}")
            files.remove_folder(self.folder)
        files.try_folder(folder)
        files.write_text(self.folder / OPTIONS, json.dumps(mine), is_synced=False)

    def _read_options(self) -> Any:
        try:
            return json.loads((self.folder / OPTIONS).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder / OPTIONS}: cannot be read ({error}); delete {self.folder}") from None

    def _path(self, split: str, index: int, ending: str) -> FilePath:
        # A thousand to a folder: file systems are slow with more.
        return self.folder / split / f"{index // 1000:04d}" / f"{index:07d}.{ending}"

    def has(self, split: str, index: int) -> bool:
        """Whether the example is done."""
        return self._path(split, index, "json").exists()

    def put(self, split: str, index: int, png: bytes, label: Mapping[str, Any]) -> None:
        """Keeps an example. Raises: UserError where the disk is full."""
        path = self._path(split, index, "png")
        files.write_bytes(path, png, is_synced=False)
        files.write_text(path.with_suffix(".json"), json.dumps(label), is_synced=False)

    def missing(self, counts: Mapping[str, int]) -> Iterator[tuple[str, int]]:
        """Split and index of every example that is not done. counts: split -> number of examples."""
        # a bucket is listed once: asking for each would be a request each
        there = set(map(str, paths.files_below(self.folder))) if paths.is_remote(self.folder) else None
        for split, count in counts.items():
            for index in range(count):
                done = self.has(split, index) if there is None else str(self._path(split, index, "json")) in there
                if not done:
                    yield split, index

    def read(self, split: str, index: int) -> tuple[bytes, dict[str, Any]]:
        """Picture and label of an example that is done."""
        path = self._path(split, index, "png")
        return path.read_bytes(), json.loads(path.with_suffix(".json").read_bytes())

    def remove(self) -> None:
        """Deletes everything: the data set is complete."""
        files.remove_folder(self.folder)


def _difference(found: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    key = next(key for key in {**found, **mine} if found.get(key) != mine.get(key))
    return (
        f"a data set with {key} {found.get(key)!r}, not {mine.get(key)!r}; finish it with the same options, "
        "or give --overwrite to begin anew"
    )
