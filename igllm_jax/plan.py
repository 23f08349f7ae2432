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
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial

from igllm_jax import config as configs
from igllm_jax import files, flags, progress
from igllm_jax.api import GRAMMARS
from igllm_jax.decoding.answers import NUM_DRAFTS
from igllm_jax.errors import UserError
from igllm_jax.models.vlm import VLMConfig, skeleton
from igllm_jax.parallel.sharding import MESH_AXES
from igllm_jax.plan_compile import PROMPT
from igllm_jax.planning import apart, compilers, flops, local, tune
from igllm_jax.planning.chips import CHIPS, Chip, chip_of, find_topology, program_memory
from igllm_jax.planning.memory import element_bytes, host_traffic, train_traffic, weight_passes
from igllm_jax.planning.plans import BatchFlops, Bound, Plan, PlanRequest, Program, Search, plan_text
from igllm_jax.training.optim import trainable_paths
from igllm_jax.training.options import RunOptions

TIMED_STEPS = 3
TOKENS_PER_PASS = 3.56  # of CLEVR's code with three guesses and its grammar: see BENCHMARKS.md
TRIES_PER_PLAN = 3  # plans that may turn out not to fit, for each that was asked for
TUNED_SLACK = 0.1  # of the largest batch, in tuned plans
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
    request = replace(request, accumulate=run.optim.accumulate)
    if options.what == "decode":
        per_pass = min(TOKENS_PER_PASS, 1.0 + options.num_drafts)
        kept = {"num_drafts": options.num_drafts, "has_grammar": options.grammar == "scene"}
        request = replace(request, **kept, tokens_per_pass=per_pass)
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
    parser.add_argument("--num_drafts", type=flags.DRAFTS, default=NUM_DRAFTS, help="of decoding: as in generate")
    parser.add_argument("--grammar", choices=GRAMMARS, default="scene", help="of decoding: as in generate")
    parser.add_argument("--largest_batch", action="store_true", help="find the largest batch per chip that fits")
    about = "compile so many of the most promising meshes, remat policies and kernels, and rank them"
    parser.add_argument("--tune", type=flags.CANDIDATES, nargs="?", const=4, metavar="N", help=f"{about} (default: 4)")
    parser.add_argument("--json", type=flags.path, help="write the plan there")
    return parser.parse_args(arguments)


def tuned(request: PlanRequest, run: RunOptions, options: argparse.Namespace) -> Plan:
    """The best plan, once all that were compiled are printed. Raises: UserError where none fits."""
    if request.what != "train":
        raise UserError("--tune ranks training; for the largest batch that decodes take --what decode --largest_batch")
    machine, kernels = _machine(request, run)
    mesh = tune.whole_mesh(request.mesh, machine.count * request.slices) if options.mesh else None
    trainable = trainable_paths(skeleton(run.model).shapes, run.optim.trainable)
    lengths = (request.length, _answer(request, run.model), run.loss.chunk)
    sizes = tune.Sizes(run.model, trainable, run.frozen_dtype, machine.chip, machine.memory, *lengths)
    choices = tune.choices(machine.count, request.slices, kernels, mesh)
    promising = tune.best([tune.promise(choice, sizes) for choice in choices])
    request = replace(request, runs=TIMED_STEPS if request.topology == "local" else 0)
    found: list[tuple[tune.TuneChoice, Plan]] = []
    told = f"batch {options.batch} fits by none of the plans; give a smaller --batch, or none"
    for one in promising[: TRIES_PER_PLAN * options.tune]:
        if len(found) == options.tune:
            break
        progress.note(f"compiling {one.choice.remat}, {one.choice.attention} on data,fsdp,tensor={one.choice.mesh}")
        try:
            choice, plan = tune.fitted(one, request, options.batch, measure, partial(largest, slack=TUNED_SLACK))
        except UserError as error:  # sizes promised what the compiler, or the layout, refuses
            told = str(error)
            progress.note(told)
            continue
        if plan is not None:
            model = choice.model(run.model)
            found.append((choice, complete(plan, model, run.optim.trainable, machine.chip)))
    if not found:
        raise UserError(f"--tune: {told}")
    found.sort(key=lambda pair: -tune.rate(pair[1]))
    print(tune.table(found))
    return found[0][1]


