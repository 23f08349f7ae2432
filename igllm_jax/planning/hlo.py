"""What a compiled program sends between devices, read from its text: kind, mesh axes, bytes, loops multiplied out."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_HEADER = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{\s*$")
_COLLECTIVE = re.compile(rf" = (?P<type>.+?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
# how TPU slices exchange what their own chips have reduced or gathered: by way of their hosts
_BETWEEN_SLICES = re.compile(
    r" = \((?P<type>[^)]*?\]).* send\(.*xla_megascale_runtime.*transfer_type=\"(?P<kind>\w+)\""
)
_WHILE = re.compile(r" while\((?P<state>[^)]*)\).*condition=%?(?P<condition>[^\s,]+), body=%?(?P<body>[^\s,]+)")
_DEFINED = re.compile(r"^\s*(?:ROOT )?%?(\S+) = ")
_COUNTER = re.compile(r" = [su]32\[\]\S* get-tuple-element\(.*index=(\d+)")
_PASSED_ON = re.compile(
    r" (?P<how>copy|bitcast|tuple|get-tuple-element|constant)\((?P<from>.*?)\)(?:, index=(?P<index>\d+))?"
)
_CALLS = re.compile(r"(?:calls|to_apply|called_computations|branch_computations|true_computation|false_computation)=")
_NAMES = re.compile(r"%([^\s,{}()]+)")
_TRIPS = re.compile(r"known_trip_count\D+(\d+)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_WIDTHS = {"pred": 1, "s4": 0.5, "u4": 0.5}


@dataclass(frozen=True)
class Collective:
    """kind: of KINDS. axes: mesh axes that the devices of a group differ in, or `slices`. count: how often it runs in
    one call.

    bytes: that one device sends in one call of the program, all of them together, by ring algorithms. network_bytes:
    what of that it sends from one island (GPU host, TPU slice) to others, where all members of a group in an island
    share that.
    """

    kind: str
    axes: tuple[str, ...]
    count: int
    bytes: float
    network_bytes: float = 0.0


def collectives(text: str, mesh: Mapping[str, int], islands: Sequence[int] = ()) -> list[Collective]:
    """Every collective of a compiled program (the text of its HLO module), summed by kind and axes, largest first.

    A loop counts from its counter's first value to its condition's constant; where that value is another loop's last,
    both are pieces of one. A loop that may end early counts as one that does not.
    mesh: axis -> size, in the mesh's order. islands: of each device in that order, the number of the island of fast
    links that it belongs to; none where all are one.
    """
    computations, entry = _computations(text)
    totals: dict[tuple[str, tuple[str, ...]], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for name, times in _times(computations, entry).items():
        for line in computations[name]:
            if between := _BETWEEN_SLICES.search(line):
                total = totals[between["kind"].lower().replace("_", "-"), ("slices",)]
                size = times * _sent_by_slice(between, len(set(islands)))
                total[:] = total[0] + times, total[1] + size, total[2] + size
                continue
            found = _COLLECTIVE.search(line)
            if found is None:
                continue
            group = _group(line, mesh)
            if len(group) < 2:
                continue
            total = totals[found["kind"], _axes(group, mesh)]
            total[0] += times
            total[1] += times * _sent(found, len(group))
            total[2] += times * _sent_between(found, [islands[device] for device in group] if islands else [])
    made = [Collective(kind, axes, int(count), *sizes) for (kind, axes), (count, *sizes) in totals.items()]
    return sorted(made, key=lambda one: -one.bytes)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Name -> lines of every computation, and the entry's name."""
    computations: dict[str, list[str]] = {}
    entry = ""
    lines: list[str] = []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            lines = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        else:  # a closing brace proves nothing: kernels carry text of several lines
            lines.append(line)
    return computations, entry


