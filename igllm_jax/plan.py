"""`igllm plan`: whether a run fits a machine, and what limits it there, without the machine.

    igllm plan --config configs/clevr.py --topology v5e:4x4 --mesh data=1,fsdp=16,tensor=1 --batch 128

The real train step (or decoder) is compiled ahead of time from shapes alone, on any x86-64 Linux machine: for a TPU
slice by libtpu's compiler (`pip install libtpu`), for GPUs by that of JAX's CUDA plugin (the extra `plan-gpu`), for
`--topology local` by this machine's own.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from igllm_jax import config as configs
from igllm_jax import files, flags, progress
from igllm_jax.errors import UserError
from igllm_jax.models.vlm import VLMConfig, skeleton
from igllm_jax.parallel.sharding import MESH_AXES
from igllm_jax.plan_compile import PROMPT
from igllm_jax.planning import compilers, flops, tune
from igllm_jax.planning.chips import CHIPS, Chip, chip_of, find_topology, program_memory
from igllm_jax.planning.memory import element_bytes, train_traffic, weight_passes
from igllm_jax.planning.plans import BatchFlops, Bound, Plan, PlanRequest, Program, Search, plan_text
from igllm_jax.training.optim import trainable_paths
from igllm_jax.training.options import RunOptions

LENGTH = 1024  # positions of a row with its image: ten CLEVR objects with a float head take 995
MOST_PER_CHIP = 512  # examples; the search for the largest batch ends there


def main(arguments: list[str]) -> int:
    """The command. Exit code 1 where the plan does not fit."""
    own, others = configs.split(arguments)
    options = parse(others)
    if options.json:
        files.try_writing(options.json, "--json")
    run = configs.run_options(configs.load(own)[0])
    topology = options.topology
    if topology != "local":
        topology = compilers.check(find_topology(topology)).name
    batch_size = options.batch or run.batch_size
    mesh, slices = _mesh(options.mesh, run, topology, options.what)
    request = PlanRequest(tuple(own), topology, options.what, batch_size, options.length, mesh, slices)
    prompt = run.model.vision.num_patches + PROMPT.answer_offset
    if options.length <= prompt:
        raise UserError(f"--length {options.length} leaves no answer: image and prompt take {prompt} positions")
    if options.tune:
        plan = tuned(request, run, options)
    else:
        plan = largest(request) if options.largest_batch else measure(request)
        plan = complete(plan, run.model, run.optim.trainable)
    print(plan_text(plan))
    if options.json:
        files.write_text(options.json, json.dumps(plan.to_json(), indent=2) + "\n")
    return 0 if plan.fits else 1


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = flags.Parser(prog="igllm plan", description=__doc__.split("\n")[0])
    configs.add_arguments(parser)
    parser.add_argument("--topology", required=True, help="v5e:4x4, v5e-16, h100:8, h100:2x8 (two hosts), or local")
    parser.add_argument("--mesh", default="", help="data=1,fsdp=16,tensor=1, and slices=2 for so many TPU slices")
    parser.add_argument("--batch", type=flags.BATCH, help="examples per step, over all chips (default: the config's)")
    parser.add_argument("--what", choices=("train", "decode"), default="train")
    parser.add_argument("--length", type=flags.TOKENS, default=LENGTH, help="positions of a row, image included")
    parser.add_argument("--largest_batch", action="store_true", help="find the largest batch per chip that fits")
    about = "compile so many of the most promising meshes, remat policies and kernels, and rank them"
    parser.add_argument("--tune", type=flags.CANDIDATES, nargs="?", const=4, metavar="N", help=f"{about} (default: 4)")
    parser.add_argument("--json", type=flags.path, help="write the plan there")
    return parser.parse_args(arguments)


def tuned(request: PlanRequest, run: RunOptions, options: argparse.Namespace) -> Plan:
    """The best plan, once all that were compiled are printed. Raises: UserError where none fits."""
    if request.what != "train" or request.topology == "local":
        raise UserError(
            "--tune ranks training on chips whose speed is known: give --topology v5e:4x4 or h100:8, no decode"
        )
    topology = find_topology(request.topology)
    chip = CHIPS[topology.chip]
    memory = program_memory(chip, topology.is_gpu, os.environ)[0]
    answer = request.length - run.model.vision.num_patches - PROMPT.answer_offset
    mesh = tune.whole_mesh(request.mesh, topology.num_chips * request.slices) if options.mesh else None
    kernels = ["cudnn"] if topology.is_gpu else ["chunked" if request.length % 128 else "splash"]
    trainable = trainable_paths(skeleton(run.model).shapes, run.optim.trainable)
    sizes = (run.model, trainable, chip, memory, request.length, answer, run.loss.chunk)
    all_of_them = tune.choices(topology.num_chips, request.slices, kernels, mesh)
    found, told = [], f"batch {options.batch} fits by none of the plans; give a smaller --batch, or none"
    for one in tune.best([tune.promise(choice, *sizes) for choice in all_of_them], options.tune):
        progress.note(f"compiling {one.choice.remat}, {one.choice.attention} on data,fsdp,tensor={one.choice.mesh}")
        try:
            choice, plan = tune.fitted(one, request, options.batch, measure, largest)
        except UserError as error:  # sizes promised what the compiler, or the layout, refuses
            told = str(error)
            progress.note(told)
            continue
        if plan is not None:
            found.append((choice, complete(plan, choice.model(run.model), run.optim.trainable)))
    if not found:
        raise UserError(f"--tune: {told}")
    found.sort(key=lambda pair: -tune.rate(pair[1]))
    print(tune.table(found))
    return found[0][1]


def _mesh(text: str, run: RunOptions, topology: str, what: str) -> tuple[tuple[int, int, int], int]:
    """(data, fsdp, tensor), slices. Decoding defaults to tensor, for with fsdp every token would gather all weights."""
    sizes = {"slices": run.mesh.slices, **run.mesh.sizes}
    if not text and what == "decode":
        chips = 1 if topology == "local" else find_topology(topology).num_chips
        heads = run.model.decoder.num_kv_heads
        sizes |= {"data": -1, "fsdp": 1, "tensor": max(n for n in (1, 2, 4, 8) if chips % n == 0 and heads % n == 0)}
    for part in filter(None, text.split(",")):
        axis, _, size = part.partition("=")
        if axis not in sizes:
            raise UserError(f"--mesh {text}: expected AXIS=SIZE,... with axes {', '.join(MESH_AXES)}, not {part!r}")
        try:
            sizes[axis] = flags.SIZE(size)
        except argparse.ArgumentTypeError as error:
            raise UserError(f"--mesh {text[:60]}: {axis}: {error}") from None  # of any length
    if sizes["slices"] < 1:
        raise UserError(f"--mesh {text[:60]}: slices is {sizes['slices']}; it must be 1 or more")
    if sizes["slices"] > 1 and (topology == "local" or find_topology(topology).is_gpu):
        raise UserError(f"mesh.slices={sizes['slices']}: {topology} is no TPU slice; for GPU hosts write h100:HOSTSx8")
    return (sizes["data"], sizes["fsdp"], sizes["tensor"]), sizes["slices"]


def compile_apart(request: PlanRequest) -> Program:
    """What plan_compile finds, in a process of its own: libtpu takes lock files, and some failures end the process.

    Raises: UserError with the last lines of a compiler that failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        mesh = ",".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, request.mesh, strict=True))
        mesh = f"slices={request.slices},{mesh}"
        numbers = [str(request.batch_size), str(request.length)]
        command = [sys.executable, "-m", "igllm_jax.plan_compile", str(out), request.topology, request.what, *numbers]
        environment = compilers.environment_for(request.topology, os.environ)
        done = subprocess.run([*command, mesh, *request.config], env=environment, capture_output=True, text=True)
        if not out.is_file():
            tail = " | ".join(done.stderr.strip().splitlines()[-15:])
            raise UserError(f"compiling for {request.topology} failed (exit code {done.returncode}): {tail}")
        found = json.loads(out.read_text())
    if "error" in found:
        raise UserError(found["error"])
    return Program.of(found)


