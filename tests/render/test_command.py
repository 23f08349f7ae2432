"""`igllm render` and the scores of what it leaves: from labels to pictures to metrics, and what may go wrong."""

import io
import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from igllm_jax import make_data
from igllm_jax.errors import UserError
from igllm_jax.evaluate import evaluate
from igllm_jax.evaluate import main as evaluate_main
from igllm_jax.render.command import main
from igllm_jax.render.folder import read_ids, read_index, read_picture
from igllm_jax.render.labels import RENDERING
from igllm_jax.render.scenes import RECOVERED, STANDARD, STORED
from igllm_jax.scene.code import write
from igllm_jax.scene.labels import read_labels
from igllm_jax.scene.predictions import Predictions, write_predictions

SIZE = "120x80"
NUM_SCENES = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clevr")
    counts = ("--num_train", "1", "--num_val", str(NUM_SCENES), "--max_objects", "4")
    make_data.main(["clevr", "--out", str(folder), *counts, "--image_size", SIZE, "--workers", "1"])
    return folder


def labels_of(data: Path) -> str:
    return str(data / "labels/val_ID.json")


def codes(labels: str, task: str = "clevr", rotation_rep: str = "") -> dict[str, str]:
    settings = {"numbers_as_tokens": False, "rng": None, "shuffle_attributes": False, "use_synonyms": False}
    return {
        scene.image: write(scene, task, rotation_rep=rotation_rep, **settings).text
        for scene in read_labels(labels, task)
    }


def predict(path: Path, answers: dict[str, str], task: str = "clevr", rotation_rep: str = "") -> str:
    found = Predictions(answers, task=task, rotation_rep=rotation_rep)
    write_predictions(path, found, model_path="m", model_base=None, model_name="m")
    return str(path)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def moved(code: str, by: float) -> str:
    """The code with its first object moved along x."""
    start = code.index("loc=(") + len("loc=(")
    end = code.index(",", start)
    return f"{code[:start]}{float(code[start:end]) + by:+.3f}{code[end:]}"


def test_truth_predicted_scores_full_and_moving_an_object_lowers_it(data: Path, tmp_path: Path) -> None:
    truth, scores = codes(labels_of(data)), []
    for by in (0.0, 0.1, 0.25, 0.5):
        predictions = predict(tmp_path / f"{by}.json", {name: moved(code, by) for name, code in truth.items()})
        out = tmp_path / f"render_{by}"
        assert run("--labels", labels_of(data), "--predictions", predictions, "--out", out, "--workers", 1) == 0
        scores.append(evaluate(labels_of(data), predictions, renders=str(out), bootstrap=20)[predictions])
    first = scores[0]["metrics"]
    assert first["iou_object"] > 99 and first["iou_scene"] > 99 and first["psnr"] > 45 and first["ssim"] > 0.995
    assert first["unseen"] == 0 and first["ap_0.125"] == first["ir3d_count_acc"] == first["ir3d_relation_acc"] == 100
    for name in ("iou_object", "iou_scene", "psnr", "ssim", "ir3d_iou"):
        found = [one["metrics"][name] for one in scores]
        assert all(a > b for a, b in itertools.pairwise(found)), (name, found)
    assert "psnr_input" not in first  # no --images
    assert scores[3]["metrics"]["ap_0.25"] < 100 == scores[3]["metrics"]["ap_1"]
    for one in scores:
        for name in ("psnr", "iou_object", "ap"):
            low, high = one["intervals"][name]
            assert low - 1e-9 <= one["metrics"][name] <= high + 1e-9
        assert one["averaged_scenes"]["iou_scene"] == NUM_SCENES
    counted = [group["metrics"]["iou_scene"] for group in scores[1]["by_object_count"].values()]
    assert min(counted) <= scores[1]["metrics"]["iou_scene"] <= max(counted)


def test_recovered_cameras_see_the_masks_of_the_images(tmp_path: Path) -> None:
    """In CLEVR's size: where pixel_coords are rounded to a smaller image's pixels, less is to be had."""
    data = tmp_path / "data"
    make_data.main(["clevr", "--out", str(data), "--num_train", "1", "--num_val", "3", "--workers", "1"])
    content = json.loads(Path(labels_of(data)).read_text())
    for scene in content["scenes"]:
        del scene[RENDERING]  # as the released labels are
    released = tmp_path / "labels.json"
    released.write_text(json.dumps(content))
    images = data / "images/val_ID.tar"
    assert run("--labels", labels_of(data), "--images", images, "--out", tmp_path / "stored", "--workers", 1) == 0
    assert run("--labels", released, "--images", images, "--out", tmp_path / "fitted", "--workers", 1) == 0
    stored, fitted = read_index(tmp_path / "stored"), read_index(tmp_path / "fitted")
    assert {one.camera_from for one in stored.scenes} == {STORED}
    assert {one.camera_from for one in fitted.scenes} == {RECOVERED}
    ious = []
    for one, other in zip(stored.scenes, fitted.scenes, strict=True):
        assert one.camera.position == pytest.approx(other.camera.position, abs=0.05)
        true, again = read_ids(tmp_path / "stored", "true", one.name), read_ids(tmp_path / "fitted", "true", one.name)
        numbers = np.unique(true[true > 0])
        ious += [((true == i) & (again == i)).sum() / ((true == i) | (again == i)).sum() for i in numbers]
        picture = read_picture(tmp_path / "stored", "true", one.name)
        assert np.array_equal(picture, read_picture(tmp_path / "stored", "input", one.name))  # lights are stored too
    assert np.mean(ious) >= 0.99


