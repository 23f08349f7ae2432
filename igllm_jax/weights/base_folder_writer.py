"""Writing a base-weights folder one tensor at a time: it appears only when it is complete, and a second run goes on."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import tensorstore

from igllm_jax import files, paths, versions
from igllm_jax.data.tokens import TOKENIZER_FILES
from igllm_jax.errors import UserError
from igllm_jax.models.vlm import VLMConfig
from igllm_jax.paths import FilePath
from igllm_jax.weights import base_folder

CHUNK_BYTES = 16 * 2**20  # of one file: small enough that a host reads little more than its devices hold
PLAN_FILE = "import.json"
DONE_FILE = "done.txt"
LOCK_FILE = "lock"
OWN_NAMES = {
    PLAN_FILE, DONE_FILE, LOCK_FILE, base_folder.WEIGHTS, base_folder.SOURCES, base_folder.MODEL_FILE, *TOKENIZER_FILES,
}  # fmt: skip


def partial_of(folder: FilePath) -> Path:
    """Where a folder is written until it is complete: beside it, or on this machine where it goes into a bucket.

    No `files.whole_folder`: what a killed import had written stays for the next one.
    """
    if paths.is_remote(folder):
        name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"igllm-import-{os.getuid()}-{name}{files.PARTIAL}"
    absolute = Path(folder).absolute()
    return absolute.with_name(f"{absolute.name}{files.PARTIAL}")


class BaseFolderWriter:
    """Writes `folder` under the name `folder.partial` beside it; `finish` gives it its name.

    shapes: path -> ShapeDtypeStruct of every array. plan: JSON-ready description of this import; what an interrupted
    import left is gone on with where its plan is the same, and thrown away otherwise.
    """

    def __init__(self, folder: FilePath, shapes: Mapping[str, jax.ShapeDtypeStruct], plan: dict[str, Any]):
        self.folder = paths.absolute(folder)
        self.partial = partial_of(self.folder)
        self.shapes = dict(shapes)
        if self.folder.exists() and not files.is_unfinished(self.folder):
            raise UserError(f"{folder} exists: give another --out, or remove it")
        self.partial.mkdir(parents=True, exist_ok=True)
        others = {path.name for path in self.partial.iterdir()} - OWN_NAMES
        if any(not name.endswith(files.PARTIAL) for name in others):
            raise UserError(f"{self.partial} is in the way, and no import left it: move it, or give another --out")
        self._lock = (self.partial / LOCK_FILE).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another import is writing {folder} right now") from None
        described = {path: [list(shape.shape), shape.dtype.name] for path, shape in shapes.items()}
        plan = json.loads(json.dumps({**plan, "shapes": described, "boot": _boot()}))
        self.done = self._resume(plan)
        self._journal = (self.partial / DONE_FILE).open("a", encoding="utf-8")
        self._arrays: dict[str, Any] = {}

    def _resume(self, plan: dict[str, Any]) -> set[tuple[str, int | None]]:
        plan_file = self.partial / PLAN_FILE
        try:
            if json.loads(plan_file.read_text()) == plan:
                lines = (self.partial / DONE_FILE).read_text(encoding="utf-8").splitlines(keepends=True)
                return {_parse(line) for line in lines if line.endswith("\n")}
        except (OSError, ValueError):
            pass  # nothing usable was left: start afresh
        for path in self.partial.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK_FILE:
                path.unlink()
        (self.partial / base_folder.WEIGHTS).mkdir()
        files.write_text(plan_file, json.dumps(plan), is_synced=False)
        return set()

    def is_done(self, path: str, layer: int | None) -> bool:
        return (path, layer) in self.done

    def write(self, path: str, layer: int | None, array: np.ndarray) -> None:
        """Writes a whole array, or one layer of a stacked one, in the dtype of its shape."""
        shape = self.shapes[path]
        if array.dtype != shape.dtype:
            array = array.astype(shape.dtype)
        with self._told_by_the_system():
            target = self._array(path)
            (target if layer is None else target[layer]).write(array).result()
        self._journal.write(f"{path}\t{'' if layer is None else layer}\n")
        self._journal.flush()
        self.done.add((path, layer))

    @contextlib.contextmanager
    def _told_by_the_system(self) -> Iterator[None]:
        """Turns tensorstore's errors about files (a full disk) into the system's own."""
        try:
            yield
        except ValueError as error:
            found = re.search(r"os_error_code='(\d+)'", str(error))
            if found is None:
                raise
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(self.partial)) from error

    def _array(self, path: str) -> Any:
        if path not in self._arrays:
            shape = self.shapes[path]
            metadata = {
                "shape": list(shape.shape),
                "chunks": chunk_shape(shape),
                "compressor": None,  # weights hardly compress, and reading would take longer
                "dtype": shape.dtype.name if shape.dtype.name == "bfloat16" else np.dtype(shape.dtype).str,
                "dimension_separator": ".",
            }
            spec = {**base_folder.array_spec(self.partial, path), "metadata": metadata}
            # A kill loses nothing that the system has taken; `finish` waits for the disk once, for everything.
            context = tensorstore.Context({"file_io_sync": False})
            self._arrays[path] = tensorstore.open(spec, create=True, open=True, context=context).result()
        return self._arrays[path]

    def finish(self, config: VLMConfig, about: Mapping[str, Any]) -> None:
        """Writes model.json and gives the folder its name."""
        for name, value in base_folder.orbax_metadata(self.shapes).items():
            files.write_text(self.partial / base_folder.WEIGHTS / name, json.dumps(value), is_synced=False)
        value = {versions.FORMAT_KEY: versions.FORMAT, "config": base_folder.config_to_json(config), **about}
        files.write_text(self.partial / base_folder.MODEL_FILE, json.dumps(value, indent=2) + "\n", is_synced=False)
        self._journal.close()
        files.finish_folder(self.partial, self.folder, without=(PLAN_FILE, DONE_FILE, LOCK_FILE))
        self._lock.close()

    @property
    def num_bytes(self) -> int:
        """Of all arrays, once they are written."""
        return sum(int(np.prod(shape.shape)) * shape.dtype.itemsize for shape in self.shapes.values())

    def __enter__(self) -> "BaseFolderWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes everything where what was read turned out to be wrong; after any other end it is gone on with."""
        if not isinstance(error, UserError):
            return
        self._journal.close()
        shutil.rmtree(self.partial, ignore_errors=True)
        self._lock.close()


def _boot() -> str:
    """Names the time since the machine started: what was written before a crash of the machine may not be on disk."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _parse(line: str) -> tuple[str, int | None]:
    path, layer = line.rstrip("\n").split("\t")
    return path, int(layer) if layer else None


def chunk_shape(shape: jax.ShapeDtypeStruct) -> list[int]:
    """One layer and as many whole rows as fit in CHUNK_BYTES; a divisor of the rows, where there is a fair one, so that
    no chunk is padded."""
    has_layers = len(shape.shape) == 3
    lead, rest = ([1], list(shape.shape[1:])) if has_layers else ([], list(shape.shape))
    if len(rest) < 2:
        return lead + rest
    most = min(rest[0], max(1, CHUNK_BYTES // (rest[1] * shape.dtype.itemsize)))
    fair = (count for count in range(most, most // 4, -1) if rest[0] % count == 0)
    return [*lead, next(fair, most), rest[1]]


def copy_files(sources: Mapping[str, FilePath], folder: FilePath) -> None:
    """Copies `sources` to their names (with folders) under `folder`, whole or not at all."""
    for name, source in sources.items():
        files.copy(source, folder / name)
