"""`igllm train --elastic`: when a host is lost for good, those that are left go on without it.

On every host a supervisor runs the command as a process of its own, which ends where another one is lost. The hosts
that are left meet in the run's folder, which all of them see, for the next *generation*: each leaves a file there, and
when nobody new has come for a while, the lowest of them writes who belongs to it, where they find each other, and
their mesh.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from igllm_jax import files
from igllm_jax.errors import UserError
from igllm_jax.parallel.distributed import Cluster, setting
from igllm_jax.parallel.sharding import MESH_AXES
from igllm_jax.paths import FilePath
from igllm_jax.progress import note

ELASTIC_SECONDS = 60  # without a newcomer, after which the others are taken for lost
POLL_SECONDS = 0.5
MOST_FAILURES = 3  # one after the other, with no checkpoint between them
GROUP = "group.json"
DEVICES = "IGLLM_DEVICES_FILE"  # where a supervised process leaves the number of its devices
_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent is gone


@dataclass(frozen=True)
class Group:
    """Who goes on together. members: their numbers at the start. coordinator: HOST:PORT of the first. mesh: axis ->
    size."""

    members: tuple[int, ...]
    coordinator: str
    mesh: Mapping[str, int]

    def words(self, own: int) -> list[str]:
        """The flags of one of them."""
        mesh = [f"--config.mesh.{axis}={size}" for axis, size in self.mesh.items()]
        if len(self.members) == 1:
            return [*mesh, "--distributed=off"]
        position = {"coordinator": self.coordinator, "num_processes": len(self.members)}
        position |= {"process_id": self.members.index(own), "distributed": "auto"}
        return [*mesh, *(f"--{name}={value}" for name, value in position.items())]


def largest_mesh(sizes: Mapping[str, int], devices: Sequence[int], batch_size: int) -> tuple[int, dict[str, int]]:
    """How many of the hosts go on, the first ones, and their mesh: as many as there can be, with the tensor axis as it
    was and parameters sharded over at least as many devices where that can be.

    sizes: of the mesh before. devices: of each host. batch_size: examples at once, which the mesh has to divide.
    Raises: UserError where not even one host has such a mesh.
    """
    tensor, fsdp = max(sizes["tensor"], 1), sizes["fsdp"]
    for count in range(len(devices), 0, -1):
        rest, odd = divmod(sum(devices[:count]), tensor)
        if odd or batch_size % rest:
            continue
        ways = [n for n in range(1, rest + 1) if rest % n == 0]
        wide = [n for n in ways if n >= fsdp] if fsdp > 0 else [rest]
        own = wide[0] if wide else rest
        return count, {"slices": 1, "data": rest // own, "fsdp": own, "tensor": tensor}
    raise UserError(f"--elastic: no mesh over {devices[0]} devices divides a batch of {batch_size}")


def tell_devices() -> None:
    """For the supervisor of this process, where it has one."""
    if path := os.environ.get(DEVICES):
        Path(path).write_text(str(jax.local_device_count()))


@dataclass
class Supervisor:
    """words: of the command. cluster: of the first generation. folder: that all hosts see, of this alone. mesh,
    batch_size: as the config has them, the latter over its micro-batches. progress: how far the run is saved."""

    words: Sequence[str]
    cluster: Cluster
    folder: FilePath
    mesh: Mapping[str, int]
    batch_size: int
    progress: Callable[[], int]
    process: subprocess.Popen | None = field(default=None, init=False)
    is_told: bool = field(default=False, init=False)

    def run(self) -> int:
        """The exit code of the last generation."""
        own, address = self.cluster.process_id, self._address()
        if own == 0:
            files.remove_folder(self.folder)  # of an earlier start
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        words, members, failures, generation = [*self.words], tuple(range(self.cluster.num_processes)), 0, 0
        while True:
            saved = self.progress()
            code, devices = self._start(words)
            if self.is_told or code in (0, 2, setting("IGLLM_STOPPED_CODE", 0)):
                return code
            failures = 0 if self.progress() > saved else failures + 1
            if failures >= MOST_FAILURES:
                note(f"error: {failures} failures without a checkpoint between them; the last exit code is {code}")
                return code
            generation += 1
            group = self._gather(generation, {"address": address, "devices": devices}, set(members))
            if own not in group.members:
                note(f"process {own} is left out: the mesh that divides the batch is {dict(group.mesh)}")
                return 0
            note(f"generation {generation}: {len(group.members)} of {len(members)} processes go on, {dict(group.mesh)}")
            words, members = [*self.words, *group.words(own)], group.members

    def _address(self) -> str:
        """Of this host, as the others reach it."""
        host, _, port = self.cluster.coordinator.rpartition(":")
        if self.cluster.process_id == 0:
            return host
        try:
            family, kind, _, _, target = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as route:
                route.connect(target)  # sends nothing
                found = str(route.getsockname()[0])
        except OSError:
            return socket.gethostname()
        return f"[{found}]" if ":" in found else found

    def _start(self, words: Sequence[str]) -> tuple[int, int]:
        """Exit code and number of devices of the command."""
        with tempfile.TemporaryDirectory(prefix="igllm-") as folder:
            told = Path(folder) / "devices"
            environment = {**os.environ, DEVICES: str(told)}
            if self.cluster.local_devices is not None:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self.cluster.local_devices))
            line = [sys.executable, "-u", "-m", "igllm_jax", "train", *words]
            self.process = subprocess.Popen(line, env=environment, preexec_fn=_end_with_parent)
            return self.process.wait(), int(told.read_text()) if told.exists() else 1

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.is_told = True
        if self.process is not None:
            self.process.send_signal(number)

    def _gather(self, generation: int, about: Mapping[str, Any], members: set[int]) -> Group:
        """Who goes on. Raises: UserError where the one that has to say so does not."""
        folder, own = self.folder / str(generation), self.cluster.process_id
        seconds = setting("IGLLM_ELASTIC_SECONDS", ELASTIC_SECONDS)
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(folder / f"{own}.json", json.dumps(about))
        seen: set[int] = set()
        changed = time.monotonic()
        while not (folder / GROUP).exists():
            here = {int(path.stem) for path in folder.iterdir() if path.suffix == ".json" and path.stem.isdigit()}
            if here != seen:
                seen, changed = here, time.monotonic()
            waited = time.monotonic() - changed
            if own == min(here, default=own) and (here >= members or waited > seconds):
                files.write_text(folder / GROUP, json.dumps(vars(self._group(generation, sorted(here | {own})))))
            elif waited > 3 * seconds:
                raise UserError(f"--elastic: process {min(here)} came to {folder} and then said nothing; start again")
            time.sleep(POLL_SECONDS)
        found = json.loads((folder / GROUP).read_text())
        return Group(tuple(found["members"]), found["coordinator"], found["mesh"])

    def _group(self, generation: int, here: Sequence[int]) -> Group:
        told = [json.loads((self.folder / str(generation) / f"{member}.json").read_text()) for member in here]
        count, mesh = largest_mesh(self.mesh, [one["devices"] for one in told], self.batch_size)
        port = int(self.cluster.coordinator.rpartition(":")[2]) + generation  # the one before may still be held
        return Group(tuple(here[:count]), f"{told[0]['address']}:{port}", mesh)


def _end_with_parent() -> None:
    """In a new process, on Linux: a supervisor that is killed takes its process with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


def of(
    cluster: Cluster | str | None,
    words: Sequence[str],
    workdir: FilePath,
    mesh: Mapping[str, int],
    batch_size: int,
    progress: Callable[[], int],
) -> Supervisor:
    """See Supervisor. Raises: UserError where hosts cannot be left out."""
    if not isinstance(cluster, Cluster):
        told = "a TPU slice is taken away whole" if cluster else "this is one process"
        raise UserError(f"--elastic: {told}; give --coordinator, --num_processes and --process_id, or start by srun")
    if mesh["slices"] > 1:
        raise UserError(f"--elastic: mesh.slices={mesh['slices']} are lost whole; leave --elastic out")
    sizes = {axis: mesh[axis] for axis in MESH_AXES}
    return Supervisor(
        [word for word in words if word != "--elastic"], cluster, workdir / "elastic", sizes, batch_size, progress
    )
