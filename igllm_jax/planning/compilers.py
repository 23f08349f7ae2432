"""The compilers of chips that are not there: what they need to be installed, how they are started, their devices."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
from jax._src.cudnn import fused_attention_stablehlo  # the version of a library that is not here has no public door
from jax.experimental import topologies

from igllm_jax.errors import UserError
from igllm_jax.parallel.backend import devices
from igllm_jax.planning.chips import Topology, find_topology

GPU_TARGETS = Path(__file__).parent / "gpu_targets"  # chip -> what XLA is told of it
CUDNN = 91_000  # 9.10.0, as in GPU_TARGETS
# libtpu is made for machines that have a TPU: here it must neither lock it, ask for it nor start it
TPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "",
}
GPU_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}
NO_TRITON = "--xla_gpu_enable_triton_gemm=false"  # before 0.11 its tiles are looked for on a GPU that is not there


def check(topology: Topology) -> Topology:
    """Raises: UserError with what to install where the compiler is missing, or is not of JAX's release."""
    if not topology.is_gpu:
        if find_spec("libtpu") is None:
            raise UserError(f"--topology {topology.name} needs libtpu's compiler: pip install libtpu (Linux on x86-64)")
        return topology
    cuda, release = _cuda(), jax.__version__
    names = (f"jax-{cuda}-plugin", f"jax-{cuda}-pjrt")
    found = [_version(name) for name in names]
    if found != [release, release]:
        told = "" if None in found else f" of JAX's release {release}, not {found[0]}"
        wheels = " ".join(f"{name}=={release}" for name in names)
        raise UserError(
            f"--topology {topology.name} needs the compiler of JAX's CUDA plugin{told}; nothing else of CUDA, and best "
            f"in an environment of its own: pip install --no-deps {wheels}"
        )
    return topology


def _cuda() -> str:
    """The CUDA release whose plugin compiles without a GPU here."""
    return "cuda12" if jax.__version_info__ < (0, 11) else "cuda13"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment_for(topology: str, own: Mapping[str, str]) -> dict[str, str]:
    """Of the process that compiles. libtpu ends one whose XLA_FLAGS hold what only a CPU or GPU knows."""
    if topology == "local":
        return dict(own)
    flags = own.get("XLA_FLAGS", "").split()
    if find_topology(topology).is_gpu:
        if _cuda() == "cuda12" and not any(flag.startswith("--xla_gpu_enable_triton_gemm") for flag in flags):
            flags.append(NO_TRITON)
        return {**own, "XLA_FLAGS": " ".join(flags), **GPU_ENVIRONMENT}
    kept = [flag for flag in flags if not flag.startswith(("--xla_cpu_", "--xla_gpu_"))]
    return {**own, "XLA_FLAGS": " ".join(kept), **TPU_ENVIRONMENT}


def devices_of(topology: str, slices: int = 1) -> list[Any]:
    """The devices of `slices` TPU slices or of GPU hosts that need not exist, or this machine's."""
    if topology == "local":
        return devices()
    found = find_topology(topology)
    if found.is_gpu:
        fused_attention_stablehlo.check_cudnn_version = lambda: CUDNN
        target = (GPU_TARGETS / f"{topology.partition(':')[0]}.txtpb").read_text()
        shape = f"1x{found.num_hosts}x{found.num_chips // found.num_hosts}"
        settings: dict[str, Any] = {"target_config": target, "topology": shape}
        return topologies.get_topology_desc(platform="cuda", topology_name="", **settings).devices
    settings = {}
    if topology.startswith("v4:"):  # otherwise every core is a device
        settings = {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)}
    if slices > 1:
        settings["num_slices"] = slices
    return topologies.get_topology_desc(platform="tpu", topology_name=topology, **settings).devices
