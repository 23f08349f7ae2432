"""Exporting: what was trained, and what it was trained on, in the layouts of PEFT, the reference and Hugging Face."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igllm_jax import config as configs
from igllm_jax import paths
from igllm_jax.data.prompts import find_prompt
from igllm_jax.data.tokens import Tokenizer, find_tokenizer
from igllm_jax.errors import UserError
from igllm_jax.files import whole_folder
from igllm_jax.interop import formats, hf_config
from igllm_jax.interop.files import import_torch, read_json, write_torch
from igllm_jax.interop.hf_vision import type_of
from igllm_jax.interop.importing import licence_files, merge_kernel
from igllm_jax.interop.rules import Rule, WeightFormat
from igllm_jax.interop.safetensors_writer import Outgoing, write, write_sharded
from igllm_jax.interop.sources import KEEP
from igllm_jax.models import number_row
from igllm_jax.models.lora import is_lora
from igllm_jax.models.params import Params
from igllm_jax.models.vision import VisionConfig
from igllm_jax.models.vlm import VLMConfig, draw, skeleton
from igllm_jax.parallel.backend import devices
from igllm_jax.paths import FilePath
from igllm_jax.scene.language import Language, find_language, language_in
from igllm_jax.training.options import RunOptions
from igllm_jax.weights import base_folder, checkpoint
from igllm_jax.weights.base_folder_writer import copy_files

# rows of an added token -> PEFT's name of the module whose they are
ROWS = {f"{number_row.PREFIX}embedding": "embed_tokens", f"{number_row.PREFIX}head": "lm_head"}
BASE_PARTS = ("vision/", "second_vision/", "decoder/")


@dataclass(frozen=True)
class ModelToExport:
    """A whole model whose frozen weights are read when they are asked for.

    arrays: path -> array in memory, what was trained above all. base: folder of everything else, None where nothing is.
    stored: path -> ShapeDtypeStruct of what the base holds. about: where the model came from, for people.
    """

    config: VLMConfig
    arrays: Params
    trained: tuple[str, ...]
    base: str | None
    stored: Params
    tokenizer: Tokenizer | None
    language: Language | None
    about: Mapping[str, Any]

    def dtype(self, path: str) -> np.dtype:
        return np.dtype((self.arrays if path in self.arrays else self.stored)[path].dtype)

    def read(self, path: str, layer: int | None = None) -> np.ndarray:
        """An array, or one layer of a stacked one."""
        if path not in self.arrays:
            assert self.base is not None
            return self._with_all_rows(path, base_folder.read_array(self.base, path, layer))
        array = np.asarray(self.arrays[path])
        return array if layer is None else array[layer]

    def read_merged(self, path: str, layer: int | None = None) -> np.ndarray:
        """Like `read`, a kernel with its LoRA update, a table with the rows of an added token."""
        prefix = path.removesuffix("/kernel")
        array = self.read(path, layer)
        for row, (whole, axis) in number_row.TABLES.items():
            if whole == path and row in self.shapes:
                array = np.asarray(number_row.with_row(array, self.read(row), self.config.decoder.number_row, axis))
        if f"{prefix}/lora_a" not in self.shapes:
            return array
        a, b = (self.read(f"{prefix}/lora_{side}", layer) for side in "ab")
        return merge_kernel(array, a, b, self.config.lora)

    def _with_all_rows(self, path: str, array: np.ndarray) -> np.ndarray:
        """A table of the base that has been added to."""
        axis = dict(number_row.TABLES.values()).get(path)
        if axis is None or array.shape[axis] == self.shapes[path][axis]:
            return array
        return np.asarray(number_row.with_more_rows(jnp.asarray(array), self.shapes[path][axis], axis))

    def is_merged(self, path: str) -> bool:
        """Whether an array is in others where nothing stands apart: LoRA's, rows of an added token."""
        return is_lora(path) or path.startswith(number_row.PREFIX)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {path: tuple(shape.shape) for path, shape in skeleton(self.config).shapes.items()}


def from_run(workdir: FilePath, step: str) -> ModelToExport:
    """The model of a run at "last", "best" or a step; with "_ema" the averages of it."""
    options = configs.read_run(workdir)
    _, source = checkpoint.find_source(workdir, step)
    arrays = checkpoint.load_params(workdir, source)
    folder = options.base or None
    model, stored = options.model, base_folder.paths(folder) if folder else {}
    trained = tuple(arrays)
    arrays = {**_drawn(options, {*arrays, *stored}), **arrays}
    sources = base_folder.read_model(folder).get("sources", {}) if folder else {}
    about = {"run": str(workdir), "step": source, "sources": sources, "merged_lora": _merged_lora(folder)}
    about["image_aspect_ratio"] = options.data.image_aspect_ratio
    language = find_language(options.data.task)
    tokenizer = Tokenizer.load(workdir).ending_with(find_prompt(options.data.prompt, language).end)
    return _complete(ModelToExport(model, arrays, trained, folder, stored, tokenizer, language, about))