def _times(computations: Mapping[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs, loops multiplied out."""
    calls = {name: _called(lines, computations) for name, lines in computations.items()}
    times: dict[str, int] = defaultdict(int)

    def visit(name: str, factor: int) -> None:
        times[name] += factor
        for other, repeats in calls[name]:
            visit(other, factor * repeats)

    visit(entry, 1)
    return times


def _called(lines: list[str], computations: Mapping[str, list[str]]) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for line in lines:
        loop = _WHILE.search(line)
        if loop:
            known = _TRIPS.search(line)
            trips = int(known[1]) if known else _trips(loop, lines, computations)
            found += [(loop["condition"], trips + 1), (loop["body"], trips)]
            continue
        for call in _CALLS.finditer(line):
            rest = line[call.end() :]
            names = rest[: rest.index("}")] if rest.startswith("{") else rest.split(",")[0]
            found += [(name, 1) for name in _NAMES.findall(names) if name in computations]
    return found


def _trips(loop: re.Match[str], lines: list[str], computations: Mapping[str, list[str]]) -> int:
    """From the counter's value before the loop to what its condition compares it with."""
    bound = _bound(loop["condition"], computations)
    counters = (_COUNTER.search(line) for line in computations[loop["condition"]])
    index = next((int(counter[1]) for counter in counters if counter), 0)
    defined = {name[1]: line for line in lines if (name := _DEFINED.match(line))}
    return max(bound - _value(loop["state"], index, defined, computations), 0)


def _value(name: str, index: int, defined: Mapping[str, str], computations: Mapping[str, list[str]]) -> int:
    """A whole number followed back to where it is written, through element `index` of tuples; after a loop, what it
    counts to; 0 where it is computed."""
    while line := defined.get(name.split()[-1].removeprefix("%")):
        if loop := _WHILE.search(line):
            return _bound(loop["condition"], computations)
        found = _PASSED_ON.search(line)
        if found is None:
            return 0
        if found["how"] == "constant":
            return int(found["from"]) if found["from"].isdigit() else 0
        if found["how"] == "tuple":
            name = re.sub(r"/\*.*?\*/", "", found["from"]).split(",")[index]
        else:
            name, index = found["from"], int(found["index"] or index)
    return 0


def _bound(condition: str, computations: Mapping[str, list[str]]) -> int:
    """The largest whole number that a loop's condition compares with."""
    lines = [*computations[condition]]
    for name, _ in _called(computations[condition], computations):
        lines += computations[name]
    constants = [int(n) for line in lines for n in re.findall(r"= [su]32\[\]\S* constant\((\d+)\)", line)]
    return max(constants, default=1)


def _group(line: str, mesh: Mapping[str, int]) -> list[int]:
    """The devices of the first group, as numbers in the mesh's order."""
    size = math.prod(mesh.values())
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", line):
        return [int(pairs[1]), int(pairs[2])]
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=(\S+))? \{([^}]*)\}", line):
        positions = _named_group(named[1], named[3])
        return _reordered(positions, named[2]) if named[2] else positions
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return [int(n) for n in listed[1].split(",")]
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        shape, dims = ([int(n) for n in part.split(",")] for part in (iota[1], iota[2]))
        devices = np.arange(math.prod(dims)).reshape(dims)
        if iota[3]:
            devices = devices.transpose([int(n) for n in iota[3].split(",")])
        return devices.reshape(shape)[0].tolist()
    if unknown := re.search(r"replica_groups=(?!\{\})\S+", line):
        raise ValueError(f"this compiler spells groups of devices in a way that is not known here: {unknown[0][:200]}")
    return list(range(size))


def _named_group(mesh: str, axes: str) -> list[int]:
    """The first group of `mesh['a'=4,'b'=8] {'b'}`; a part of an axis is written `'b':(2)4` (after 2, the next 4)."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    strides, stride = {}, 1
    for name in reversed(sizes):
        strides[name] = stride
        stride *= sizes[name]
    group = [0]
    for name, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes):
        size = int(part) if part else sizes[name]
        step = strides[name] * (sizes[name] // (int(before) * size) if part else 1)
        group = [start + step * position for start in group for position in range(size)]
    return group


def _reordered(positions: list[int], order: str) -> list[int]:
    """Devices at these positions of a mesh whose devices are `(0,2,1,3)`, or the same as `([2,2]T(1,0))`."""
    if tiles := re.fullmatch(r"\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", order):
        dims = [int(n) for n in tiles[1].split(",")]
        axes = [int(n) for n in tiles[2].split(",")] if tiles[2] else range(len(dims))
        devices = np.arange(math.prod(dims)).reshape(dims).transpose(axes).ravel()
    else:
        devices = np.array([int(n) for n in re.findall(r"\d+", order)])
    return devices[positions].tolist()


def _axes(group: list[int], mesh: Mapping[str, int]) -> tuple[str, ...]:
    positions = np.array(np.unravel_index(group, tuple(mesh.values())))
    return tuple(name for name, row in zip(mesh, positions, strict=True) if len(set(row.tolist())) > 1)


def _sent(found: re.Match[str], devices: int) -> float:
    """Bytes that one device sends, by the ring algorithm of its kind."""
    size = sum(_bytes(kind, dims) for kind, dims in _ARRAY.findall(found["type"]))
    share = (devices - 1) / devices
    kind, is_start = found["kind"], found["start"]
    if kind == "all-gather":  # a start's type holds inputs and outputs
        return share * size * (devices / (devices + 1) if is_start else 1)
    if kind == "reduce-scatter":
        return (devices - 1) * size * (1 / (devices + 1) if is_start else 1)
    if kind == "all-reduce":
        return 2 * share * size
    if kind == "all-to-all":
        return share * size
    return size / 2 if is_start else size


def _sent_by_slice(found: re.Match[str], slices: int) -> float:
    """Bytes that one chip sends through its host in an exchange of its own part with the same chip of other slices."""
    kind, dims = _ARRAY.findall(found["type"])[0]
    if found["kind"] == "ALL_REDUCE":
        return 2 * (slices - 1) / slices * _bytes(kind, dims)
    return (slices - 1) / slices * _bytes(kind, dims)


def _sent_between(found: re.Match[str], islands: Sequence[int]) -> float:
    """Bytes that one device sends to other islands, where those of one island exchange what they have first: of n
    members, each of m in an island moves its share of what n / m members would."""
    count = len(set(islands))
    if count < 2:
        return 0.0
    members = len(islands) / count
    if found["kind"] == "reduce-scatter":  # its type is the result's, a share of what goes in
        return _sent(found, len(islands)) * (count - 1) / (len(islands) - 1)
    if found["kind"] in ("all-gather", "all-reduce"):
        whole = _sent(found, len(islands)) * len(islands) / (len(islands) - 1)
        return whole * (count - 1) / count / members
    if found["kind"] == "all-to-all":
        return _sent(found, len(islands)) * (len(islands) - members) / (len(islands) - 1)
    return _sent(found, len(islands))


def _bytes(kind: str, dims: str) -> float:
    width = _WIDTHS.get(kind) or int(re.findall(r"\d+", kind)[0]) / 8
    return width * math.prod(int(n) for n in dims.split(",") if n)