def measure(request: PlanRequest) -> Plan:
    """What the compiler says, and the memory that it has to fit."""
    program = compile_apart(request)
    chip = _chip(request, program)
    if program.memory or not chip:
        return Plan(request, program, program.memory or math.nan)
    return Plan(request, program, *program_memory(chip, find_topology(request.topology).is_gpu, os.environ))


def complete(plan: Plan, model: VLMConfig, trainable: str) -> Plan:
    """Adds collectives where they are missing, FLOPs, and the least time where the chip is known.

    trainable: of optim.TRAINABLE.
    """
    if plan.program.refused is not None:
        return plan
    if plan.program.collectives is None:
        plan = _with_collectives(plan)
    plan = replace(plan, flops=count(model, plan.request, trainable, plan.program.num_devices))
    chip = _chip(plan.request, plan.program)
    return replace(plan, bound=bound(plan, chip, model)) if chip else plan


def _chip(request: PlanRequest, program: Program) -> Chip | None:
    if request.topology == "local":
        return chip_of(program.device_kind)
    return CHIPS[find_topology(request.topology).chip]


def _with_collectives(plan: Plan) -> Plan:
    """Some kernels can't be printed (splash for v5p and v6e): the same program with plain attention instead, which
    moves the same weights; one example per chip is enough where no activation travels."""
    request, mesh = plan.request, plan.program.mesh
    batch = request.batch_size if mesh["tensor"] > 1 else mesh["data"] * mesh["fsdp"]
    plain = (*request.config, "--config.model.decoder.attention=chunked")
    other = compile_apart(replace(request, config=plain, batch_size=batch))
    note = f"read off the same program with attention=chunked and batch {batch}"
    return replace(plan, program=replace(plan.program, collectives=other.collectives or ()), collectives_note=note)


