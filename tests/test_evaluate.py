"""`igllm evaluate` from files to tables."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.evaluate import evaluate, main
from igllm_jax.scene.checkerboard import is_seen, sample
from igllm_jax.scene.code import write
from igllm_jax.scene.labels import npz_name, read_labels
from igllm_jax.scene.predictions import Predictions, write_predictions

MODEL: dict[str, Any] = {"model_path": "run", "model_base": None, "model_name": "step_7"}
COLORS = ["red", "blue", "gray"]


def clevr_label(index: int) -> dict:
    rng = np.random.default_rng(index)
    objects = [
        {
            "size": "large",
            "color": COLORS[(index + k) % 3],
            "material": "metal",
            "shape": "cube",
            "3d_coords": [k, float(rng.uniform(-3, 3)), 0.7],
            "rotation": float(rng.uniform(0, 360)),
            "pixel_coords": [k, 0, 9],
        }
        for k in range(1 + index % 3)
    ]
    return {"image_filename": f"CLEVR_{index:06d}.png", "objects": objects}


@pytest.fixture
def labels(tmp_path: Path) -> str:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"scenes": [clevr_label(index) for index in range(11)]}))
    return str(path)


def answers(labels: str, task: str, folder: str = "", rotation_rep: str = "") -> dict[str, str]:
    """Right answers with numbers to three digits."""
    options: dict[str, Any] = {"rng": None, "shuffle_attributes": False, "use_synonyms": False}
    return {
        folder + scene.image: "The scene can be produced with:\n```python\n"
        + write(scene, task, rotation_rep=rotation_rep, numbers_as_tokens=False, **options).text
        + "```"
        for scene in read_labels(labels, task)
    }


def save(path: Path, predictions: Predictions) -> str:
    write_predictions(path, predictions, **MODEL)
    return str(path)


def test_right_answers_score_right(labels: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = save(tmp_path / "p.json", Predictions(answers(labels, "clevr", folder="images/val/"), task="clevr"))
    out = tmp_path / "metrics.json"
    assert main(["--labels", labels, "--predictions", path, "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["metrics"] | {"l2": 0, "yaw": 0} == {
        "l2": 0, "yaw": 0, "ace": 0, "size": 100, "color": 100, "mat": 100, "shape": 100, "shp_cls": 100, "parsed": 100
    }  # fmt: skip
    assert result["metrics"]["l2"] < 1e-3 and result["metrics"]["yaw"] < 0.05
    assert (result["num_scenes"], result["num_unparsed"], result["num_missing"]) == (11, 0, 0)
    printed = capsys.readouterr().out
    assert "right color (%)" in printed and "By number of objects: p.json" in printed


def test_wrong_missing_and_foreign_answers(labels: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found = answers(labels, "clevr")
    found["CLEVR_000000.png"] = ""
    found["CLEVR_000001.png"] = "I cannot do that"
    found["CLEVR_000002.png"] = found["CLEVR_000002.png"].replace("'gray'", "'red'")
    found["other.png"] = "add()"
    for index in (5, 6):
        del found[f"CLEVR_{index:06d}.png"]
    path = save(tmp_path / "p.json", Predictions(found))  # no task said: the labels show that it is CLEVR's kind
    result = evaluate(labels, path)[path]
    assert (result["num_scenes"], result["num_missing"], result["num_unlabelled"]) == (9, 2, 1)
    assert (result["num_unparsed"], result["num_unread"], result["num_without_pairs"]) == (2, 2, 2)
    assert result["metrics"]["ace"] == pytest.approx((1 + 2) / 9)
    assert result["metrics"]["color"] == pytest.approx(100 * (6 + 2 / 3) / 7)
    assert result["confusion"]["color"]["gray"]["red"] == 1
    main(["--labels", labels, "--predictions", path])
    notes = capsys.readouterr().err
    assert "2 of 11 labelled images have no prediction and are left out" in notes
    assert "1 predictions belong to no labelled image" in notes


@pytest.mark.parametrize("rotation_rep", ["euler", "euler_int", "aa", "6d", "quat"])
def test_turned_objects_in_a_file_of_the_reference(tmp_path: Path, rotation_rep: str) -> None:
    rng = np.random.default_rng(0)
    scenes = [
        {
            "image_filename": f"{i}.png",
            "objects": [{"rotation": rng.uniform(-3, 3, 3).tolist(), "3d_coords": [0, 0, 1]}],
        }
        for i in range(7)
    ]
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(scenes))
    found = answers(str(labels), "so3", rotation_rep=rotation_rep)
    path = save(tmp_path / "p.json", Predictions(found))
    with pytest.raises(UserError, match=r"does not say how rotations are written; add --rotation_rep euler\|"):
        evaluate(str(labels), path)
    result = evaluate(str(labels), path, rotation_rep=rotation_rep)[path]
    assert result["metrics"]["geod"] < 0.2
    said = save(tmp_path / "said.json", Predictions(found, task="sixdof", rotation_rep=rotation_rep))
    assert evaluate(str(labels), said)[said]["metrics"] == result["metrics"]
    with pytest.raises(UserError, match=f"made with rotation_rep='{rotation_rep}', but --rotation_rep nothing"):
        evaluate(str(labels), said, rotation_rep="nothing")


def points_and_answers(folder: Path, **splits: Any) -> tuple[str, dict[str, str]]:
    """A 2D file, and answers that are right in seen cells and 0.04 off elsewhere."""
    np.savez(folder / "2d.npz", **splits)
    found = {}
    for index, (x, y) in enumerate(splits["random"]):
        off = 0.0 if is_seen(np.array([x, y]), "checkerboard_sparse") else 0.04
        found[npz_name("2d.npz", "random", index)] = f"add(x={x:.6f}, y={y + off:.6f})\n"
    return f"{folder / '2d.npz'}:random", found


@pytest.mark.parametrize("with_training_points", [True, False])
def test_2d_tells_seen_from_unseen_cells(tmp_path: Path, with_training_points: bool) -> None:
    rng = np.random.default_rng(0)
    splits: dict[str, Any] = {"random": rng.random((211, 2))}
    if with_training_points:
        splits["checkerboard_sparse"] = sample("checkerboard_sparse", 97, rng)
    spec, found = points_and_answers(tmp_path, **splits)
    path = save(tmp_path / "p.json", Predictions(found, task="twod", train_split="checkerboard_sparse"))
    metrics = evaluate(spec, path, bootstrap=50)[path]["metrics"]
    assert metrics["l2_seen"] == pytest.approx(0, abs=1e-5) and metrics["l2_unseen"] == pytest.approx(0.04, abs=1e-5)
    assert metrics["within_1_unseen"] == 0 and metrics["within_5_unseen"] == 100 == metrics["within_1_seen"]
    assert metrics["l2_seen"] < metrics["l2"] < metrics["l2_unseen"]


def test_2d_without_a_known_training_split(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    spec, found = points_and_answers(tmp_path, random=np.random.default_rng(0).random((17, 2)))
    path = save(tmp_path / "p.json", Predictions(found))
    assert main(["--labels", spec, "--predictions", path]) == 0
    captured = capsys.readouterr()
    assert "l2_seen" not in captured.out and "--train_split would tell" in captured.err
    with pytest.raises(UserError, match=r"no split 'chess'; it has random"):
        evaluate(spec, path, train_split="chess")


def test_several_files_side_by_side(labels: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found = answers(labels, "clevr")
    one = save(tmp_path / "one.json", Predictions(found, task="clevr"))
    found["CLEVR_000000.png"] = "rubbish"
    other = save(tmp_path / "other.json", Predictions(found, task="clevr"))
    arguments = ["--labels", labels, "--predictions", one, "--predictions", other, "--bootstrap", "100"]
    out = tmp_path / "metrics.json"

    main([*arguments, "--format", "markdown", "--confusion", "--out", str(out)])
    table = capsys.readouterr().out
    header, rule, *_ = table.splitlines()
    assert header.split("|")[2].strip() == "one.json" and header.split("|")[3].strip() == "other.json"
    assert set(rule) == set("|-:") and "### Confusion of color: other.json" in table
    assert "100.0 [100.0, 100.0]" in table

    main([*arguments, "--format", "json"])
    reports = json.loads(capsys.readouterr().out)["reports"]
    assert reports == json.loads(out.read_text())["reports"]
    assert reports[one]["num_unparsed"] == 0 and reports[other]["num_unparsed"] == 1
    low, high = reports[other]["intervals"]["parsed"]
    assert reports[other]["metrics"]["parsed"] == pytest.approx(100 * 10 / 11)
    assert low < reports[other]["metrics"]["parsed"] < high

    main([*arguments, "--format", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["predictions"] for row in rows} == {one, other}
    parsed = [row for row in rows if row["metric"] == "parsed" and row["objects"] == "all"]
    assert [float(row["value"]) for row in parsed] == [reports[path]["metrics"]["parsed"] for path in (one, other)]
    assert float(parsed[1]["low"]) == low
    assert {row["objects"] for row in rows} == {"all", "1", "2", "3"}

    main([*arguments, "--format", "json"])
    assert json.loads(capsys.readouterr().out)["reports"] == reports  # the same seed, the same intervals


def test_reference_averages(labels: str, tmp_path: Path) -> None:
    found = answers(labels, "clevr")
    found["CLEVR_000000.png"] = "rubbish"
    path = save(tmp_path / "p.json", Predictions(found, task="clevr"))
    result = evaluate(labels, path, as_reference=True)[path]
    assert result["num_left_out"] == 1 and result["metrics"]["ace"] == 0


def test_what_could_not_be_read_is_counted_by_reason(
    labels: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    found = answers(labels, "clevr")
    found["CLEVR_000003.png"] = "I see a cube\nand a ball"
    found["CLEVR_000004.png"] = "Sorry"
    found["CLEVR_000007.png"] = " \n"
    path = save(tmp_path / "p.json", Predictions(found, task="clevr"))
    assert evaluate(labels, path)[path]["problems"] == [
        {
            "reason": "not a line of code: ...",
            "answers": 2,
            "example": "CLEVR_000003.png, line 1: not a line of code: 'I see a cube'",
        },
        {"reason": "the answer is empty", "answers": 1, "example": "CLEVR_000007.png, line 1: the answer is empty"},
    ]
    main(["--labels", labels, "--predictions", path, "--reference_averages"])  # the flag's old name
    captured = capsys.readouterr()
    assert f"note: {path}: 2 answers: not a line of code: ... (first: CLEVR_000003.png, line 1:" in captured.err
    assert "3 scenes are left out of every average, as the reference does" in captured.err


def test_settings_that_contradict_or_do_not_fit(labels: str, tmp_path: Path) -> None:
    found = answers(labels, "clevr")
    clevr = save(tmp_path / "clevr.json", Predictions(found, task="clevr", rotation_rep=""))
    so3 = save(tmp_path / "so3.json", Predictions(found, task="so3", rotation_rep="6d"))
    assert evaluate(labels, clevr, rotation_rep="yaw")[clevr]["metrics"]["ace"] == 0
    with pytest.raises(UserError, match="made with task='clevr', but --task so3 was asked for"):
        evaluate(labels, clevr, task="so3")
    with pytest.raises(UserError, match="predictions are of different tasks"):
        evaluate(labels, [clevr, so3])
    with pytest.raises(UserError, match="scene 0: rotation must be 3 finite numbers"):
        evaluate(labels, so3)
    with pytest.raises(UserError, match="rotation_unit='turns' is unknown"):
        evaluate(labels, clevr, rotation_unit="turns")
    with pytest.raises(UserError, match="no task 'chess'"):
        evaluate(labels, save(tmp_path / "chess.json", Predictions(found, task="chess")))
    foreign = save(tmp_path / "foreign.json", Predictions({"x.png": "add()"}, task="clevr"))
    with pytest.raises(UserError, match=r"none of its 1 images is among the 11 of .* \('x.png' against 'CLEVR_000000"):
        evaluate(labels, foreign)
    for flag in ("--bootstrap", "--seed"):
        with pytest.raises(UserError, match=rf"{flag}: expected a whole number from 0 to \d+, got .-1."):
            main(["--labels", labels, "--predictions", clevr, flag, "-1"])


def test_the_command_says_a_mistake_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "igllm_jax", "evaluate", "--labels", "nowhere.json", "--predictions", "p.json"]
    root = Path(__file__).parents[1]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr == "error: predictions p.json: cannot be read (No such file or directory); check the path\n"


def test_scoring_needs_no_accelerator_library() -> None:
    script = "import sys, igllm_jax.evaluate; sys.exit('jax' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], check=True)


def test_samples_give_calibration_and_the_best_by_likelihood(labels: str, tmp_path: Path, capsys) -> None:
    """The first of two answers is wrong in its colors, the second, which is likelier, is right."""
    right = answers(labels, "clevr")
    wrong = {name: text.replace("'red'", "'cyan'") for name, text in right.items()}
    samples = [{"outputs": "", "log_likelihood": -2.0}, {"outputs": "", "log_likelihood": -1.0}]
    details = {
        name: {"samples": [{**samples[0], "outputs": wrong[name]}, {**samples[1], "outputs": right[name]}]}
        for name in right
    }
    path, out = save(tmp_path / "p.json", Predictions(wrong, task="clevr", details=details)), tmp_path / "m.json"
    assert main(["--labels", labels, "--predictions", path, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    best = found["best_of_samples"]
    assert best["num_scenes"] == 11 and best["first"] == found["metrics"]
    assert best["likeliest"]["color"] == 100 > best["first"]["color"]
    words = found["calibration"]["words"]
    assert words["count"] == 4 * found["num_matched_objects"] and 0 < words["error"] < 0.2
    assert "expected calibration error" in capsys.readouterr().err
    for broken in ({"samples": []}, {"samples": [{"outputs": "x"}]}, {"samples": 3}):
        path = save(tmp_path / "b.json", Predictions(wrong, task="clevr", details=dict.fromkeys(wrong, broken)))
        with pytest.raises(UserError, match=r"samples of .* must be a list of"):
            evaluate(labels, path)