def _machine(request: PlanRequest, run: RunOptions) -> tuple[local.LocalMachine, list[str]]:
    """What is tuned for, and its attention's kernels."""
    if request.topology == "local":
        return local.find(run.model.dtype), [run.model.decoder.attention]
    topology = find_topology(request.topology)
    chip = CHIPS[topology.chip]
    kernels = ["cudnn"] if topology.is_gpu else ["chunked" if request.length % 128 else "splash"]
    memory = program_memory(chip, topology.is_gpu, os.environ)[0]
    return local.LocalMachine(topology.num_chips, memory, chip), kernels


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
    found = apart.ask(
        "igllm_jax.plan_compile",
        json.dumps(asdict(request)),
        failed=lambda code, lines: (
            f"compiling for {request.topology} failed (exit code {code}): {' | '.join(lines[-15:])}"
        ),
        environment=compilers.environment_for(request.topology, os.environ),
    )
    return Program.of(found)


def measure(request: PlanRequest) -> Plan:
    """What the compiler says, and the memory that it has to fit."""
    program = compile_apart(request)
    chip = _chip(request, program)
    if program.memory or not chip:
        return Plan(request, program, program.memory or math.nan)
    return Plan(request, program, *program_memory(chip, find_topology(request.topology).is_gpu, os.environ))


def complete(plan: Plan, model: VLMConfig, trainable: str, chip: Chip | None = None) -> Plan:
    """Adds collectives where they are missing, FLOPs, and the least time where the chip is known.

    trainable: of optim.TRAINABLE. chip: this machine's, where it is in no table.
    """
    if plan.program.refused is not None:
        return plan
    if plan.program.collectives is None:
        plan = _with_collectives(plan)
    plan = replace(plan, flops=count(model, plan.request, trainable, plan.program.num_devices))
    chip = chip or _chip(plan.request, plan.program)
    if chip is None:
        return plan
    plan = replace(plan, bound=bound(plan, chip, model))
    return replace(plan, rates=_rates(plan, chip, model, trainable)) if plan.request.what == "decode" else plan


def _rates(plan: Plan, chip: Chip, model: VLMConfig, trainable: str) -> dict[float, float]:
    """Tokens per second at the bound, over all chips: no guess is right, as many as were by measurement, or all."""
    request, found = plan.request, {}
    for tokens in sorted({1.0, request.tokens_per_pass, 1.0 + request.num_drafts}):
        other = replace(plan, request=replace(request, tokens_per_pass=tokens))
        other = replace(other, flops=count(model, other.request, trainable, plan.program.num_devices))
        found[tokens] = request.batch_size * _answer(request, model) / bound(other, chip, model).step
    return found


def _answer(request: PlanRequest, model: VLMConfig) -> int:
    """Tokens of an answer."""
    return request.length - model.vision.num_patches - PROMPT.answer_offset


def _chip(request: PlanRequest, program: Program) -> Chip | None:
    if request.topology == "local":
        return chip_of(program.device_kind)
    return CHIPS[find_topology(request.topology).chip]


def _with_collectives(plan: Plan) -> Plan:
    """Some kernels can't be printed (splash for v5p and v6e): the same program with plain attention instead, which
    moves the same weights; one example per chip and micro-batch is enough where no activation travels. Of a decoder
    that guesses, the same without guesses, whose loop has known turns."""
    request, mesh = plan.request, plan.program.mesh
    if request.what == "decode":
        other = compile_apart(replace(request, num_drafts=0, has_grammar=False))
        note = "of the same program without guesses"
        return replace(plan, program=replace(plan.program, collectives=other.collectives or ()), collectives_note=note)
    batch = request.batch_size if mesh["tensor"] > 1 else mesh["data"] * mesh["fsdp"] * request.accumulate
    plain = (*request.config, "--config.model.decoder.attention=chunked")
    other = compile_apart(replace(request, config=plain, batch_size=batch))
    note = f"read off the same program with attention=chunked and batch {batch}"
    return replace(plan, program=replace(plan.program, collectives=other.collectives or ()), collectives_note=note)


