"""Weight files of others, read one tensor at a time: safetensors (without torch), torch's `.bin`, single or sharded.

Opening reads names, shapes and dtypes only and checks that every byte is there; nothing in a file is ever executed.
"""

import io
import json
import math
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.interop.torch_zip import check_bytes, check_mapped, damaged, is_zip_file, records_of

FLOATS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
OTHERS = {
    "I64": np.dtype(np.int64), "I32": np.dtype(np.int32), "I16": np.dtype(np.int16), "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64), "U32": np.dtype(np.uint32), "U16": np.dtype(np.uint16), "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}  # fmt: skip
SAFETENSORS_NAMES = {dtype: name for name, dtype in (FLOATS | OTHERS).items()}
MAX_NAME = 200  # characters of a name that a message shows
MAX_HEADER_BYTES = 100 * 2**20  # the format's own limit
MAX_TOUCHED_BYTES = 2**30  # of a mapped .bin, before it is mapped anew: touched pages count as resident memory
MAX_UNMAPPED_BYTES = 2**30  # torch's old .bin format can't be mapped, so only small ones are read
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class TensorInfo:
    """What a file says about a tensor without reading it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    file: Path

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS.values()


class Opened(Protocol):
    """One open weight file."""

    infos: dict[str, TensorInfo]

    def read(self, name: str) -> np.ndarray: ...

    def release(self) -> None: ...


@dataclass(frozen=True)
class Weights:
    """The tensors of one file, or of a folder's shards together.

    origin: what the user named. infos: name -> shape, dtype, file.
    """

    origin: Path
    infos: Mapping[str, TensorInfo]
    opened: Mapping[Path, Opened]

    def read(self, name: str) -> np.ndarray:
        """A copy of one tensor."""
        return self.opened[self.infos[name].file].read(name)

    def release(self, file: Path) -> None:
        """Lets go of the memory that reading `file` took; it can be read again."""
        self.opened[file].release()

    def fingerprint(self) -> list[list[Any]]:
        """[[file, bytes, time of change], ...]: whether these are the files that an interrupted import began with."""
        stats = [(path, path.stat()) for path in sorted(self.opened)]
        return [[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def open_weights(origin: str | Path, *, names: tuple[str, ...] = SINGLE_FILES) -> Weights:
    """Opens a weight file, or a folder with an index or one of the files `names` (safetensors before `.bin`).

    Raises: UserError where a file is absent, cut short, no weights, or wants to run code.
    """
    origin = Path(origin)
    index = None if origin.is_file() or names != SINGLE_FILES else _index_of(origin)
    weight_map = {} if index is None else _weight_map(index)
    files = _shards(origin, index, weight_map) if index else [_single_file(origin, names)]
    opened = {file: open_file(file) for file in files}
    infos: dict[str, TensorInfo] = {}
    twice: dict[str, str] = {}
    for file in opened.values():
        for name, info in file.infos.items():
            if name in infos:
                twice[name] = f"{name} ({infos[name].file.name} and {info.file.name})"
            infos[name] = info
    if twice:
        raise UserError(f"{origin} holds {len(twice)} tensors twice: {', '.join(list(twice.values())[:5])}")
    absent = [name for name, file in weight_map.items() if name not in infos or infos[name].file.name != file]
    if absent:
        raise UserError(
            f"{index} names tensors that its files do not hold: {', '.join(absent[:5])} ({len(absent)} in all)"
        )
    return Weights(origin, infos, opened)


def open_file(path: Path) -> Opened:
    """One file, by its ending."""
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    if path.suffix in (".bin", ".pt", ".pth"):
        return TorchFile(path)
    raise UserError(f"{path} is neither .safetensors nor .bin")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises: UserError where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object")
    return value


def _index_of(folder: Path) -> Path | None:
    """The index of a sharded folder; safetensors come before `.bin`, and a whole file before shards of its kind."""
    for index, single in zip(INDEX_FILES, SINGLE_FILES, strict=True):
        if (folder / single).exists():
            return None
        if (folder / index).exists():
            return folder / index
    return None


def _single_file(origin: Path, names: tuple[str, ...]) -> Path:
    if origin.is_file():
        return origin
    found = [origin / name for name in names if (origin / name).is_file()]
    if not found:
        expected = ", ".join((*names, *INDEX_FILES) if names == SINGLE_FILES else names)
        state = f"holds no weights: expected one of {expected}" if origin.is_dir() else "does not exist"
        raise UserError(f"{origin} {state}")
    return found[0]


def _shards(folder: Path, index: Path, weight_map: dict[str, str]) -> list[Path]:
    names = sorted(set(weight_map.values()))
    strange = [name for name in names if name in (".", "..") or Path(name).name != name]
    if strange:
        raise UserError(f"{index} names files outside its folder: {', '.join(map(repr, strange))}")
    absent = [
        name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..." for name in names if not _is_file(folder / name)
    ]
    if absent:
        raise UserError(f"{index} names files that are not there: {', '.join(absent)}; download them again")
    return [folder / name for name in names]


def _is_file(path: Path) -> bool:
    """Whether it is one; a name that the system takes for none (too long, with a null in it) is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    is_map = isinstance(weight_map, dict) and all(isinstance(file, str) for file in weight_map.values())
    if not is_map or not weight_map:
        raise UserError(f"{index} holds no weight_map of tensor names to file names")
    return weight_map