@pytest.mark.parametrize("task", ["so3", "sixdof", "shapenet"])
def test_other_tasks_draw_their_images_again(task: str, tmp_path: Path) -> None:
    counts = ("--num_train", "2", "--num_val", "1", "--image_size", SIZE, "--workers", "1")
    make_data.main([task, "--out", str(tmp_path), *counts])
    labels = str(tmp_path / "labels/train.json")
    predictions = predict(tmp_path / "p.json", codes(labels, task, "6d"), task, "6d")
    out = tmp_path / "out"
    run("--labels", labels, "--predictions", predictions, "--images", tmp_path / "images/train.tar", "--out", out,
        "--workers", 1)  # fmt: skip
    metrics = evaluate(labels, predictions, renders=str(out))[predictions]["metrics"]
    assert metrics["psnr_input"] > 35 and metrics["iou_object"] > 97  # paint that no code says is the truth's


def test_hostile_predictions_are_drawn_as_far_as_they_go(data: Path, tmp_path: Path, capsys) -> None:
    names = list(codes(labels_of(data)))
    text = (
        "add(size='<script>alert(1)</script>', color='mauve', shape='../../x', loc=(0.5, 0.5, 0.35))\n"
        "add(shape='cube', loc=(1e11, 1, 1))\nadd(shape='☃', loc=(nan, 1e30, 0.35))\nadd(shape='cube')\n"
        "import os; os.system('x')\nadd(\n"
    )
    many = "".join(f"add(shape='cube', size='small', loc=({i % 25 - 12}, {i // 25 - 12}, 0.35))\n" for i in range(625))
    inside = "add(shape='sphere', size='large', loc=(7.4, -6.5, 5.3))\nadd(shape='cube', loc=(99, -99, 0.35))\n"
    answers = dict(zip(names, [text, many, "", inside], strict=True))
    answers["no such image.png"] = "add()"
    out = tmp_path / "out"
    predictions = predict(tmp_path / "p.json", answers)
    assert run("--labels", labels_of(data), "--predictions", predictions, "--out", out, "--workers", 1) == 0
    index = read_index(out)
    first, second, third, fourth = index.scenes
    assert set(np.unique(read_ids(out, "predicted", first.name))) == {0, 1, 3}
    listed = "\n".join(first.problems)
    for said in (
        "object 1: has no location in reach",
        "object 3: has no location",
        "'☃' is unknown",
        "line 5: not a line",
    ):
        assert said in listed
    assert first.num_problems == len(first.problems) and second.num_problems == 0
    assert len(np.unique(read_ids(out, "predicted", second.name))) > 200
    assert not read_ids(out, "predicted", third.name).any()
    assert read_picture(out, "predicted", fourth.name).shape == (80, 120, 3)
    assert index.num_unlabelled == 1
    assert "1 predictions belong to no labelled image" in capsys.readouterr().err
    assert all(path.name.isascii() for path in out.rglob("*"))
    metrics = evaluate(labels_of(data), predictions, renders=str(out))[predictions]["metrics"]
    assert 0 < metrics["unseen"] < 100 and all(value is None or math.isfinite(value) for value in metrics.values())


def test_code_from_a_file_and_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = b"add(size='large', color='red', material='metal', shape='cube', loc=(0, 0, 0.7), rotation=0.2)\nadd(\xff"
    (tmp_path / "code.txt").write_bytes(code)
    run("--code", tmp_path / "code.txt", "--out", tmp_path / "a", "--image_size", "60x40", "--export", "json")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(code)))
    run("--code", "-", "--out", tmp_path / "b", "--image_size", "60x40")
    (one,) = read_index(tmp_path / "a").scenes
    assert (one.camera_from, one.sides, one.num_problems) == (STANDARD, ("predicted",), 3)
    assert np.array_equal(
        read_picture(tmp_path / "a", "predicted", "code"), read_picture(tmp_path / "b", "predicted", "code")
    )
    assert (tmp_path / "a/exports/predicted/code.json").exists()
    with pytest.raises(UserError, match="holds code alone"):
        from igllm_jax.render.scores import check_index

        check_index(tmp_path / "a")


