"""Several real processes on this machine: the same losses as one, stopped together, and what one that dies leaves."""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.kills import largest_difference
from igllm_jax.errors import UserError
from igllm_jax.parallel import distributed
from igllm_jax.training import metrics_log
from igllm_jax.weights.checkpoint import find_step, load_params
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


def environments(count, devices, **more):
    """The environment of each process."""
    settings = {"IGLLM_COORDINATOR": f"127.0.0.1:{free_port()}", "IGLLM_NUM_PROCESSES": str(count)} if count > 1 else {}
    limits = {"JAX_NUM_CPU_DEVICES": str(devices), "IGLLM_HEARTBEAT_SECONDS": "10"}
    return [
        {**settings, **limits, **more, **({"IGLLM_PROCESS_ID": str(own)} if settings else {})} for own in range(count)
    ]


def start(count, devices, words, command="train", **more):
    """Processes that belong together."""
    environs = environments(count, devices, **more)
    here = [runs.start(command, *words, environment=environment) for environment in environs]
    STARTED.extend(here)
    return here


def finish(processes, codes=(0,), timeout=900):
    """Everything that each wrote to stderr. All must end, with one of these exit codes."""
    said = [process.communicate(timeout=timeout)[1] for process in processes]
    assert all(process.returncode in codes for process in processes), [p.returncode for p in processes] + said
    return said


def words(workdir, data, **overrides):
    """Held-out sets that fill no whole number of batches of 8, and differ in size."""
    settings = {"train__num_steps": STEPS, "train__checkpoint_every": 100, "eval__loss_every": 5}
    settings |= {"eval__loss_samples": 13, "eval__generate_samples": 20}
    return runs.arguments(workdir, data, **{**settings, **overrides})


def wait_for_step(processes, workdir, step, name="loss"):
    for _ in range(30_000):
        if any(line["step"] >= step and name in line for line in metrics_log.read(workdir / "metrics.jsonl")):
            return
        assert all(process.poll() is None for process in processes), [p.communicate()[1] for p in processes]
        time.sleep(0.02)
    raise AssertionError("the run never got there")


def values(workdir, name="loss"):
    return {line["step"]: line[name] for line in metrics_log.read(workdir / "metrics.jsonl") if name in line}


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=1e-5)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """One process with one device, which nobody disturbs."""
    workdir = tmp_path_factory.mktemp("alone")
    runs.finish(runs.start("train", *words(workdir, data, eval__generate_every=STEPS)), timeout=900)
    return workdir


@pytest.mark.slow
def test_two_slices_train_to_the_losses_of_one_device(alone, data, tmp_path):
    """Two processes of four devices each: data lies between them, fsdp and more data within."""
    mesh = {"mesh__slices": 2, "mesh__data": 4, "mesh__fsdp": 2, "eval__generate_every": 0}
    finish(start(2, 4, words(tmp_path, data, **mesh)))
    assert_same(values(tmp_path), values(alone))


@pytest.mark.slow
def test_two_processes_train_evaluate_and_write_as_one(alone, data, tmp_path):
    mesh = {"mesh__data": 2, "mesh__fsdp": 2, "eval__generate_every": STEPS}
    first, second = finish(start(2, 2, words(tmp_path, data, **mesh)))
    assert_same(values(tmp_path), values(alone))
    assert_same(values(tmp_path, "val/loss"), values(alone, "val/loss"))
    scores, wanted = (metrics_log.read(folder / "metrics.jsonl")[-1] for folder in (tmp_path, alone))
    assert scores.keys() == wanted.keys() > {"step", "val/finished"}
    np.testing.assert_allclose(list(scores.values()), list(wanted.values()), rtol=1e-5)
    assert "parameters train" in first and "parameters train" not in second
    out = ["--images", f"{data}/2d.npz:random", "--limit", "5", "--batch_size", "4", "--max_new_tokens", "40"]
    script = [str(runs.ROOT / "launch" / "local.sh"), "2", "generate", "--workdir", str(tmp_path), *out]
    settings = {**os.environ, "PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"}
    subprocess.run([*script, "--out", str(tmp_path / "two.json")], env=settings, cwd=runs.ROOT, check=True, timeout=900)
    runs.finish(
        runs.start("generate", "--workdir", str(tmp_path), *out, "--out", str(tmp_path / "one.json")), timeout=900
    )
    two, one = (json.loads((tmp_path / name).read_text())["answers"] for name in ("two.json", "one.json"))
    assert {name: answer["outputs"] for name, answer in two.items()} == {name: a["outputs"] for name, a in one.items()}
    assert list(two) == list(one) and len(two) == 5


