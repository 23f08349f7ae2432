"""What this machine's devices are, and where no datasheet says what they can do, that measured.

`python -m igllm_jax.planning.local OUT.json DTYPE` writes it down: a process of its own, for on a GPU JAX takes most of
the memory of whoever asks.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from igllm_jax.errors import UserError
from igllm_jax.parallel.backend import devices
from igllm_jax.planning import apart
from igllm_jax.planning.chips import Chip, chip_of
from igllm_jax.planning.memory import local_memory

TRIES = 5
ROWS, COLUMNS = 1024, 1024  # of the products whose speed counts
COPIED = 1 << 25  # bytes of a device
SENT = 1 << 22


@dataclass(frozen=True)
class LocalMachine:
    """count: devices. memory: bytes that a program may take of one. chip: of the datasheet, or measured with all
    devices at work at once."""

    count: int
    memory: float
    chip: Chip


def find(dtype: str) -> LocalMachine:
    """This machine, asked in another process. Raises: UserError where it has no device."""
    found = apart.ask(
        "igllm_jax.planning.local",
        dtype,
        failed=lambda code, lines: (
            f"this machine's devices can't be measured (exit code {code}): {' '.join(lines[-1:])[:300]}"
        ),
    )
    return LocalMachine(found["count"], found["memory"], Chip(**found["chip"]))


def measured(found: list[Any], dtype: str, memory: float) -> Chip:
    """Speeds of one device while all work. A CPU has no host beside it: its own memory's speed stands for that."""
    count = len(found)
    mesh = Mesh(found, ("device",))
    over_all = partial(jax.shard_map, mesh=mesh, in_specs=PartitionSpec("device"), out_specs=PartitionSpec("device"))

    def seconds(function: Callable[..., Any], *shape: int, dtype: str) -> float:
        argument = jax.device_put(jnp.ones((count, *shape), dtype), jax.NamedSharding(mesh, PartitionSpec("device")))
        compiled = jax.jit(over_all(function))
        times = []
        for _ in range(TRIES + 1):  # the first compiles
            started = time.perf_counter()
            jax.block_until_ready(compiled(argument))
            times.append(time.perf_counter() - started)
        return min(times[1:])

    product = seconds(lambda x: (x[0] @ x[0].T)[None], ROWS, COLUMNS, dtype=dtype)
    copy = seconds(lambda x: x + 1, COPIED // 4, dtype="float32")
    bandwidth = 2 * COPIED / copy
    links = bandwidth
    if count > 1:
        links = SENT * (count - 1) / seconds(lambda x: jax.lax.all_gather(x[0], "device"), SENT // 4, dtype="float32")
    return Chip(2 * ROWS * ROWS * COLUMNS / product, bandwidth, memory, links, links, bandwidth)


def step_seconds(step: Callable[..., Any], arguments: tuple[Any, ...], count: int) -> float:
    """The median of `count` steps, after one that is not counted. step: compiled; takes its first argument away and
    returns it first. arguments: shapes with shardings, arrays of ones stand for them."""
    make = jax.jit(
        lambda: jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), arguments),
        out_shardings=jax.tree.map(lambda x: x.sharding, arguments),
    )
    state, *others = make()
    times = []
    for _ in range(count + 1):
        started = time.perf_counter()
        state, metrics = step(state, *others)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main(arguments: list[str]) -> int:
    out, dtype = arguments
    try:
        here = devices()
    except UserError as error:
        Path(out).write_text(json.dumps({"error": str(error)}))
        return 2
    memory = local_memory(here[0])
    chip = chip_of(here[0].device_kind) or measured(here, dtype, memory)
    Path(out).write_text(json.dumps(asdict(LocalMachine(len(here), memory, chip))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
