"""Launch scripts: what they assume, what they would run, and what becomes of signals and failures."""

import os
import re
import signal
import subprocess
import time

import pytest
import yaml

from igllm_jax import config as configs
from igllm_jax.planning.chips import CHIPS, find_topology
from tests import runs

LAUNCH = runs.ROOT / "launch"
SCRIPTS = sorted(path for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))


def fake(folder, name, body):
    """A program called `name`, found before the real one; its own arguments go to NAME.log, a call a line."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f'#!/usr/bin/env bash\necho "$*" >> "{folder}/{name}.log"\n{body}\n')
    program.chmod(0o755)


def calls(folder, name):
    log = folder / f"{name}.log"
    return log.read_text().splitlines() if log.exists() else []


def start(folder, script, *words, **environment):
    settings = {"PATH": f"{folder}:{os.environ['PATH']}", "TMPDIR": str(folder.parent), "LOGS": str(folder / "logs")}
    line = ["bash", str(LAUNCH / script), *words]
    # Nothing else from around: `make test PYTHON=... VENV=...` hands both on, and the scripts would obey them.
    return subprocess.Popen(
        line,
        cwd=folder.parent,
        env={"HOME": str(folder.parent), **settings, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process, code=0):
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, out + err
    return out, err


@pytest.mark.parametrize("path", [*SCRIPTS, LAUNCH / "k8s.yaml"], ids=lambda path: path.name)
def test_each_begins_with_what_it_assumes(path):
    head = re.match(r"(#.*\n)+", path.read_text())[0]
    assert "# Assumes: " in head
    if path in SCRIPTS:
        subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize(
    ("script", "words"), [("local.sh", ["0", "train"]), ("tpu_pod.sh", ["a", "b", "v4-8"]), ("slurm.sbatch", [])]
)
def test_too_few_words_are_an_error_that_says_how(script, words, tmp_path):
    _, said = finish(start(tmp_path / "bin", script, *words), code=2)
    assert script in said


# TPU slices

POD = ["pod-a", "us-west4-a", "v5litepod-16", "train", "--config=configs/clevr.py", "--config.task=a b"]


def test_a_dry_run_prints_every_command_and_runs_none(tmp_path):
    fake(tmp_path / "bin", "gcloud", "exit 1")
    said, _ = finish(start(tmp_path / "bin", "tpu_pod.sh", "--dry_run", *POD, SPOT="1", MOUNT="mount it"))
    assert calls(tmp_path / "bin", "gcloud") == [] and not (tmp_path / "bin" / "logs").exists()
    create = (
        "tpu-vm create pod-a --zone=us-west4-a --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite --spot"
    )
    ssh = r"tpu-vm ssh pod-a --zone=us-west4-a --worker=all --command="
    wanted = [
        "tpu-vm describe pod-a", create, "ls-files -z | tar", r"scp .*igllm\.\w+\.tar\.gz pod-a:igllm\.tar\.gz .*=all",
        ssh + ".*pip.* install", ssh + r"mount\\ it", ssh + ".*IGLLM_DISTRIBUTED=tpu.*igllm_jax.*train", "mkdir -p",
        "networkEndpoints", *(rf"scp pod-a:igllm.log \S+/host{i}.log .*--worker={i}" for i in range(4)),
    ]  # fmt: skip
    lines = [line for line in said.splitlines() if not line.startswith("#")]
    assert len(lines) == len(wanted)
    for line, pattern in zip(lines, wanted, strict=True):
        assert re.search(pattern, line), (pattern, line)


GCLOUD = """
case "$*" in
*networkEndpoints*) echo 2 ;;
*describe*) exit "$IS_MISSING" ;;
*igllm_jax*) exit "$CODE" ;;
esac
"""


@pytest.mark.parametrize("is_missing", [0, 1])
@pytest.mark.parametrize("code", [0, 3])
def test_a_slice_is_made_once_and_logs_come_whatever_happened(is_missing, code, tmp_path):
    fake(tmp_path / "bin", "gcloud", GCLOUD)
    given = {"IS_MISSING": str(is_missing), "CODE": str(code)}
    _, said = finish(start(tmp_path / "bin", "tpu_pod.sh", *POD, **given), code)
    verbs = [line.split()[3] for line in calls(tmp_path / "bin", "gcloud")]
    created = ["create"] if is_missing else []
    assert verbs == ["describe", *created, "scp", "ssh", "ssh", "describe", "scp", "scp"]
    assert ("failed on at least one host" in said) == (code > 0)
    command = next(line for line in calls(tmp_path / "bin", "gcloud") if "igllm_jax" in line)
    assert r"train --config=configs/clevr.py --config.task=a\ b" in command
    assert not list(tmp_path.glob("igllm.*.tar.gz"))


# SLURM


def slurm(tmp_path, srun):
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").write_text("")
    fake(tmp_path / "bin", "srun", srun)
    fake(tmp_path / "bin", "scontrol", "")
    settings = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "17"}
    return start(tmp_path / "bin", "slurm.sbatch", "train", "--workdir", "w", **settings)


def test_the_job_asks_for_a_signal_in_time_and_may_be_requeued():
    asked = re.findall(r"^#SBATCH (\S+)", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
    assert {"--requeue", "--signal=TERM@120", "--open-mode=append"} <= set(asked)


@pytest.mark.parametrize(("code", "requeued"), [(0, []), (1, []), (75, ["requeue 17"])])
def test_a_job_that_its_time_limit_stopped_goes_on_later(code, requeued, tmp_path):
    finish(slurm(tmp_path, f'[[ $IGLLM_DISTRIBUTED == slurm ]] && exit "${{IGLLM_STOPPED_CODE:+{code}}}"'), code)
    assert calls(tmp_path / "bin", "scontrol") == requeued
    (line,) = calls(tmp_path / "bin", "srun")
    assert line.endswith("python -u -m igllm_jax train --workdir w")


def test_a_job_that_was_cancelled_saves_and_stays_ended(tmp_path):
    process = slurm(tmp_path, f"touch {tmp_path}/begun; sleep 2; touch {tmp_path}/saved; exit 75")
    while not (tmp_path / "begun").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    finish(process, 75)
    assert (tmp_path / "saved").exists()
    assert calls(tmp_path / "bin", "scontrol") == []


# Kubernetes


def test_the_job_set_is_whole_and_its_numbers_agree():
    (job_set,) = yaml.safe_load_all((LAUNCH / "k8s.yaml").read_text())
    assert job_set["apiVersion"].startswith("jobset.x-k8s.io/") and job_set["kind"] == "JobSet"
    assert job_set["spec"]["failurePolicy"]["maxRestarts"] > 0
    (slice_,) = job_set["spec"]["replicatedJobs"]
    job = slice_["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    shape = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    chips = container["resources"]["limits"]["google.com/tpu"]
    num_chips = find_topology(f"v5e:{shape}").num_chips
    assert job["parallelism"] == job["completions"] and job["parallelism"] * chips == num_chips
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert "v5e" in CHIPS and pod["terminationGracePeriodSeconds"] >= 60
    # an early end must be a failure, or the JobSet would be complete; a failure must restart everything
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["IGLLM_DISTRIBUTED"] == "tpu" and int(environment["IGLLM_STOPPED_CODE"]) > 0
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    assert {m["name"] for m in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    words = container["command"]
    assert words[:5] == ["python", "-u", "-m", "igllm_jax", "train"]
    config, rest = configs.load([word.replace("=configs/", f"={runs.ROOT}/configs/") for word in words[5:]])
    assert config.batch_size % num_chips == 0 and rest == ["--workdir=/shared/runs/clevr"]


# this machine

PYTHON = """
trap 'echo "$IGLLM_PROCESS_ID saved" >> said.log; exit "$STOPPED"' TERM
echo "$IGLLM_PROCESS_ID of $IGLLM_NUM_PROCESSES at $IGLLM_COORDINATOR, $JAX_PLATFORMS $JAX_NUM_CPU_DEVICES" >> said.log
[[ $IGLLM_PROCESS_ID != "$FAILS" ]] || { sleep 2; exit 5; }
for ((i = 0; i < SECONDS_LONG * 20; i++)); do sleep 0.05; done
"""


def local(tmp_path, **environment):
    fake(tmp_path / "bin", "python", PYTHON)
    given = {"JAX_PLATFORMS": "cpu", "DEVICES": "3", "PORT": "4711", "FAILS": "", "SECONDS_LONG": "0", "STOPPED": "0"}
    return start(tmp_path / "bin", "local.sh", "3", "train", "--workdir", "w", **{**given, **environment})


def lines(tmp_path):
    log = tmp_path / "said.log"
    return sorted(log.read_text().splitlines()) if log.exists() else []


def test_local_processes_know_their_place(tmp_path):
    finish(local(tmp_path))
    assert lines(tmp_path) == [f"{i} of 3 at 127.0.0.1:4711, cpu 3" for i in range(3)]
    assert calls(tmp_path / "bin", "python") == ["-m igllm_jax train --workdir w"] * 3


def test_a_signal_reaches_all_local_processes(tmp_path):
    process = local(tmp_path, SECONDS_LONG="60", STOPPED="75")
    while len(lines(tmp_path)) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    finish(process, 75)
    assert [line for line in lines(tmp_path) if "saved" in line] == [f"{i} saved" for i in range(3)]


def test_one_that_fails_stops_the_others(tmp_path):
    started = time.monotonic()
    finish(local(tmp_path, FAILS="1", SECONDS_LONG="60"), 5)
    assert time.monotonic() - started < 30
    assert {"0 saved", "2 saved"} <= set(lines(tmp_path))


def test_gpus_are_shared_out_one_each(tmp_path):
    fake(tmp_path / "bin", "nvidia-smi", "for i in 0 1; do echo GPU $i; done")
    _, said = finish(local(tmp_path, JAX_PLATFORMS=""), 2)
    assert "error: 3 processes, but 2 GPUs" in said
