"""Kinds of weight files: safetensors, torch's, the folders of others with their configs, base folders, checkpoints."""

import json
import re
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from igllm_jax.errors import UserError
from igllm_jax.interop.files import open_weights, write_torch
from igllm_jax.interop.importing import find_tokenizer, finite_as, in_file_order, read_merged, run, target_shapes
from igllm_jax.interop.sources import ImportPlan, ImportRequest, make_plan
from igllm_jax.models.params import nest, unnest
from igllm_jax.training.state import TrainState, initial_state
from igllm_jax.weights import base_folder, checkpoint
from igllm_jax.weights.checkpoint import Checkpoints
from tests import small
from tests.hostile import mutate, mutate_files
from tests.hostile.kinds import Kind, files_below
from tests.hostile.mutate import Files
from tests.interop import made
from tests.training.test_step import OPTIONS

# files of tensors


def _arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((3, 5)).astype(np.float32) for name in ("a.weight", "b.weight", "c.bias")}


def _safetensors(folder: Path) -> Files:
    from safetensors.numpy import save_file

    save_file(_arrays(), folder / "model.safetensors")
    return files_below(folder)


def _shards(folder: Path) -> Files:
    from safetensors.numpy import save_file

    names = {name: f"model-0000{number}-of-00003.safetensors" for number, name in enumerate(_arrays(), 1)}
    for name, file in names.items():
        save_file({name: _arrays()[name]}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return files_below(folder)


def _read_weights(folder: Path) -> dict[str, np.ndarray]:
    weights = open_weights(folder)
    return {name: weights.read(name) for name in weights.infos}


def _safetensors_differ(folder: Path, found: dict[str, np.ndarray]) -> str:
    """The safetensors package reads the same, bit for bit, where it reads anything."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    files = sorted(folder.glob("*.safetensors"))
    if (folder / "model.safetensors.index.json").is_file():
        named = json.loads((folder / "model.safetensors.index.json").read_bytes())["weight_map"]
        files = [folder / name for name in sorted(set(named.values()))]
    try:
        wanted = {name: array for file in files for name, array in load_file(file).items()}
    except SafetensorError:  # it refuses files with bytes of no tensor, which take nothing from those that are there
        return ""
    return _differ(found, wanted)


def _differ(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> str:
    is_same = found.keys() == wanted.keys() and all(
        found[name].shape == array.shape and found[name].tobytes() == array.tobytes() for name, array in wanted.items()
    )
    return "" if is_same else "other tensors"


_TORCH_FILES = ("new.bin", "old.bin")


def _torch(folder: Path) -> Files:
    """Both of torch's formats."""
    import torch

    arrays = {**_arrays(), "d.half": _arrays()["a.weight"].astype(np.float16)}
    write_torch(arrays, folder / "new.bin")
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save(
        {**tensors, "e": torch.ones(3, dtype=torch.bfloat16)}, folder / "old.bin", _use_new_zipfile_serialization=False
    )
    return files_below(folder)


def _read_torch(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    found = {}
    for file in _TORCH_FILES:
        weights = open_weights(folder / file)
        found[file] = {name: weights.read(name) for name in weights.infos}
    return found


def _torch_differ(folder: Path, found: dict[str, dict[str, np.ndarray]]) -> str:
    """Torch, without mapping the file; and Python's own reader of zips, which looks at checksums."""
    import torch

    for file, arrays in found.items():
        try:
            wanted = torch.load(folder / file, map_location="cpu", weights_only=True)
        except (RuntimeError, ValueError) as error:
            return f"torch refuses {file}: {str(error)[:30]}"
        numbers = {
            name: tensor.contiguous().view(torch.uint8).numpy() for name, tensor in wanted.items() if tensor.ndim
        }
        if _differ({name: arrays[name].view(np.uint8) for name in numbers}, numbers):
            return f"other tensors in {file}"
        if file == "new.bin" and zipfile.ZipFile(folder / file).testzip():
            return "bytes that are not what was written"
    return ""


# folders of others


@cache
def _model() -> Any:
    return made.model(layers=2)


def _folders(folder: Path) -> Files:
    for make in (made.vision, made.decoder, made.adapter):
        make(folder / make.__name__, _model(), made.params(_model()))
    return files_below(folder)


def _import(folder: Path) -> ImportPlan:
    """Everything of an import but the writing."""
    parts = {name: folder / name for name in ("vision", "decoder", "adapter")}
    try:
        plan = make_plan(request := ImportRequest(out=folder / "out", **parts))
    except UserError as error:
        if "add --merge_lora" not in str(error):
            raise
        plan = make_plan(request := ImportRequest(out=folder / "out", merge_lora=True, **parts))
    find_tokenizer(request, plan)
    shapes = target_shapes(plan, "keep")
    for tensor in in_file_order(plan):
        finite_as(read_merged(plan, tensor), shapes[tensor.path].dtype, tensor)
    base_folder.config_from_json(json.loads(json.dumps(base_folder.config_to_json(plan.config))), folder)
    return plan


_DECODER_KEYS = {
    "vocab_size": "vocab_size", "hidden_size": "width", "intermediate_size": "mlp_width",
    "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads", "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim", "rms_norm_eps": "rms_norm_epsilon", "tie_word_embeddings": "tie_embeddings",
}  # fmt: skip
_VISION_KEYS = {
    "hidden_size": "width", "intermediate_size": "mlp_width", "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads", "image_size": "image_size", "patch_size": "patch_size",
    "hidden_act": "activation", "layer_norm_eps": "layer_norm_epsilon",
}  # fmt: skip


_MAY_BE_0 = ("local_rope_theta", "query_scalar", "attention_softcap", "logit_softcap")  # which says that there is none


def _import_differs(folder: Path, plan: ImportPlan) -> str:
    """What the plan says is what stands in the files, and float32 can hold it."""
    for part, keys, config in (
        ("decoder", _DECODER_KEYS, plan.config.decoder),
        ("vision", _VISION_KEYS, plan.config.vision),
    ):
        values = json.loads((folder / part / "config.json").read_bytes())
        for key, ours in keys.items():
            if values.get(key) is not None and getattr(config, ours) != values[key]:
                return f"another {key}"
        numbers = [
            value
            for field, value in vars(config).items()
            if isinstance(value, float) and (value or field not in _MAY_BE_0)
        ]
        if not all(0 < np.float32(number) < np.inf for number in numbers):
            return f"numbers of {part} that float32 can't hold"
    image = json.loads((folder / "vision" / "preprocessor_config.json").read_bytes())
    for key in ("image_mean", "image_std"):
        if key in image and list(getattr(plan.config.vision, key)) != image[key]:
            return f"another {key}"
    adapter = json.loads((folder / "adapter" / "adapter_config.json").read_bytes())
    is_plain = plan.adapter is not None and plan.adapter.is_uniform and not adapter.get("use_rslora")
    if is_plain and (plan.lora.rank, plan.lora.alpha) != (adapter["r"], adapter["lora_alpha"]):
        return "another LoRA"
    return "" if np.isfinite(np.float32(plan.lora.alpha)) else "a scale that float32 can't hold"


def _base(folder: Path) -> Files:
    _folders(folder / "from")
    parts = {name: folder / "from" / name for name in ("vision", "decoder", "adapter")}
    run(ImportRequest(out=folder / "base", **parts))
    return {name: content for name, content in files_below(folder).items() if name.startswith("base/")}


def _read_base(folder: Path) -> dict[str, np.ndarray]:
    base = folder / "base"
    base_folder.read_config(base), base_folder.aspect_ratio(base)
    return {path: np.asarray(array) for path, array in base_folder.restore(base, base_folder.paths(base)).items()}


# checkpoints


@cache
def _state() -> TrainState:
    """Few arrays, of every kind that a state has."""
    params = {path: value for path, value in small.params(small.model()).items() if "/q/lora_" in path}
    return jax.device_put(initial_state(nest(params), OPTIONS), jax.devices()[0])


def _state_at(step: int) -> TrainState:
    changed = jax.tree.map(lambda array: array + array.dtype.type(step), (_state().params, _state().optimizer))
    return TrainState(jax.device_put(np.int32(step), jax.devices()[0]), *changed)


_STEPS = {3: 0.1, 6: 0.2}  # step -> score


def _checkpoints(folder: Path) -> Files:
    checkpoints = Checkpoints(folder, keep=2)
    for step, score in _STEPS.items():
        checkpoints.save(_state_at(step), {"seed": 5}, score)
    checkpoints.close()
    return files_below(folder)


def _restore(folder: Path, step: int) -> TrainState:
    checkpoints = Checkpoints(folder, keep=2)
    try:
        return checkpoints.restore(step, _state())[0]
    finally:
        checkpoints.close()


def _resume(folder: Path) -> dict[str, TrainState | Any]:
    """As a resumed run, `generate` and a notebook read the last step; where that is refused, as the message says."""
    found: dict[str, Any] = {}
    refused: list[UserError] = []
    step = checkpoint.find_step(folder, "last")
    for name, use in (
        ("params", lambda: checkpoint.load_params(folder)),
        ("state", lambda: _restore(folder, step)),
        ("meta", lambda: checkpoint.read_meta(folder)),
    ):
        try:
            found[name] = (step, use())
        except UserError as error:
            refused.append(error)
    for choice in ("best",):
        try:
            best = checkpoint.find_step(folder, choice)
            found[choice] = (best, checkpoint.load_params(folder, best))
        except UserError:
            pass
    for error in refused:
        _check_way(folder, step, str(error))
    if refused:
        raise refused[0]
    return found


def _check_way(folder: Path, step: int, said: str) -> None:
    """The step that a message offers can be taken; where it offers none, there is none that can be read with and
    without its shapes."""
    offered = re.search(r"take it with --step (\d+)", said)
    if offered:
        _restore(folder, int(offered[1]))
        return
    for other in _STEPS:
        if "is damaged" in said and other != step:
            try:
                _restore(folder, other)
                with ocp.PyTreeCheckpointer() as reader:
                    for name in checkpoint.ARRAYS:
                        reader.restore(folder / checkpoint.FOLDER / str(other) / name)
                        assert reader.metadata(folder / checkpoint.FOLDER / str(other) / name).item_metadata is not None
            except Exception:  # of Orbax, of every kind
                continue
            raise AssertionError(f"step {other} is whole and not offered")


def _resumed_differ(folder: Path, found: dict[str, Any]) -> str:
    for name, (step, value) in found.items():
        wanted = _state_at(step)
        if name == "meta":
            if value != {"seed": 5, "step": step}:
                return "another meta"
            continue
        pairs = [(unnest(value.params if name == "state" else value), unnest(wanted.params))]
        if name == "state":
            pairs.append(tuple(dict(enumerate(jax.tree.leaves(s.optimizer))) for s in (value, wanted)))
        for ours, theirs in pairs:
            if ours.keys() != theirs.keys() or not all(np.array_equal(ours[key], theirs[key]) for key in theirs):
                return f"other arrays ({name})"
    return ""


def _is_config(name: str) -> bool:
    return name.endswith("config.json")


WEIGHT_KINDS = {
    "safetensors": Kind(_safetensors, _read_weights, mutate.of_bytes, _safetensors_differ),
    "safetensors shards": Kind(_shards, _read_weights, mutate_files.of_folder, _safetensors_differ),
    "torch files": Kind(_torch, _read_torch, mutate_files.of_zip, _torch_differ, needs="torch"),
    "Hugging Face configs": Kind(_folders, _import, mutate.of_json, _import_differs, _is_config),
    "base folders": Kind(_base, _read_base, mutate_files.of_folder),
    "checkpoint files": Kind(_checkpoints, _resume, mutate_files.of_folder, _resumed_differ),
}
