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
from tests.stand_ins import calls, fake

LAUNCH = runs.ROOT / "launch"
SCRIPTS = sorted(path for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))


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
    ("script", "words"),
    [
        ("local.sh", ["0", "train"]),
        ("tpu_pod.sh", ["a", "b", "v4-8"]),
        ("slurm.sbatch", []),
        ("k8s.sh", ["cpu", "image", "bucket"]),
    ],
)
def test_too_few_words_are_an_error_that_says_how(script, words, tmp_path):
    _, said = finish(start(tmp_path / "bin", script, *words), code=2)
    assert script in said


# TPU slices

POD = ["pod-a", "us-west4-a", "v5litepod-16", "train", "--config=configs/clevr.py", "--config.task=a b"]


def test_a_dry_run_prints_every_command_and_runs_none(tmp_path):
    fake(tmp_path / "bin", "gcloud", "exit 1")
    given = {"SPOT": "1", "MOUNT": "mount it", "ACCOUNT": "me@there"}
    said, _ = finish(start(tmp_path / "bin", "tpu_pod.sh", "--dry_run", *POD, **given))
    assert calls(tmp_path / "bin", "gcloud") == [] and not (tmp_path / "bin" / "logs").exists()
    create = (
        "queued-resources create pod-a --node-id=pod-a --zone=us-west4-a --accelerator-type=v5litepod-16 "
        "--runtime-version=v2-alpha-tpuv5-lite --spot --service-account=me@there"
    )
    ssh = r"tpu-vm ssh pod-a --zone=us-west4-a --worker=all --command="
    wanted = [
        "queued-resources describe pod-a", "queued-resources delete pod-a --zone=us-west4-a --force --quiet", create,
        "ls-files -z | tar", r"scp .*igllm\.\w+\.tar\.gz pod-a:igllm\.tar\.gz .*=all",
        ssh + ".*pip.* install.*constraints.txt",
        ssh + r"mount\\ it", ssh + ".*IGLLM_DISTRIBUTED=tpu.*igllm_jax.*train",
        "mkdir -p", "networkEndpoints",
        *(rf"scp pod-a:igllm.log \S+/host{i}.log .*--worker={i}" for i in range(4)),
    ]  # fmt: skip
    lines = [line for line in said.splitlines() if not line.startswith("#")]
    assert len(lines) == len(wanted)
    for line, pattern in zip(lines, wanted, strict=True):
        assert re.search(pattern, line), (pattern, line)


# states: what the queue says, one line after the other, the last one for ever; codes: how the command ends, each time
GCLOUD = """
next() {
  head -n 1 "$1"
  [[ $(wc -l < "$1") -le 1 ]] || sed -i 1d "$1"
}
case "$*" in
*networkEndpoints*) echo 2 ;;
*describe*) next "$STATES" ;;
*igllm_jax*) exit "$(next "$CODES")" ;;
*scp*tar.gz*) exit "${SCP:-0}" ;;
esac
"""
RUN, LOGS = ["scp", "ssh", "ssh"], ["describe", "scp", "scp"]
LOOKS = ["describe"] * 3


def pod(tmp_path, states, codes, **given):
    """Runs the script with a stand-in for gcloud: process."""
    fake(tmp_path / "bin", "gcloud", GCLOUD)
    for name, values in (("states", states), ("codes", codes)):
        (tmp_path / name).write_text("".join(f"{value}\n" for value in values))
    files = {"STATES": str(tmp_path / "states"), "CODES": str(tmp_path / "codes"), "POLL_SECONDS": "0"}
    return start(tmp_path / "bin", "tpu_pod.sh", *POD, **files, **given)


def verbs(tmp_path):
    return [line.split()[3] for line in calls(tmp_path / "bin", "gcloud")]


@pytest.mark.parametrize(
    ("states", "asked"),
    [
        (["ACTIVE"], ["describe"]),
        (["", "WAITING_FOR_RESOURCES", "ACTIVE"], ["describe", "create", "describe", "describe"]),
        (["SUSPENDED", "DELETING", "", "ACTIVE"], ["describe", "delete", "describe", "describe", "create", "describe"]),
    ],
)
def test_a_slice_is_asked_for_where_none_is_there(states, asked, tmp_path):
    finish(pod(tmp_path, states, [0]))
    assert verbs(tmp_path) == [*asked, *RUN, *LOGS]
    command = next(line for line in calls(tmp_path / "bin", "gcloud") if "igllm_jax" in line)
    assert r"train --config=configs/clevr.py --config.task=a\ b" in command
    assert not list(tmp_path.glob("igllm.*.tar.gz"))


