"""`igllm plan --tune`: which mesh, remat policy and attention promise most, before anything is compiled."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from igllm_jax.errors import UserError
from igllm_jax.models.llama import REMAT_POLICIES
from igllm_jax.models.vlm import VLMConfig, skeleton
from igllm_jax.planning.chips import GIB, Chip
from igllm_jax.planning.flops import train_flops
from igllm_jax.planning.memory import activation_bound, train_traffic, weight_passes, whole_bytes
from igllm_jax.planning.plans import Plan, PlanRequest

MOST_ACCUMULATED = 64
HEAD = (
    "mesh",
    "remat",
    "attention",
    "accumulate",
    "batch",
    "GiB",
    "bound, s",
    "by",
    "MFU <=",
    "samples/s <=",
    "chip-h/M",
)


@dataclass(frozen=True)
class TuneChoice:
    """What a plan may choose. mesh: data, fsdp, tensor. remat, attention, accumulate: as in the config."""

    mesh: tuple[int, int, int]
    remat: str
    attention: str
    accumulate: int = 1

    def model(self, model: VLMConfig) -> VLMConfig:
        return replace(model, decoder=replace(model.decoder, remat=self.remat, attention=self.attention))

    def of(self, request: PlanRequest) -> PlanRequest:
        """The request with this choice."""
        return replace(request, config=(*request.config, *self._words(request)), mesh=self.mesh)

    def flags(self, plan: Plan) -> str:
        """To paste behind `igllm train`."""
        mesh = [f"--config.mesh.{axis}={size}" for axis, size in plan.program.mesh.items()]
        mesh += [f"--config.mesh.slices={plan.request.slices}"] if plan.request.slices > 1 else []
        return " ".join([*mesh, *self._words(plan.request)])

    def _words(self, request: PlanRequest) -> list[str]:
        decoder = {"remat": self.remat, "attention": self.attention}
        words = [f"--config.model.decoder.{key}={value}" for key, value in decoder.items()]
        return [*words, f"--config.batch_size={request.batch_size}", f"--config.optim.accumulate={self.accumulate}"]


@dataclass(frozen=True)
class Promise:
    """rows: examples at once on a device that should fit. rate: samples/s over all chips at the bound; both rough."""

    choice: TuneChoice
    rows: int
    rate: float


def whole_mesh(mesh: tuple[int, int, int], num_devices: int) -> tuple[int, int, int]:
    """The mesh with -1 replaced by what is left. What does not fit stays for the compiler's process to refuse."""
    known = math.prod(size for size in mesh if size != -1)
    data, fsdp, tensor = (max(num_devices // known, 1) if size == -1 else size for size in mesh)
    return data, fsdp, tensor


def choices(
    num_chips: int, slices: int, attentions: Iterable[str], mesh: tuple[int, int, int] | None
) -> list[TuneChoice]:
    """All splits of the chips over data and fsdp (with tensor, activations travel in every layer) unless a mesh is
    given, with every remat policy and these kernels."""
    ways = [n for n in range(1, num_chips + 1) if num_chips % n == 0]
    meshes = [mesh] if mesh else [(n * slices, num_chips // n, 1) for n in ways]
    return [TuneChoice(one, remat, kernel) for one in meshes for remat in REMAT_POLICIES for kernel in attentions]


def promise(
    choice: TuneChoice,
    model: VLMConfig,
    trainable: Collection[str],
    chip: Chip,
    memory: float,
    length: int,
    answer: int,
    chunk: int,
) -> Promise:
    """From sizes alone. trainable: parameters that train, by path. memory: bytes of a chip that a program may take.
    chunk: answer positions whose logits are computed at once. Weights are gathered once a pass over fsdp; gradients of
    trainables are added up once."""
    model = choice.model(model)
    shapes = skeleton(model).shapes
    trained = whole_bytes([shape for path, shape in shapes.items() if path in trainable])
    frozen = whole_bytes([shape for path, shape in shapes.items() if path not in trainable])
    trains_vision = any(path.startswith("vision/") for path in trainable)
    data, fsdp, tensor = choice.mesh
    held = (frozen + 4 * trained) / (fsdp * tensor)  # gradients and two moments
    held += (frozen + trained) / model.decoder.num_layers if fsdp > 1 else 0  # a layer's, gathered
    per_row = activation_bound(model, rows=1.0 / tensor, length=length, loss_chunk=chunk, trains_vision=trains_vision)
    rows = int((memory - held) / per_row)
    if rows < 1:
        return Promise(choice, 0, 0.0)
    flops = train_flops(model, length=length, answer_length=answer, trainable=trainable)
    passes = weight_passes(model.decoder)
    sent = passes * (frozen + trained) / tensor * (fsdp - 1) / fsdp + 2 * trained / (fsdp * tensor) * (data > 1)
    weights = passes * (frozen + trained) / tensor + 8 * trained / (fsdp * tensor)
    seconds = (
        rows * flops.executed / tensor / chip.flops,
        (weights + rows * train_traffic(model, length) / tensor) / chip.memory_bandwidth,
        sent / chip.link_bandwidth,
    )
    return Promise(choice, rows, rows * data * fsdp / max(seconds))


def best(promises: Sequence[Promise], most: int) -> list[Promise]:
    """Those that are compiled: the most promising, of each remat policy and kernel the best mesh first."""
    ranked = sorted((one for one in promises if one.rows), key=lambda one: (-one.rate, -one.rows))
    if not ranked:
        raise UserError("--tune: not even one example per chip fits by any mesh or remat policy; take more chips")
    first: dict[tuple[str, str], Promise] = {}
    for one in ranked:
        first.setdefault((one.choice.remat, one.choice.attention), one)
    kinds = list(first.values())
    return [*kinds, *(one for one in ranked if one not in kinds)][:most]


def fitted(one: Promise, request: PlanRequest, batch: int | None, measure: Callable, largest: Callable) -> tuple:
    """(choice, plan): the largest batch, or for a given one the fewest micro-batches with which it fits; None for the
    plan where there are none."""
    unit = math.prod(one.choice.mesh[:2])
    if batch is None:
        request = replace(request, batch_size=one.rows * unit)
        return one.choice, largest(one.choice.of(request))
    accumulate = 1
    while accumulate <= MOST_ACCUMULATED and batch % (accumulate * unit) == 0:
        choice = replace(one.choice, accumulate=accumulate)
        plan = measure(choice.of(replace(request, batch_size=batch)))
        if plan.fits:
            return choice, plan
        accumulate *= 2
    return one.choice, None


def rate(plan: Plan) -> float:
    """Samples per second at the bound."""
    return plan.request.batch_size / plan.bound.step if plan.bound else 0.0


def table(found: Sequence[tuple[TuneChoice, Plan]]) -> str:
    """The plans, best first, then the flags of the best. chip-h/M: chip hours for a million samples, at least."""
    rows = [HEAD]
    for choice, plan in found:
        assert plan.bound is not None
        mesh = ",".join(f"{axis}={size}" for axis, size in plan.program.mesh.items())
        cost = plan.program.num_devices / rate(plan) * 1e6 / 3600
        held = f"{plan.program.peak / GIB:.2f} of {plan.memory / GIB:.2f}"
        chosen = (mesh, choice.remat, choice.attention, str(choice.accumulate), str(plan.request.batch_size), held)
        bound = (f"{plan.bound.step:.3g}", plan.bound.limit, f"{plan.bound.mfu:.1%}")
        rows.append((*chosen, *bound, f"{rate(plan):.4g}", f"{cost:.4g}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, f"best: {found[0][0].flags(found[0][1])}"])