@pytest.mark.slow
def test_four_stop_together_and_two_or_one_go_on(alone, data, tmp_path):
    """A signal to one process of four stops all after the same step; other meshes go on with the same data."""
    four = tmp_path / "four"
    processes = start(4, 1, words(four, data, mesh__data=2, mesh__fsdp=2), IGLLM_STOPPED_CODE="75")
    wait_for_step(processes, four, 2)
    processes[2].send_signal(signal.SIGTERM)
    said = finish(processes, codes=(75,))
    stopped = int(re.search(r"stopped by a signal at step (\d+); saved", said[0])[1])
    assert 2 <= stopped < STEPS
    assert load_params(four)["projector/linear1/kernel"].dtype == np.float32
    for count, devices, mesh in [(2, 1, {"mesh__fsdp": 2}), (1, 1, {})]:
        workdir = tmp_path / f"by{count}"
        shutil.copytree(four, workdir)
        said = finish(start(count, devices, words(workdir, data, **mesh)))
        assert f"resumed from step {stopped}" in said[0]
        assert_same(values(workdir), values(alone))
        # neither the mesh nor what is generated besides changes which examples are held out
        assert_same(values(workdir, "val/loss"), values(alone, "val/loss"))


@pytest.mark.slow
@pytest.mark.parametrize(("count", "victim"), [(2, 1), (4, 0)])
def test_when_one_is_killed_the_others_end_and_say_so(count, victim, data, tmp_path):
    """Whether it is the first one, which the others meet at, or another. One process goes on with the same data."""
    long = words(tmp_path, data, train__checkpoint_every=5, train__num_steps=4000, eval__loss_every=4000)
    processes = start(count, 1, long)
    wait_for_step(processes, tmp_path, 8)
    processes[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    processes.pop(victim).wait()
    for process in processes:
        _, said = process.communicate(timeout=max(60 - (time.monotonic() - killed), 1))
        assert process.returncode in (1, -signal.SIGABRT)  # JAX aborts where it notices first
        assert "lost another process" in said or "another task died" in said
    before = values(tmp_path)
    again = runs.start("train", *long)
    STARTED.append(again)
    wait_for_step([again], tmp_path, max(before) + 3)
    again.send_signal(signal.SIGTERM)
    _, said = runs.finish(again, timeout=900)
    resumed, after = int(re.search(r"resumed from step (\d+)", said)[1]), values(tmp_path)
    assert resumed >= 5 and list(after) == list(range(1, max(after) + 1))
    assert_same({step: after[step] for step in before}, before)


def meta(workdir):
    return json.loads((workdir / "checkpoints" / str(find_step(workdir, "last")) / "meta" / "metadata").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("count", "written"), [(1, "loss"), (2, "val/loss")])
def test_a_signal_while_evaluating_or_generating_saves_and_nothing_is_lost(count, written, data, tmp_path):
    """What was given up the resumed run finds. Held-out losses come after the step's own, generated code after them."""
    often = {"train__num_steps": 5, "eval__loss_every": 4, "eval__generate_every": 4, "eval__max_new_tokens": 200}
    often |= {"mesh__data": count, "batch_size": 4, "eval__loss_samples": 24, "eval__generate_samples": 24}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finish(start(count, 1, words(whole, data, **often)))
    # not from the cache, so that the signal comes while the first batch is compiled for
    settings = {"JAX_ENABLE_COMPILATION_CACHE": "false", "IGLLM_STOPPED_CODE": "75"}
    processes = start(count, 1, words(stopped, data, **often), **settings)
    wait_for_step(processes, stopped, 4, written)
    processes[-1].send_signal(signal.SIGTERM)
    assert "stopped by a signal at step 4; saved" in finish(processes, codes=(75,))[0]
    assert meta(stopped)["step"] == 4 and not meta(stopped)["is_evaluated"]
    finish(start(count, 1, words(stopped, data, **often)))
    found, wanted = ({**values(folder), **scores(folder)} for folder in (stopped, whole))
    assert {(4, "val/loss"), (4, "val/finished")} < set(wanted)
    assert found == pytest.approx(wanted, rel=1e-5, nan_ok=True)


def scores(workdir):
    """(step, name) -> what an evaluation found."""
    lines = metrics_log.read(workdir / "metrics.jsonl")
    return {(line["step"], name): line[name] for line in lines for name in line if name.startswith("val/")}


@pytest.mark.slow
def test_a_signal_ends_generation_of_several_processes(alone, data, tmp_path):
    images = ["--workdir", str(alone), "--images", f"{data}/2d.npz:random", "--batch_size", "2"]
    processes = start(
        2,
        1,
        [*images, "--max_new_tokens", "3000", "--grammar", "none", "--out", str(tmp_path / "out.json")],
        "generate",
    )
    for line in processes[0].stderr:  # progress: it has begun
        if "generate" in line:
            break
    processes[1].send_signal(signal.SIGTERM)
    said = finish(processes, codes=(1,))
    assert "error: stopped by a signal" in said[0] and "error" not in said[1]
    assert not (tmp_path / "out.json").exists()


@pytest.mark.slow
def test_two_processes_that_are_killed_while_generating_go_on(alone, data, tmp_path):
    """Images take each other's slots; both are killed, then one alone, whose loss the other tells. The same two go on
    to the file of two left alone, to the last byte; one process with other batches to the same tokens."""
    images = ["--workdir", str(alone), "--images", f"{data}/2d.npz:random", "--max_new_tokens", "60"]

    def asked(name, size="2"):
        return [*images, "--batch_size", size, "--out", str(tmp_path / name)]

    finish(start(2, 1, asked("whole.json"), "generate"))
    journal = tmp_path / "killed.json.partial.jsonl"
    for count, victims in ((2, (0, 1)), (18, (1,))):
        processes = start(2, 1, asked("killed.json"), "generate")
        while not (journal.exists() and journal.read_text().count('"image"') >= count):
            assert all(process.poll() is None for process in processes), finish(processes)
        for victim in victims:
            processes[victim].send_signal(signal.SIGKILL)
        said = [process.communicate(timeout=60)[1] for process in processes]
        assert len(victims) == 2 or "lost another process" in said[0] or "another task died" in said[0]
    assert not (tmp_path / "killed.json").exists()
    for left in tmp_path.glob("killed.json.partial.*"):
        shutil.copyfile(left, tmp_path / left.name.replace("killed", "single"))
    finish(start(2, 1, asked("killed.json"), "generate"))
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    runs.finish(runs.start("generate", *asked("single.json", "5")))
    assert largest_difference(tmp_path / "single.json", tmp_path / "whole.json") < 1e-5
    assert not list(tmp_path.glob("*.partial.*"))


@pytest.mark.slow
def test_a_start_names_who_is_missing(data, tmp_path):
    environs = environments(3, 1, IGLLM_START_SECONDS="20")
    here = [runs.start("train", *words(tmp_path, data), environment=settings) for settings in environs[::2]]
    STARTED.extend(here)
    for said in finish(here, codes=(2,)):
        assert re.search(
            r"^error: waited 20 s at \S+ in vain for process 1 of 3; here: process 0 on", said, re.MULTILINE
        )


LATE = """
import argparse, sys, time
from igllm_jax.parallel import distributed
from igllm_jax.errors import UserError
options = argparse.Namespace(coordinator=None, num_processes=None, process_id=None, distributed=None)
with distributed.session(options):
    distributed.barrier("start", 30)
    if distributed.is_first():
        distributed.barrier("the meeting", 1)
    else:
        time.sleep(4)
"""


def slurm_environments(count):
    """As srun gives them to `count` nodes with a task each, all of which are this machine."""
    settings = {"SLURM_JOB_ID": "70", "SLURM_STEP_NODELIST": "localhost", "IGLLM_PORT": str(free_port())}
    sizes = dict.fromkeys(("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES"), str(count))
    return [{**settings, **sizes, "SLURM_PROCID": str(own), "SLURM_LOCALID": "0"} for own in range(count)]


@pytest.mark.parametrize("launcher", ["flags", pytest.param("slurm", marks=pytest.mark.slow)])
def test_a_barrier_names_who_is_missing(launcher):
    environs = {"flags": environments(2, 1), "slurm": slurm_environments(2)}[launcher]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LATE], env=environment, text=True, stderr=subprocess.PIPE, cwd=runs.ROOT
        )
        for environment in ({**os.environ, "JAX_PLATFORMS": "cpu", **settings} for settings in environs)
    ]
    STARTED.extend(processes)
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


