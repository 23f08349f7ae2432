"""The page in a browser: it sorts, filters and turns by itself; asks nobody for anything, and runs nothing it shows."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igllm_jax import make_data, make_report
from igllm_jax.render.camera import clevr_camera
from igllm_jax.render.export.glb import Z_UP_TO_Y_UP, glb
from igllm_jax.render.scenes import scene_spec, standard_stage
from igllm_jax.report.html import embedded_json
from igllm_jax.report.three_js import three_js
from igllm_jax.scene.code import write
from igllm_jax.scene.labels import read_labels
from igllm_jax.scene.predictions import Predictions, write_predictions
from igllm_jax.scene.scene import Object, Scene
from tests.report.browser import Page, browser_page
from tests.runs import measured

SIZE, NUM_SCENES = "96x64", 6
NEEDED = ("data:", "blob:", "about:")
SCRIPT = "</script><script>window.ran=1</script><img src=x onerror=window.ran=1>"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    counts = ("--num_train", "1", "--num_val", str(NUM_SCENES), "--max_objects", "4")
    make_data.main(["clevr", "--out", str(folder), *counts, "--image_size", SIZE, "--workers", "1"])
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory):
    with browser_page(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def codes(labels: str, moved: float = 0.0) -> dict[str, str]:
    """The labels' own code, scene number i with its objects i * moved off."""
    settings: dict[str, Any] = {"numbers_as_tokens": False, "rng": None, "rotation_rep": ""}
    settings |= {"shuffle_attributes": False, "use_synonyms": False}
    found = {}
    for number, scene in enumerate(read_labels(labels, "clevr")):
        things = []
        for thing in scene.objects:
            x, y, z = thing.location
            things.append(thing.replace(location=(x + number * moved, y, z)))
        found[scene.image] = write(Scene(tuple(things), scene.image), "clevr", **settings).text
    return found


def predict(path: Path, answers: dict[str, str], task: str = "clevr", **extra: Any) -> str:
    found = Predictions(answers, task=task, rotation_rep="", **extra)
    write_predictions(path, found, model_path="m", model_base=None, model_name="m")
    return str(path)


def report(folder: Path, data: Path, *predictions: str, more: tuple[str, ...] = ()) -> Path:
    out = folder / "report.html"
    said = [word for path in predictions for word in ("--predictions", path)]
    known = ["--labels", str(data / "labels/val_ID.json"), "--images", str(data / "images/val_ID.tar")]
    make_report.main([*said, *known, "--out", str(out), "--bootstrap", "20", "--workers", "1", *more])
    return out


def opened(page: Page, path: Path) -> Page:
    page.errors.clear()
    page.requests.clear()
    page.open(path)
    page.wait("document.documentElement.dataset.ready === 'yes'")
    return page


def assert_quiet(page: Page, path: Path) -> None:
    outside = [url[:80] for url in page.requests if not url.startswith((path.as_uri(), *NEEDED))]
    assert not outside and not page.errors
    assert page.run("window.ran") is None


def shown(page: Page) -> list[str]:
    return page.run("[...document.querySelectorAll('.card')].map((card) => card.dataset.image)")