def _drawn(options: RunOptions, there: set[str]) -> Params:
    """What neither trained nor came from a base: the run drew it from its seed."""
    here = jax.sharding.SingleDeviceSharding(devices()[0])
    dtype = jnp.dtype(options.frozen_dtype)
    absent = {
        path: jax.ShapeDtypeStruct(shape.shape, dtype, sharding=here)
        for path, shape in skeleton(options.model).shapes.items()
        if path not in there
    }
    return {path: np.asarray(array) for path, array in draw(options.model, absent, options.seed).items()}


def from_folder(folder: FilePath) -> ModelToExport:
    """The model of an imported folder; its adapter, projector and float head count as trained."""
    config, stored = base_folder.read_config(folder), base_folder.paths(folder)
    trained = tuple(path for path in stored if not path.startswith(BASE_PARTS) or is_lora(path))
    sources, merged = base_folder.read_model(folder).get("sources", {}), _merged_lora(folder)
    about = {"folder": str(folder), "sources": sources, "merged_lora": merged}
    about["image_aspect_ratio"] = base_folder.aspect_ratio(folder)
    tokenizer = Tokenizer.load(folder) if find_tokenizer(folder) else None
    return _complete(ModelToExport(config, {}, trained, str(folder), stored, tokenizer, language_in(folder), about))


def _merged_lora(folder: str | FilePath | None) -> Any:
    """The adapter that the base has in its kernels, None where there is none."""
    return base_folder.read_model(folder).get("merged_lora") if folder else None


def _complete(model: ModelToExport) -> ModelToExport:
    absent = [path for path in model.shapes if path not in model.arrays and path not in model.stored]
    if absent:
        parts = sorted({path.split("/")[0] for path in absent})
        raise UserError(f"{model.base} holds no {', '.join(parts)} (train it first): {', '.join(absent)}")
    return model


def export(model: ModelToExport, kind: str, out: FilePath, dtype: str = KEEP) -> dict[str, Any]:
    """Writes `out`, which appears only when it is complete. kind: a key of FORMATS. Returns an account.

    dtype: of the tensors; "keep" is the trained dtype for "peft" and "safetensors", the decoder's for "llava-hf".
    Raises: UserError where the model has no such form.
    """
    start = time.monotonic()
    with whole_folder(out) as partial:
        tensors = FORMATS[kind](model, partial, dtype)
    size = sum(map(paths.size, paths.files_below(out)))
    notes = _notes(model) if kind == "peft" else []
    return {"tensors": tensors, "bytes": size, "seconds": time.monotonic() - start, "notes": notes}


def _notes(model: ModelToExport) -> list[str]:
    """What an adapter's user has to know about the weights under it."""
    if not model.base:
        return ["the weights under this adapter are the run's own: export them with --format llava-hf"]
    if model.about["merged_lora"]:
        return [
            f"the base {model.base} has another adapter merged in: this one belongs on that sum, not on the decoder "
            "that it was made of"
        ]
    rows = model.config.decoder.vocab_size
    if rows > model.stored["decoder/embedding"].shape[0]:
        return [f"this adapter belongs on its decoder after resize_token_embeddings({rows}): a token was added"]
    return []


# ---- the formats -----------------------------------------------------------------------------------------------------


