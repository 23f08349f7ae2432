"""Many processes as one program: how they find each other, wait for each other, stop together and end together."""

import argparse
import os
import re
import signal
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from jax._src import distributed as runtime  # barriers and keys have no public door
from jax._src.clusters import ClusterEnv  # nor has what JAX knows of TPU pods
from jax.experimental import multihost_utils

from igllm_jax import flags
from igllm_jax.errors import UserError
from igllm_jax.parallel.backend import devices
from igllm_jax.parallel.rendezvous import wait_for_all
from igllm_jax.progress import note

START_SECONDS = 300  # for all processes to come up
HEARTBEAT_SECONDS = 20  # a process that is silent for so long is gone, and the others end
SHUTDOWN_SECONDS = 60
BARRIER_SECONDS = 600
COLLECTIVES = ("Gloo", "gloo", "NCCL")  # libraries whose errors tell of a lost process
_TASKS = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
MODES = ("auto", "slurm", "tpu", "off")
_waits: Counter[str] = Counter()  # how often each barrier was reached: the service wants a new name every time
_stopped: list[bool] = []  # grows when a signal ended this process's work early


def never() -> bool:
    """Where nothing stops."""
    return False


class Stopped(Exception):
    """Work was given up because the program is to stop; what it would have found is to be found after resuming."""


@dataclass(frozen=True)
class Cluster:
    """coordinator: HOST:PORT of process 0. local_devices: numbers of this process's devices (None: all it sees)."""

    coordinator: str
    num_processes: int
    process_id: int
    local_devices: tuple[int, ...] | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a command that may run as many processes; each also as an environment variable."""
    group = parser.add_argument_group("many processes (each flag also as IGLLM_COORDINATOR, IGLLM_NUM_PROCESSES, ...)")
    group.add_argument("--coordinator", help="HOST:PORT of process 0")
    group.add_argument("--num_processes", type=flags.PROCESSES)
    group.add_argument("--process_id", type=flags.PROCESS)
    group.add_argument(
        "--distributed",
        choices=MODES,
        help="auto (default): the flags, else a SLURM step of several tasks, else a TPU pod that names its workers, "
        "else one process; tpu: ask the TPU's metadata",
    )


def find_cluster(options: argparse.Namespace, environment: Mapping[str, str]) -> Cluster | str | None:
    """What the launcher gave: a Cluster, "tpu" where JAX finds the others itself, None for one process.

    Raises: UserError for flags that don't say everything.
    """
    names = ("coordinator", "num_processes", "process_id")
    given = {name: getattr(options, name) for name in names}
    given = {n: environment.get(f"IGLLM_{n.upper()}") if value is None else value for n, value in given.items()}
    mode = options.distributed or environment.get("IGLLM_DISTRIBUTED", "auto")
    if mode not in MODES:
        raise UserError(f"IGLLM_DISTRIBUTED is {mode!r}; choose one of {', '.join(MODES)}")
    missing = [f"--{name}" for name, value in given.items() if value in (None, "")]
    if mode == "off":
        return None
    if mode == "auto" and len(missing) < len(names):
        if missing:
            raise UserError(f"{', '.join(missing)}: missing; --coordinator, --num_processes, --process_id go together")
        return _explicit(given)
    tasks = next((_whole(name, environment) for name in _TASKS if environment.get(name)), 1)
    if mode == "slurm" or (mode == "auto" and environment.get("SLURM_PROCID") and tasks > 1):
        return _slurm(environment, tasks)
    workers = [name for name in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]
    return "tpu" if mode == "tpu" or (mode == "auto" and len(workers) > 1) else None


def _explicit(given: Mapping[str, str]) -> Cluster:
    try:
        count, own = int(given["num_processes"]), int(given["process_id"])
    except ValueError:
        raise UserError(f"num_processes and process_id are whole numbers, not {dict(given)}") from None
    if not 0 <= own < count:
        raise UserError(f"--process_id {own} must lie in 0 to {count - 1}, below --num_processes {count}")
    if not re.fullmatch(r".+:\d+", given["coordinator"]):
        raise UserError(f"--coordinator {given['coordinator']}: expected HOST:PORT")
    return Cluster(given["coordinator"], count, own)


def _slurm(environment: Mapping[str, str], tasks: int) -> Cluster:
    """One task per node takes all of its devices; several tasks on a node take one device each, as numbered there."""
    names = ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_NODES")
    missing = [name for name in ("SLURM_STEP_NODELIST", *names) if not environment.get(name)]
    if missing:
        raise UserError(f"{missing[0]} is not set: start the command with srun")
    nodes = environment["SLURM_STEP_NODELIST"]
    job, own, local, num_nodes = (_whole(name, environment) for name in names)
    port = (
        _whole("IGLLM_PORT", environment) if environment.get("IGLLM_PORT") else 61_440 + job % 4096
    )  # jobs hardly share one
    # SLURM that binds devices itself (--gpus-per-task) leaves one in sight, which is number 0
    is_bound = len(environment.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")) == 1
    devices = None if tasks == num_nodes or is_bound else (local,)
    return Cluster(f"{first_node(nodes)}:{port}", tasks, own, devices)


def first_node(nodes: str) -> str:
    """`gpu[07-09,12],cpu1` -> `gpu07`."""
    first = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", nodes)
    if first is None:
        raise UserError(f"SLURM_STEP_NODELIST is {nodes!r}, which names no node")
    return first[1] + (first[2] or "")


@contextmanager
def session(options: argparse.Namespace) -> Iterator[None]:
    """Joins the other processes for the time of the block.

    A process that fails says so and goes at once: the others, which wait for it, would otherwise find out late.
    Raises: SystemExit with IGLLM_STOPPED_CODE where that is set and a signal ended the work early, for launchers that
    start again what failed and leave alone what ended well.
    """
    cluster, stopped_code = find_cluster(options, os.environ), setting("IGLLM_STOPPED_CODE", 0)
    if cluster is None:
        devices()
        yield
    else:
        start(cluster)
        try:
            devices()
            yield
        except BaseException as error:
            _leave(error)
        jax.distributed.shutdown()
    if _stopped and stopped_code:
        raise SystemExit(stopped_code)


def setting(name: str, default: int) -> int:
    """A whole number from the environment, the default where it is absent or empty. Raises: UserError."""
    return _whole(name, os.environ) if os.environ.get(name) else default


def _whole(name: str, environment: Mapping[str, str]) -> int:
    text = environment[name].strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError(f"{name} is {environment[name]!r}: expected a whole number")
    return int(text)


def start(cluster: Cluster | str) -> None:
    """Raises: UserError where not everybody came in time."""
    if isinstance(cluster, str):
        cluster = _detected()
    seconds = setting("IGLLM_START_SECONDS", START_SECONDS)
    wait_for_all(cluster.coordinator, cluster.num_processes, cluster.process_id, seconds)
    jax.distributed.initialize(
        cluster.coordinator,
        cluster.num_processes,
        cluster.process_id,
        local_device_ids=cluster.local_devices,
        cluster_detection_method="deactivate",  # it would take one device of a SLURM node that has several
        initialization_timeout=seconds,
        heartbeat_timeout_seconds=setting("IGLLM_HEARTBEAT_SECONDS", HEARTBEAT_SECONDS),
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )
    _client().key_value_set(_host_key(jax.process_index()), socket.gethostname())


def _detected() -> Cluster:
    """What JAX finds in the metadata of a TPU pod."""
    seconds = setting("IGLLM_START_SECONDS", START_SECONDS)
    found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, seconds)
    coordinator, count, own, devices = found
    if coordinator is None or count is None or own is None:
        raise UserError("this machine's metadata name no TPU pod; give --coordinator, --num_processes, --process_id")
    return Cluster(coordinator, count, own, None if devices is None else tuple(devices))


def _client() -> Any:
    """The connection to process 0's service; None in a program of one process."""
    return runtime.global_state.client