def test_the_page_sorts_filters_and_turns(page: Page, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    labels = str(data / "labels/val_ID.json")
    one = predict(tmp_path / "one.json", codes(labels, 0.3))
    other = predict(tmp_path / "other.json", codes(labels))
    lines = [{"step": s, "loss": 5 / s, "val_ID/loss": 3 / s, "val_OOD/loss": 4 / s, "val_OOD/l2": s} for s in (2, 4)]
    measured(tmp_path / "<b>run", lines)
    path = report(tmp_path, data, one, other, more=("--run", str(tmp_path / "<b>run")))
    opened(page, path)
    panel = "document.getElementById('plot-curve').closest('figure')"
    curves = f"[...{panel}.querySelectorAll('path')].map((line) => line.textContent)"
    assert page.run(curves) == ["loss in training", "val_ID/loss", "val_OOD/loss"]
    page.choose("plot-curve", "l2")
    assert page.run(curves) == ["val_OOD/l2"]
    images = [scene.image for scene in read_labels(labels, "clevr")]
    assert shown(page) == images[::-1]  # the farther off, the worse
    page.choose("sort-order", "best")
    assert shown(page) == images
    page.choose("sort-metric", "psnr")
    page.choose("sort-order", "worst")
    assert shown(page)[-1] == images[0]
    content = json.loads(page.run("document.getElementById('content').textContent"))
    word = content["scenes"][0]["words"][0]
    page.choose("filter-word", word)
    assert set(shown(page)) == {s["image"] for s in content["scenes"] if word in s["words"]}
    assert page.run("document.querySelectorAll('.answer .far').length") > 0
    page.run("document.querySelector('.turn').click()")
    before, image = page.run("document.getElementById('view-canvas').dataset.azimuth"), pixels(page)
    x, y = page.run("(({x, y}) => [x + 200, y + 100])(document.getElementById('view-canvas').getBoundingClientRect())")
    page.drag(x, y, 90, 10)
    assert page.run("document.getElementById('view-canvas').dataset.azimuth") != before
    assert (turned := pixels(page)) != image
    page.run("document.getElementById('view-overlay').click()")
    assert pixels(page) != turned
    assert int(page.run("document.getElementById('view-canvas').dataset.drawn")) > 0
    assert_quiet(page, path)


def pixels(page: Page) -> str:
    """The 3D view as it was drawn last."""
    return page.call("Page.captureScreenshot", format="png")["data"]


def test_nothing_predicted_runs(page: Page, data: Path, tmp_path: Path) -> None:
    labels = str(data / "labels/val_ID.json")
    texts = [
        f"add(size='{SCRIPT}', color='{SCRIPT}', loc=(1, 1, 1))\n{SCRIPT}\n",
        "add(loc=(nan, inf, 1e30))\nadd(loc=(1e11, 0, 0), shape='cube')\nadd(",
        "add(loc=(0.5, 1, 0.7), color='\u202e\u0000☃\\u003c', shape='\ud83d\ude00')\n",
        "add(size='large', color='red', material='metal', shape='cube', loc=(0, 0, 0.7))\n" * 10_000,
        "",
        "'" * 5000,
    ]
    answers = dict(zip(codes(labels), texts, strict=True))
    predictions = predict(tmp_path / "<img src=x onerror=window.ran=1>.json", answers)
    path = report(tmp_path, data, predictions, more=("--title", SCRIPT))
    assert path.stat().st_size < 3e6
    opened(page, path)
    page.wait("document.querySelectorAll('.card').length === 6")
    assert page.run("document.querySelectorAll('#page script, #page img[src=x]').length") == 0
    assert page.run("document.title") == SCRIPT
    assert SCRIPT in page.run("document.querySelector('#cards').textContent")
    assert_quiet(page, path)


def test_a_2d_report_has_a_plan(page: Page, tmp_path: Path) -> None:
    make_data.main(["twod", "--out", str(tmp_path), "--num_train", "5", "--num_val", "5"])
    labels = f"{tmp_path}/2d.npz:random"
    said = {scene.image: "add(x=0.5, y=0.5)\n" for scene in read_labels(labels, "twod")}
    said[next(iter(said))] = "add(x=1e12, y=-1e12)\n"
    sure = dict.fromkeys(said, (-0.1,))
    path = tmp_path / "report.html"
    predictions = predict(tmp_path / "p.json", said, "twod")
    add_confidences(Path(predictions), sure)
    make_report.main(
        ["--labels", labels, "--images", labels, "--predictions", predictions, "--out", str(path), "--bootstrap", "9"]
    )
    opened(page, path)
    assert page.run("document.querySelectorAll('.plan').length") == 5
    assert page.run("[...document.querySelectorAll('.panel figcaption')].at(-1).textContent") == "Calibration"
    assert_quiet(page, path)


def add_confidences(path: Path, sure: dict[str, tuple[float, ...]]) -> None:
    content = json.loads(path.read_text())
    for image, numbers in sure.items():
        content["answers"][image]["log_probabilities"] = numbers
    path.write_text(json.dumps(content))


def test_a_glb_opens_in_the_browser_with_every_object_at_its_place(page: Page, tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    things = [
        Object(shape=kind, size="large", location=(i - 1.0, 2.0 * i, 0.7), rotation=(30.0,))
        for i, kind in enumerate(("cube", "sphere", "cylinder"))
    ]
    spec = scene_spec(things, "clevr", standard_stage("clevr", clevr_camera(96, 64)))
    packed = base64.b64encode(glb(spec)).decode()
    path = tmp_path / "glb.html"
    script = (
        "window.found = new Promise((done, failed) => new THREE.GLTFLoader().parse("
        f"Uint8Array.from(atob('{packed}'), (c) => c.charCodeAt(0)).buffer, '', (file) => {{"
        "file.scene.updateMatrixWorld(true); const nodes = {}; "
        "file.scene.traverse((node) => { nodes[node.name] = node.matrixWorld.elements.slice(); }); "
        "done(nodes); }, failed))"
    )
    path.write_text(f"<!doctype html><meta charset=utf-8><script>{three_js()}</script><script>{script}</script>")
    page.errors.clear()
    page.open(path)
    nodes = page.run("window.found")
    for thing in spec.objects:
        matrix = np.array(nodes[thing.name]).reshape(4, 4).T  # three.js keeps columns
        place = np.linalg.inv(Z_UP_TO_Y_UP) @ matrix @ [0, 0, 0, 1]
        assert place[:3] == pytest.approx(thing.location, abs=1e-5)
        assert (np.linalg.inv(Z_UP_TO_Y_UP) @ matrix)[:3, :3] == pytest.approx(
            thing.scale * np.array(thing.rotation), abs=1e-5
        )
    assert not page.errors


def test_what_a_page_does_is_noticed(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "loud.html"
    path.write_text("<script>console.error('x'); window.ran = 1</script><img src='file:///nowhere/at/all.png'>")
    page.errors.clear()
    page.requests.clear()
    page.open(path)
    with pytest.raises(AssertionError):
        assert_quiet(page, path)
    assert "file:///nowhere/at/all.png" in page.requests and page.run("window.ran") == 1
    assert any('"x"' in error for error in page.errors)


def test_json_in_a_page_ends_no_element() -> None:
    text = embedded_json({"a": [SCRIPT, "<!--", "]]>", "\u2028"]})
    assert not set("<>&\u2028") & set(text) and json.loads(text)["a"][0] == SCRIPT