def test_existing_output_needs_overwrite_and_nothing_is_left_half(data: Path, tmp_path: Path, monkeypatch) -> None:
    from igllm_jax.render import command

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    arguments = ("--labels", labels_of(data), "--out", tmp_path, "--workers", 1)
    run(*arguments)
    with pytest.raises(UserError, match=r"render\.json exists already.*--overwrite"):
        run(*arguments)
    monkeypatch.setattr(command, "draw_job", fail)
    with pytest.raises(RuntimeError):
        run(*arguments, "--overwrite")
    assert not (tmp_path / "render.json").exists() and not list(tmp_path.rglob(".*"))


Change = Callable[[dict], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scene: scene.update(rendering={"camera": {}}), r"rendering\.camera: the key 'position' is missing"),
        (lambda scene: [scene.pop("rendering"), scene["objects"][0].update(pixel_coords=[4000, -3000, 2])],
         "pixel_coords fit no camera that looks at the origin"),
        (lambda scene: scene["objects"][0].update(rotation=[1, 2]), "rotation must be 1 finite number"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_drawn_are_user_errors(data: Path, tmp_path: Path, change: Change, message: str) -> None:
    content = json.loads(Path(labels_of(data)).read_text())
    change(content["scenes"][0])
    (tmp_path / "l.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        run("--labels", tmp_path / "l.json", "--out", tmp_path / "out", "--workers", 1, "--task", "clevr")


def test_contradictions_are_user_errors(data: Path, tmp_path: Path) -> None:
    labels, out = labels_of(data), tmp_path / "out"
    with pytest.raises(UserError, match="either --labels"):
        run("--out", out)
    with pytest.raises(UserError, match="leave out --predictions"):
        run("--code", "-", "--predictions", "p.json", "--out", out)
    with pytest.raises(UserError, match="no scenes to render: none of its functions has a location of three numbers"):
        run("--code", labels, "--task", "twod", "--out", out)
    with pytest.raises(UserError, match="needs --rotation_rep"):
        run("--code", labels, "--task", "so3", "--out", out)
    other = predict(tmp_path / "p.json", {"x.png": "add()"})
    with pytest.raises(UserError, match="none of its 1 images is among the 4"):
        run("--labels", labels, "--predictions", other, "--out", out, "--workers", 1)
    with pytest.raises(UserError, match="made with task='clevr'"):
        run("--labels", labels, "--predictions", other, "--out", out, "--task", "shapenet")


def test_renders_of_something_else_are_user_errors(data: Path, tmp_path: Path) -> None:
    labels, truth = labels_of(data), codes(labels_of(data))
    predictions = predict(tmp_path / "p.json", truth)
    with pytest.raises(UserError, match=r"render\.json: cannot be read"):
        evaluate(labels, predictions, renders=str(tmp_path))
    run("--labels", labels, "--predictions", predictions, "--out", tmp_path / "r", "--workers", 1, "--limit", 2)
    other = predict(tmp_path / "q.json", dict.fromkeys(truth, "add(shape='cube', loc=(0, 0, 0.35))"))
    with pytest.raises(UserError, match="drawn from another prediction; render again"):
        evaluate(labels, other, renders=str(tmp_path / "r"))
    with pytest.raises(UserError, match="1 --renders for 2 --predictions"):
        evaluate(labels, [predictions, other], renders=str(tmp_path / "r"))
    assert evaluate(labels, predictions, renders=str(tmp_path / "r"))[predictions]["averaged_scenes"]["psnr"] == 2


def test_average_precision_needs_no_drawings_and_takes_confidences(data: Path, tmp_path: Path, capsys) -> None:
    labels, truth = labels_of(data), codes(labels_of(data))
    predictions = predict(tmp_path / "p.json", {name: code + code for name, code in truth.items()})
    plain = evaluate(labels, predictions, has_precision=True)[predictions]["metrics"]
    assert plain["ap_0.125"] == pytest.approx(50)  # half of the predictions are once too many
    content = json.loads(Path(predictions).read_text())
    for answer in content["answers"].values():
        count = answer["outputs"].count("add(") // 2
        answer["log_probabilities"] = [-0.1] * count + [-3.0] * count
    Path(predictions).write_text(json.dumps(content))
    assert evaluate(labels, predictions, has_precision=True)[predictions]["metrics"]["ap_0.125"] == pytest.approx(100)
    evaluate_main(["--labels", labels, "--predictions", predictions, "--ap"])
    assert "ap_0.125: average precision, all words right within 0.125 units (%)" in capsys.readouterr().out
    content["answers"][next(iter(truth))]["log_probabilities"] = ["high"]
    Path(predictions).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"log_probabilities of .* must be a list of numbers"):
        evaluate(labels, predictions)
