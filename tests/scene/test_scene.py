"""Labels as released become scenes, or one line that says what is wrong with them."""

import json
from pathlib import Path

import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.scene import labels
from igllm_jax.scene.labels import infer_task, npz_name, npz_spec, parse_labels, read_labels, read_points
from igllm_jax.scene.language import find_language
from igllm_jax.scene.scene import Object, Scene

CUBE = {
    "size": "large",
    "color": "red",
    "material": "metal",
    "shape": "cube",
    "3d_coords": [1, 2.5, 0.7],
    "rotation": 100.5,
    "pixel_coords": [11, 22, 9.5],
    "mask": "ignored",
}


def entry(**changes) -> dict:
    item = {key: value for key, value in (CUBE | changes).items() if value != "absent"}
    return {"image_filename": "a/b.png", "objects": [item]}


def says_rotation(item: Object, task: str = "clevr") -> bool:
    return find_language(task).functions[0].by_name["rotation"].is_present(item)


def test_a_clevr_label() -> None:
    scene = Scene.from_label(entry(), "clevr")
    cube = Object(
        size="large", color="red", material="metal", shape="cube",
        location=(1.0, 2.5, 0.7), rotation=(100.5,), pixel=(11.0, 22.0, 9.5),
    )  # fmt: skip
    assert scene == Scene((cube,), "a/b.png")
    assert says_rotation(cube)


def test_what_a_label_lacks_is_none() -> None:
    scene = Scene.from_label({"image_filename": "i", "objects": [{"rotation": [1, 2, 3]}, {}]}, "so3")
    assert scene.objects == (Object(rotation=(1.0, 2.0, 3.0)), Object())
    assert not says_rotation(scene.objects[1], "so3")


@pytest.mark.parametrize("shape", ["sphere", "cylinder"])
def test_round_shapes_are_not_turned(shape: str) -> None:
    assert not says_rotation(Scene.from_label(entry(shape=shape), "clevr").objects[0])


@pytest.mark.parametrize("wrapped", [True, False])
def test_both_kinds_of_label_file(tmp_path: Path, wrapped: bool) -> None:
    labels = [entry(color="blue"), {**entry(color="absent"), "image_filename": "a/c.png"}]
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"info": {}, "scenes": labels} if wrapped else labels))
    assert [scene.objects[0].color for scene in read_labels(path, "clevr")] == ["blue", None]


def test_points_of_an_npz(tmp_path: Path) -> None:
    path = tmp_path / "2d.npz"
    np.savez(path, random=np.array([[0.25, 0.75], [0, 1]], np.float32), other=np.zeros((3, 2)))
    scenes = read_labels(f"{path}:random", "twod")
    assert [scene.objects[0].location for scene in scenes] == [(0.25, 0.75), (0.0, 1.0)]
    assert scenes[1].image == "2d.npz:random/000001" == npz_name(path, "random", 1)
    with pytest.raises(UserError, match="no split 'val'; it has other, random"):
        read_points(path, "val")
    with pytest.raises(UserError, match="task clevr needs a JSON file"):
        read_labels(f"{path}:random", "clevr")
    with pytest.raises(UserError, match="say which split of the file"):
        read_labels(path, "twod")


def test_npz_spec() -> None:
    assert npz_spec("gs://bucket/2d.npz:random") == ("gs://bucket/2d.npz", "random")
    assert npz_spec("a/labels.json") is None
    assert npz_spec("a/images.tar") is None


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((3, 3)), r"shape \[N, 2\], not float64 \[3, 3\]"),
        (np.array([["a", "b"]]), "must be numbers"),
        (np.array([[0.5, 1.5]]), "must lie in"),
        (np.array([[0.5, np.nan]]), "must lie in"),
    ],
)
def test_points_of_another_kind(tmp_path: Path, points: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "2d.npz", random=points)
    with pytest.raises(UserError, match=message):
        read_points(tmp_path / "2d.npz", "random")


