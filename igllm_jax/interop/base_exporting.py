"""A run and its base merged into a new folder of base weights, which needs neither of them."""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from igllm_jax import progress
from igllm_jax.errors import UserError
from igllm_jax.interop.exporting import ModelToExport
from igllm_jax.interop.importing import copied_files
from igllm_jax.interop.sources import KEEP
from igllm_jax.models.lora import NO_LORA
from igllm_jax.models.vlm import skeleton
from igllm_jax.weights import base_folder
from igllm_jax.weights.base_folder_writer import BaseFolderWriter, copy_files


def export_base(model: ModelToExport, out: Path, dtype: str = KEEP) -> dict[str, Any]:
    """Writes `out`: every array, LoRA merged into its kernels; a second call goes on where one was killed.

    dtype: of all arrays; "keep" is the base's for what it held, float32 for what was trained whole. Returns an account.
    Raises: UserError where `out` is there, or a number is not finite.
    """
    start, parts = time.monotonic(), skeleton(model.config)
    paths = [path for path in model.shapes if not model.is_merged(path)]
    shapes = {
        path: jax.ShapeDtypeStruct(model.shapes[path], model.dtype(path) if dtype == KEEP else np.dtype(dtype))
        for path in paths
    }
    todo = [(path, layer) for path in paths for layer in _layers(parts.axes[path], shapes[path].shape)]
    with BaseFolderWriter(out, shapes, {"merged": dict(model.about), "trained": list(model.trained)}) as writer:
        waiting = [(path, layer) for path, layer in todo if not writer.is_done(path, layer)]
        for path, layer in progress.track(waiting, label="export", unit="tensor"):
            array = model.read_merged(path, layer)
            if not np.isfinite(array.astype(np.float32)).all():
                raise UserError(f"{path} holds numbers that are not finite: choose another --step")
            writer.write(path, layer, array)
        _finish(model, writer)
    return {"tensors": len(todo), "bytes": writer.num_bytes, "seconds": time.monotonic() - start, "notes": []}


def _layers(axes: tuple[str | None, ...], shape: tuple[int, ...]) -> Iterator[int | None]:
    yield from range(shape[0]) if axes[:1] == ("layers",) else (None,)


def _finish(model: ModelToExport, writer: BaseFolderWriter) -> None:
    """What stands beside the weights; then the folder gets its name."""
    sources = Path(model.base or "") / base_folder.SOURCES
    for folder in sorted(sources.iterdir()) if model.base and sources.is_dir() else ():
        copy_files(copied_files(folder), writer.partial / base_folder.SOURCES / folder.name)
    if model.tokenizer:
        model.tokenizer.save(writer.partial)
    if model.language:
        model.language.save(writer.partial)
    lora = model.config.lora
    merged = asdict(lora) if lora.rank else model.about["merged_lora"]
    tokenizer = model.tokenizer.fingerprint if model.tokenizer else None
    config = replace(model.config, lora=NO_LORA, decoder=replace(model.config.decoder, number_row=-1))
    writer.finish(config, {**model.about, "merged_lora": merged, "tokenizer": tokenizer})
