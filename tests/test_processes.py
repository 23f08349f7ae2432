"""Several real processes on this machine: the same losses as one, stopped together, and what one that dies leaves."""

import argparse
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from igllm_jax import distributed, logs, make_data
from igllm_jax.checkpoint import load_params
from igllm_jax.errors import UserError
from tests import runs

STEPS = 10
STARTED = []


@pytest.fixture(autouse=True)
def nobody_stays():
    yield
    for process in STARTED:
        process.kill()
    STARTED.clear()


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def environments(count, devices):
    """The environment of each process."""
    place = {"IGLLM_COORDINATOR": f"127.0.0.1:{free_port()}", "IGLLM_NUM_PROCESSES": str(count)}
    limits = {"JAX_NUM_CPU_DEVICES": str(devices), "IGLLM_HEARTBEAT_SECONDS": "10"}
    return [{**place, **limits, "IGLLM_PROCESS_ID": str(own)} for own in range(count)]


def start(count, devices, words, command="train"):
    """Processes that belong together."""
    here = [runs.start(command, *words, environment=environment) for environment in environments(count, devices)]
    STARTED.extend(here)
    return here


def finish(processes, codes=(0,), timeout=900):
    """Everything that each wrote to stderr. All must end, with one of these exit codes."""
    said = [process.communicate(timeout=timeout)[1] for process in processes]
    assert all(process.returncode in codes for process in processes), [p.returncode for p in processes] + said
    return said


def words(workdir, data, **overrides):
    settings = {"train__num_steps": STEPS, "train__checkpoint_every": 100, "eval__loss_every": 5}
    return runs.arguments(workdir, data, **{**settings, **overrides})


def wait_for_step(processes, workdir, step, name="loss"):
    for _ in range(30_000):
        if any(line["step"] >= step and name in line for line in logs.read(workdir / "metrics.jsonl")):
            return
        assert all(process.poll() is None for process in processes), [p.communicate()[1] for p in processes]
        time.sleep(0.02)
    raise AssertionError("the run never got there")


def values(workdir, name="loss"):
    return {line["step"]: line[name] for line in logs.read(workdir / "metrics.jsonl") if name in line}


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data.main(["twod", "--out", str(folder), "--num_train", "64", "--num_val", "24"])
    return folder


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """One process with one device, which nobody disturbs."""
    workdir = tmp_path_factory.mktemp("alone")
    runs.finish(runs.start("train", *words(workdir, data, eval__generate_every=STEPS)), timeout=900)
    return workdir


def test_two_processes_train_evaluate_and_write_as_one(alone, data, tmp_path):
    mesh = {"mesh__data": 2, "mesh__fsdp": 2, "eval__generate_every": STEPS}
    first, second = finish(start(2, 2, words(tmp_path, data, **mesh)))
    assert_same(values(tmp_path), values(alone))
    assert_same(values(tmp_path, "val/loss"), values(alone, "val/loss"))
    assert values(tmp_path, "val/finished") == values(alone, "val/finished")
    assert "parameters train" in first and "parameters train" not in second
    out = ["--images", f"{data}/2d.npz:random", "--limit", "5", "--batch_size", "4", "--max_new_tokens", "20"]
    finish(start(2, 1, ["--workdir", str(tmp_path), *out, "--out", str(tmp_path / "two.json")], "generate"))
    runs.finish(
        runs.start("generate", "--workdir", str(tmp_path), *out, "--out", str(tmp_path / "one.json")), timeout=900
    )
    assert (tmp_path / "two.json").read_text() == (tmp_path / "one.json").read_text()


def test_four_stop_together_and_two_or_one_go_on(alone, data, tmp_path):
    """A signal to one process of four stops all after the same step; other meshes go on with the same data."""
    four = tmp_path / "four"
    processes = start(4, 1, words(four, data, mesh__data=2, mesh__fsdp=2))
    wait_for_step(processes, four, 2)
    processes[2].send_signal(signal.SIGTERM)
    said = finish(processes)
    stopped = int(re.search(r"stopped by a signal at step (\d+); saved", said[0])[1])
    assert 2 <= stopped < STEPS
    assert load_params(four)["projector/linear1/kernel"].dtype == np.float32
    for count, devices, mesh in [(2, 1, {"mesh__fsdp": 2}), (1, 1, {})]:
        workdir = tmp_path / f"by{count}"
        shutil.copytree(four, workdir)
        said = finish(start(count, devices, words(workdir, data, **mesh)))
        assert f"resumed from step {stopped}" in said[0]
        assert_same(values(workdir), values(alone))