def test_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    (tmp_path / "2d.npz").write_bytes(b"PK\x03\x04 broken")
    (tmp_path / "labels.json").write_text("[{")
    with pytest.raises(UserError, match=r"2d.npz: not a readable .npz file"):
        read_points(tmp_path / "2d.npz", "random")
    with pytest.raises(UserError, match=r"labels.json: not JSON .* is the file complete"):
        read_labels(tmp_path / "labels.json", "clevr")
    with pytest.raises(UserError, match=r"nowhere.json: cannot be read \(No such file"):
        read_labels(tmp_path / "nowhere.json", "clevr")
    with pytest.raises(UserError, match=r"nowhere.npz: cannot be read \(No such file"):
        read_labels(tmp_path / "nowhere.npz:random", "twod")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (entry(**{"3d_coords": [1, 2]}), r"3d_coords must be 3 finite numbers, not \[1, 2\] \(image a/b.png\)"),
        (entry(**{"3d_coords": [1, 2, float("nan")]}), "3d_coords must be 3 finite"),
        (entry(rotation=[1, 2, 3]), r"rotation must be 1 finite number, not \[1, 2, 3\]"),
        (entry(rotation=10**400), "rotation must be 1 finite number"),
        (entry(rotation=True), "rotation must be 1 finite number"),
        (entry(size=3), "size must be text"),
        (entry(color="it's"), "color must be text without quotes"),
        ({"objects": []}, "image_filename must be text, not None"),
        ({"image_filename": "i"}, "objects must be a list"),
        ({"image_filename": "i", "objects": [3]}, "an object must be a JSON object, not 3"),
        (7, "a scene must be a JSON object, not 7"),
    ],
)
def test_broken_labels_name_file_scene_and_key(label, message: str) -> None:
    with pytest.raises(UserError, match="labels l.json, scene 1: .*" + message):
        parse_labels(json.dumps([entry(), label]), "clevr", where="l.json")


def test_a_file_without_scenes() -> None:
    with pytest.raises(UserError, match="expected a list of scenes"):
        parse_labels('{"questions": []}', "clevr", where="l.json")


@pytest.mark.parametrize(
    ("objects", "task"),
    [
        ([{"rotation": 1.0}], "clevr"),
        ([{"shape": "sphere"}], "clevr"),
        ([{"rotation": [1, 2, 3]}], "so3"),
        ([{"rotation": [1, 2, 3], "3d_coords": [1, 2, 3]}], "sixdof"),
        ([{"rotation": [1, 2, 3]}] * 2, "shapenet"),
    ],
)
def test_the_task_that_labels_fit(tmp_path: Path, objects: list, task: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps([{"image_filename": "i", "objects": objects}]))
    assert infer_task(path) == task
    assert len(read_labels(path, task)) == 1
    assert infer_task("anywhere/2d.npz:random") == "twod"


def test_one_image_has_one_scene() -> None:
    text = json.dumps([entry(), {**entry(), "image_filename": "c.png"}, entry(color="blue")])
    with pytest.raises(UserError, match=r"labels l.json: scenes 0 and 2 both describe image a/b.png; keep one"):
        parse_labels(text, "clevr", where="l.json")


@pytest.mark.parametrize("mark", ["\ufeff".encode(), b""])
def test_a_byte_order_mark_is_no_content(mark: bytes) -> None:
    text = json.dumps([entry()])
    assert len(parse_labels(mark + text.encode(), "clevr", where="l.json")) == 1
    assert len(parse_labels(mark.decode() + text, "clevr", where="l.json")) == 1
    assert len(parse_labels(text.encode("utf-16"), "clevr", where="l.json")) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"3d_coords": [1, 2, 3.5e38]}, r"3d_coords must be 3 finite numbers, not \[1, 2, 3.5e\+38\]"),
        ({"color": "a\ud800b"}, r"color must be text without quotes or line breaks, not 'a\\ud800b'"),
    ],
)
def test_what_no_row_can_hold(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_labels(json.dumps([entry(**changes)]), "clevr", where="l.json")
    largest = parse_labels(json.dumps([entry(**{"3d_coords": [1, 2, 3.4028234e38]})]), "clevr", where="l.json")
    assert np.isfinite(np.float32(largest[0].objects[0].location[2]))


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("shape", ["wrapped", "list", "lines"])
def test_labels_are_read_piece_by_piece(chunk: int, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "CHUNK", chunk)
    names = ["a.png", "bé.png", "c数.png"]
    scenes = [entry(rotation=index + 0.5) | {"image_filename": name} for index, name in enumerate(names)]
    content = {"wrapped": json.dumps({"info": {"n": [1, {}]}, "scenes": scenes, "more": 12}, indent=1),
               "list": json.dumps(scenes, ensure_ascii=False),
               "lines": "\n".join(json.dumps(scene, ensure_ascii=False) for scene in scenes) + "\n"}[shape]  # fmt: skip
    found = parse_labels(content.encode(), "clevr", where="l.json")
    assert [scene.image for scene in found] == names
    assert [scene.objects[0].rotation for scene in found] == [(0.5,), (1.5,), (2.5,)]
    cut = content[: len(content) // 2].encode()
    with pytest.raises(UserError, match=r"labels l.json: not JSON \(.* at character \d+\); is the file complete"):
        parse_labels(cut, "clevr", where="l.json")
    with pytest.raises(UserError, match=r"labels l.json: not JSON|scene 3: a scene must be a JSON object"):
        parse_labels((content + "]").encode(), "clevr", where="l.json")
