"""What chips can do: one table for plans, for the step log's MFU and for benchmarks.

Sources: for TPUs the page of each generation at docs.cloud.google.com/tpu/docs (v4, v5e, v5p, v6e), whose links are
stated both ways together and halved here; for GPUs the vendor's datasheets (dense figures, without sparsity), and of
hosts with 8 of them and one network card for each (DGX A100: 200 Gbit/s, DGX H100 and H200: 400 Gbit/s). Networks of
TPUs by the same pages: v5p 50 Gbit/s a chip, v5e 2 x 100 and v6e 4 x 200 Gbit/s a host of 8 chips. Not verified: links
and network of v4, and every host_bandwidth (PCIe's nominal speed).
"""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass

from igllm_jax.errors import UserError
from igllm_jax.flags import SHARE

GIB = 2**30
GPU_SHARE = 0.75  # of a GPU's memory that JAX takes, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise


@dataclass(frozen=True)
class Chip:
    """One chip as its maker describes it.

    flops: peak bf16 FLOP/s, dense. memory_bandwidth: bytes/s. memory: bytes; of a GPU all that its driver reports.
    link_bandwidth: bytes/s that one chip can send to its neighbours over all its links together (ICI, NVLink).
    network_bandwidth: bytes/s to other GPU hosts or TPU slices, a host's network shared out over its chips.
    host_bandwidth: bytes/s to its host's memory (PCIe), each way.
    """

    flops: float
    memory_bandwidth: float
    memory: float
    link_bandwidth: float
    network_bandwidth: float
    host_bandwidth: float


# name -> chip. TPU memory is what the compiler grants a program, which is less than what is sold (16, 32, 95, 32 GB).
CHIPS: dict[str, Chip] = {
    "v4": Chip(275e12, 1228e9, 30.75 * GIB, 300e9, 6.25e9, 16e9),
    "v5e": Chip(197e12, 819e9, 15.75 * GIB, 200e9, 3.125e9, 16e9),
    "v5p": Chip(459e12, 2765e9, 95.73 * GIB, 600e9, 6.25e9, 16e9),
    "v6e": Chip(918e12, 1638e9, 31.24 * GIB, 400e9, 12.5e9, 32e9),
    "A100-40GB": Chip(312e12, 1555e9, 42_298_834_944, 300e9, 25e9, 32e9),
    "A100-80GB": Chip(312e12, 2039e9, 85_100_068_864, 300e9, 25e9, 32e9),
    "H100": Chip(989e12, 3350e9, 84_942_979_072, 450e9, 50e9, 64e9),
    "H200": Chip(989e12, 4800e9, 151_397_597_184, 450e9, 50e9, 64e9),
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
    """A TPU slice as its compiler knows it, or hosts with GPUs.

    name: `v5e:4x4`, `h100:8`, `h100:2x8`. chip: a key of CHIPS. num_chips: in it. num_hosts: over which GPUs are
    spread; 0 for a TPU slice.
    """

    name: str
    chip: str
    num_chips: int
    num_hosts: int = 0

    @property
    def is_gpu(self) -> bool:
        return self.num_hosts > 0


# chip -> shapes that were compiled for
SHAPES: dict[str, tuple[str, ...]] = {
    "v5e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v6e": ("1x1", "2x2", "2x4", "4x4", "8x8", "16x16"),
    "v5p": ("2x2x1", "2x2x4", "4x4x4"),
    "v4": ("2x2x1", "2x2x2", "4x4x4", "4x4x8"),
}
_CORES = {"v4": 2, "v5p": 2, "v5e": 1, "v6e": 1}  # v4-8 is 8 TensorCores on 4 chips, but v5e-8 is 8 chips
_ALIASES = {"v5litepod": "v5e", "v5lite": "v5e"}


# name -> chip, of GPUs whose description for the compiler lies in gpu_targets/NAME.txtpb
GPUS = {"h100": "H100", "h200": "H200", "a100-80gb": "A100-80GB", "a100-40gb": "A100-40GB"}
GPUS_PER_HOST, MOST_HOSTS = 8, 128


def find_topology(name: str) -> Topology:
    """The slice called `v5e:4x4`, or as people say it, `v5e-16` (also `v5litepod-16`; v4 and v5p count cores: `v4-8`);
    `h100:8` is one host with 8 GPUs, `h100:4x8` are four of them.

    Raises: UserError naming what there is.
    """
    chip, _, shape = name.partition(":")
    if chip.lower() in GPUS:
        return _gpus(chip.lower(), shape)
    if not shape:
        family, _, count = name.rpartition("-")
        chip = _ALIASES.get(family, family)
        shape = next((s for s in SHAPES.get(chip, ()) if str(_size(s) * _CORES[chip]) == count), "")
    if shape not in SHAPES.get(chip, ()):
        known = ", ".join(f"{c}:{s} ({c}-{_size(s) * _CORES[c]})" for c, shapes in SHAPES.items() for s in shapes)
        gpus = ", ".join(f"{gpu}:N" for gpu in GPUS)
        raise UserError(
            f"there is no topology {name[:60]!r}; choose local, or one of {known}, or GPUs: {gpus} with N from 1 to "
            f"{GPUS_PER_HOST} (one host), or HOSTSx{GPUS_PER_HOST}"
        )
    return Topology(f"{chip}:{shape}", chip, _size(shape))


def _gpus(gpu: str, shape: str) -> Topology:
    found = re.fullmatch(r"(?:([1-9][0-9]{0,2})x)?([1-8])", shape)
    hosts = int(found[1] or 1) if found else 0
    if found is None or hosts > MOST_HOSTS:
        raise UserError(
            f"there is no topology {gpu}:{shape[:40]}; expected {gpu}:N with N from 1 to {GPUS_PER_HOST} GPUs of one "
            f"host, or {gpu}:HOSTSxN with up to {MOST_HOSTS} hosts, such as {gpu}:2x8"
        )
    return Topology(f"{gpu}:{shape}", GPUS[gpu], hosts * int(found[2]), hosts)


def program_memory(chip: Chip, is_gpu: bool, environment: Mapping[str, str]) -> tuple[float, str | None]:
    """Bytes of one chip that a program may take, and why where that is not all. environment: a run's.

    Raises: UserError where XLA_PYTHON_CLIENT_MEM_FRACTION is not a share.
    """
    if not is_gpu:
        return chip.memory, None
    key = "XLA_PYTHON_CLIENT_MEM_FRACTION"
    text = environment.get(key) or str(GPU_SHARE)
    try:
        share = SHARE(text)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{key}: {error}") from None
    default = "" if environment.get(key) else ", JAX's default"
    return share * chip.memory, f"{share:.0%} of the {chip.memory / GIB:.2f} GiB of a GPU ({key}{default})"


def _size(shape: str) -> int:
    size = 1
    for part in shape.split("x"):
        size *= int(part)
    return size
