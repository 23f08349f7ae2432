"""Importing: what sources.py found is written as a base-weights folder, one tensor at a time."""

import fnmatch
import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igllm_jax import files, progress
from igllm_jax.data.tokens import JSON_FILE, MODEL_FILE, Tokenizer
from igllm_jax.data.tokens import find_tokenizer as tokenizer_in
from igllm_jax.errors import UserError
from igllm_jax.interop.formats import TIED_HEAD
from igllm_jax.interop.rules import Tensor
from igllm_jax.interop.sources import KEEP, ImportPlan, ImportRequest, make_plan
from igllm_jax.models import lora, number_row
from igllm_jax.models.lora import LoRAConfig, is_lora
from igllm_jax.models.vlm import skeleton
from igllm_jax.scene.language import language_in
from igllm_jax.weights import base_folder
from igllm_jax.weights.base_folder_writer import BaseFolderWriter, copy_files

COPIED = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer*",
    "special_tokens_map.json", "added_tokens.json", "adapter_config.json",
)  # fmt: skip
LICENCES = ("*licen[cs]e*", "notice*", "*use_policy*", "copying*")  # in any mixture of cases


@dataclass(frozen=True)
class ImportAccount:
    """What an import did. tensors, bytes: in the folder, in the end. written: by this run, in `seconds`."""

    tensors: int
    written: int
    bytes: int
    seconds: float
    left_out: Mapping[str, int]
    notes: tuple[str, ...]


def run(request: ImportRequest) -> ImportAccount:
    """Imports into `request.out`, which appears only when it is complete; a second run goes on where one was killed.

    Raises: UserError where the files are not what they have to be; nothing is left behind then.
    """
    start = time.monotonic()
    files.check_absent(request.out)
    plan = make_plan(request)
    check_tied(plan)
    tokenizer = find_tokenizer(request, plan)
    shapes = target_shapes(plan, request.dtype)
    written, wanted = 0, in_file_order(plan)
    with BaseFolderWriter(request.out, shapes, _identity(plan, request, tokenizer)) as writer:
        todo = [tensor for tensor in wanted if not writer.is_done(tensor.path, tensor.layer)]
        counted = iter(progress.track(todo, label="import", unit="tensor"))
        for _, group in itertools.groupby(counted, key=lambda tensor: tensor.info.file):
            for tensor in group:
                dtype = shapes[tensor.path].dtype
                writer.write(tensor.path, tensor.layer, finite_as(read_merged(plan, tensor), dtype, tensor))
                written += 1
            tensor.weights.release(tensor.info.file)
        for role, folder in _folders(request).items():
            copy_files(copied_files(folder), writer.partial / base_folder.SOURCES / role)
        if tokenizer:
            tokenizer.save(writer.partial)
        for language in filter(None, map(language_in, _folders(request).values())):
            language.save(writer.partial)
        writer.finish(plan.config, _about(request, plan, tokenizer))
    seconds = time.monotonic() - start
    return ImportAccount(len(wanted), written, writer.num_bytes, seconds, dict(plan.left_out), tuple(plan.notes))


def check_tied(plan: ImportPlan) -> None:
    """Raises: UserError where files hold a head that differs from the embedding which it is said to be."""
    if TIED_HEAD not in plan.left_out:
        return
    embedding = plan.tensors["decoder/embedding", None]
    heads = [name for name in embedding.weights.infos if name.endswith("lm_head.weight")]
    rows = embedding.read()
    for name in heads:
        if not np.array_equal(rows, embedding.weights.read(name)):
            raise UserError(
                f"{embedding.weights.origin}: {name} differs from {embedding.name}, and config.json says that they are "
                "one: set its tie_word_embeddings to false"
            )