def _export_peft(model: ModelToExport, folder: Path, dtype: str) -> int:
    """A PEFT adapter with the reference's non_lora_trainables.bin and config.json beside it."""
    config = model.config
    if not config.lora.rank:
        raise UserError("this model has no LoRA apart from its base: export it as llava-hf or safetensors")
    whole = sorted(path for path in model.trained if path.startswith(BASE_PARTS) and not model.is_merged(path))
    if whole:
        raise UserError(
            f"more has trained than an adapter holds ({len(whole)} arrays, such as {whole[0]}): export it as llava-hf "
            "or safetensors"
        )
    beside = formats.non_lora(config.projector, config.head)
    import_torch(folder / "non_lora_trainables.bin")
    sources = model.about["sources"]
    is_hf = _is_hugging_faces(model)
    lora = outgoing(
        model, formats.peft("none", "none", in_llava=is_hf), dtype, {p for p in model.shapes if model.is_merged(p)}
    )
    others = outgoing(model, beside, dtype, {p for p in model.shapes if not p.startswith(BASE_PARTS)})
    write(lora, folder / "adapter_model.safetensors")
    write_torch({name: tensor.read() for name, tensor in others.items()}, folder / "non_lora_trainables.bin")
    under = "" if model.about["merged_lora"] else sources.get("decoder", sources.get("llava", ""))
    rows = {name: [config.decoder.number_row] for path, name in ROWS.items() if path in model.shapes}
    described = hf_config.lora_to_json(config.lora, base_model=under, in_llava=is_hf, rows=rows)
    write_json(folder / "adapter_config.json", described)
    stored = model.dtype("decoder/embedding").name
    tower, aspect_ratio = sources.get("vision", sources.get("llava", "")), model.about["image_aspect_ratio"]
    described = hf_config.reference_to_json(config, vision_tower=tower, dtype=stored, aspect_ratio=aspect_ratio)
    write_json(folder / "config.json", described | about_text(model))
    save_companions(model, folder)
    return len(lora) + len(others)


def _is_hugging_faces(model: ModelToExport) -> bool:
    """Whether the base came from a LlavaForConditionalGeneration, in which the decoder is a part with its own name."""
    file = paths.to_path(model.base or "") / base_folder.SOURCES / "llava" / "config.json"
    return bool(model.base) and file.is_file() and "vision_config" in read_json(file)


def _export_safetensors(model: ModelToExport, folder: Path, dtype: str) -> int:
    """What was trained, under our own names, and the model that it belongs to."""
    tensors = {
        path: Outgoing(model.shapes[path], _dtype(model, path, dtype), lambda path=path: model.read(path))  # type: ignore[misc]
        for path in sorted(model.trained)
    }
    write(tensors, folder / "trained.safetensors")
    write_json(folder / base_folder.MODEL_FILE, {"config": base_folder.config_to_json(model.config), **model.about})
    save_companions(model, folder)
    return len(tensors)


def _export_llava_hf(model: ModelToExport, folder: Path, dtype: str) -> int:
    """LoRA merged; the float head in a file of its own, as Hugging Face's model has none."""
    config = model.config
    if config.second_vision is not None:
        raise UserError("LlavaForConditionalGeneration has one image tower and this model two: export it as parts")
    if not config.vision.num_blocks:
        raise UserError(
            "the features come before the first vision block, which LlavaForConditionalGeneration can't say"
        )
    chosen = dtype if dtype != KEEP else model.dtype("decoder/embedding").name
    body = {path for path in model.shapes if not path.startswith("float_head/") and not model.is_merged(path)}
    post_norms = config.decoder.post_norms
    weight_format = formats.llava_hf(config.projector, type_of(config.vision), post_norms=post_norms)
    tensors = outgoing(model, weight_format, chosen, body)
    image_token, vocab_size = _add_image_token(model, tensors)
    tensors |= _identities(model, np.dtype(_named(chosen)))
    write_sharded(tensors, folder)
    if config.has_float_head:
        head = {path for path in model.shapes if path.startswith("float_head/")}
        beside = outgoing(model, formats.float_head(config.head), KEEP, head)
        write(beside, folder / formats.FLOAT_HEAD_FILE)
    described = hf_config.llava_to_json(config, vocab_size=vocab_size, image_token=image_token, dtype=chosen)
    described["text_config"] |= about_text(model)
    write_json(folder / "config.json", described)
    aspect_ratio = model.about["image_aspect_ratio"]
    copy_licences(model, folder)
    save_companions(model, folder)
    settings = model.tokenizer.settings() if model.tokenizer else {}
    processors = hf_config.processor_to_json(
        config, image_token=image_token, aspect_ratio=aspect_ratio, tokenizer=settings
    )
    for name, value in processors.items():
        write_json(folder / name, value)
    return len(tensors)


FORMATS: Mapping[str, Callable[[ModelToExport, Path, str], int]] = {
    "peft": _export_peft,
    "llava-hf": _export_llava_hf,
    "safetensors": _export_safetensors,
}


