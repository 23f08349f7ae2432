"""`igllm plan`: whether a run fits a machine, and what limits it there, without the machine.

    igllm plan --config configs/clevr.py --topology v5e:4x4 --mesh data=1,fsdp=16,tensor=1 --batch 128

The real train step (or decoder) is compiled ahead of time from shapes alone: for a TPU slice by libtpu's compiler,
which runs on any x86-64 Linux machine (`pip install libtpu`), for `--topology local` by this machine's own.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from igllm_jax import config as configs
from igllm_jax.errors import UserError
from igllm_jax.models.vlm import VLMConfig
from igllm_jax.parallel.sharding import MESH_AXES
from igllm_jax.plan_compile import PROMPT
from igllm_jax.planning import flops
from igllm_jax.planning.chips import CHIPS, GIB, Chip, chip_of, find_topology

LENGTH = 1024  # positions of a row with its image: ten CLEVR objects with a float head take 995
MOST_PER_CHIP = 512  # examples; the search for the largest batch ends there
# libtpu is made for machines that have a TPU: here it must neither lock it, ask for it nor start it
TPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "",
}


@dataclass(frozen=True)
class PlanRequest:
    """One compile. config: the --config arguments. topology: as chips.find_topology names it, or local."""

    config: tuple[str, ...]
    topology: str
    what: str
    batch_size: int
    length: int
    mesh: tuple[int, int, int]


def main(arguments: list[str]) -> int:
    """The command. Exit code 1 where the plan does not fit."""
    config, others = configs.load(arguments)
    options = parse(others)
    topology = options.topology
    if topology != "local":
        if find_spec("libtpu") is None:
            raise UserError(f"--topology {topology} needs libtpu's compiler: pip install libtpu (Linux on x86-64)")
        topology = find_topology(topology).name
    own = tuple(argument for argument in arguments if argument not in others)
    batch_size = options.batch or config.batch_size
    mesh = _mesh(options.mesh, config, topology, options.what)
    request = PlanRequest(_spelled(own), topology, options.what, batch_size, options.length, mesh)
    model = configs.model_config(config)
    prompt = model.vision.num_patches + PROMPT.answer_offset
    if options.length <= prompt:
        raise UserError(f"--length {options.length} leaves no answer: image and prompt take {prompt} positions")
    request, plan = largest(request) if options.largest_batch else (request, measure(request))
    plan = complete(plan, request, model, config.optim.trainable)
    print(report(plan))
    if options.json:
        temporary = options.json.with_name(f".{options.json.name}.{os.getpid()}")
        temporary.write_text(json.dumps(plan, indent=2) + "\n")
        temporary.rename(options.json)
    return 0 if plan["fits"] else 1


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="igllm plan", description=__doc__.split("\n")[0])
    parser.add_argument("--topology", required=True, help="v5e:4x4, or v5e-16, or local")
    parser.add_argument("--mesh", default="", help="data=1,fsdp=16,tensor=1 (default: the config's)")
    parser.add_argument(
        "--batch", type=int, default=0, help="examples per step, over all chips (default: the config's)"
    )
    parser.add_argument("--what", choices=("train", "decode"), default="train")
    parser.add_argument("--length", type=int, default=LENGTH, help="positions of a row, image included")
    parser.add_argument("--largest_batch", action="store_true", help="find the largest batch per chip that fits")
    parser.add_argument("--json", type=Path, help="write the plan there")
    options = parser.parse_args(arguments)
    if options.batch < 0 or options.length < 1:
        parser.error("--batch and --length are positive")
    return options


def _spelled(own: tuple[str, ...]) -> tuple[str, ...]:
    """`--config X` as `--config=X`, so that every argument stands alone."""
    spelled: list[str] = []
    rest = iter(own)
    for argument in rest:
        spelled.append(argument if "=" in argument else f"{argument}={next(rest)}")
    return tuple(spelled)


def _mesh(text: str, config: Any, topology: str, what: str) -> tuple[int, int, int]:
    """data, fsdp, tensor. Decoding defaults to tensor, for with fsdp every token would gather all weights."""
    sizes = {axis: int(config.mesh[axis]) for axis in MESH_AXES}
    if not text and what == "decode":
        chips = 1 if topology == "local" else find_topology(topology).num_chips
        heads = config.model.decoder.num_kv_heads
        sizes = {"data": -1, "fsdp": 1, "tensor": max(n for n in (1, 2, 4, 8) if chips % n == 0 and heads % n == 0)}
    for part in filter(None, text.split(",")):
        axis, _, size = part.partition("=")
        if axis not in MESH_AXES or not size.lstrip("-").isdigit():
            raise UserError(f"--mesh {text}: expected AXIS=SIZE,... with axes {', '.join(MESH_AXES)}, not {part!r}")
        sizes[axis] = int(size)
    return sizes["data"], sizes["fsdp"], sizes["tensor"]


def environment_for(topology: str, own: Mapping[str, str]) -> dict[str, str]:
    """Of the process that compiles. libtpu ends one whose XLA_FLAGS hold what only a CPU or GPU knows."""
    if topology == "local":
        return dict(own)
    flags = own.get("XLA_FLAGS", "").split()
    kept = [flag for flag in flags if not flag.startswith(("--xla_cpu_", "--xla_gpu_"))]
    return {**own, "XLA_FLAGS": " ".join(kept), **TPU_ENVIRONMENT}


def compile_apart(request: PlanRequest) -> dict[str, Any]:
    """What plan_compile finds, in a process of its own: libtpu takes lock files, and some failures end the process.

    Raises: UserError with the last lines of a compiler that failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        mesh = ",".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, request.mesh, strict=True))
        numbers = [str(request.batch_size), str(request.length)]
        command = [sys.executable, "-m", "igllm_jax.plan_compile", str(out), request.topology, request.what, *numbers]
        environment = environment_for(request.topology, os.environ)
        done = subprocess.run([*command, mesh, *request.config], env=environment, capture_output=True, text=True)
        if not out.is_file():
            tail = "\n".join(done.stderr.strip().splitlines()[-15:])
            raise UserError(f"compiling for {request.topology} failed (exit code {done.returncode}):\n{tail}")
        found = json.loads(out.read_text())
    if "error" in found:
        raise UserError(found["error"])
    return found


