"""`igllm sweep`: grids, and four runs of it killed in the middle that go on."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from igllm_jax import sweep
from igllm_jax.errors import UserError
from igllm_jax.weights import checkpoint

TWO_BY_TWO = [("optim.lr", ["1e-4", "2e-4"]), ("head", ["none", "linear"])]
# stands for `igllm train`: a step each 0.1 s, saved as a checkpoint's folder; it resumes, and ends well on SIGTERM
TRAIN = """
import json, pathlib, signal, sys, time
stops = []
signal.signal(signal.SIGTERM, lambda *_: stops.append(1))
words = sys.argv[1:]
folder = pathlib.Path(words[words.index("--workdir") + 1]) / "checkpoints"
last = max((int(step.name) for step in folder.glob("*")), default=0)
print("starts at", last, flush=True)
for step in range(last + 1, 5):
    if stops:
        break
    time.sleep(0.1)
    new = folder.parent / "new"
    (new / "meta").mkdir(parents=True)
    (new / "meta" / "metadata").write_text(json.dumps({"step": step, "is_evaluated": True}))
    folder.mkdir(exist_ok=True)
    new.rename(folder / str(step))  # whole or not there
sys.exit(3 if "--config.optim.lr=9" in words else 0)
"""


@pytest.fixture
def cells(tmp_path, monkeypatch):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    monkeypatch.setattr(sweep, "TRAIN", (sys.executable, str(script)))
    monkeypatch.setattr(checkpoint, "_steps", steps)
    return sweep.grid(["--config=tiny", "--config.train.num_steps=4"], TWO_BY_TWO, tmp_path / "out")


def steps(folder):
    return sorted(int(path.name) for path in Path(folder).glob("*"))


def test_values_are_split_at_commas_outside_of_brackets():
    assert sweep.parse_set("optim.lr=1e-4,2e-4") == ("optim.lr", ["1e-4", "2e-4"])
    assert sweep.parse_set("data.pixel_range=(0, 1),(0, 2)")[1] == ["(0, 1)", "(0, 2)"]
    for wrong in ("optim.lr", "optim.lr=", "head=none,none"):
        with pytest.raises(UserError, match="expected KEY=VALUE,VALUE"):
            sweep.parse_set(wrong)


def test_a_dry_run_prints_commands(tmp_path, capsys):
    words = ["--config=tiny", "--set", "head=none,linear", "--set", "optim.lr=0.1", "--out", str(tmp_path / "out")]
    assert sweep.main([*words, "--dry_run", "--config.seed=4"]) == 0
    first, second = capsys.readouterr().out.split("\n")[:2]
    common = "igllm train --config=tiny --config.seed=4 --config.head="
    assert first == f"{common}none --config.optim.lr=0.1 --workdir {tmp_path}/out/head=none,optim.lr=0.1"
    assert second.startswith(f"{common}linear") and not (tmp_path / "out").exists()


def test_every_combination_is_checked_before_any_starts(tmp_path):
    with pytest.raises(UserError, match="head is 'cubic'"):
        sweep.main(["--config=tiny", "--set", "head=none,cubic", "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match="each key once"):
        sweep.grid(["--config=tiny"], [TWO_BY_TWO[0], TWO_BY_TWO[0]], tmp_path)
    with pytest.raises(UserError, match=r"optim\.lr=1e-3 and optim\.lr=0\.001 are the same run"):
        sweep.grid(["--config=tiny"], [("optim.lr", ["1e-3", "0.001"])], tmp_path)
    sweep.keep_settings(tmp_path / "sweep.json", ["--config=tiny"])
    with pytest.raises(UserError, match="holds a sweep of --config=tiny"):
        sweep.keep_settings(tmp_path / "sweep.json", ["--config=clevr"])


def test_runs_that_were_killed_go_on(cells, monkeypatch, capsys):
    polls = []

    def interrupted(seconds):
        polls.append(seconds)
        time.sleep = sleep
        while not any((cell.folder / "checkpoints" / "1").exists() for cell in cells[:2]):
            sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        sleep(1)

    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", interrupted)
    assert sweep.run_all(cells, jobs=2) == sweep.INTERRUPTED and polls
    assert not all(cell.is_done for cell in cells) and steps(cells[2].folder / "checkpoints") == []
    assert sweep.run_all(cells, jobs=2) == 0 and all(cell.is_done for cell in cells)
    logs = [(cell.folder / sweep.LOG_FILE).read_text().split("\n") for cell in cells]
    assert any(len(log) == 3 and log[1] != "starts at 0" for log in logs)  # resumed where it was
    assert sweep.run_all(cells, jobs=2) == 0
    assert "4 runs, 4 of them done" in capsys.readouterr().err
    assert [(cell.folder / sweep.LOG_FILE).read_text().split("\n") for cell in cells] == logs  # none started again


def test_a_run_that_fails_is_told_and_the_others_end(cells, tmp_path, capsys):
    cells = sweep.grid(["--config=tiny", "--config.train.num_steps=9"], [("optim.lr", ["9", "8"])], tmp_path / "out")
    assert sweep.run_all(cells, jobs=1) == 1
    told = capsys.readouterr()
    assert "optim.lr=9 failed with exit code 3: starts at 0" in told.err and f"ended {cells[1].folder}" in told.err


def test_a_run_whose_sweep_was_killed_is_waited_for(cells, capsys):
    orphan = sweep.start(cells[0])
    assert sweep.start(cells[0]) is None
    assert sweep.run_all(cells[:2], jobs=1) == 0 and all(cell.is_done for cell in cells[:2])
    told = capsys.readouterr().err
    assert told.count(f"{cells[0].folder} is still being trained by another process") == 1
    assert orphan.wait() == 0 and f"started {cells[1].folder}" in told
    logs = [(cell.folder / sweep.LOG_FILE).read_text() for cell in cells[:2]]
    assert logs == ["starts at 0\n"] * 2


@pytest.mark.parametrize("num_worse, is_evaluated, is_done", [(1, True, False), (2, True, True), (2, False, False)])
def test_a_run_that_ended_early_is_done(tmp_path, monkeypatch, num_worse, is_evaluated, is_done):
    monkeypatch.setattr(checkpoint, "_steps", steps)
    cell = sweep.grid(["--config=tiny", "--config.eval.patience=2"], [("seed", ["0"])], tmp_path)[0]
    (cell.folder / "checkpoints" / "3" / "meta").mkdir(parents=True)
    meta = {"step": 3, "is_evaluated": is_evaluated, "patience": {"best": 0.5, "num_worse": num_worse}}
    (cell.folder / "checkpoints" / "3" / "meta" / "metadata").write_text(json.dumps(meta))
    assert cell.is_done == is_done