def _host_key(process: int) -> str:
    return f"igllm/host/{process}"


def _leave(error: BaseException) -> None:
    own = f"process {jax.process_index()} of {jax.process_count()}"
    if isinstance(error, UserError):
        note(f"error: {error} ({own})")
    elif _is_lost(error):
        reason = str(error).splitlines()[0][:300]
        note(f"error: {own} lost another process ({reason}); the same command goes on from the last checkpoint")
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2 if isinstance(error, UserError) else 1)  # the ordinary way out waits for the others


def _is_lost(error: BaseException) -> bool:
    """Whether an error says that another process is gone (a broken collective may come as a plain ValueError)."""
    message = str(error)
    if isinstance(error, jax.errors.JaxRuntimeError):
        return any(part in message for part in (*COLLECTIVES, "onnection", "eartbeat", "UNAVAILABLE", "ABORTED"))
    return isinstance(error, ValueError) and any(part in message for part in COLLECTIVES)


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def barrier(name: str, seconds: float = BARRIER_SECONDS) -> None:
    """Waits until all processes are here.

    Raises: UserError naming the processes, and their hosts, that did not come in time.
    """
    client = _client()
    if client is None:
        return
    _waits[name] += 1
    try:
        client.wait_at_barrier(f"igllm/{name}/{_waits[name]}", int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        missing = _late(str(error))
        hosts = ", ".join(f"process {process} on {_host(process)}" for process in missing) or str(error)
        raise UserError(f"waited {seconds:g} s at {name!r} in vain for {hosts}") from None


def _late(message: str) -> list[int]:
    """The processes that a barrier's error lists as late: numbers, or names that end in `task:NUMBER`, line by line."""
    found = re.search(r"timed out task names:(.*?)(?:RPC|$)", message, re.DOTALL)
    return sorted({int(number) for number in re.findall(r"(\d+)\s*$", found[1], re.MULTILINE)}) if found else []


def _host(process: int) -> str:
    try:
        return _client().blocking_key_value_get(_host_key(process), 1000)
    except jax.errors.JaxRuntimeError:
        return "a host that never came"


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether to stop now, so that a loop can end after its step and save.

    One process: after SIGTERM or SIGINT. Many: all processes call it equally often, and all get the same answer, at the
    first call that none has made yet when any of them is told to stop.
    """
    seen: list[int] = []
    calls = 0
    is_many = _client() is not None

    def remember(number: int, frame: object) -> None:
        seen.append(number)
        if len(seen) > 2:  # the user insists
            raise KeyboardInterrupt
        if is_many:  # JAX listens for SIGTERM, and tells the others
            os.kill(os.getpid(), signal.SIGTERM)

    def stops() -> bool:
        nonlocal calls
        calls += 1
        is_time = multihost_utils.reached_preemption_sync_point(calls) if is_many else bool(seen)
        if is_time:
            _stopped.append(True)
        return is_time

    caught = (signal.SIGINT,) if is_many else (signal.SIGTERM, signal.SIGINT)
    old = {number: signal.signal(number, remember) for number in caught}
    try:
        yield stops
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