def find_tokenizer(request: ImportRequest, plan: ImportPlan) -> Tokenizer | None:
    """The tokenizer that came along, checked against the embedding and for the float token.

    Without one there is a note: the folder still serves runs that name theirs.
    Raises: UserError where it does not fit, or splits the float token that weights of a float head came with.
    """
    folder = request.llava or request.decoder
    assert folder is not None
    added = request.adapter if plan.adapter is not None and plan.adapter.number_row >= 0 else None
    tokenizer_path = request.tokenizer or (tokenizer_in(added) if added else None) or tokenizer_in(folder)
    if tokenizer_path is None:
        plan.notes.append(
            f"{folder / MODEL_FILE} does not exist, and no {JSON_FILE}, so no tokenizer came along: set tokenizer.path "
            "in configs, or import again with --tokenizer FILE"
        )
        return None
    rows = plan.config.decoder.vocab_size
    whole = Tokenizer.load(tokenizer_path)
    tokenizer = whole.within(rows)
    if tokenizer is not whole:
        plan.notes.append(f"tokenizer {tokenizer.origin}: left out control tokens for which there are no rows")
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"tokenizer {tokenizer.origin} has {tokenizer.vocab_size} pieces and the embedding {rows} rows: "
            "it belongs to another decoder; give the right one as --tokenizer FILE"
        )
    if not request.numbers_as_text:
        try:
            _ = tokenizer.float_id
        except UserError as error:
            if plan.config.has_float_head:
                raise UserError(f"{error}; for a decoder that writes numbers as text add --numbers_as_text") from None
            plan.notes.append(f"tokenizer {tokenizer.origin}: splits the float token: a run adds one, or has head=none")
    return tokenizer


# ---- writing ---------------------------------------------------------------------------------------------------------