def count(model: VLMConfig, request: PlanRequest, trainable: str, num_devices: int) -> BatchFlops:
    """FLOPs of the whole batch."""
    answer = request.length - model.vision.num_patches - PROMPT.answer_offset
    if request.what == "train":
        paths = trainable_paths(skeleton(model).shapes, trainable)
        one = flops.train_flops(model, length=request.length, answer_length=answer, trainable=paths)
        useful, executed = one.useful, one.executed
    else:
        prompt = request.length - answer
        useful = flops.prefill_flops(model, length=prompt, shared=PROMPT.image_offset) + sum(
            flops.token_flops(model, length=length) for length in range(prompt, request.length)
        )
        executed = useful
    whole = request.batch_size
    return BatchFlops(whole * useful, whole * executed, whole * executed / num_devices)


def bound(plan: Plan, chip: Chip, model: VLMConfig) -> Bound:
    """The least time of a plan whose FLOPs and collectives are known."""
    assert plan.flops is not None
    return Bound.of(plan.flops, _read(plan, model), plan.program, chip)


def _read(plan: Plan, model: VLMConfig) -> float:
    """Bytes that a chip at least reads and writes; in decoding, what lies between products may stay on the chip."""
    request, kinds, mesh = plan.request, plan.program.arguments, plan.program.mesh
    if request.what == "train":
        rows = request.batch_size / (mesh["data"] * mesh["fsdp"])
        gathered = (kinds["frozen"] + kinds["trainables"]) * mesh["fsdp"] * weight_passes(model.decoder)
        moved = rows * train_traffic(model, request.length) / mesh["tensor"]
        return gathered + moved + 2 * (kinds["trainables"] + kinds["optimizer"])
    decoder = model.decoder
    answer = request.length - model.vision.num_patches - PROMPT.answer_offset
    width = element_bytes(model)
    rows = request.batch_size / (mesh["data"] * mesh["fsdp"])
    positions = PROMPT.image_offset + rows * (request.length - PROMPT.image_offset)
    cache = 2 * decoder.num_layers * decoder.num_kv_heads * decoder.head_dim * width * positions
    return (answer + 1) * kinds["frozen"] + answer * cache / mesh["tensor"]


def largest(request: PlanRequest, measure: Callable[[PlanRequest], Plan] = measure) -> Plan:
    """The largest batch per data-and-fsdp device that fits, by bisection."""
    first = measure(request)
    unit = first.program.mesh["data"] * first.program.mesh["fsdp"]
    plans = {max(request.batch_size // unit, 1): first}

    def try_(rows: int) -> bool:
        if rows not in plans:
            plans[rows] = measure(replace(request, batch_size=rows * unit))
            progress.note(f"{rows} per device: {'fits' if plans[rows].fits else 'too much'}")
        return plans[rows].fits

    low, high = 0, MOST_PER_CHIP + 1
    rows = next(iter(plans))
    while low + 1 < high:
        low, high = (rows, high) if try_(rows) else (low, rows)
        rows = _next(plans, low, high)
    if not low:
        told = first.program.refused or ""
        raise UserError(f"not even one example per device fits {request.topology}: {told}")
    request = replace(plans[low].request, batch_size=low * unit)
    return replace(plans[low], request=request, search=Search(low, tuple(sorted(plans))))


def _next(plans: Mapping[int, Plan], low: int, high: int) -> int:
    """What to try next: where memory would be full if it grew evenly, or halfway; always strictly between."""
    guess = 2 * low if high > MOST_PER_CHIP else (low + high) // 2
    peaks = {rows: plans[rows].program.peak for rows in sorted(plans) if plans[rows].program.refused is None}
    if len(peaks) > 1 and len(plans) < 5:
        a, b = min(peaks), max(peaks)
        slope = (peaks[b] - peaks[a]) / (b - a)
        guess = int(b + (plans[b].memory - peaks[b]) / max(slope, 1.0))
    return min(max(guess, low + 1), high - 1)
