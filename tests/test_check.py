"""What `igllm check` finds before a run starts, and what `igllm train` looks at first."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from igllm_jax import __main__, check, train
from igllm_jax import config as configs
from igllm_jax.data.preflight import SAMPLE
from igllm_jax.errors import UserError
from igllm_jax.scene.scene import Scene, label_problems
from tests import runs
from tests.data import samples

BAD = {"shape": 3, "3d_coords": [1, 2], "rotation": None}  # of one object; `rotation` may be absent


@pytest.fixture
def words(tmp_path):
    """Arguments of a run on six scenes and three held-out ones."""
    for name, count in (("train", 6), ("val", 3)):
        samples.clevr_set(tmp_path, count, name=name)
    files = {f"data__{name}__{kind}": f"{tmp_path}/{kind}/{name}.{end}"
             for name in ("train", "val") for kind, end in (("images", "tar"), ("labels", "json"))}  # fmt: skip
    return runs.arguments(tmp_path / "run", None, task="clevr", **files)


def spoil(tmp_path, change) -> None:
    file = tmp_path / "labels/train.json"
    labels = json.loads(file.read_text())
    change(labels["scenes"])
    file.write_text(json.dumps(labels))


def test_a_run_that_is_ready_is_one_line(words, capsys):
    assert check.main(words) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and out.startswith("ready: 6 scenes to learn from, 3 held out; rows of up to ")
    assert "; 9 images decoded; " in out and "note" not in err


def test_what_a_run_starts_from_is_looked_at(words, tmp_path, capsys):
    config = configs.load([word for word in words if word.startswith("--config")])[0]
    run = train.Run(config, tmp_path / "before")
    run.checkpoints.save(run.state, run._meta(), None)
    run.checkpoints.close()
    assert check.main([*words, f"--config.model.start_from={tmp_path}/before", "--config.head=none"]) == 0
    assert re.search(rf"; \d\d arrays from {tmp_path}/before, 0 drawn anew, 4 left there", capsys.readouterr().out)
    assert check.main([*words, f"--config.model.start_from={tmp_path}/before:7"]) == 2
    assert "has no checkpoint '7'" in capsys.readouterr().out


def test_every_problem_is_listed_with_scene_and_field(words, tmp_path, capsys):
    def change(scenes):
        scenes[1]["objects"][0].update(BAD)
        scenes[2]["objects"].append("red")
        scenes[3]["image_filename"] = "absent.png"
        scenes[5]["image_filename"] = scenes[4]["image_filename"]

    spoil(tmp_path, change)
    broken = samples.write_tar(tmp_path / "images/val.tar", {f"CLEVR_val_{n:06d}.png": b"no" for n in range(3)})
    assert check.main([*words, "--config.data.max_length=120"]) == 2
    out, err = capsys.readouterr()
    labels = f"labels {tmp_path}/labels/train.json"
    told = [line.removeprefix(labels) for line in out.splitlines()]
    here = "(image CLEVR_train_000001.png)"
    assert f", scene 1: object 0: 3d_coords must be 3 finite numbers, not [1, 2] {here}" in told
    assert any(line.startswith(", scene 1: object 0: shape must be text ") for line in told)
    assert any("an object must be a JSON object, not 'red' (image CLEVR_train_000002.png)" in line for line in told)
    assert any(line.startswith(f", scene 3: {tmp_path}/images/train.tar: holds no image absent.png") for line in told)
    assert ": scenes 4 and 5 both describe image CLEVR_train_000004.png; keep one" in told
    assert len([line for line in told if "above data.max_length=120" in line]) > 1
    assert len([line for line in out.splitlines() if f"{broken}: image CLEVR_val_" in line]) == 3
    assert "have no label, so they are not used (images/train/CLEVR_train_000001.png" in err


@pytest.mark.parametrize("change", [{}, BAD, {"shape": 3}, {"size": "a\nb"}, {"rotation": "x"}])
def test_problems_are_found_where_labels_are_refused(change):
    label = samples.label("a.png", np.random.default_rng(0), 2)
    label["objects"][1].update(change)
    problems = label_problems(label, "clevr")
    assert bool(problems) == bool(change)
    if problems:
        with pytest.raises(UserError) as caught:
            Scene.from_label(label, "clevr")
        assert problems[0] == f"object 1: {caught.value}"


def test_train_looks_first(words, tmp_path, capsys, monkeypatch):
    spoil(tmp_path, lambda scenes: [scene["objects"][0].update(shape=3) for scene in scenes[:2]])
    monkeypatch.setattr("sys.argv", ["igllm", "train", *words])
    assert __main__.main() == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("labels/train.json")[2][:10] for line in lines] == [", scene 0:", ", scene 1:", ""]
    assert lines[2].startswith("error: 2 problems, listed above; `igllm check`")
    assert not (tmp_path / "run/config.json").exists()


def test_disk_and_memory_that_do_not_suffice_are_problems(tmp_path, words, monkeypatch):
    config = configs.load([word for word in words if word.startswith("--config")])[0]
    monkeypatch.setattr(check, "local_memory", lambda device: 1e5)
    monkeypatch.setattr(check.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1e4))
    problems = list(check.inspect(config, tmp_path, SAMPLE).problems)
    assert [problem.partition(":")[0] for problem in problems] == ["memory", str(tmp_path)]
    assert "of a device's 0.0001 GB" in problems[0] and "1e-05 GB are free; make room" in problems[1]
    # the last two, the best, and the one being saved; of three steps in all, three
    config.train.num_steps, config.train.checkpoint_every, config.train.keep_checkpoints = 90, 3, 2
    assert check._num_kept(config) == 4
    config.train.num_steps = 7
    assert check._num_kept(config) == 3