def target_shapes(plan: ImportPlan, dtype: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Path -> shape and dtype of what is written: the file's own dtype, or the one asked for.

    Raises: UserError where the layers of one stack have different dtypes, or one that JAX lacks.
    """
    model_skeleton = skeleton(plan.config).shapes
    dtypes: dict[str, dict[str, str]] = {}
    for (path, _), tensor in plan.tensors.items():
        dtypes.setdefault(path, {}).setdefault(tensor.info.dtype.name, tensor.name)
    if dtype == KEEP:
        mixed = {path: found for path, found in dtypes.items() if len(found) > 1 or "float64" in found}
        if mixed:
            path, found = next(iter(mixed.items()))
            told = ", ".join(f"{name} in {kind}" for kind, name in found.items())
            raise UserError(f"{path} can't keep its dtype ({told}; {len(mixed)} such): choose one with --dtype")
    chosen = {path: next(iter(found)) if dtype == KEEP else dtype for path, found in dtypes.items()}
    return {
        path: jax.ShapeDtypeStruct(shape.shape, jnp.dtype(chosen[path]))
        for path, shape in model_skeleton.items()
        if path in chosen
    }


def in_file_order(plan: ImportPlan) -> list[Tensor]:
    """What is written, file by file, so that only one file's pages are in memory."""
    written = [
        tensor
        for tensor in plan.tensors.values()
        if not (is_lora(tensor.path) and not plan.config.lora.rank) and not tensor.path.startswith(number_row.PREFIX)
    ]
    return sorted(written, key=lambda tensor: (str(tensor.info.file), tensor.path, tensor.layer or 0))


def finite_as(array: np.ndarray, dtype: np.dtype, tensor: Tensor) -> np.ndarray:
    """The array in `dtype`. Raises: UserError naming the tensor whose values this dtype can't hold."""
    with np.errstate(over="ignore"):
        cast = array.astype(dtype, copy=False)
    if not np.isfinite(cast).all():
        raise UserError(
            f"{tensor.info.file}: {tensor.name} has values that {dtype.name} can't hold; choose another --dtype"
        )
    return cast


def _check_finite(array: np.ndarray, what: str) -> np.ndarray:
    if not np.isfinite(array).all():
        raise UserError(f"{what} holds values that are not finite (NaN or infinity): nothing can be written with it")
    return array


def read_merged(plan: ImportPlan, tensor: Tensor) -> np.ndarray:
    """A tensor's values; a kernel with its LoRA update where the folder keeps none apart, a table with the rows of an
    added token.

    Raises: UserError naming a tensor that is not finite, as it is in the file or once it is merged.
    """
    array = _with_rows(plan, tensor.path, _read_finite(tensor))
    prefix = tensor.path.removesuffix("/kernel")
    a, b = (plan.tensors.get((f"{prefix}/lora_{side}", tensor.layer)) for side in "ab")
    if plan.config.lora.rank or a is None or b is None:
        return array
    config = plan.lora if tensor.layer is None else plan.module_lora.get((prefix, tensor.layer), plan.lora)
    merged = merge_kernel(array, _read_finite(a), _read_finite(b), config)
    return _check_finite(merged, f"{tensor.info.file}: {tensor.name}, merged with its LoRA,")


def _with_rows(plan: ImportPlan, path: str, array: np.ndarray) -> np.ndarray:
    """A table of the vocabulary with what the adapter has of it."""
    for row, (of, axis) in number_row.TABLES.items():
        found = plan.tensors.get((row, None))
        if of == path and found is not None and plan.adapter is not None:
            whole = number_row.with_more_rows(jnp.asarray(array), plan.config.decoder.vocab_size, axis)
            array = np.asarray(number_row.with_row(whole, _read_finite(found), plan.adapter.number_row, axis))
    return array


def _read_finite(tensor: Tensor) -> np.ndarray:
    return _check_finite(tensor.read(), f"{tensor.info.file}: {tensor.name}")


def merge_kernel(kernel: np.ndarray, a: np.ndarray, b: np.ndarray, config: LoRAConfig) -> np.ndarray:
    """One layer's kernel with its update, in the kernel's dtype."""
    parts = {"kernel": kernel, "lora_a": a, "lora_b": b}
    with jax.default_matmul_precision("highest"):
        merged = lora.merge({f"projection/{name}": jnp.asarray(value) for name, value in parts.items()}, config)
    return np.asarray(merged["projection/kernel"])


def _folders(request: ImportRequest) -> dict[str, Path]:
    folders = {role: getattr(request, role) for role in ("vision", "second_vision", "decoder", "llava", "adapter")}
    folders["projector"] = request.projector if request.projector and request.projector.is_dir() else None
    return {role: folder for role, folder in folders.items() if folder}


def copied_files(folder: Path) -> dict[str, Path]:
    """Name -> file of the config, tokenizer and licence files in a folder."""
    return _named(folder, COPIED) | licence_files(folder)


def licence_files(folder: Path) -> dict[str, Path]:
    """Name -> file of a folder's licences and notices."""
    return _named(folder, LICENCES)


def _named(folder: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    is_one = [any(fnmatch.fnmatchcase(path.name.lower(), pattern) for pattern in patterns) for path in files]
    return {path.name: path for path, wanted in zip(files, is_one, strict=True) if wanted}


def _identity(plan: ImportPlan, request: ImportRequest, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What has to be the same for a second run to go on with what a first one left."""
    files = {json.dumps(stat) for tensor in plan.tensors.values() for stat in tensor.weights.fingerprint()}
    return {
        "config": base_folder.config_to_json(plan.config),
        "lora": asdict(plan.adapter or plan.lora),
        "files": sorted(files),
        "dtype": request.dtype,
        "tokenizer": tokenizer.fingerprint if tokenizer else None,
    }


def _about(request: ImportRequest, plan: ImportPlan, tokenizer: Tokenizer | None) -> dict[str, Any]:
    sources = {**_folders(request), "projector": request.projector}
    return {
        "sources": {role: str(path) for role, path in sources.items() if path},
        "merged_lora": asdict(plan.lora) if request.merge_lora else None,
        "tokenizer": tokenizer.fingerprint if tokenizer else None,
        "image_aspect_ratio": plan.aspect_ratio,
        "left_out": dict(plan.left_out),
        "notes": plan.notes,
    }
