"""Real runs: killed and resumed, stopped, led astray; and what the whole loop leaves behind."""

import json
import random
import re
import shutil
import signal
import time

import numpy as np
import pytest

from igllm_jax import make_data
from igllm_jax.training import metrics_log
from tests import runs


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nobody disturbs."""
    workdir = tmp_path_factory.mktemp("whole")
    _, said = runs.finish(runs.start("train", *runs.arguments(workdir, data, eval__generate_every=60)))
    return workdir, said


def wait_for_step(process, workdir, step, *, saved):
    """Until the run has written `step` to its metrics and, where `saved`, finished a checkpoint."""
    path = workdir / "metrics.jsonl"
    for _ in range(30_000):
        has_step = path.exists() and any(line["step"] >= step for line in metrics_log.read(path))
        if has_step and (not saved or any(p.name.isdigit() for p in (workdir / "checkpoints").iterdir())):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    raise AssertionError("the run never got there")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_goes_on_bit_for_bit(whole, data, tmp_path, workers):
    words = runs.arguments(tmp_path, data, data__num_workers=workers)
    process = runs.start("train", *words)
    wait_for_step(process, tmp_path, random.randint(4, 40), saved=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = runs.losses(tmp_path)
    _, said = runs.finish(runs.start("train", *words))
    assert "resumed from step" in said
    wanted = runs.losses(whole[0])
    assert runs.losses(tmp_path) == wanted
    assert all(wanted[step] == loss for step, loss in before.items())


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(whole, data, tmp_path):
    words = runs.arguments(tmp_path, data, train__checkpoint_every=1000, eval__loss_every=0)
    process = runs.start("train", *words)
    wait_for_step(process, tmp_path, 2, saved=False)
    process.send_signal(signal.SIGTERM)
    _, said = runs.finish(process)
    assert "saved. The same command goes on from here" in said
    runs.finish(runs.start("train", *words))
    assert runs.losses(tmp_path) == runs.losses(whole[0])
    assert not any("val/loss" in line for line in metrics_log.read(tmp_path / "metrics.jsonl"))  # eval.loss_every is 0


def test_a_run_says_what_it_does_and_leaves_what_it_should(whole):
    workdir, said = whole
    assert "learned tokens, 2 of them numbers" in said and "</s>" in said and "Code:" in said
    assert {"config.json", "metrics.jsonl", "tokenizer.model", "checkpoints"} <= {p.name for p in workdir.iterdir()}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    keys = set().union(*lines)
    assert {"loss", "token_loss", "number_loss", "val/loss", "val/ace", "val/parsed"} <= keys
    assert {"data_wait_share", "save_wait_share"} <= keys
    assert sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())[-1] == 60


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(data, tmp_path):
    process = runs.start("train", *runs.arguments(tmp_path, data, optim__lr="1e30", optim__warmup="0.0"))
    _, said = runs.finish(process, code=2)
    assert "the loss is" in said and "error: step" in said and "Traceback" not in said


@pytest.mark.slow
def test_another_data_set_is_refused_on_resume(whole, tmp_path):
    make_data.main(["twod", "--out", str(tmp_path), "--num_train", "61", "--num_val", "24"])
    _, said = runs.finish(runs.start("train", *runs.arguments(whole[0], tmp_path)), code=2)
    assert "data fingerprint" in said and "Traceback" not in said
    assert "3 scenes are gone (2d.npz:" in said and "--accept_changed_data" in said


@pytest.mark.slow
def test_another_data_set_can_be_accepted_on_resume(whole, tmp_path):
    make_data.main(["twod", "--out", str(tmp_path), "--num_train", "61", "--num_val", "24"])
    shutil.copytree(whole[0], tmp_path / "run")
    arguments = runs.arguments(tmp_path / "run", tmp_path, train__num_steps="122")
    _, said = runs.finish(runs.start("train", *arguments, "--accept_changed_data"))
    assert "the data changed: " in said and "3 scenes are gone" in said and "resumed from step 60" in said
    _, said = runs.finish(runs.start("train", *arguments))  # from now on these are its data
    assert "resumed from step 122" in said and "the data changed" not in said


def test_generate_and_evaluate_finish_the_loop(whole, data, tmp_path):
    predictions, report = tmp_path / "predictions.json", tmp_path / "metrics.json"
    spec = f"{data}/2d.npz:random"
    words = ["--workdir", str(whole[0]), "--images", spec, "--out", str(predictions), "--batch_size", "8"]
    runs.finish(runs.start("generate", *words, "--limit", "11", "--max_new_tokens", "40", "--step", "best"))
    found = json.loads(predictions.read_text())
    assert len(found["answers"]) == 11 and {"model_path", "model_base", "model_name"} <= set(found)
    assert all(isinstance(answer["outputs"], str) for answer in found["answers"].values())
    out, _ = runs.finish(
        runs.start("evaluate", "--labels", spec, "--predictions", str(predictions), "--out", str(report))
    )
    scores = json.loads(report.read_text())
    assert scores["num_scenes"] == 11 and scores["num_missing"] == 13
    assert np.isfinite(scores["metrics"]["ace"]) and "ace" in out


@pytest.mark.parametrize(
    "command, words, message",
    [
        ("generate", ["--workdir", "nothing", "--images", "x.tar", "--out", "y.json"], "x.tar"),
        ("evaluate", ["--labels", "nothing.json", "--predictions", "none.json"], "none.json|nothing.json"),
        ("train", ["--config=configs/tiny.py:task=twod", "--workdir", "WORKDIR"], "2d.npz"),
        ("fly", [], "no command 'fly'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(command, words, message, tmp_path):
    words = [word.replace("WORKDIR", str(tmp_path)) for word in words]
    missing = ["--config.data.train.images=none/2d.npz:a"] if command == "train" else []
    _, said = runs.finish(runs.start(command, *words, *missing), code=2)
    assert re.search(message, said) and "Traceback" not in said and said.startswith("error: ")
