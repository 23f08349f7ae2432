"""Where arrays live: meshes, and one table from the model's axis names to mesh axes."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from igllm_jax.errors import UserError
from igllm_jax.parallel import backend

MESH_AXES = ("data", "fsdp", "tensor")
MeshAxes = str | tuple[str, ...] | None
BATCH: MeshAxes = ("data", "fsdp")

_TENSOR: dict[str, MeshAxes] = {"heads": "tensor", "kv_heads": "tensor", "mlp": "tensor", "vocab": "tensor"}
_WHOLE: dict[str, MeshAxes] = dict.fromkeys(
    ("layers", "norm", "rank", "pixels", "embed", "lora_embed", "lora_heads", "lora_kv_heads", "lora_mlp"), None
)
# layout -> axis name -> mesh axes. A name that is missing here is an error.
LAYOUTS: dict[str, dict[str, MeshAxes]] = {
    # every device holds everything; only the batch is sharded
    "replicated": {"batch": BATCH, **dict.fromkeys(_TENSOR, None), **_WHOLE},
    # weights sharded over fsdp (gathered layer by layer) and over tensor; the default for training
    "train": {
        "batch": BATCH,
        **_TENSOR,
        **_WHOLE,
        "embed": "fsdp",
        "lora_embed": "fsdp",
        # without these two LoRA's B alone takes 2 GiB more per chip at 7B
        "lora_heads": ("tensor", "fsdp"),
        "lora_mlp": ("tensor", "fsdp"),
        "lora_kv_heads": ("tensor", "fsdp"),
    },
    # weights sharded over tensor alone: with fsdp every token would gather them all
    "decode": {"batch": BATCH, **_TENSOR, **_WHOLE},
}


def make_mesh(sizes: Mapping[str, int], devices: Sequence[Any] | None = None, slices: int = 1) -> Mesh:
    """A mesh with axes data, fsdp, tensor. One size may be -1: what is left. slices: how many parts, joined by a
    network alone, the devices lie in; the data axis is split over them first, so that nothing else crosses.

    Raises: UserError where the sizes don't fit the number of devices, or the devices lie in other parts.
    """
    devices = backend.devices() if devices is None else devices
    wanted = [int(sizes[axis]) for axis in MESH_AXES]
    spelled = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(MESH_AXES, wanted, strict=True))
    if wanted.count(-1) > 1 or any(size == 0 or size < -1 for size in wanted):
        raise UserError(f"{spelled}: sizes are positive, and at most one is -1 (what is left)")
    known = math.prod(size for size in wanted if size != -1)
    if -1 in wanted:
        if len(devices) % known:
            raise UserError(f"{spelled}: -1 stands for {len(devices)} devices over {known}, which is no whole number")
        wanted[wanted.index(-1)] = len(devices) // known
    if math.prod(wanted) != len(devices):
        raise UserError(f"{spelled} need {math.prod(wanted)} devices in a whole split, but there are {len(devices)}")
    if slices > 1:
        return Mesh(_over_slices(wanted, devices, slices), MESH_AXES, axis_types=(AxisType.Auto,) * 3)
    return jax.make_mesh(tuple(wanted), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def _over_slices(sizes: Sequence[int], devices: Sequence[Any], slices: int) -> np.ndarray:
    """Devices by mesh position. What tells of no slice (a CPU, a GPU) counts as one for each process."""
    data, fsdp, tensor = sizes
    if data % slices:
        raise UserError(f"mesh.data={data} must be a multiple of mesh.slices={slices}: only data is split over slices")
    is_told = len({getattr(device, "slice_index", 0) for device in devices}) > 1
    parts = Counter(device.slice_index if is_told else device.process_index for device in devices)
    if len(parts) != slices or len(set(parts.values())) > 1:
        told = f"{len(parts)} {'slices' if is_told else 'processes'} with {sorted(parts.values())} devices"
        raise UserError(f"mesh.slices={slices}: expected {slices} parts of equal size, but there are {told}")
    return mesh_utils.create_hybrid_device_mesh(
        (data // slices, fsdp, tensor), (slices, 1, 1), devices, process_is_granule=not is_told
    )


@dataclass(frozen=True)
class MeshOptions:
    """layout: a row of LAYOUTS. slices: over which data is split first, see make_mesh. data, fsdp, tensor: sizes of
    the mesh's axes, of which one may be -1 (what is left)."""

    layout: str
    slices: int
    data: int
    fsdp: int
    tensor: int

    @property
    def sizes(self) -> dict[str, int]:
        """Axis -> size."""
        return {axis: getattr(self, axis) for axis in MESH_AXES}

    def on(self, devices: Sequence[Any] | None = None) -> "MeshLayout":
        """The layout on these devices (default: all). Raises: UserError as `make_mesh` and `MeshLayout.of`."""
        return MeshLayout.of(self.layout, make_mesh(self.sizes, devices, self.slices))


