"""What chips can do: one table for plans, for the step log's MFU and for benchmarks.

Sources: for TPUs the "system architecture" page of each generation at cloud.google.com/tpu/docs (v4, v5e, v5p, v6e),
read 2025; for GPUs the vendor's datasheets (dense figures, without sparsity).
"""

from dataclasses import dataclass

from igllm_jax.errors import UserError


@dataclass(frozen=True)
class Chip:
    """One chip as its maker describes it.

    flops: peak bf16 FLOP/s, dense. memory_bandwidth: bytes/s. memory: bytes. link_bandwidth: bytes/s that one chip can
    send to its neighbours over all its links together (ICI, NVLink).
    """

    flops: float
    memory_bandwidth: float
    memory: float
    link_bandwidth: float


GIB = 2**30
# name -> chip. TPU memory is what the compiler grants a program, which is less than what is sold (16, 32, 95, 32 GB).
CHIPS: dict[str, Chip] = {
    "v4": Chip(275e12, 1228e9, 30.75 * GIB, 300e9),
    "v5e": Chip(197e12, 819e9, 15.75 * GIB, 200e9),
    "v5p": Chip(459e12, 2765e9, 95.73 * GIB, 600e9),
    "v6e": Chip(918e12, 1640e9, 31.24 * GIB, 448e9),
    "A100-40GB": Chip(312e12, 1555e9, 40e9, 300e9),
    "A100-80GB": Chip(312e12, 2039e9, 80e9, 300e9),
    "H100": Chip(989e12, 3350e9, 80e9, 450e9),
    "H200": Chip(989e12, 4800e9, 141e9, 450e9),
}
# how a device names itself (jax.Device.device_kind) -> name; the first that is contained decides
KINDS: dict[str, str] = {
    "TPU v6": "v6e",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v4": "v4",
    "A100-SXM4-40GB": "A100-40GB",
    "A100": "A100-80GB",
    "H200": "H200",
    "H100": "H100",
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip that calls itself so; None for one that is not in the table, such as a CPU."""
    return next((CHIPS[name] for part, name in KINDS.items() if part in device_kind), None)


@dataclass(frozen=True)
class Topology:
    """A TPU slice as its compiler knows it. name: `v5e:4x4`. chip: a key of CHIPS. num_chips: in it."""

    name: str
    chip: str
    num_chips: int


# chip -> shapes that were compiled for
SHAPES: dict[str, tuple[str, ...]] = {
    "v5e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v6e": ("1x1", "2x2", "2x4", "4x4", "8x8", "16x16"),
    "v5p": ("2x2x1", "2x2x4", "4x4x4"),
    "v4": ("2x2x1", "2x2x2", "4x4x4", "4x4x8"),
}
_CORES = {"v4": 2, "v5p": 2, "v5e": 1, "v6e": 1}  # v4-8 is 8 TensorCores on 4 chips, but v5e-8 is 8 chips
_ALIASES = {"v5litepod": "v5e", "v5lite": "v5e"}


def find_topology(name: str) -> Topology:
    """The slice called `v5e:4x4`, or as people say it, `v5e-16` (also `v5litepod-16`; v4 and v5p count cores: `v4-8`).

    Raises: UserError naming the slices that there are.
    """
    chip, _, shape = name.partition(":")
    if not shape:
        family, _, count = name.rpartition("-")
        chip = _ALIASES.get(family, family)
        shape = next((s for s in SHAPES.get(chip, ()) if str(_size(s) * _CORES[chip]) == count), "")
    if shape not in SHAPES.get(chip, ()):
        known = ", ".join(f"{c}:{s} ({c}-{_size(s) * _CORES[c]})" for c, shapes in SHAPES.items() for s in shapes)
        raise UserError(f"there is no topology {name!r}; choose local, or one of {known}")
    return Topology(f"{chip}:{shape}", chip, _size(shape))


def _size(shape: str) -> int:
    size = 1
    for part in shape.split("x"):
        size *= int(part)
    return size