class SafetensorsFile:
    """A .safetensors file. Its parts are read, not mapped: pages of a mapping would count as resident memory."""

    def __init__(self, path: Path):
        self.path = path
        self.infos: dict[str, TensorInfo] = {}
        self._starts: dict[str, int] = {}
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise UserError(f"{path} is no complete safetensors file: its header is cut short; download it again")
            try:
                header = json.loads(file.read(length), object_pairs_hook=self._once)
                entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
                for name, entry in entries.items():
                    self._add(name, entry, 8 + length, size)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(f"{path} is no safetensors file: its header can't be read ({error})") from None

    def _once(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """A JSON object, of which JSON itself would keep the last of several equal keys."""
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
            raise UserError(f"{self.path} holds {', '.join(twice[:5])} twice")
        return found

    def _add(self, name: str, entry: dict[str, Any], data: int, size: int) -> None:
        dtype = (FLOATS | OTHERS).get(entry["dtype"])
        if dtype is None:
            raise UserError(f"{self.path}: {name} has the dtype {entry['dtype']!r}, which is not known here")
        shape = tuple(entry["shape"])
        start, end = entry["data_offsets"]
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (*shape, start, end)):
            raise UserError(f"{self.path}: {name} has the shape {shape} at {start}:{end}, which can't be")
        if end - start != math.prod(shape) * dtype.itemsize:
            raise UserError(f"{self.path}: {name} has {end - start} bytes for shape {shape} of {dtype}")
        if data + end > size:
            raise UserError(
                f"{self.path} is cut short: {name} ends at byte {data + end}, the file at {size}; download it again"
            )
        self.infos[name] = TensorInfo(shape, dtype, self.path)
        self._starts[name] = data + start

    def read(self, name: str) -> np.ndarray:
        info = self.infos[name]
        count = math.prod(info.shape)
        array = np.fromfile(self.path, info.dtype, count, offset=self._starts[name])
        if array.size != count:
            raise UserError(f"{self.path} was cut short while it was read, at {name}")
        return array.reshape(info.shape)

    def release(self) -> None:
        pass  # nothing is mapped


class TorchFile:
    """A torch `.bin`, opened weights-only (a pickle that names anything but tensors is refused) and mapped."""

    def __init__(self, path: Path):
        self.path = path
        self._tensors: dict[str, Any] | None = None
        tensors = self._open()
        strange = [name for name, value in tensors.items() if not _is_tensor(value)]
        if strange:
            raise UserError(f"{path} holds more than tensors: {', '.join(map(str, strange[:5]))}")
        self.infos = {
            name: TensorInfo(tuple(value.shape), _numpy_dtype(path, name, value), path)
            for name, value in tensors.items()
        }
        self._touched = 0
        self._is_checked = False  # whether its bytes are those that were written

    def _open(self) -> dict[str, Any]:
        torch = import_torch(self.path)
        is_zip = is_zip_file(self.path)
        records = records_of(self.path) if is_zip else []
        is_mapped = is_zip and all(record.compress_type == zipfile.ZIP_STORED for record in records)
        if not is_mapped and self.path.stat().st_size > MAX_UNMAPPED_BYTES:
            raise UserError(
                f"{self.path} is cut short, or in torch's old format, which can't be read piece by piece: download it "
                "again, or load and save it with a recent torch"
            )
        try:
            with warnings.catch_warnings(action="ignore"):  # about damage that ends in an error or in nothing
                tensors = torch.load(self.path, map_location="cpu", weights_only=True, mmap=is_mapped)
        except Exception as error:  # torch raises many kinds here, and each means the same to the user
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            asked = next((line for line in lines if "GLOBAL" in line or "reduce for" in line or "of class" in line), "")
            if asked:
                raise UserError(f"{self.path} is refused: it wants to run code ({asked[:200]})") from None
            raise damaged(self.path, lines[0]) from None
        if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
            raise UserError(f"{self.path} holds no dictionary of tensors")
        if is_mapped and all(map(_is_tensor, tensors.values())):  # others are told where the names are
            check_mapped(self.path, list(tensors.values()), records)
        return tensors

    def read(self, name: str) -> np.ndarray:
        if not self._is_checked:
            check_bytes(self.path)
            self._is_checked = True
        if self._tensors is None or self._touched > MAX_TOUCHED_BYTES:
            self._tensors, self._touched = self._open(), 0
        try:
            array = torch_to_numpy(self._tensors[name])
        except (RuntimeError, TypeError, ValueError) as error:  # sizes beyond the file's bytes, types without values
            told = str(error).partition("\n")[0][:200]
            raise UserError(f"{self.path}: {name} can't be read ({told}); download the file again") from None
        self._touched += array.nbytes
        return array

    def release(self) -> None:
        self._tensors = None


def import_torch(path: Path) -> Any:
    """The torch module, which only `.bin` files need."""
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} is a torch file and torch is not installed: pip install 'igllm_jax[torch]', "
            "or use the model's safetensors"
        ) from None
    return torch


def torch_to_numpy(tensor: Any) -> np.ndarray:
    """A copy of a torch tensor; bf16 stays bf16."""
    import torch

    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return tensor.numpy().copy()


def numpy_to_torch(array: np.ndarray) -> Any:
    """A torch tensor with the array's values; bf16 stays bf16."""
    import torch

    array = np.asarray(array, order="C")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def write_torch(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """Saves named tensors as torch does; all of them are in memory at once."""
    torch, whole = import_torch(path), io.BytesIO()
    torch.save({name: numpy_to_torch(array) for name, array in tensors.items()}, whole)
    path.write_bytes(whole.getbuffer())  # torch would not say why a disk takes no more


def _is_tensor(value: Any) -> bool:
    import torch

    is_plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized
    return is_plain and value.device.type == "cpu"  # one on "meta" has a shape and no values


def _numpy_dtype(path: Path, name: str, tensor: Any) -> np.dtype:
    text = str(tensor.dtype).removeprefix("torch.")
    try:
        return np.dtype(getattr(ml_dtypes, text, None) or text)
    except TypeError:
        raise UserError(f"{path}: {name} has the dtype {text}, which is not known here") from None