def measure(request: PlanRequest) -> dict[str, Any]:
    """What the compiler says, and whether that fits, as plain values; bytes are of one chip."""
    found = compile_apart(request)
    chip = _chip(request, found)
    memory = found.pop("memory") or (chip.memory if chip else math.nan)
    return {
        "topology": request.topology,
        "what": request.what,
        "batch": request.batch_size,
        "batch_per_chip": request.batch_size / found["num_devices"],
        "length": request.length,
        "memory": memory,
        "fits": "refused" not in found and found["peak"] <= memory,
        **found,
    }


def complete(plan: dict[str, Any], request: PlanRequest, model: VLMConfig, trainable: str) -> dict[str, Any]:
    """Adds collectives where they are missing, FLOPs, and the least time where the chip is known."""
    if "refused" in plan:
        return plan
    if "collectives" not in plan:
        plan = {**plan, **_collectives_apart(request, plan)}
    plan = {**plan, "flops": count(model, request, trainable, plan["num_devices"])}
    chip = _chip(request, plan)
    return {**plan, "bound": bound(plan, chip, model) if chip else None}


def _chip(request: PlanRequest, found: dict[str, Any]) -> Chip | None:
    if request.topology == "local":
        return chip_of(found["device_kind"])
    return CHIPS[find_topology(request.topology).chip]


def _collectives_apart(request: PlanRequest, found: dict[str, Any]) -> dict[str, Any]:
    """Some kernels can't be printed (splash for v5p and v6e): the same program with plain attention instead, which
    moves the same weights; one example per chip is enough where no activation travels."""
    mesh = found["mesh"]
    batch = request.batch_size if mesh["tensor"] > 1 else mesh["data"] * mesh["fsdp"]
    plain = (*request.config, "--config.model.decoder.attention=chunked")
    other = compile_apart(replace(request, config=plain, batch_size=batch))
    how = f"read off the same program with attention=chunked and batch {batch}"
    return {"collectives": other.get("collectives", []), "collectives_note": how}


def count(model: VLMConfig, request: PlanRequest, trainable: str, num_devices: int) -> dict[str, float]:
    """FLOPs of the whole batch, and `per_chip` executed ones."""
    answer = request.length - model.vision.num_patches - PROMPT.answer_offset
    if request.what == "train":
        one = flops.train_flops(model, length=request.length, answer_length=answer, trainable=trainable)
        useful, executed = one.useful, one.executed
    else:
        prompt = request.length - answer
        useful = flops.prefill_flops(model, length=prompt, shared=PROMPT.image_offset) + sum(
            flops.token_flops(model, length=length) for length in range(prompt, request.length)
        )
        executed = useful
    whole = request.batch_size
    return {"useful": whole * useful, "executed": whole * executed, "per_chip": whole * executed / num_devices}


def bound(plan: dict[str, Any], chip: Chip, model: VLMConfig) -> dict[str, Any]:
    """The least seconds that one step (or a whole answer) can take, as the slowest of three that overlap perfectly.

    compute: executed FLOPs at peak. memory: weights read once per pass (and at each token), at the memory's bandwidth.
    links: what collectives send, over all links at once. MFU: useful FLOPs over peak at that bound.
    """
    sent = sum(one["bytes"] for one in plan["collectives"])
    seconds = {
        "compute": plan["flops"]["per_chip"] / chip.flops,
        "memory": _read(plan, model) / chip.memory_bandwidth,
        "links": sent / chip.link_bandwidth,
    }
    limit = max(seconds, key=lambda name: seconds[name])
    mfu = plan["flops"]["useful"] / plan["num_devices"] / chip.flops / seconds[limit]
    return {"seconds": seconds, "limit": limit, "step": seconds[limit], "mfu": mfu}


