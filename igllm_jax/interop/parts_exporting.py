"""A merged model as a folder for each of its parts, as they were imported: for what no LLaVA of Hugging Face holds."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from igllm_jax import paths
from igllm_jax.errors import UserError
from igllm_jax.files import whole_folder
from igllm_jax.interop import formats
from igllm_jax.interop.exporting import (
    BASE_PARTS,
    ModelToExport,
    about_text,
    copy_licences,
    outgoing,
    save_companions,
    skipped_norm,
    write_json,
)
from igllm_jax.interop.hf_decoder import decoder_to_json
from igllm_jax.interop.hf_vision import type_of, vision_to_json
from igllm_jax.interop.safetensors_writer import write, write_sharded
from igllm_jax.interop.sources import KEEP
from igllm_jax.models.vision import VisionConfig
from igllm_jax.paths import FilePath

BESIDE = "mm_projector.safetensors"  # projector and float head
NOTE = "the towers end with the block that gives the features: import them with --feature_layer -1"


def export_parts(model: ModelToExport, out: FilePath, dtype: str = KEEP) -> dict[str, Any]:
    """Writes `out`, which appears only when it is complete: a folder for each tower and one for the decoder, LoRA
    merged, of `dtype` (default: the decoder's), and projector and float head in a file. Returns an account.

    Raises: UserError where Hugging Face has no such tower or decoder.
    """
    start = time.monotonic()
    chosen = dtype if dtype != KEEP else model.dtype("decoder/embedding").name
    with whole_folder(out) as partial:
        tensors = sum(_write_tower(model, name, tower, partial, chosen) for name, tower in model.config.towers.items())
        tensors += _write_decoder(model, partial / "decoder", chosen)
        beside = {path for path in model.shapes if not path.startswith(BASE_PARTS)}
        others = outgoing(model, formats.non_lora(model.config.projector, model.config.head), KEEP, beside)
        write(others, partial / BESIDE)
        copy_licences(model, partial)
    size = sum(map(paths.size, paths.files_below(out)))
    seconds = time.monotonic() - start
    return {"tensors": tensors + len(others), "bytes": size, "seconds": seconds, "notes": [NOTE]}


def _own(model: ModelToExport, part: str) -> set[str]:
    return {path for path in model.shapes if path.startswith(f"{part}/") and not model.is_merged(path)}


def _write_tower(model: ModelToExport, name: str, tower: VisionConfig, folder: Path, dtype: str) -> int:
    """How many tensors there are."""
    if not tower.num_blocks:
        raise UserError(f"model.{name}: the features come before the first block, which no folder of Hugging Face says")
    tensors = outgoing(model, formats.tower(type_of(tower), name), dtype, _own(model, name))
    tensors |= skipped_norm(tower, "", np.dtype(jnp.dtype(dtype)))
    own_size = replace(tower, image_size=tower.table_grid * tower.patch_size, position_grid=0)
    (folder / name).mkdir()
    write_sharded(tensors, folder / name)
    write_json(folder / name / "config.json", vision_to_json(own_size))
    colours = {"image_mean": list(tower.image_mean), "image_std": list(tower.image_std)}
    write_json(folder / name / "preprocessor_config.json", colours)
    return len(tensors)


def _write_decoder(model: ModelToExport, folder: Path, dtype: str) -> int:
    """The same of the decoder, with its tokenizer."""
    config = model.config.decoder
    tensors = outgoing(model, formats.decoder(config.post_norms), dtype, _own(model, "decoder"))
    folder.mkdir()
    write_sharded(tensors, folder)
    described = decoder_to_json(config, vocab_size=config.vocab_size, dtype=dtype)
    write_json(folder / "config.json", described | about_text(model))
    save_companions(model, folder)
    return len(tensors)
