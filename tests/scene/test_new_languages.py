"""Two languages that no Python of ours knows, from their files and pictures of their scenes to scores."""

import importlib
import json
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

from igllm_jax import config as configs
from igllm_jax.__main__ import COMMANDS
from igllm_jax.errors import UserError
from igllm_jax.parallel.sharding import MeshOptions
from igllm_jax.scene.labels import parse_labels, read_labels
from igllm_jax.scene.language import find_language
from igllm_jax.training import metrics_log
from tests.test_all_tasks import SMALL

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "languages"
DRAW = runpy.run_path(str(FOLDER / "draw.py"))


def igllm(command: str, *arguments: object) -> int:
    return importlib.import_module(COMMANDS[command][0]).main([str(argument) for argument in arguments])


SLOWLY = pytest.param("drawing", "none", marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "head"), [("room", "linear"), SLOWLY])
def test_a_language_is_its_file(name: str, head: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("IGLLM_CACHE", str(tmp_path / "cache"))
    one = jax.devices()[:1]
    on = MeshOptions.on
    monkeypatch.setattr(MeshOptions, "on", lambda options: on(options, one))
    file = tmp_path / "mine.toml"
    file.write_text((FOLDER / f"{name}.toml").read_text())
    for seed, (split, count) in enumerate((("train", 16), ("val", 5))):
        DRAW["write_split"](find_language(file), tmp_path, split, count, seed)
    paths = {f"data.{s}.{part}": tmp_path / part / f"{s}.{end}" for s in ("train", "val")
              for part, end in (("images", "tar"), ("labels", "json"))}  # fmt: skip
    sizes = {**SMALL, "data.max_length": 1024, "eval.generate_every": 10 if name == "drawing" else 0}
    settings = {**sizes, **paths, "eval.generate_samples": 4, "eval.max_new_tokens": 24}
    changes = [f"--config.{key}={value}" for key, value in settings.items()]
    config = f"--config={ROOT}/configs/tiny.py:task={file},head={head}"
    assert igllm("language", file, "--labels", paths["data.train.labels"]) == 0
    assert igllm("train", config, *changes, "--workdir", tmp_path / "run") == 0
    lines = metrics_log.read(tmp_path / "run" / metrics_log.METRICS_FILE)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
    assert any("val/ace" in line for line in lines) == (name == "drawing")

    file.unlink()  # the run has its own
    answers, scores = tmp_path / "answers.json", tmp_path / "scores.json"
    options = ["--batch_size", 5, "--max_new_tokens", 200]
    images, labels = paths["data.val.images"], paths["data.val.labels"]
    assert igllm("generate", "--workdir", tmp_path / "run", "--images", images, "--out", answers, *options) == 0
    assert igllm("evaluate", "--labels", labels, "--predictions", answers, "--out", scores) == 0
    assert json.loads(scores.read_text())["metrics"]["parsed"] == 100  # whatever the model learned: by the grammar
    written = json.loads(answers.read_text())
    assert written["task"] == name and written["language"] == (FOLDER / f"{name}.toml").read_text()

    # What a perfect model would have said, scored from the two files alone.
    language = find_language(FOLDER / f"{name}.toml")
    truth = {scene.image: code_of(scene, language) for scene in read_labels(labels, language)}
    answers.write_text(json.dumps({**written, "answers": {n: {"outputs": text} for n, text in truth.items()}}))
    capsys.readouterr()
    assert igllm("evaluate", "--labels", labels, "--predictions", answers, "--out", scores) == 0
    found = json.loads(scores.read_text())
    assert found["task"] == name and found["metrics"]["parsed"] == 100 and found["metrics"]["ace"] == 0
    for metric, about in found["about"].items():
        if found["metrics"][metric] is not None:
            assert found["metrics"][metric] == pytest.approx(0 if about["is_better_low"] else 100, abs=0.05)
    assert "scenes whose text could be read entirely (%)" in capsys.readouterr().out
    with pytest.raises(UserError, match=f"made with task='{name}', but --task clevr was asked for"):
        igllm("evaluate", "--labels", labels, "--predictions", answers, "--task", "clevr")


def code_of(scene, language) -> str:
    from igllm_jax.scene.code import write

    return write(scene, language, rotation_rep="", numbers_as_tokens=False, rng=None, shuffle_attributes=False,
                 use_synonyms=False).text  # fmt: skip


def test_a_run_keeps_to_its_language(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text((FOLDER / "drawing.toml").read_text())
    config, _ = configs.load([f"--config={ROOT}/configs/tiny.py:task={file}"])
    configs.write(config, tmp_path)
    saved = configs.read(tmp_path)
    assert saved.task == str(tmp_path / "language.toml")
    configs.check_resume(config, saved)
    file.write_text(file.read_text().replace("maximum = 4", "maximum = 5"))
    with pytest.raises(UserError, match="the run in the workdir has another config: task from"):
        configs.check_resume(config, saved)
    (tmp_path / "language.toml").unlink()  # as old runs are, whose task is one of those that come along
    config.task = "clevr"
    (tmp_path / "config.json").write_text(config.to_json())
    assert configs.read(tmp_path).task == "clevr"


def test_lines_of_aria_rooms_become_labels(tmp_path: Path) -> None:
    lines = [
        "make_wall, id=0, a_x=-2.5, a_y=0.0, a_z=0.0, b_x=2.5, b_y=0.0, b_z=0.0, height=2.7",
        "make_wall, id=5, a_x=2.5, a_y=0.0, a_z=0.0, b_x=2.5, b_y=3.0, b_z=0.0, height=2.7",
        "make_door, id=1000, wall0_id=5, wall1_id=-1, position_x=2.5, position_y=1.0, position_z=1.0, width=0.9, "
        "height=2.0",
        "make_bbox, id=2, class=table, position_x=0, position_y=1, position_z=0.4, angle_z=0.5, scale_x=1, scale_y=2, "
        "scale_z=0.8",
        "make_prism, id=3",
    ]
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "ase_scene_language.txt").write_text("\n".join(lines) + "\n")
    label = runpy.run_path(str(FOLDER / "aria_rooms.py"))["label"](tmp_path / "12")
    language = find_language(FOLDER / "room.toml")
    (scene,) = parse_labels(json.dumps(label) + "\n", language, where="rooms.jsonl")
    assert scene.image == "12.png"
    assert code_of(scene, language) == (
        "wall(start=(-2.500, 0.000), end=(2.500, 0.000), height=2.700)\n"
        "wall(start=(2.500, 0.000), end=(2.500, 3.000), height=2.700)\n"
        "door(wall=1, position=(2.500, 1.000, 1.000), width=0.900, height=2.000)\n"
        "box(kind='table', center=(0.000, 1.000, 0.400), size=(1.000, 2.000, 0.800), yaw=0.500)\n"
    )


def test_pictures_show_what_their_labels_say() -> None:
    language = find_language(FOLDER / "drawing.toml")
    label = {"image_filename": "i", "objects": [
        {"function": "circle", "center": [0.25, 0.5], "radius": 0.2, "fill": "red"},
        {"function": "rectangle", "center": [0.75, 0.5], "size": [0.2, 0.6], "fill": "none", "stroke": "blue"},
    ]}  # fmt: skip
    (scene,) = parse_labels(json.dumps([label]), language, where="l")
    picture = np.asarray(DRAW["draw"](scene, language, 100))
    assert picture[50, 25].tolist() == [255, 0, 0] and picture[50, 75].tolist() == [255, 255, 255]
    assert picture[50, 65].tolist() == [0, 0, 255] and picture[5, 5].tolist() == [255, 255, 255]