@dataclass(frozen=True)
class MeshLayout:
    """A mesh and a row of LAYOUTS; implements `models.axes.ShardingRules`."""

    mesh: Mesh
    rules: Mapping[str, MeshAxes]

    @classmethod
    def of(cls, name: str, mesh: Mesh) -> "MeshLayout":
        if name not in LAYOUTS:
            raise UserError(f"mesh.layout is {name!r}; choose one of {tuple(LAYOUTS)}")
        return cls(mesh, LAYOUTS[name])

    def spec(self, shape: Sequence[int], names: Sequence[str | None], what: str) -> PartitionSpec:
        """The partition of an array whose dimensions are called `names`.

        Raises: UserError naming array, axis and sizes where a dimension can't be sharded, or two dimensions want
        one axis.
        """
        parts: list[MeshAxes] = []
        for size, name in zip(shape, names, strict=True):
            if name is not None and name not in self.rules:
                raise UserError(f"{what}: no layout knows the axis {name!r}; add it to sharding.LAYOUTS")
            axes = None if name is None else self.rules[name]
            ways = math.prod(self.mesh.shape[axis] for axis in _tuple(axes))
            if size % ways:
                raise UserError(
                    f"{what}: axis {name!r} of size {size} can't be sharded in {ways} over mesh axes {_tuple(axes)}; "
                    f"change {' or '.join(f'mesh.{axis}' for axis in _tuple(axes))}"
                )
            parts.append(axes if ways > 1 else None)
        used = [axis for part in parts for axis in _tuple(part)]
        if len(used) != len(set(used)):
            raise UserError(f"{what}: two dimensions of {tuple(names)} want the same mesh axis ({parts})")
        return PartitionSpec(*parts)

    def sharding(self, shape: Sequence[int], names: Sequence[str | None], what: str) -> NamedSharding:
        return NamedSharding(self.mesh, self.spec(shape, names, what))

    def params(self, shapes: Mapping[str, Any], axes: Mapping[str, Sequence[str | None]]) -> dict[str, NamedSharding]:
        """Path -> sharding of every parameter."""
        return {path: self.sharding(shape.shape, axes[path], path) for path, shape in shapes.items()}

    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def for_decoding(self, fits: Callable[["MeshLayout"], bool], most: int = 8) -> "MeshLayout":
        """The same devices with weights sharded over tensor alone: over at most `most` of them (or as many as train's
        tensor axis has), the largest number that `fits`; the others hold replicas and decode other rows."""
        data, fsdp, tensor = (self.mesh.shape[axis] for axis in MESH_AXES)
        for ways in range(max(most // tensor, 1), 0, -1):
            if fsdp % ways:
                continue
            devices = self.mesh.devices.reshape(data * fsdp // ways, 1, tensor * ways)
            found = MeshLayout(Mesh(devices, MESH_AXES, axis_types=(AxisType.Auto,) * 3), LAYOUTS["decode"])
            if ways == 1 or fits(found):
                return found
        raise AssertionError("unreachable: every number is divisible by 1")

    # what models.axes asks for

    def activation(self, x: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
        """Dimensions of size 1 (a row that all others share) stay unsharded."""
        if self.mesh.size == 1:
            return x
        names = tuple(None if size == 1 else name for size, name in zip(x.shape, names, strict=True))
        return jax.lax.with_sharding_constraint(x, self.sharding(x.shape, names, "an activation"))

    def weight(self, x: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
        """Gathered over fsdp, still sharded over tensor."""
        if self.mesh.size == 1:
            return x
        kept = {name: "tensor" if self.rules[name] == "tensor" else None for name in names if name is not None}
        gathered = MeshLayout(self.mesh, kept)
        return jax.lax.with_sharding_constraint(x, gathered.sharding(x.shape, names, "a weight"))

    def per_shard(
        self, function: Callable, inputs: tuple[tuple[str | None, ...], ...], output: tuple[str | None, ...]
    ) -> Callable:
        def wrapped(*arrays: jax.Array) -> jax.Array:
            specs = tuple(self.spec(x.shape, names, "an input") for x, names in zip(arrays, inputs, strict=True))
            out = specs[0] if output == inputs[0] else PartitionSpec(*(self.rules[n] if n else None for n in output))
            return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=out, check_vma=False)(*arrays)

        return wrapped

    # batches

    def rows(self, batch_size: int) -> list[int]:
        """The rows of the global batch that this process's devices hold, ascending.

        Raises: UserError where the batch can't be sharded evenly.
        """
        sharding = self.sharding((batch_size,), ("batch",), "batch_size")
        indices = sharding.addressable_devices_indices_map((batch_size,)).values()
        return sorted({row for index in indices if index for row in range(*index[0].indices(batch_size))})

    def shard(self, batch: Any, batch_size: int) -> Any:
        """Host rows (those of `rows(batch_size)`, in that order) to one global array per leaf of a Batch or a tree."""
        own = self.rows(batch_size)

        def put(x: np.ndarray) -> jax.Array:
            shape = (batch_size, *x.shape[1:])
            sharding = self.sharding(shape, ("batch", *[None] * (x.ndim - 1)), "batch_size")
            if len(own) == batch_size and jax.process_count() == 1:
                return jax.device_put(x, sharding)

            def piece(index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None
                rows = range(*index[0].indices(batch_size))
                return x[own.index(rows[0]) : own.index(rows[-1]) + 1]

            return jax.make_array_from_callback(shape, sharding, piece)

        return jax.tree.map(put, batch)


def one_device() -> MeshLayout:
    backend.devices()
    return MeshLayout.of("decode", make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.local_devices()[:1]))


def layout_for_decoding(tensor: int = 1) -> MeshLayout:
    """All devices: weights sharded over `tensor` of them, replicas on the others, which take other rows.

    Raises: UserError where the devices can't be split so.
    """
    return MeshLayout.of("decode", make_mesh({"data": -1, "fsdp": 1, "tensor": tensor}))


def put(value: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """A host's array as a global one; every process holds all of it and keeps its shard."""
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def _tuple(axes: MeshAxes) -> tuple[str, ...]:
    return () if axes is None else (axes,) if isinstance(axes, str) else axes
