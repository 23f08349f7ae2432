"""`igllm plan --tune`: which mesh, remat policy and attention promise most, before anything is compiled."""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.models.remat import HOST, REMAT_POLICIES
from igllm_jax.models.vlm import VLMConfig, skeleton
from igllm_jax.planning.chips import GIB, Chip
from igllm_jax.planning.flops import train_flops
from igllm_jax.planning.memory import activation_bound, host_traffic, train_traffic, weight_passes, whole_bytes
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
        config = (*request.config, *self._words(request))
        return replace(request, config=config, mesh=self.mesh, accumulate=self.accumulate)

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


@dataclass(frozen=True)
class Sizes:
    """What promises are made from. trainable: parameters that train, by path. frozen_dtype: of the others. memory:
    bytes of a chip that a program may take. answer: positions with logits. chunk: those whose logits exist at once."""

    model: VLMConfig
    trainable: Collection[str]
    frozen_dtype: str
    chip: Chip
    memory: float
    length: int
    answer: int
    chunk: int

    @cached_property
    def trained(self) -> float:
        """Bytes of what trains, in float32."""
        shapes = skeleton(self.model).shapes
        return whole_bytes([shape for path, shape in shapes.items() if path in self.trainable])

    @cached_property
    def frozen(self) -> float:
        """Bytes of what does not."""
        scale = np.dtype(self.frozen_dtype).itemsize / 4  # shapes are float32
        return scale * (whole_bytes(list(skeleton(self.model).shapes.values())) - self.trained)


def policies() -> list[str]:
    """What the backward pass may keep: the named policies, and each tensor that spares products recomputed, kept, or
    (if it is large) offloaded to the host's memory. The last are few bytes, so nobody offloads them."""
    ways = itertools.product(*(("", name, name + HOST) for name in ("qkv", "residual", "gate_up")), ("", "low"))
    found = ["+".join(filter(None, way)) for way in ways]
    return [*REMAT_POLICIES, *(text for text in found if text not in ("", "qkv+residual"))]  # those have names


def choices(
    num_chips: int, slices: int, attentions: Iterable[str], mesh: tuple[int, int, int] | None
) -> list[TuneChoice]:
    """All splits of the chips over data and fsdp (with tensor, activations travel in every layer) unless a mesh is
    given, with every remat policy and these kernels."""
    ways = [n for n in range(1, num_chips + 1) if num_chips % n == 0]
    meshes = [mesh] if mesh else [(n * slices, num_chips // n, 1) for n in ways]
    return [TuneChoice(one, remat, kernel) for one in meshes for remat in policies() for kernel in attentions]


def promise(choice: TuneChoice, sizes: Sizes) -> Promise:
    """From sizes alone. Weights are gathered once a pass over fsdp; gradients of trainables are added up once."""
    model, chip, trained = choice.model(sizes.model), sizes.chip, sizes.trained
    weights = sizes.frozen + trained
    data, fsdp, tensor = choice.mesh
    held = (sizes.frozen + 4 * trained) / (fsdp * tensor)  # gradients and two moments
    held += weights / model.decoder.num_layers if fsdp > 1 else 0  # a layer's, gathered
    trains_vision = any(path.startswith("vision/") for path in sizes.trainable)
    shapes = {"length": sizes.length, "loss_chunk": sizes.chunk}
    per_row = activation_bound(model, rows=1.0 / tensor, trains_vision=trains_vision, **shapes)
    rows = int((sizes.memory - held) / per_row)
    if rows < 1:
        return Promise(choice, 0, 0.0)
    flops = train_flops(model, length=sizes.length, answer_length=sizes.answer, trainable=sizes.trainable)
    passes = weight_passes(model.decoder)
    sent = passes * weights / tensor * (fsdp - 1) / fsdp + 2 * trained / (fsdp * tensor) * (data > 1)
    read = passes * weights / tensor + 8 * trained / (fsdp * tensor)
    seconds = (
        rows * flops.executed / tensor / chip.flops,
        (read + rows * train_traffic(model, sizes.length) / tensor) / chip.memory_bandwidth,
        sent / chip.link_bandwidth,
        rows * host_traffic(model, sizes.length) / tensor / chip.host_bandwidth,
    )
    return Promise(choice, rows, rows * data * fsdp / max(seconds))


def best(promises: Sequence[Promise]) -> list[Promise]:
    """In the order in which they are compiled: the most promising, of each remat policy and kernel the best mesh first.

    Raises: UserError where none has room for an example.
    """
    ranked = sorted((one for one in promises if one.rows), key=lambda one: (-one.rate, -one.rows))
    if not ranked:
        raise UserError("--tune: not even one example per chip fits by any mesh or remat policy; take more chips")
    first: dict[tuple[str, str], Promise] = {}
    for one in ranked:
        first.setdefault((one.choice.remat, one.choice.attention), one)
    kinds = list(first.values())
    return [*kinds, *(one for one in ranked if one not in kinds)]


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


def predicted(plan: Plan) -> float:
    """Seconds of a step at the bound; of a CPU, which does one thing at a time, of all parts together."""
    if plan.bound is None:
        return math.inf
    return sum(plan.bound.seconds.values()) if plan.program.device_kind == "cpu" else plan.bound.step


def rate(plan: Plan) -> float:
    """Samples per second as predicted."""
    return plan.request.batch_size / predicted(plan)


def table(found: Sequence[tuple[TuneChoice, Plan]]) -> str:
    """The plans, best first, then the flags of the best. chip-h/M: chip hours for a million samples, at least. Where
    steps were measured, their seconds, and whether they put the plans into the same order."""
    is_measured = found[0][1].program.step_seconds is not None
    head = (*HEAD, "measured, s") if is_measured else HEAD
    rows = [head]
    for choice, plan in found:
        assert plan.bound is not None
        mesh = ",".join(f"{axis}={size}" for axis, size in plan.program.mesh.items())
        cost = plan.program.num_devices / rate(plan) * 1e6 / 3600
        held = f"{plan.program.peak / GIB:.2f} of {plan.memory / GIB:.2f}"
        chosen = (mesh, choice.remat, choice.attention, str(choice.accumulate), str(plan.request.batch_size), held)
        bound = (f"{predicted(plan):.3g}", plan.bound.limit, f"{plan.bound.mfu:.1%}")
        steps = () if plan.program.step_seconds is None else (f"{plan.program.step_seconds:.3g}",)
        rows.append((*chosen, *bound, f"{rate(plan):.4g}", f"{cost:.4g}", *steps))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if is_measured:
        per_sample = [(plan.program.step_seconds or math.nan) / plan.request.batch_size for _, plan in found]
        lines.append(f"measured order: {'as' if per_sample == sorted(per_sample) else 'not as'} predicted")
    return "\n".join([*lines, f"best: {found[0][0].flags(found[0][1])}"])