def outgoing(model: ModelToExport, source: WeightFormat, dtype: str, paths: set[str]) -> dict[str, Outgoing]:
    """A table's names for these paths, LoRA merged into kernels."""
    shapes = {path: shape for path, shape in model.shapes.items() if path in paths}
    absent = sorted(set(shapes) - source.paths())
    if absent:
        raise AssertionError(f"the table of {source.name} lacks {absent}")

    def one(rule: Rule, layer: int | None) -> Outgoing:
        ours = shapes[rule.ours] if layer is None else shapes[rule.ours][1:]
        chosen = _dtype(model, rule.ours, dtype)

        def read() -> np.ndarray:
            return rule.layout.to_theirs(model.read_merged(rule.ours, layer).astype(chosen))

        return Outgoing(rule.layout.their_shape(ours), chosen, read)

    return {name: one(rule, layer) for name, (rule, layer) in source.names(shapes).items()}


def _dtype(model: ModelToExport, path: str, dtype: str) -> np.dtype:
    return model.dtype(path) if dtype == KEEP else _named(dtype)


def _named(dtype: str) -> np.dtype:
    return np.dtype(jnp.dtype(dtype))


def _add_image_token(model: ModelToExport, tensors: dict[str, Outgoing]) -> tuple[int, int]:
    """(id of the image's placeholder, rows of the embedding).

    The first id that the tokenizer does not use; where there is none, one row more in embedding and head: the mean of
    the others, whose logit never exceeds the largest, so that greedy decoding never writes it.
    """
    rows = model.config.decoder.vocab_size
    used = model.tokenizer.vocab_size if model.tokenizer else rows
    if used < rows:
        return used, rows
    for name in (name for name in tensors if name.endswith(("embed_tokens.weight", "lm_head.weight"))):
        tensors[name] = _with_mean_row(tensors[name])
    return rows, rows + 1


def _with_mean_row(tensor: Outgoing) -> Outgoing:
    def read() -> np.ndarray:
        array = tensor.read()
        mean = array.astype(np.float32).mean(axis=0, keepdims=True)
        return np.concatenate([array, mean.astype(array.dtype)])

    return replace(tensor, shape=(tensor.shape[0] + 1, tensor.shape[1]), read=read)


def skipped_norm(tower: VisionConfig, prefix: str, dtype: np.dtype) -> dict[str, Outgoing]:
    """Hugging Face's towers end with a norm, which the features skip."""
    norm = "layernorm" if tower.layer_scale else "vision_model.post_layernorm"
    return {
        f"{prefix}{norm}.weight": Outgoing((tower.width,), dtype, lambda: np.ones(tower.width, dtype)),
        f"{prefix}{norm}.bias": Outgoing((tower.width,), dtype, lambda: np.zeros(tower.width, dtype)),
    }


def _identities(model: ModelToExport, dtype: np.dtype) -> dict[str, Outgoing]:
    """What Hugging Face's model has and ours does not: a norm that is skipped, and the second projection of a projector
    that is a single one."""
    found, width = skipped_norm(model.config.vision, "vision_tower.", dtype), model.config.decoder.width
    if model.config.projector == "linear":
        second = "multi_modal_projector.linear_2"
        found[f"{second}.weight"] = Outgoing((width, width), dtype, lambda: np.eye(width, dtype=dtype))
        found[f"{second}.bias"] = Outgoing((width,), dtype, lambda: np.zeros(width, dtype))
    return found


def copy_licences(model: ModelToExport, folder: Path) -> None:
    """Those of everything that is in the weights; the decoder's under their own names, others with theirs before it."""
    for role in ("decoder", "llava", "vision", "second_vision", "adapter", "projector") if model.base else ():
        for name, file in licence_files(paths.to_path(model.base or "") / base_folder.SOURCES / role).items():
            copy_files({name if role in ("decoder", "llava") else f"{role}-{name}": file}, folder)


def save_companions(model: ModelToExport, folder: Path) -> None:
    """The tokenizer, and the language that the model writes."""
    if model.tokenizer:
        model.tokenizer.save(folder)
    if model.language:
        model.language.save(folder)


def about_text(model: ModelToExport) -> dict[str, Any]:
    """Settings that our model does not have: the tokenizer's ids and, where the base said so, the longest text and what
    fills rows."""
    ids = model.tokenizer
    found: dict[str, Any] = {"bos_token_id": ids.bos_id} if ids else {}
    found |= {"eos_token_id": ids.eos_id if len(ids.end_ids) == 1 else list(ids.end_ids)} if ids else {}
    for role in ("decoder", "llava"):
        file = paths.to_path(model.base or "") / base_folder.SOURCES / role / "config.json"
        config = read_json(file) if model.base and file.is_file() else {}
        config = config.get("text_config", config)
        found |= {key: config[key] for key in ("max_position_embeddings", "pad_token_id") if key in config}
    return found


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