def count(model: VLMConfig, request: PlanRequest, trainable: str, num_devices: int) -> BatchFlops:
    """FLOPs of the whole batch."""
    answer = _answer(request, model)
    if request.what == "train":
        paths = trainable_paths(skeleton(model).shapes, trainable)
        one = flops.train_flops(model, length=request.length, answer_length=answer, trainable=paths)
        useful, executed = one.useful, one.executed
    else:
        prompt = request.length - answer
        prefill = flops.prefill_flops(model, length=prompt, shared=PROMPT.image_offset)
        tokens = sum(flops.token_flops(model, length=length) for length in range(prompt, request.length))
        useful, executed = prefill + tokens, prefill + tokens * _columns(request)
    whole = request.batch_size
    return BatchFlops(whole * useful, whole * executed, whole * executed / num_devices)


def _columns(request: PlanRequest) -> float:
    """Positions that are computed for a token that is written."""
    return (1 + request.num_drafts) / request.tokens_per_pass


def bound(plan: Plan, chip: Chip, model: VLMConfig) -> Bound:
    """The least time of a plan whose FLOPs and collectives are known."""
    assert plan.flops is not None
    request, program, mesh, offloaded = plan.request, plan.program, plan.program.mesh, 0.0
    rows = request.batch_size / (mesh["data"] * mesh["fsdp"])
    if request.what == "train":
        offloaded = rows * host_traffic(model, request.length) / mesh["tensor"]
    elif request.num_drafts:  # what travels are columns: of the prompt once, of tokens as often as they are computed
        prompt = request.length - _answer(request, model) - PROMPT.image_offset
        share = prompt / (request.length - PROMPT.image_offset)
        factor = share + (1 - share) * _columns(request)
        sent = [replace(one, bytes=one.bytes * factor) for one in program.collectives or ()]
        program = replace(program, collectives=tuple(sent))
    return Bound.of(plan.flops, _read(plan, model), program, chip, offloaded)


def _read(plan: Plan, model: VLMConfig) -> float:
    """Bytes that a chip at least reads and writes; in decoding, what lies between products may stay on the chip."""
    request, kinds, mesh = plan.request, plan.program.arguments, plan.program.mesh
    rows = request.batch_size / (mesh["data"] * mesh["fsdp"])
    if request.what == "train":
        gathered = (kinds["frozen"] + kinds["trainables"]) * mesh["fsdp"] * weight_passes(model.decoder)
        moved = rows * train_traffic(model, request.length) / mesh["tensor"]
        return gathered * request.accumulate + moved + 2 * (kinds["trainables"] + kinds["optimizer"])
    decoder, answer = model.decoder, _answer(request, model)
    passes = answer / request.tokens_per_pass
    positions = PROMPT.image_offset + rows * (request.length - answer / 2 - PROMPT.image_offset)  # halfway
    width = element_bytes(model)
    cache = 2 * decoder.num_layers * decoder.num_kv_heads * decoder.head_dim * width * positions
    return (passes + 1) * kinds["frozen"] + passes * (cache / mesh["tensor"] + kinds.get("tables", 0.0))


def largest(request: PlanRequest, measure: Callable[[PlanRequest], Plan] = measure, *, slack: float = 0.0) -> Plan:
    """The largest batch per data-and-fsdp device that fits, by bisection. slack: the share of it that may be missed, to
    compile less."""
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
    while low + 1 < high and (high - low - 1) > slack * low:
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