def test_a_slice_that_was_taken_away_is_asked_for_again_and_the_command_goes_on(tmp_path):
    _, said = finish(pod(tmp_path, ["ACTIVE", "ACTIVE", "SUSPENDED", "SUSPENDED", "", "ACTIVE"], [255, 0]))
    again = ["describe", "delete", "describe", "create", "describe"]
    assert verbs(tmp_path) == ["describe", *RUN, "describe", "describe", *again, *RUN, *LOGS]
    assert "pod-a was taken away; it is asked for again (1 of 20)" in said


@pytest.mark.parametrize("given", [{}, {"SCP": "9"}], ids=["the command fails", "the program does not arrive"])
def test_a_failure_on_a_slice_that_stays_is_the_end_and_logs_come(tmp_path, given):
    _, said = finish(pod(tmp_path, ["ACTIVE"], [3], **given), int(given.get("SCP", 3)))
    assert verbs(tmp_path) == ["describe", *(RUN if not given else ["scp"]), *LOOKS, *LOGS]
    assert "failed on at least one host" in said


def test_what_is_taken_away_every_time_ends_at_last(tmp_path):
    _, said = finish(pod(tmp_path, ["ACTIVE", "SUSPENDING", "ACTIVE"], [255], RETRIES="1"), 255)
    assert verbs(tmp_path) == ["describe", *RUN, "describe", "describe", *RUN, *LOGS]
    assert "(1 of 1)" in said


# SLURM


def test_what_is_submitted_reaches_the_tasks(tmp_path):
    """`sbatch` as the documents spell it, by a stand-in that runs the script as the cluster would."""
    (spelled,) = re.findall(r"`(sbatch [^`]*)`", (runs.ROOT / "docs" / "pods.md").read_text())
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").write_text("")
    fake(tmp_path / "bin", "sbatch", f'cd "{runs.ROOT}" && SLURM_SUBMIT_DIR={tmp_path} SLURM_JOB_ID=17 bash "$@"')
    fake(tmp_path / "bin", "srun", "")
    place = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", " ".join(spelled.split())], env=place, check=True)
    (asked,), (line,) = calls(tmp_path / "bin", "sbatch"), calls(tmp_path / "bin", "srun")
    assert line.endswith(f"-m igllm_jax {asked.removeprefix('launch/slurm.sbatch ')}") and "--workdir" in line


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


def job_sets():
    """Label `machine` -> (the job set, its job's spec, its pod's spec, its container)."""
    found = {}
    for job_set in yaml.safe_load_all((LAUNCH / "k8s.yaml").read_text()):
        (replicated,) = job_set["spec"]["replicatedJobs"]
        job = replicated["template"]["spec"]
        pod_spec = job["template"]["spec"]
        (container,) = pod_spec["containers"]
        found[job_set["metadata"]["labels"]["machine"]] = job_set, job, pod_spec, container
    return found


