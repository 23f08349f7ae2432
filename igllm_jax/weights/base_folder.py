"""The base-weights folder: a model's config, weights and tokenizer, to be named by `model.base` and read by Orbax.

DIR/model.json       the VLMConfig, where the weights came from, what was left out
DIR/weights/         an Orbax checkpoint, nested by path, layers stacked, one chunked array each
DIR/tokenizer.model  and, under DIR/sources/, the config, tokenizer and licence files that came along
"""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from etils import epath

from igllm_jax import files, versions
from igllm_jax.data.stores import store_spec
from igllm_jax.errors import UserError
from igllm_jax.models.params import Params, nest, unnest
from igllm_jax.models.vlm import VLMConfig
from igllm_jax.paths import FilePath, absolute, fetch, to_path
from igllm_jax.weights.background import hush_failures

MODEL_FILE = "model.json"
WEIGHTS = "weights"
SOURCES = "sources"
GROUP_BYTES = 2**30
FolderPath = str | FilePath  # a folder, or a bucket's such as gs://bucket/base


def is_base(folder: FolderPath) -> bool:
    """Whether a folder is one of base weights, and no run's."""
    return (to_path(folder) / MODEL_FILE).is_file()


def read_config(folder: FolderPath) -> VLMConfig:
    """The model in a base folder. Its head is "none", and its LoRA rank 0, where the folder brings none.

    Raises: UserError where the folder is no base folder, or of another format.
    """
    return config_from_json(read_model(folder)["config"], to_path(folder) / MODEL_FILE)


def read_model(folder: FolderPath) -> dict[str, Any]:
    """model.json: format, config (under today's keys, whatever version wrote it), sources, notes.

    Raises: UserError where the folder is no base folder, or of a later format.
    """
    path = files.check_finished(to_path(folder)) / MODEL_FILE
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no folder of base weights: it has no {MODEL_FILE}; tools/convert_weights.py import makes one"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read ({error}): import the weights again") from None
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise UserError(f"{path} does not describe a model: import the weights again")
    written = versions.check_format(found, path)
    flat = versions.upgrade(versions.flatten({"model": found["config"]}), written, _config_keys())
    return {**found, "config": versions.unflatten(flat.items()).get("model", {})}


def _config_keys() -> set[str]:
    """The fields of VLMConfig as keys of configs/common.py."""
    keys: set[str] = set()
    for field in dataclasses.fields(VLMConfig):
        part: Any = field.type
        names = [f".{inner.name}" for inner in dataclasses.fields(part)] if dataclasses.is_dataclass(part) else [""]
        keys |= {f"model.{field.name}{name}" for name in names}
    return keys


def aspect_ratio(folder: FolderPath) -> str:
    """How the model saw its images made square: "pad" or "square"."""
    return str(read_model(folder).get("image_aspect_ratio", "pad"))


def config_to_json(config: VLMConfig) -> dict[str, Any]:
    """The config as JSON-ready values."""
    return dataclasses.asdict(config)


def config_from_json(values: Mapping[str, Any], where: object) -> VLMConfig:
    """The inverse of `config_to_json`. Raises: UserError for unknown or missing keys, and for values that can't be."""
    try:
        return VLMConfig.of(values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where} does not describe a model of this version ({error}): import the weights again"
        ) from None


def paths(folder: FolderPath) -> Params:
    """Path -> ShapeDtypeStruct of everything that the folder holds; nothing is loaded."""
    read_model(folder)
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.metadata(_weights(folder)).item_metadata.tree
    except Exception as error:  # Orbax trusts its files: damage ends in whatever it meets first
        raise UserError(
            f"{folder} holds no readable weights ({type(error).__name__}: {error}): import them again"
        ) from None
    return {path: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype) for path, leaf in unnest(tree).items()}


def restore(folder: FolderPath, shapes: Mapping[str, Any]) -> Params:
    """Path -> jax.Array for the paths asked for, and only those.

    shapes: path -> ShapeDtypeStruct. The array comes in its dtype (cast while it is read) and on its sharding, each
    process reading what its devices hold; without a sharding on the default device.
    Raises: UserError listing the paths that are not there or have another shape.
    """
    stored = paths(folder)
    check_shapes(folder, stored, shapes)
    default = jax.numpy.zeros(()).sharding  # where this process puts what has no sharding
    sharded = {
        path: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=getattr(shape, "sharding", None) or default)
        for path, shape in shapes.items()
    }
    found: Params = {}
    # the handler itself: a Checkpointer asks buckets for a mark of Orbax's own, which a copied folder does not have
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        for group in _groups(sharded):
            item = nest({path: sharded[path] for path in group})
            restore_args = ocp.checkpoint_utils.construct_restore_args(item)
            arguments = ocp.args.PyTreeRestore(item, restore_args=restore_args, partial_restore=True)
            with _told_as_damage(folder):
                found |= unnest(handler.restore(_weights(folder), args=arguments))
    return {path: found[path] for path in shapes}


