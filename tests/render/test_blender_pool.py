"""Worker processes, with a stand-in for Blender that speaks the same protocol."""

import sys
import threading
from pathlib import Path

import pytest

from igllm_jax.errors import UserError
from igllm_jax.render.blender.pool import imap
from igllm_jax.render.blender.process import TRIES, Worker, WorkerOptions

FAKE = str(Path(__file__).with_name("fake_worker.py"))


def options(**changes) -> WorkerOptions:
    return WorkerOptions(command=(sys.executable, FAKE), **changes)


def test_settings_and_jobs_reach_the_process():
    with Worker(options(samples=7, threads=2)) as worker:
        answer = worker.ask({"value": 3})
        assert (answer["value"], answer["samples"], answer["threads"], worker.version) == (3, 7, 2, "fake")
        assert worker.ask({"value": 4})["pid"] == answer["pid"]


def test_a_worker_is_recycled():
    with Worker(options(recycle=2)) as worker:
        pids = [worker.ask({"value": n})["pid"] for n in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


@pytest.mark.parametrize("trouble", ["die", "hang", "garbage", "report"])
def test_a_job_that_went_wrong_is_done_again_by_another_process(trouble, tmp_path):
    with Worker(options(job_seconds=3.0)) as worker:
        before = worker.ask({"value": 0})["pid"]
        answer = worker.ask({"value": 1, "trouble": trouble, "marker": str(tmp_path / "once")})
        assert answer["value"] == 1 and answer["pid"] != before
        assert (tmp_path / "once").exists()


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("die", f"failed {TRIES} times.*exit code 7: RuntimeError: out of memory"),
        ("garbage", "'Blender says hello', which is no answer"),
        ("report", "ValueError: no mesh"),
    ],
)
def test_a_job_that_never_works_ends_with_the_reason(trouble, message):
    with Worker(options()) as worker, pytest.raises(UserError, match=message):
        worker.ask({"trouble": trouble})


def test_a_program_that_cannot_be_started():
    with Worker(WorkerOptions(command=("/no/such/program",))) as worker, pytest.raises(UserError, match="--blender"):
        worker.ask({})


def test_a_program_that_is_no_worker():
    command = (sys.executable, "-c", "raise ImportError('no module bpy')")
    with Worker(WorkerOptions(command=command)) as worker, pytest.raises(UserError, match="no module bpy"):
        worker.ask({})


def ask(worker: Worker, job: dict) -> tuple[int, int]:
    answer = worker.ask(job)
    return answer["value"], answer["pid"]


def test_results_come_in_order_whoever_finishes_first_and_whoever_dies(tmp_path):
    jobs = [{"value": n, "seconds": 0.2 if n % 3 == 0 else 0.0} for n in range(9)]
    jobs[4].update(trouble="die", marker=str(tmp_path / "once"))
    results = list(imap(ask, jobs, options(), workers=2))
    assert [value for value, _ in results] == list(range(9))
    assert len({pid for _, pid in results}) >= 2


def test_an_error_or_a_closed_iterator_ends_the_processes():
    jobs = [{"value": 0}, {"trouble": "report"}, {"value": 2}]
    with pytest.raises(UserError, match="no mesh"):
        list(imap(ask, jobs, options(), workers=2))
    results = imap(ask, ({"value": n} for n in range(1000)), options(), workers=2)
    assert next(results)[0] == 0
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("blender")]
