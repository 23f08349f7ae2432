"""A run's model put together: skeleton, frozen weights and the state that trains."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from igllm_jax.data.tokens import Tokenizer, find_tokenizer
from igllm_jax.errors import UserError
from igllm_jax.models import number_row
from igllm_jax.models.params import Params, Skeleton, nest
from igllm_jax.models.vision import VisionConfig
from igllm_jax.models.vlm import TOWERS, VLMConfig, draw, skeleton
from igllm_jax.parallel.sharding import MeshLayout
from igllm_jax.training import optim
from igllm_jax.training.options import RunOptions
from igllm_jax.training.state import TrainState, initial_state
from igllm_jax.weights import base_folder


@dataclass(frozen=True)
class RunModel:
    """model: what it is. skeleton: its parameters by name. frozen, trainable: the shapes of both kinds by path, with
    shardings and dtypes (frozen in `frozen_dtype`, trainable in float32)."""

    model: VLMConfig
    skeleton: Skeleton
    frozen: Params
    trainable: Params
    optim: optim.OptimOptions
    seed: int
    base: str
    layout: MeshLayout

    @classmethod
    def of(cls, options: RunOptions, layout: MeshLayout) -> "RunModel":
        """Checks the model against its base weights; allocates nothing.

        Raises: UserError where the sizes of the base are not the model's, or an axis can't be sharded.
        """
        model = options.model
        if options.base:
            _check_base(model, options.base)
        model_skeleton = skeleton(model)
        trains = optim.trainable_paths(model_skeleton.shapes, options.optim.trainable)
        shardings = layout.params(model_skeleton.shapes, model_skeleton.axes)

        def typed(path: str, dtype: str) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(model_skeleton.shapes[path].shape, jnp.dtype(dtype), sharding=shardings[path])

        frozen = {path: typed(path, options.frozen_dtype) for path in model_skeleton.shapes if path not in trains}
        trainable = {path: typed(path, "float32") for path in model_skeleton.shapes if path in trains}
        return cls(model, model_skeleton, frozen, trainable, options.optim, options.seed, options.base, layout)

    def check_base(self) -> list[str]:
        """Compares the shapes of all arrays of the base with the model's; reads none. Returns the paths of frozen ones
        that the base lacks, which are drawn from the seed.

        Raises: UserError listing those that have another shape.
        """
        stored = base_folder.paths(self.base) if self.base else {}
        wanted = {**self.frozen, **self.trainable}
        base_folder.check_shapes(self.base, stored, self._as_stored(wanted, stored))
        return [path for path in self.frozen if path not in stored]

    def load_frozen(self) -> Params:
        """Frozen weights: from the base, or drawn from the seed."""
        return self._values(self.frozen)

    def initial_state(self) -> TrainState:
        """Step 0: trainables from the base where it has them, else drawn from the seed."""
        return self.state_of(self.initial_values())

    def initial_values(self) -> Params:
        """The trainables of `initial_state`, by path."""
        return {**self._values(self.trainable), **self._number_rows()}

    def _number_rows(self) -> Params:
        """Where an added token's rows begin: as in the base, or at the mean of its tables where its tokenizer lacks the
        token; {} where none is added, or there is no base."""
        token, stored = self.model.decoder.number_row, base_folder.paths(self.base) if self.base else {}
        found = find_tokenizer(self.base) if stored else None
        is_known = found is not None and Tokenizer.load(found).has_added_number
        rows = {}
        for path, (table, axis) in number_row.TABLES.items():
            if path in self.trainable and table in stored:
                values = self._values({table: self.frozen[table]})[table]
                row = jnp.take(values, token, axis) if is_known else jnp.mean(values, axis, dtype=jnp.float32)
                rows[path] = jax.device_put(row.astype(jnp.float32), self.trainable[path].sharding)
        return rows

    def state_of(self, trainables: Params) -> TrainState:
        """Step 0 of these trainables (float32, by path), sharded as every later state is, so that the step compiles
        once."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state())
        return jax.device_put(initial_state(nest(trainables), self.optim), shardings)

    def abstract_state(self) -> TrainState:
        """Shapes and shardings of the state, for restoring a checkpoint."""
        shapes = jax.eval_shape(lambda params: initial_state(params, self.optim), nest(self.trainable))
        return shard_like(shapes, nest(self.trainable), self.layout)

    def _values(self, wanted: Mapping[str, Any]) -> Params:
        stored = base_folder.paths(self.base) if self.base else {}
        found = base_folder.restore(self.base, self._as_stored(wanted, stored)) if stored else {}
        found = {path: self._with_all_rows(path, value, wanted[path]) for path, value in found.items()}
        drawn = {path: shape for path, shape in wanted.items() if path not in found}
        return {**found, **draw(self.model, drawn, self.seed)}

    def _as_stored(self, wanted: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
        """What of `wanted` the base has; tables of a vocabulary that was added to at their size there, on every device
        whole."""
        found = {}
        for path, shape in wanted.items():
            if path in stored and self._lacks_rows(path, stored[path], shape):
                whole = self.layout.replicated()
                found[path] = jax.ShapeDtypeStruct(stored[path].shape, shape.dtype, sharding=whole)
            elif path in stored:
                found[path] = shape
        return found

    def _lacks_rows(self, path: str, stored: Any, wanted: Any) -> bool:
        """Whether `stored` is the wanted table of fewer tokens."""
        axes = self.skeleton.axes[path]
        if "vocab" not in axes or len(stored.shape) != len(wanted.shape):
            return False
        axis = axes.index("vocab")
        others = [
            (a, b) for number, (a, b) in enumerate(zip(stored.shape, wanted.shape, strict=True)) if number != axis
        ]
        return stored.shape[axis] < wanted.shape[axis] and all(a == b for a, b in others)

    def _with_all_rows(self, path: str, value: jax.Array, wanted: Any) -> jax.Array:
        if value.shape == wanted.shape:
            return value
        axis = self.skeleton.axes[path].index("vocab")
        more = partial(number_row.with_more_rows, size=wanted.shape[axis], axis=axis)
        return jax.jit(more, out_shardings=wanted.sharding)(value)


def shard_like(shapes: TrainState, params: Any, layout: MeshLayout) -> TrainState:
    """Gives every array of a state its sharding: a moment has its parameter's, everything else is replicated."""
    by_path = {tuple(path): leaf.sharding for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def with_sharding(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        ends = (by_path.get(tuple(path[start:])) for start in range(len(path)))
        sharding = next((found for found in ends if found is not None), layout.replicated())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(with_sharding, shapes)


Pairs = list[tuple[str, Any, Any]]  # key, the config's value, the base's


def _pairs(group: str, wanted: Mapping[str, Any], stored: Mapping[str, Any], own_choice: Collection[str]) -> Pairs:
    return [(f"{group}.{key}", wanted.get(key), stored[key]) for key in stored if key not in own_choice]


def _tower_pairs(name: str, wanted: VisionConfig | None, stored: VisionConfig | None) -> Pairs:
    """An image of another size takes the same weights, its positions interpolated."""
    if stored is None:
        return [] if wanted is None else [(f"model.{name}.width", wanted.width, 0)]
    if wanted is None:
        return _pairs(f"model.{name}", {}, vars(stored), ())
    own_choice = ("image_mean", "image_std", "image_size", "position_grid")
    grids: Pairs = [(f"model.{name}.position_grid", wanted.table_grid, stored.table_grid)]
    return grids + _pairs(f"model.{name}", vars(wanted), vars(stored), own_choice)


def _check_base(model: VLMConfig, folder: str) -> None:
    found, held = base_folder.read_config(folder), " ".join(base_folder.paths(folder))
    pairs: Pairs = []
    if "projector/" in held:  # a plain base leaves the choice to the config
        pairs.append(("model.projector", model.projector, found.projector))
    if "/lora_a" in held:
        pairs += [
            (f"model.lora.{key}", getattr(model.lora, key), getattr(found.lora, key)) for key in ("rank", "alpha")
        ]
    for name in TOWERS:
        pairs += _tower_pairs(name, getattr(model, name), getattr(found, name))
    own_choice = {"attention", "remat", "number_row"}
    own_choice |= {"vocab_size"} if model.decoder.vocab_size > found.decoder.vocab_size else set()
    pairs += _pairs("model.decoder", vars(model.decoder), vars(found.decoder), own_choice)
    wrong = [f"--config.{key}={stored}" for key, wanted, stored in pairs if wanted != stored]
    if wrong:
        raise UserError(f"the weights in model.base={folder} have other sizes than the config; give {' '.join(wrong)}")