def _read(plan: dict[str, Any], model: VLMConfig) -> float:
    """Bytes that a chip at least reads and writes; what lies between products may stay on the chip."""
    kinds, mesh = plan["arguments"], plan["mesh"]
    if plan["what"] == "train":
        passes = 2 if model.decoder.remat == "none" else 3
        gathered = (kinds["frozen"] + kinds["trainables"]) * mesh["fsdp"]
        return passes * gathered + 2 * (kinds["trainables"] + kinds["optimizer"])
    decoder = model.decoder
    answer = plan["length"] - model.vision.num_patches - PROMPT.answer_offset
    width = 2 if model.dtype == "bfloat16" else 4
    rows = plan["batch"] / (mesh["data"] * mesh["fsdp"])
    positions = PROMPT.image_offset + rows * (plan["length"] - PROMPT.image_offset)
    cache = 2 * decoder.num_layers * decoder.num_kv_heads * decoder.head_dim * width * positions
    return (answer + 1) * kinds["frozen"] + answer * cache / mesh["tensor"]


def largest(
    request: PlanRequest, measure: Callable[[PlanRequest], dict[str, Any]] = measure
) -> tuple[PlanRequest, dict[str, Any]]:
    """The largest batch per data-and-fsdp device that fits, by bisection: its request and what was measured."""
    first = measure(request)
    unit = first["mesh"]["data"] * first["mesh"]["fsdp"]
    plans = {max(request.batch_size // unit, 1): first}

    def try_(rows: int) -> bool:
        if rows not in plans:
            plans[rows] = measure(replace(request, batch_size=rows * unit))
            print(f"{rows} per device: {'fits' if plans[rows]['fits'] else 'too much'}", file=sys.stderr, flush=True)
        return plans[rows]["fits"]

    low, high = 0, MOST_PER_CHIP + 1
    rows = next(iter(plans))
    while low + 1 < high:
        low, high = (rows, high) if try_(rows) else (low, rows)
        rows = _next(plans, low, high)
    if not low:
        raise UserError(f"not even one example per device fits {request.topology}: {first.get('refused', '')}")
    found = {**plans[low], "largest_batch_per_device": low, "tried": sorted(plans)}
    return replace(request, batch_size=low * unit), found


def _next(plans: dict[int, dict[str, Any]], low: int, high: int) -> int:
    """Where to cut: where memory would be full if it grew evenly, or halfway; always strictly between."""
    guess = 2 * low if high > MOST_PER_CHIP else (low + high) // 2
    fitting = sorted(rows for rows, plan in plans.items() if "peak" in plan)
    if len(fitting) > 1 and len(plans) < 5:
        a, b = fitting[0], fitting[-1]
        slope = (plans[b]["peak"] - plans[a]["peak"]) / (b - a)
        guess = int(b + (plans[b]["memory"] - plans[b]["peak"]) / max(slope, 1.0))
    return min(max(guess, low + 1), high - 1)


def report(plan: dict[str, Any]) -> str:
    """The plan for a reader."""
    mesh = ",".join(f"{axis}={size}" for axis, size in plan["mesh"].items())
    lines = [
        f"{plan['what']} on {plan['topology']} ({plan['num_devices']} x {plan['device_kind']}), mesh {mesh}: "
        f"batch {plan['batch']} ({plan['batch_per_chip']:g} per chip) of {plan['length']} positions"
    ]
    held = [(name, size) for name, size in plan["arguments"].items()]
    if "refused" in plan:
        lines += [f"  {name:24}{size / GIB:9.3f} GiB" for name, size in held]
        return "\n".join([*lines, f"does not fit: {plan['refused']}"])
    held += [("activations, temporaries", plan["temporaries"]), ("peak", plan["peak"]), ("memory", plan["memory"])]
    lines += ["bytes per chip", *(f"  {name:24}{size / GIB:9.3f} GiB" for name, size in held)]
    lines += [
        "collectives per chip and step" + (f" ({plan['collectives_note']})" if "collectives_note" in plan else "")
    ]
    lines += [
        f"  {one['kind']:20}{'+'.join(one['axes']):14}{one['count']:7} times {one['bytes'] / 1e9:9.3f} GB"
        for one in plan["collectives"]
    ] or ["  none"]
    lines += [f"model FLOPs per step: {plan['flops']['useful']:.4g} useful, {plan['flops']['executed']:.4g} executed"]
    if plan["bound"]:
        parts = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in plan["bound"]["seconds"].items())
        of = "step" if plan["what"] == "train" else "answer of all tokens"
        lines += [f"bound: {of} >= {plan['bound']['step']:.3g} s, MFU <= {plan['bound']['mfu']:.1%} ({parts})"]
        lines += [f"limited by {plan['bound']['limit']}"]
    lines += [f"compiled in {plan['compile_seconds']:.0f} s"]
    if "largest_batch_per_device" in plan:
        lines += [f"largest batch that fits: {plan['batch']} ({plan['largest_batch_per_device']} per device)"]
    verdict = f"{plan['peak'] / GIB:.2f} of {plan['memory'] / GIB:.2f} GiB"
    return "\n".join([*lines, f"fits: {verdict}" if plan["fits"] else f"does not fit: {verdict}"])
