"""The predictions file, and finding an image's answer in it."""

import json
from pathlib import Path
from typing import Any

import pytest

from igllm_jax.errors import UserError
from igllm_jax.scene.predictions import Predictions, match_names, read_predictions, write_predictions

MODEL: dict[str, Any] = {"model_path": "run", "model_base": None, "model_name": "step_7"}


def test_written_and_read_again(tmp_path: Path) -> None:
    predictions = Predictions({"a/b.png": "add()\n"}, task="so3", rotation_rep="6d", rotation_unit="deg")
    path = tmp_path / "new" / "predictions.json"
    write_predictions(path, predictions, **MODEL)
    assert read_predictions(path) == predictions
    assert [file.name for file in path.parent.iterdir()] == ["predictions.json"]
    content = json.loads(path.read_text())
    assert list(content)[:3] == ["model_path", "model_base", "model_name"]
    assert content["answers"] == {"a/b.png": {"outputs": "add()\n"}}
    assert "train_split" not in content


def test_a_file_of_the_reference_has_no_settings(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(MODEL | {"answers": {"x.png": {"outputs": "\ud800 add()"}}}))
    assert read_predictions(path) == Predictions({"x.png": "? add()"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON .* is the file complete"),
        ("[" * 100000, "not JSON"),
        ("[]", 'expected {"answers"'),
        ('{"answers": []}', 'expected {"answers"'),
        ('{"answers": {"x": "text"}}', "answer of 'x' must be"),
        ('{"answers": {"x": {"outputs": null}}}', "answer of 'x' must be"),
        ('{"answers": {}, "task": 3}', "task must be text, not 3"),
    ],
)
def test_broken_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"p\.json: " + message):
        read_predictions(path)


def test_a_file_that_is_not_there_or_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"p\.json: cannot be read \(No such file"):
        read_predictions(tmp_path / "p.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_predictions(tmp_path / "file" / "out.json", Predictions({}), **MODEL)


def test_names_match_folder_by_folder() -> None:
    answers = ["images/val/a.png", "b.png", "train/c.png", "xd.png"]
    assert match_names(["a.png", "val/b.png", "val/c.png", "d.png"], answers) == [
        "images/val/a.png",
        "b.png",
        None,
        None,
    ]


def test_the_exact_name_goes_first() -> None:
    assert match_names(["a.png"], ["a.png", "val/a.png"]) == ["a.png"]


def test_points_of_another_split_do_not_match() -> None:
    assert match_names(["2d.npz:random/000001"], ["2d.npz:checkerboard_sparse/000001"]) == [None]


def test_names_that_fit_twice() -> None:
    with pytest.raises(UserError, match=r"'x/a.png' and 'y/a.png' both fit the labelled image 'a.png'"):
        match_names(["a.png"], ["x/a.png", "y/a.png"])
    with pytest.raises(UserError, match=r"'a.png' fits both labelled images 'x/a.png' and 'y/a.png'"):
        match_names(["x/a.png", "y/a.png"], ["a.png"])


def test_names_are_found_however_many_folders_share_a_file_name() -> None:
    answers = [f"run/{folder}/{view}/x.png" for folder in range(80) for view in range(100)]
    images = [name.removeprefix("run/") for name in answers]
    assert match_names(images, answers) == answers
    assert match_names(answers, images) == images


def test_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    name = b"a\xff.png".decode("utf-8", "surrogateescape")
    path = tmp_path / "p.json"
    write_predictions(path, Predictions({name: "add()"}), **MODEL)
    assert read_predictions(path).answers == {name: "add()"}
    assert b"a\\udcff.png" in path.read_bytes()
