"""What `igllm plan` finds, stage by stage: a request, the compiled program, what it costs, the text for a reader."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from igllm_jax.planning.chips import GIB, Chip
from igllm_jax.planning.hlo import Collective


@dataclass(frozen=True)
class PlanRequest:
    """One compile. config: the --config arguments. topology: as chips.find_topology names it, or local. what: "train"
    or "decode". batch_size: examples over all chips. length: positions of a row. mesh: data, fsdp, tensor. slices: how
    many such TPU slices. runs: training steps that are timed, where the topology is local. accumulate: micro-batches
    of a step. Of decoding: num_drafts,
    tokens guessed a pass; has_grammar, whether answers keep to the language; tokens_per_pass, written on average.
    """

    config: tuple[str, ...]
    topology: str
    what: str
    batch_size: int
    length: int
    mesh: tuple[int, int, int]
    slices: int = 1
    runs: int = 0
    accumulate: int = 1
    num_drafts: int = 0
    has_grammar: bool = False
    tokens_per_pass: float = 1.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "PlanRequest":
        """The inverse of `dataclasses.asdict`, by way of JSON."""
        return cls(**{**values, "config": tuple(values["config"]), "mesh": tuple(values["mesh"])})


@dataclass(frozen=True)
class Program:
    """What the compiler says of one program; bytes are of one chip.

    mesh: axis -> size. memory: that programs may take, None where chips.CHIPS knows it. arguments: kind -> bytes.
    refused: the compiler's words where it refused; what follows is then not there. workspace: what kernels take that
    the compiler does not count; part of the peak. collectives: None where the program can't be printed. step_seconds:
    of a step that ran, None where none did.
    """

    device_kind: str
    num_devices: int
    mesh: Mapping[str, int]
    memory: float | None
    arguments: Mapping[str, float]
    refused: str | None = None
    compile_seconds: float = 0.0
    temporaries: float = 0.0
    workspace: float = 0.0
    peak: float = 0.0
    collectives: tuple[Collective, ...] | None = None
    step_seconds: float | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Program":
        """The inverse of `dataclasses.asdict`, by way of JSON."""
        found = values["collectives"]
        made = [Collective(**{**one, "axes": tuple(one["axes"])}) for one in found or ()]
        return cls(**{**values, "collectives": None if found is None else tuple(made)})


@dataclass(frozen=True)
class BatchFlops:
    """FLOPs of the whole batch: useful and executed, see flops.py. per_chip: executed ones."""

    useful: float
    executed: float
    per_chip: float


@dataclass(frozen=True)
class Bound:
    """The least seconds that one step (or a whole answer) can take, as the slowest of those that overlap perfectly.

    seconds: `compute`, executed FLOPs at peak; `memory`, weights read once per pass (and at each token) at the memory's
    bandwidth; `links`, what collectives send over all fast links at once; `network`, what of it goes to other GPU
    hosts or TPU slices; `host`, what activations go to the host's memory and back, one after the other (both absent
    where nothing does). limit: the slowest. step: its seconds. mfu: useful FLOPs over peak at that bound.
    """

    seconds: Mapping[str, float]
    limit: str
    step: float
    mfu: float

    @classmethod
    def of(cls, flops: BatchFlops, read: float, program: Program, chip: Chip, offloaded: float = 0.0) -> "Bound":
        """read: bytes that a chip at least reads and writes. offloaded: to its host's memory and back."""
        sent = sum(one.bytes - one.network_bytes for one in program.collectives or ())
        seconds = {
            "compute": flops.per_chip / chip.flops,
            "memory": read / chip.memory_bandwidth,
            "links": sent / chip.link_bandwidth,
        }
        between = sum(one.network_bytes for one in program.collectives or ())
        if between:
            seconds["network"] = between / chip.network_bandwidth
        if offloaded:
            seconds["host"] = offloaded / chip.host_bandwidth
        limit = max(seconds, key=lambda name: seconds[name])
        mfu = flops.useful / program.num_devices / chip.flops / seconds[limit]
        return cls(seconds, limit, seconds[limit], mfu)