@pytest.mark.parametrize("name", ["SLURM_NTASKS", "SLURM_PROCID", "SLURM_JOB_ID", "IGLLM_PORT"])
@pytest.mark.parametrize("value", ["four", "-1", "1e3", "9" * 12])
def test_environment_values_that_are_no_numbers_are_one_line(name, value):
    environment = {**SLURM, name: value}
    environment.pop("SLURM_STEP_NUM_TASKS")
    with pytest.raises(UserError, match=f"{name} is '{value}': expected a whole number"):
        distributed.find_cluster(options(), environment)


def test_empty_environment_values_are_absent():
    empty = dict.fromkeys(SLURM, "")
    assert distributed.find_cluster(options(), empty) is None
    with pytest.raises(UserError, match="SLURM_STEP_NODELIST is not set: start the command with srun"):
        distributed.find_cluster(options(distributed="slurm"), empty)


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


def test_a_tpu_pod_is_found_in_its_metadata(monkeypatch):
    asked = []
    detect = SimpleNamespace(auto_detect_unset_distributed_params=lambda *given: asked.append(given) or found)
    monkeypatch.setattr(distributed, "ClusterEnv", detect)
    monkeypatch.setenv("IGLLM_START_SECONDS", "7")
    found = ("t0:8476", 4, 2, None)
    assert distributed._detected() == distributed.Cluster("t0:8476", 4, 2) and asked == [(None,) * 5 + (7,)]
    found = (None, None, None, None)
    with pytest.raises(UserError, match="metadata name no TPU pod; give --coordinator"):
        distributed._detected()
    monkeypatch.setenv("IGLLM_START_SECONDS", "soon")
    with pytest.raises(UserError, match="IGLLM_START_SECONDS is 'soon': expected a whole number"):
        distributed._detected()


def test_jax_still_detects_as_we_ask_it(monkeypatch):
    """No cluster here: nothing is found, and the signature is what we rely on."""
    for name in ("SLURM_JOB_ID", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    found = distributed.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 1)
    assert len(found) == 4


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