def test_when_one_is_killed_the_other_ends_and_says_so(alone, data, tmp_path):
    processes = start(2, 1, words(tmp_path, data, train__checkpoint_every=2, train__num_steps=2000))
    wait_for_step(processes, tmp_path, 4)
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    _, said = processes[0].communicate(timeout=60)
    assert processes[0].returncode not in (0, None)
    assert time.monotonic() - killed < 60
    assert "error" in said or "detected fatal errors" in said
    processes[1].communicate()
    runs.finish(runs.start("train", *words(tmp_path, data)), timeout=900)
    assert list(values(tmp_path)) == list(values(alone))


def test_a_signal_while_evaluating_saves_and_nothing_is_lost(data, tmp_path):
    """What the interrupted evaluation would have found, the resumed run finds."""
    long = {"eval__loss_every": 3, "eval__loss_samples": 24, "data__val__num_samples": 24, "batch_size": 1}
    process = runs.start("train", *words(tmp_path, data, **long))
    wait_for_step([process], tmp_path, 3)
    process.send_signal(signal.SIGTERM)
    _, said = runs.finish(process, timeout=900)
    runs.finish(runs.start("train", *words(tmp_path, data, **long)), timeout=900)
    assert "saved" in said
    assert set(values(tmp_path, "val/loss")) == {3, 6, 9, STEPS}
    assert list(values(tmp_path)) == list(range(1, STEPS + 1))


LATE = """
import argparse, sys, time
from igllm_jax import distributed
from igllm_jax.errors import UserError
options = argparse.Namespace(coordinator=None, num_processes=None, process_id=None, distributed=None)
with distributed.session(options):
    distributed.barrier("start", 30)
    if distributed.is_first():
        distributed.barrier("the meeting", 1)
    else:
        time.sleep(4)
"""


def test_a_barrier_names_who_is_missing():
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LATE], env=environment, text=True, stderr=subprocess.PIPE, cwd=runs.ROOT
        )
        for environment in ({**runs.os.environ, "JAX_PLATFORMS": "cpu", **e} for e in environments(2, 1))
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert processes[0].returncode == 2
    wanted = f"error: waited 1 s at 'the meeting' in vain for process 1 on {socket.gethostname()}"
    assert wanted in said[0]


# what the launcher gives


def options(**given):
    names = ("coordinator", "num_processes", "process_id", "distributed")
    return argparse.Namespace(**{**dict.fromkeys(names), **given})


SLURM = {
    "SLURM_JOB_ID": "70", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "gpu[07-08]",
}  # fmt: skip


def test_what_the_launcher_gives_is_found():
    find = distributed.find_cluster
    assert find(options(), {}) is None
    given = options(coordinator="a:1", num_processes=2, process_id=1)
    assert find(given, SLURM) == distributed.Cluster("a:1", 2, 1)
    assert find(options(), SLURM) == distributed.Cluster("gpu07:61510", 4, 3, (1,))
    a_node_each = {**SLURM, "SLURM_STEP_NUM_NODES": "4"}
    assert find(options(), a_node_each) == distributed.Cluster("gpu07:61510", 4, 3)
    assert find(options(), {**SLURM, "CUDA_VISIBLE_DEVICES": "0"}).local_devices is None
    assert find(options(distributed="off"), SLURM) is None
    assert find(options(), {"TPU_WORKER_HOSTNAMES": "h0,h1"}) == "tpu"
    assert find(options(), {"TPU_WORKER_HOSTNAMES": "localhost"}) is None
    assert find(options(), {"IGLLM_DISTRIBUTED": "tpu"}) == "tpu"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[07-09,12],cpu1", "gpu07"), ("a", "a"), ("a,b", "a"), ("n[3,5]", "n3"), ("x-1-[2-4]", "x-1-2")],
)
def test_the_first_node_of_a_list(nodes, first):
    assert distributed.first_node(nodes) == first


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"coordinator": "a:1"}, "--num_processes, --process_id: missing"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "must lie in 0 to 1"),
        ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "expected HOST:PORT"),
        ({"distributed": "slurm"}, "SLURM_STEP_NODELIST is not set: start the command with srun"),
    ],
)
def test_what_is_half_given_is_an_error(given, match):
    with pytest.raises(UserError, match=match):
        distributed.find_cluster(options(**given), {})