@pytest.mark.parametrize(("machine", "resource"), [("tpu", "google.com/tpu"), ("gpu", "nvidia.com/gpu")])
def test_a_job_set_is_whole_and_its_numbers_agree(machine, resource):
    job_set, job, pod_spec, container = job_sets()[machine]
    assert job_set["apiVersion"].startswith("jobset.x-k8s.io/") and job_set["kind"] == "JobSet"
    assert job_set["spec"]["failurePolicy"]["maxRestarts"] > 0 and job["parallelism"] == job["completions"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    # an early end must be a failure, or the JobSet would be complete; a failure must restart everything
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert int(environment["IGLLM_STOPPED_CODE"]) > 0 and pod_spec["terminationGracePeriodSeconds"] >= 60
    assert job["backoffLimit"] == 0 and pod_spec["restartPolicy"] == "Never"
    mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
    assert mounted == {volume["name"] for volume in pod_spec.get("volumes", ())}
    words = container["command"]
    assert words[:5] == ["python", "-u", "-m", "igllm_jax", "train"]
    config, rest = configs.load(words[5:])
    chips = job["parallelism"] * container["resources"]["limits"][resource]
    assert config.batch_size % chips == 0 and rest == ["--workdir=gs://BUCKET/runs/clevr"]
    assert all(value.startswith("gs://BUCKET/") for value in (config.model.base, *config.data.train.values())
               if isinstance(value, str) and value)  # fmt: skip


def test_pods_find_each_other():
    job_set, job, pod_spec, container = job_sets()["tpu"]
    selected = pod_spec["nodeSelector"]
    assert selected["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice" and "v5e" in CHIPS
    num_chips = find_topology(f"v5e:{selected['cloud.google.com/gke-tpu-topology']}").num_chips
    assert job["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == num_chips
    assert {"name": "IGLLM_DISTRIBUTED", "value": "tpu"} in container["env"]
    job_set, job, _, container = job_sets()["gpu"]
    environment = {one["name"]: one for one in container["env"]}
    name, (replicated,) = job_set["metadata"]["name"], job_set["spec"]["replicatedJobs"]
    host, _, port = environment["IGLLM_COORDINATOR"]["value"].partition(":")
    assert host == f"{name}-{replicated['name']}-0-0.{name}" and job_set["spec"]["network"]["enableDNSHostnames"]
    assert int(port) in [one["containerPort"] for one in container["ports"]]
    assert int(environment["IGLLM_NUM_PROCESSES"]["value"]) == job["parallelism"]
    path = environment["IGLLM_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"


KUBECTL = """
case "$*" in
*apply*) cat > "$APPLIED" ;;
*jobset\\ *) head -n 1 "$STATES"; [[ $(wc -l < "$STATES") -le 1 ]] || sed -i 1d "$STATES" ;;
*logs*) echo "[pod] step 1" ;;
esac
"""


@pytest.mark.parametrize(("last", "code"), [("Completed", 0), ("Failed", 1)])
def test_a_job_set_is_applied_waited_for_and_its_logs_come(last, code, tmp_path):
    fake(tmp_path / "bin", "kubectl", KUBECTL)
    (tmp_path / "states").write_text(f"\n\n{last}\n")
    given = {"STATES": str(tmp_path / "states"), "APPLIED": str(tmp_path / "applied"), "POLL_SECONDS": "0"}
    _, said = finish(start(tmp_path / "bin", "k8s.sh", "gpu", "here/igllm:cuda", "mine", NAMESPACE="us", **given), code)
    asked = calls(tmp_path / "bin", "kubectl")
    look = "--namespace=us get jobset igllm-gpu -o jsonpath={.status.terminalState}"
    logs = "--namespace=us logs -l jobset.sigs.k8s.io/jobset-name=igllm-gpu --prefix --tail=-1"
    assert asked == ["--namespace=us apply -l machine=gpu -f -", look, look, look, logs]
    assert (tmp_path / "bin" / "logs" / "pods.log").read_text() == "[pod] step 1\n"
    assert ("igllm-gpu failed" in said) == bool(code)
    for job_set in yaml.safe_load_all((tmp_path / "applied").read_text()):
        (replicated,) = job_set["spec"]["replicatedJobs"]
        (container,) = replicated["template"]["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "here/igllm:cuda" and "BUCKET" not in str(container["command"])
        assert "--workdir=gs://mine/runs/clevr" in container["command"]


def test_a_dry_run_applies_nothing(tmp_path):
    fake(tmp_path / "bin", "kubectl", "exit 1")
    said, _ = finish(start(tmp_path / "bin", "k8s.sh", "--dry_run", "tpu", "here/igllm:tpu", "mine"))
    assert calls(tmp_path / "bin", "kubectl") == [] and "kubectl apply -l machine=tpu -f -" in said
    assert len(list(yaml.safe_load_all(said))) == 2
    _, said = finish(start(tmp_path / "bin", "k8s.sh", "tpu", "here/igllm:tpu", "gs://mine"), code=2)
    assert "without gs://" in said


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
