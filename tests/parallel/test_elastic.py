"""Runs that go on with the hosts that are left."""

import re
import signal
import socket
import time

import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.parallel import elastic
from igllm_jax.parallel.distributed import Cluster
from igllm_jax.weights.checkpoint import newest_step
from tests import runs

MESH = {"data": -1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    ("sizes", "devices", "batch", "found"),
    [
        (MESH, [1, 1], 12, (2, 2, 1, 1)),
        (MESH, [4, 4, 4], 8, (2, 8, 1, 1)),  # 12 devices don't divide 8 examples
        ({"data": 1, "fsdp": -1, "tensor": 1}, [4, 4], 16, (2, 1, 8, 1)),
        ({"data": 2, "fsdp": 6, "tensor": 1}, [4, 4], 16, (2, 1, 8, 1)),  # at least as many ways as before
        ({"data": 1, "fsdp": 16, "tensor": 1}, [4, 4], 16, (2, 1, 8, 1)),
        ({"data": 4, "fsdp": 1, "tensor": 2}, [2, 2, 2], 4, (2, 2, 1, 2)),
        (MESH, [2], 2, (1, 2, 1, 1)),
    ],
)
def test_the_largest_mesh_that_divides(sizes, devices, batch, found):
    count, mesh = elastic.largest_mesh(sizes, devices, batch)
    assert (count, mesh["data"], mesh["fsdp"], mesh["tensor"]) == found and mesh["slices"] == 1


def test_what_cannot_go_on_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no mesh over 4 devices divides a batch of 6"):
        elastic.largest_mesh(MESH, [4, 4], 6)
    for cluster, slices, told in (
        (None, 1, "this is one process"),
        ("tpu", 1, "a TPU slice is taken away whole"),
        (Cluster("a:1", 2, 0), 2, "mesh.slices=2 are lost whole"),
    ):
        with pytest.raises(UserError, match=f"--elastic: {told}"):
            elastic.of(cluster, [], tmp_path, {**MESH, "slices": slices}, 8, lambda: 0)


def test_each_is_told_its_new_place():
    group = elastic.Group((1, 2), "b:7", {"data": 2})
    place = ["--coordinator=b:7", "--num_processes=2", "--process_id=1", "--distributed=auto"]
    assert group.words(2) == ["--config.mesh.data=2", *place]
    assert elastic.Group((2,), "c:7", {"data": 1}).words(2) == ["--config.mesh.data=1", "--distributed=off"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_any_one_of_three_is_killed_and_two_go_on(victim, data, tmp_path):
    """With the same data as one process that nobody disturbs."""
    settings = {"batch_size": 12, "train__checkpoint_every": 5, "eval__loss_every": 0, "train__num_steps": 4000}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = {"IGLLM_COORDINATOR": f"127.0.0.1:{free.getsockname()[1]}", "IGLLM_NUM_PROCESSES": "3"}
    meet |= {"JAX_NUM_CPU_DEVICES": "1", "IGLLM_HEARTBEAT_SECONDS": "10", "IGLLM_ELASTIC_SECONDS": "15"}
    words = [*runs.arguments(tmp_path / "run", data, mesh__data=3, **settings), "--elastic"]
    processes = [runs.start("train", *words, environment={**meet, "IGLLM_PROCESS_ID": str(own)}) for own in range(3)]
    try:
        wait_for_step(tmp_path / "run", 5, processes)
        processes.pop(victim).send_signal(signal.SIGKILL)
        killed = newest_step(tmp_path / "run")
        wait_for_step(tmp_path / "run", killed + 10, processes)
        processes[0].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    assert "generation 1: 2 of 3 processes go on" in said[0] and "resumed from step" in "".join(said)
    stopped = int(re.search(r"stopped by a signal at step (\d+)", said[0])[1])
    found = runs.losses(tmp_path / "run")
    assert list(found) == list(range(1, stopped + 1))
    alone = runs.start("train", *runs.arguments(tmp_path / "alone", data, **settings))
    wait_for_step(tmp_path / "alone", killed + 10, [alone])
    alone.send_signal(signal.SIGTERM)
    runs.finish(alone)
    wanted, steps = runs.losses(tmp_path / "alone"), range(1, killed + 10)
    np.testing.assert_allclose([found[step] for step in steps], [wanted[step] for step in steps], rtol=1e-5)


def wait_for_step(workdir, step, processes):
    until = time.monotonic() + 240
    while newest_step(workdir) < step:
        assert all(process.poll() is None for process in processes), [p.communicate()[1] for p in processes]
        assert time.monotonic() < until, f"step {step} never came"
        time.sleep(0.2)