def _groups(shapes: Mapping[str, Any]) -> list[list[str]]:
    """Paths in groups of GROUP_BYTES, or of one larger array: Orbax holds everything it reads at once twice."""
    groups: list[list[str]] = []
    free = 0
    for path, shape in shapes.items():
        size = math.prod(shape.shape) * shape.dtype.itemsize
        if size > free:
            groups.append([])
            free = max(GROUP_BYTES, size)
        groups[-1].append(path)
        free -= size
    return groups


def read_array(folder: FolderPath, path: str, layer: int | None = None) -> np.ndarray:
    """One array, or one layer of a stacked one, in the stored dtype."""
    with _told_as_damage(folder):
        array = tensorstore.open(array_spec(folder, path), open=True, read=True).result()
        return np.asarray((array if layer is None else array[layer]).read().result())


@contextlib.contextmanager
def _told_as_damage(folder: FolderPath) -> Iterator[None]:
    """A file that is absent or cut short (half a copy) in one line. Orbax wraps tensorstore's ValueError in a bare
    Exception."""
    hush_failures()
    try:
        yield
    except Exception as error:
        cause = error.__cause__ if type(error) is Exception else error
        if not isinstance(cause, ValueError) or isinstance(cause, UserError):
            raise
        told = str(cause).partition("\n")[0][:300]
        raise UserError(f"base weights {folder} are not whole ({told}): copy or import them again") from error


def array_spec(folder: FolderPath, path: str) -> dict[str, Any]:
    """Where tensorstore finds the array of a path: the layout that Orbax reads and writes without OCDBT."""
    kvstore = store_spec(f"{_weights(folder) / path.replace('/', '.')}/")
    return {"driver": "zarr", "kvstore": kvstore, "fill_missing_data_reads": False}  # zeros would go unnoticed


def orbax_metadata(shapes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """File name -> JSON: what stands beside the arrays, so that Orbax opens them as a checkpoint."""
    tree = {
        str(tuple(path.split("/"))): {
            "key_metadata": [{"key": key, "key_type": 2} for key in path.split("/")],  # 2: a key of a dictionary
            "value_metadata": {
                "value_type": "jax.Array",
                "skip_deserialize": False,
                "write_shape": list(shape.shape),
            },
        }
        for path, shape in shapes.items()
    }
    described = {
        "tree_metadata": tree,
        "use_ocdbt": False,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }
    handler = "orbax.checkpoint._src.handlers.pytree_checkpoint_handler.PyTreeCheckpointHandler"
    about = {"item_handlers": handler, "metrics": {}, "performance_metrics": {}, "custom_metadata": {}}
    return {"_METADATA": described, "_CHECKPOINT_METADATA": about}


def _weights(folder: FolderPath) -> epath.Path:
    if str(folder).startswith("s3://"):  # Orbax and tensorstore ask Amazon alone, whatever AWS_ENDPOINT_URL says
        folder = fetch(folder)
    return epath.Path(os.fspath(absolute(folder))) / WEIGHTS


def check_shapes(folder: FolderPath, stored: Mapping[str, Any], shapes: Mapping[str, Any]) -> None:
    """stored: `paths(folder)`. Raises: UserError listing the paths that are not there or have another shape."""
    missing = [path for path in shapes if path not in stored]
    wrong = [
        f"{path} {list(shape.shape)} instead of {list(stored[path].shape)}"
        for path, shape in shapes.items()
        if path in stored and tuple(shape.shape) != tuple(stored[path].shape)
    ]
    if missing or wrong:
        told = [f"not there: {', '.join(missing)}"] if missing else []
        told += [f"asked for in another shape: {', '.join(wrong)}"] if wrong else []
        raise UserError(f"base weights {folder}: {'; '.join(told)}; take the model settings of its {MODEL_FILE}")
