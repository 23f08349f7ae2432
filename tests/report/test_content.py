"""What the page is given: marked code, columns for plots, shapes for the view; and what may go wrong."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igllm_jax import make_data, make_report
from igllm_jax.errors import UserError
from igllm_jax.evaluate import evaluate_run
from igllm_jax.render.camera import clevr_camera
from igllm_jax.render.export.transforms import object_matrix, part_matrix
from igllm_jax.render.renderers import RendererOptions
from igllm_jax.render.scenes import scene_spec, standard_stage
from igllm_jax.report.content import Options, build_content, view_of
from igllm_jax.report.errors import find_limits
from igllm_jax.report.html import embedded_json
from igllm_jax.report.marks import EXTRA, FAR, RIGHT, UNREAD, WRONG, Marker
from igllm_jax.report.plots import calibration, pair_columns
from igllm_jax.report.shapes import Meshes, coarser, view_scene
from igllm_jax.scene.code import read, write
from igllm_jax.scene.examples import example_scene, scene_label
from igllm_jax.scene.kind import Settings
from igllm_jax.scene.labelled import LabelledPredictions
from igllm_jax.scene.language import find_language, parse_language
from igllm_jax.scene.metrics import match
from igllm_jax.scene.predictions import Predictions, of_language, write_predictions
from igllm_jax.scene.scene import Object, Scene
from tests.scene.languages import languages

CLEVR = find_language("clevr")
CUBE = Object(size="large", color="red", material="metal", shape="cube", location=(1.0, 2.0, 0.7), rotation=(45.0,))
BALL = Object(
    size="small", color="blue", material="rubber", shape="sphere", location=(-1.0, 0.0, 0.35), rotation=(0.0,)
)
SCENE = Scene((CUBE, BALL), "a.png")
TEXT = (
    "```python\n"
    "add(size='large', color='green', material='metal', shape='block', loc=(+1.05, 2.9, 0.7), rotation=+0.500)\n"
    "add( color='blue',loc=(-1.0, 0, 0.4), size='small', rotation=3)\n"
    "add(color='red', loc=(9, 9, 9))\n"
    "oops\n"
    "```\n"
)


def marked(text: str) -> tuple[list[Any], list[str]]:
    reading = read(text, CLEVR, rotation_rep="")
    pairs = match(SCENE, reading, CLEVR)
    marker = Marker(CLEVR, Settings(), find_limits([SCENE], CLEVR))
    return marker.lines(text, SCENE, reading, pairs), marker.missed(SCENE, pairs)


def plain_text(line: list[Any]) -> str:
    """The line as it was."""
    return "".join(piece if isinstance(piece, str) else piece[0] for piece in line)


def kinds(line: list[Any]) -> list[tuple[str, str]]:
    return [(piece[0], piece[1]) for piece in line if not isinstance(piece, str)]


def test_wrong_words_and_far_numbers_are_marked() -> None:
    lines, missed = marked(TEXT)
    assert [plain_text(line) for line in lines] == TEXT.rstrip("\n").split("\n")
    assert kinds(lines[1]) == [
        ("'large'", RIGHT), ("'green'", WRONG), ("'metal'", RIGHT), ("'block'", RIGHT),  # a synonym
        ("+1.05", RIGHT), ("2.9", FAR), ("0.7", RIGHT), ("+0.500", FAR),
    ]  # fmt: skip
    assert ["'green'", WRONG, "'red'"] in lines[1] and ["2.9", FAR, "+2.000"] in lines[1]
    assert kinds(lines[2])[:2] == [("'blue'", RIGHT), ("-1.0", RIGHT)] and "rotation=3)" in plain_text(lines[2])
    assert [kind for _, kind in kinds(lines[3])] == [EXTRA] and [kind for _, kind in kinds(lines[4])] == [UNREAD]
    assert missed == []


def test_what_is_missing_is_told_as_code() -> None:
    lines, missed = marked("")
    assert kinds(lines[0]) == [("", UNREAD)] or plain_text(lines[0]) == ""
    assert len(missed) == 2 and missed[0].startswith("add(size='large', color='red'")
    assert read("\n".join(missed), CLEVR, rotation_rep="").objects[0].location == CUBE.location


@pytest.mark.parametrize(
    "text", ["add(" * 2000, "add(loc=(((((((", "add(color='", "add(loc=(1,2,3)" * 500, "x\r\n\x00" * 99]
)
def test_any_text_can_be_marked(text: str) -> None:
    lines, _ = marked(text)
    assert len(lines) <= 61 and all(len(plain_text(line)) < 500 for line in lines)


def labelled(confidences: dict[str, tuple[float, ...]] | None = None) -> LabelledPredictions:
    found = Predictions({"a.png": TEXT}, confidences=confidences or {})
    readings = [read(TEXT, CLEVR, rotation_rep="")]
    return LabelledPredictions("l", "p", found, CLEVR, "", "deg", None, [SCENE], ["a.png"], readings, 0)


def test_pairs_are_columns_of_one_length() -> None:
    run = labelled()
    columns = pair_columns(run, [match(SCENE, run.readings[0], CLEVR)], Settings())
    assert columns["words"]["color"] == ["red", "blue"] and columns["objects"] == [2, 2]
    assert columns["components"]["location y"] == [[2.0, 2.9], [0.0, 0.0]]
    assert columns["errors"]["location"] == [pytest.approx(math.hypot(0.05, 0.9), rel=1e-3), 0.05]
    assert columns["errors"]["rotation"][1] is None  # of a ball
    lengths = {len(column) for group in ("words", "errors", "components") for column in columns[group].values()}
    assert lengths == {2}


def test_calibration_compares_confidence_with_what_is_right() -> None:
    assert calibration(labelled(), find_limits([SCENE], CLEVR)) is None
    run = labelled({"a.png": (-0.1, -0.2, -3.0)})
    found = calibration(run, find_limits([SCENE], CLEVR))
    assert found is not None and found["calls"] == 3
    # none is right: green is wrong, material and shape are not said, the third is too far
    wanted = np.mean(np.exp([-0.1, -0.2, -3.0]))
    assert found["error"] == pytest.approx(wanted, rel=1e-3)


def test_shapes_stand_where_the_renderers_have_them() -> None:
    spec = scene_spec(SCENE.objects, CLEVR, standard_stage(CLEVR, clevr_camera(48, 32)))
    (first, _) = view_scene(spec, Meshes())
    kind, color, _, numbers = first["parts"][0]
    matrix = object_matrix(spec.objects[0]) @ part_matrix(spec.objects[0].parts[0])
    assert kind == "cube" and np.allclose(np.array(numbers).reshape(3, 4), matrix[:3], atol=1e-4)
    assert color == pytest.approx(spec.objects[0].parts[0].material.color, abs=1e-3)


def test_fine_meshes_get_coarser_and_stay_where_they_are() -> None:
    side = np.linspace(0, 1, 40)
    points = np.stack(np.meshgrid(side, side, [0.0]), axis=-1).reshape(-1, 3)
    row = np.arange(39)
    corner = (row[:, None] * 40 + row).ravel()
    faces = np.concatenate([corner[:, None] + [0, 1, 40], corner[:, None] + [1, 41, 40]])
    fewer, kept = coarser(points, faces, 500)
    assert 0 < len(kept) <= 500 and kept.max() < len(fewer)
    assert np.allclose([fewer.min(axis=0), fewer.max(axis=0)], [(0, 0, 0), (1, 1, 0)], atol=0.1)
    same, all_faces = coarser(points, faces, 10_000)
    assert same is points and all_faces is faces


def test_each_language_has_the_view_of_its_roles() -> None:
    assert [view_of(find_language(name)) for name in ("clevr", "so3", "twod")] == ["3d", "3d", "2d"]


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[str, str, str]:
    """Labels, images and predictions of two clevr scenes, of which one is answered."""
    make_data.main(["clevr", "--out", str(tmp_path), "--num_train", "1", "--num_val", "2", "--image_size", "48x32"])
    labels = str(tmp_path / "labels/val_ID.json")
    image = json.loads(Path(labels).read_text())["scenes"][1]["image_filename"]
    predictions = tmp_path / "p.json"
    found = Predictions({image: TEXT}, task="clevr")
    write_predictions(predictions, found, model_path="m", model_base=None, model_name="m")
    return labels, str(tmp_path / "images/val_ID.tar"), str(predictions)


def test_a_report_without_images_or_trimesh_says_what_is_left_out(
    tiny: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, _, predictions = tiny
    monkeypatch.setattr("igllm_jax.report.html.three_js", lambda: None)
    asked = ["--labels", labels, "--predictions", predictions, "--out", str(tmp_path / "r.html"), "--bootstrap", "9"]
    assert make_report.main([*asked, "--workers", "1"]) == 0
    assert "1 of 1 scenes" in (said := capsys.readouterr().out) and "igllm_jax[report]" in said
    with pytest.raises(UserError, match=r"r\.html exists already; .*--overwrite"):
        make_report.main(asked)
    with pytest.raises(UserError, match=r"ends in \.html"):
        make_report.main([*asked[:-3], str(tmp_path / "r.txt")])


def test_labels_name_their_meshes(tiny: tuple[str, str, str], tmp_path: Path) -> None:
    labels, images, predictions = tiny
    content = json.loads(Path(labels).read_text())
    content["info"]["meshes"] = str(tmp_path / "gone")
    Path(labels).write_text(json.dumps(content))
    asked = ["--labels", labels, "--predictions", predictions, "--images", images, "--out", str(tmp_path / "r.html")]
    with pytest.raises(UserError, match=r"made with the meshes of .*gone, which is not there; give --meshes DIR"):
        make_report.main(asked)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=languages(), seed=st.integers(0, 2**32 - 1))
def test_every_language_has_a_report(text: str, seed: int, tmp_path: Path) -> None:
    language, rng = parse_language(text, "random.toml"), np.random.default_rng(seed)
    scenes = [example_scene(language, rng, calls=1 + seed % 4, image=f"{name}.png") for name in "ab"]
    rep = language.rotation_reps[seed % len(language.rotation_reps)]
    how: dict[str, Any] = {"numbers_as_tokens": False, "rng": rng, "shuffle_attributes": True, "use_synonyms": True}
    answers = {scene.image: write(scene, language, rotation_rep=rep, **how).text for scene in scenes}
    found = Predictions(answers, **of_language(language), rotation_rep=rep)
    readings = [read(answer, language, rotation_rep=rep) for answer in answers.values()]
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps([scene_label(scene, language) for scene in scenes]))
    names = list(answers)
    run = LabelledPredictions(str(labels), "p", found, language, rep, "deg", None, scenes, names, readings, 0)
    options = Options("t", 2, RendererOptions(), None, None, (24, 16), workers=1, bootstrap=0, seed=0)
    content = build_content([run], [evaluate_run(run, has_precision=True)], None, options)
    assert embedded_json(content)
    for entry, answer in zip(content["scenes"], answers.values(), strict=True):
        lines = entry["runs"][0]["lines"]
        assert "\n".join(map(plain_text, lines)) == answer.rstrip("\n")
        assert not any(kind == UNREAD for line in lines for _, kind in kinds(line))