@dataclass(frozen=True)
class Search:
    """The largest batch per data-and-fsdp device that fits, and all that were tried."""

    largest_batch_per_device: int
    tried: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """memory: bytes that a program may take of one chip. memory_note: why that is not all of it. flops: None where the
    program was refused. bound: None where the chip is unknown too. collectives_note: where they were read off another
    program, which. search: where the largest batch was asked for. rates: of decoding, tokens per second at the bound by
    tokens a pass, over all chips."""

    request: PlanRequest
    program: Program
    memory: float
    memory_note: str | None = None
    flops: BatchFlops | None = None
    bound: Bound | None = None
    collectives_note: str | None = None
    search: Search | None = None
    rates: Mapping[float, float] | None = None

    @property
    def fits(self) -> bool:
        return self.program.refused is None and self.program.peak <= self.memory

    @property
    def batch_per_chip(self) -> float:
        return self.request.batch_size / self.program.num_devices

    def to_json(self) -> dict[str, Any]:
        """Plain values under the keys that readers of plan files know; what is not there is left out."""
        request, program = self.request, {**asdict(self.program), "memory": self.memory}
        is_decode = request.what == "decode"
        measured: tuple[str, ...] = ("compile_seconds", "temporaries", "peak", "collectives")
        left_out: tuple[str, ...] = measured if self.program.refused is not None else ("refused",)
        left_out += ("step_seconds",) if program["step_seconds"] is None else ()
        found = {
            "topology": request.topology,
            "what": request.what,
            "batch": request.batch_size,
            "batch_per_chip": self.batch_per_chip,
            "length": request.length,
            "memory": self.memory,
            **({"memory_note": self.memory_note} if self.memory_note else {}),
            **({"slices": request.slices} if request.slices > 1 else {}),
            **({"num_drafts": request.num_drafts, "has_grammar": request.has_grammar} if is_decode else {}),
            "fits": self.fits,
            **{key: value for key, value in program.items() if key not in left_out},
            **({"collectives_note": self.collectives_note} if self.collectives_note else {}),
        }
        if self.flops is not None:
            found |= {"flops": asdict(self.flops), "bound": asdict(self.bound) if self.bound else None}
        found |= {"tokens_per_second": {f"{key:g}": rate for key, rate in self.rates.items()}} if self.rates else {}
        return {**found, **(asdict(self.search) if self.search else {})}


def plan_text(plan: Plan) -> str:
    """The plan for a reader."""
    request, program = plan.request, plan.program
    mesh = ",".join(f"{axis}={size}" for axis, size in program.mesh.items())
    lines = [
        f"{request.what} on {_spelled(request)} ({program.num_devices} x {program.device_kind}), mesh {mesh}: "
        f"batch {request.batch_size} ({plan.batch_per_chip:g} per chip) of {request.length} positions"
    ]
    held = list(program.arguments.items())
    if program.refused is not None:
        lines += [f"  {name:24}{size / GIB:9.3f} GiB" for name, size in held]
        return "\n".join([*lines, f"does not fit: {program.refused}"])
    held += [("activations, temporaries", program.temporaries)]
    held += [("attention's workspace", program.workspace)] if program.workspace else []
    held += [("peak", program.peak), ("memory", plan.memory)]
    lines += ["bytes per chip", *(f"  {name:24}{size / GIB:9.3f} GiB" for name, size in held)]
    lines += ["collectives per chip and step" + (f" ({plan.collectives_note})" if plan.collectives_note else "")]
    lines += [
        f"  {one.kind:20}{'+'.join(one.axes):14}{one.count:7} times {one.bytes / 1e9:9.3f} GB{_between(one)}"
        for one in program.collectives or ()
    ] or ["  none"]
    lines += [*_cost(plan), f"compiled in {program.compile_seconds:.0f} s"]
    if plan.search:
        most = plan.search.largest_batch_per_device
        lines += [f"largest batch that fits: {request.batch_size} ({most} per device)"]
    verdict = f"{program.peak / GIB:.2f} of {plan.memory / GIB:.2f} GiB"
    verdict += f": {plan.memory_note}" if plan.memory_note else ""
    return "\n".join([*lines, f"fits: {verdict}" if plan.fits else f"does not fit: {verdict}"])


def _spelled(request: PlanRequest) -> str:
    return f"{request.slices} x {request.topology}" if request.slices > 1 else request.topology


def _between(one: Collective) -> str:
    return f", {one.network_bytes / 1e9:.3f} of them between hosts or slices" if one.network_bytes else ""


def _cost(plan: Plan) -> list[str]:
    """FLOPs, and the bound where there is one."""
    lines = []
    if plan.flops is not None:
        lines = [f"model FLOPs per step: {plan.flops.useful:.4g} useful, {plan.flops.executed:.4g} executed"]
    if plan.bound is not None:
        parts = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in plan.bound.seconds.items())
        of = "step" if plan.request.what == "train" else "answer of all tokens"
        lines += [f"bound: {of} >= {plan.bound.step:.3g} s, MFU <= {plan.bound.mfu:.1%} ({parts})"]
        lines += [f"limited by {plan.bound.limit}"]
    if plan.rates:
        each = ", ".join(f"{rate:.4g} at {tokens:g} tokens a pass" for tokens, rate in plan.rates.items())
        lines += [f"tokens per second <= {each}"]
    return lines
