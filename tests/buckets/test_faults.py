"""Servers of buckets that refuse, fail, answer late or cut off: nothing half-written is read as whole."""

import importlib
import signal
import socket
import time

import numpy as np
import pytest

from igllm_jax import buckets, files, line_log, load_metrics, make_data, paths
from igllm_jax.data.stores import read_whole
from igllm_jax.data.tars import open_images
from igllm_jax.errors import UserError
from igllm_jax.scene.labels import read_labels
from igllm_jax.weights.checkpoint import count, find_step, load_params, newest_step
from tests import runs
from tests.buckets.servers import S3_ACCOUNT, faults


@pytest.fixture
def root(gcs, tmp_path, monkeypatch):
    monkeypatch.setenv("IGLLM_CACHE", str(tmp_path / "cache"))
    return f"{gcs}/{tmp_path.parent.name}/{tmp_path.name}"


async def _at_once(seconds):
    """No waiting between tries."""


@pytest.mark.parametrize("kind", ["unavailable", "cut", "slow"])
def test_what_goes_wrong_a_few_times_is_tried_again(root, gcs_server, kind):
    with faults(gcs_server, {"kind": kind, "path": "^POST", "count": 2}):
        files.write_text(f"{root}/a", "content")
    with faults(gcs_server, {"kind": kind, "path": "^GET .*alt=media", "count": 2}):
        assert read_whole(f"{root}/a") == b"content"
    with faults(gcs_server, {"kind": kind, "path": "^GET", "count": 2}):
        assert paths.to_path(f"{root}/a").read_text() == "content"


def test_a_folder_whose_upload_is_cut_is_nobodys(root, gcs_server, monkeypatch):
    told = r"out: cannot be written .no good answer from the bucket's server"
    monkeypatch.setattr("gcsfs.retry.asyncio.sleep", _at_once)
    with (
        faults(gcs_server, {"kind": "unavailable", "path": "^POST", "count": 1000, "after": 2}),
        pytest.raises(UserError, match=told),
        files.whole_folder(f"{root}/out") as folder,
    ):
        for name in "abc":
            (folder / name).write_text(name)
    with pytest.raises(UserError, match="is not complete: its upload was stopped"):
        files.check_finished(paths.to_path(f"{root}/out"))


def test_a_log_keeps_what_the_bucket_did_not_take(root, gcs_server, monkeypatch):
    monkeypatch.setattr("gcsfs.retry.asyncio.sleep", _at_once)
    log = line_log.open_log(paths.to_path(f"{root}/metrics.jsonl"))
    log.write("1\n")
    fault = {"kind": "unavailable", "path": "^POST", "count": 1000}
    with faults(gcs_server, fault), pytest.raises(UserError, match=r"metrics/000001\.jsonl: cannot be written"):
        log.sync()
    log.write("2\n")
    log.close()
    assert line_log.read(paths.to_path(f"{root}/metrics.jsonl")) == b"1\n2\n"


def test_no_permission_and_no_credentials_are_one_line(root, gcs_server, s3, tmp_path, monkeypatch):
    forbidden = {"kind": "forbidden", "path": ".", "count": 1000}
    with (
        faults(gcs_server, forbidden),
        pytest.raises(UserError, match=r"--out gs://.*a\.json cannot be written .no perm"),
    ):
        files.try_writing(f"{root}/a.json")
    with faults(gcs_server, forbidden), pytest.raises(UserError, match=r"labels gs://.*a\.json: cannot be read"):
        read_labels(f"{root}/a.json", "clevr")
    expired = {**forbidden, "kind": "expired"}
    with faults(gcs_server, expired), pytest.raises(UserError, match=r"a\.json cannot be written .no permission .401"):
        files.try_writing(f"{root}/a.json")
    with faults(gcs_server, expired), pytest.raises(UserError, match=r"a\.tar: cannot be read .*401"):
        open_images(f"{root}/a.tar")
    with (
        faults(gcs_server, forbidden),
        pytest.raises(UserError, match=r"metrics\.jsonl: cannot be read .no permission"),
    ):
        load_metrics(root)
    for name in S3_ACCOUNT:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    buckets.file_system("s3").clear_instance_cache()
    monkeypatch.setattr(buckets, "file_system", lambda scheme: s3fs_without_cache())
    with pytest.raises(UserError, match=r"a\.json cannot be written .no credentials .*AWS_ACCESS_KEY_ID"):
        files.try_writing(f"{s3}/a.json")


def s3fs_without_cache():
    """A file system that looks for credentials now."""
    return importlib.import_module("s3fs").S3FileSystem(skip_instance_cache=True)


def test_no_server_is_one_line(root, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setattr("igllm_jax.data.stores.TIMEOUT_SECONDS", 1)
    with pytest.raises(UserError, match=r"a\.tar: (no answer within 1 s|cannot be read)"):
        open_images(f"{root}/a.tar")


def words(root, **overrides):
    """Of `igllm train`, everything in the bucket."""
    settings = {"train__num_steps": 6, "train__checkpoint_every": 2, "eval__loss_every": 0, **overrides}
    return runs.arguments(f"{root}/run", f"{root}/data", **settings)


def losses(root, name="run"):
    """(step, loss) of a run in a bucket, in the order in which they were written."""
    return [(line["step"], line["loss"]) for line in load_metrics(f"{root}/{name}") if "loss" in line]


@pytest.fixture
def data(root):
    assert make_data.main(["twod", "--out", f"{root}/data", "--num_train", "40", "--num_val", "8"]) == 0


@pytest.mark.slow
def test_a_save_that_fails_leaves_the_one_before_and_the_run_goes_on(root, gcs_server, data):
    """Arrays whose connection is cut now and then arrive all the same; what makes a checkpoint whole does not."""
    cut = {"kind": "cut", "path": r"^P.*checkpoints/2.*params", "count": 3}
    always = {"kind": "cut", "path": r"^P.*checkpoints/4.*meta", "count": 100_000}
    with faults(gcs_server, cut, always):
        process = runs.start("train", *words(root))
        _, said = process.communicate(timeout=300)
    assert process.returncode != 0 and "checkpoint was not saved" in said and "Traceback" not in said, said
    assert find_step(f"{root}/run", "last") == 2 and load_params(f"{root}/run")
    runs.finish(runs.start("train", *words(root)))
    assert [step for step, _ in losses(root)] == [1, 2, 3, 4, 5, 6] and find_step(f"{root}/run", "last") == 6


@pytest.mark.slow
def test_two_processes_share_a_bucket_and_no_disk(root, data, tmp_path):
    """Both are killed, and one process alone goes on as if nothing had been."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = {"IGLLM_COORDINATOR": f"127.0.0.1:{free.getsockname()[1]}", "IGLLM_NUM_PROCESSES": "2"}
    long = words(root, train__num_steps=500, mesh__data=2)
    processes = []
    for number in ("0", "1"):
        own = {"JAX_NUM_CPU_DEVICES": "1", "IGLLM_PROCESS_ID": number, **meet}
        for name in ("HOME", "TMPDIR", "IGLLM_CACHE"):
            own[name] = str(tmp_path / number / name)
            (tmp_path / number / name).mkdir(parents=True)
        processes.append(runs.start("train", *long, environment=own))
    try:
        while not count(f"{root}/run"):
            assert all(process.poll() is None for process in processes), [p.communicate()[1] for p in processes]
            time.sleep(0.2)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    stopped = int(find_step(f"{root}/run", "last"))
    one = words(root, train__num_steps=500)  # as many: the learning rate follows from it
    stop_after(f"{root}/run", stopped + 2, one)
    stop_after(f"{root}/alone", stopped + 2, [word.replace(f"{root}/run", f"{root}/alone") for word in one])
    found, wanted = losses(root), losses(root, "alone")
    assert [step for step, _ in found] == list(range(1, len(found) + 1)) and len(found) >= stopped + 2
    count_both = min(len(found), len(wanted))
    np.testing.assert_allclose(found[:count_both], wanted[:count_both], rtol=1e-5)


def stop_after(workdir, step, line):
    """Trains until a checkpoint of that step, or a later one, is there."""
    process = runs.start("train", *line)
    try:
        while newest_step(workdir) < step:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        runs.finish(process)
    finally:
        process.kill()
