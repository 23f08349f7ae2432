"""The loop closed: a data set, a model trained on it, its answers, and their report in a browser."""

import json
from pathlib import Path

import pytest

from igllm_jax import evaluate, generate, make_data, make_report, train
from igllm_jax.render import command as render
from igllm_jax.scene.labels import read_labels
from tests.report.browser import browser_page
from tests.report.test_page import assert_quiet, opened, shown
from tests.runs import arguments

NUM_IMAGES = 6
# Scenes small enough that a few dozen steps suffice to write calls that tell images apart.
CONFIG = {
    "batch_size": 8,
    "model__vision__width": 64,
    "model__decoder__width": 64,
    "model__decoder__head_dim": 32,
    "data__shuffle_attributes": False,
    "data__use_synonyms": False,
    "optim__lr": 3e-3,
    "optim__projector_lr": 3e-3,
    "optim__float_head_lr": 3e-3,
    "train__num_steps": 60,
    "train__checkpoint_every": 60,
    "eval__loss_every": 30,
}


@pytest.mark.slow
def test_what_a_trained_model_wrote_opens_in_a_browser(tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    data, workdir, predictions = tmp_path / "data", tmp_path / "run", tmp_path / "predictions.json"
    counts = ("--num_train", "64", "--num_val", str(NUM_IMAGES), "--max_objects", "2", "--min_objects", "1")
    assert make_data.main(["clevr", "--out", str(data), *counts, "--image_size", "96x64", "--workers", "1"]) == 0
    files = {
        f"data__{split}__{kind}": str(data / kind / f"{name}.{ending}")
        for split, name in (("train", "train"), ("val", "val_ID"))
        for kind, ending in (("images", "tar"), ("labels", "json"))
    }
    assert train.main(arguments(workdir, data, task="clevr", **CONFIG, **files)) == 0
    images, labels = files["data__val__images"], files["data__val__labels"]
    asked = ("--workdir", str(workdir), "--images", images, "--out", str(predictions), "--max_new_tokens", "160")
    assert generate.main([*asked, "--batch_size", str(NUM_IMAGES)]) == 0
    drawn, metrics = tmp_path / "drawn", tmp_path / "metrics.json"
    both = ["--labels", labels, "--predictions", str(predictions)]
    assert render.main([*both, "--images", images, "--out", str(drawn), "--workers", "1"]) == 0
    assert evaluate.main([*both, "--renders", str(drawn), "--out", str(metrics)]) == 0
    assert all(json.loads(metrics.read_text())["metrics"][name] is not None for name in ("l2", "psnr", "iou_object"))
    out = tmp_path / "report.html"
    more = ["--images", images, "--out", str(out), "--bootstrap", "20", "--workers", "1"]
    assert make_report.main([*both, *more]) == 0

    names = [scene.image for scene in read_labels(labels, "clevr")]
    with browser_page(tmp_path) as page:
        opened(page, out)
        content = json.loads(page.run("document.getElementById('content').textContent"))
        scenes = {scene["image"]: scene for scene in content["scenes"]}
        assert set(shown(page)) == set(names) == set(scenes)
        assert any(scene["runs"][0]["parts"] for scene in scenes.values())  # it wrote objects that can be drawn
        for order, sign in (("worst", 1), ("best", -1)):
            page.choose("sort-metric", "psnr")
            page.choose("sort-order", order)
            values = [sign * scenes[image]["runs"][0]["values"]["psnr"] for image in shown(page)]
            assert values == sorted(values)
        word = scenes[names[0]]["words"][0]
        page.choose("filter-word", word)
        assert set(shown(page)) == {image for image, scene in scenes.items() if word in scene["words"]}
        page.run("document.querySelector('.turn').click()")
        canvas = "document.getElementById('view-canvas')"
        before = page.run(f"{canvas}.dataset.azimuth")
        x, y = page.run(f"(({{x, y}}) => [x + 200, y + 100])({canvas}.getBoundingClientRect())")
        page.drag(x, y, 90, 10)
        assert page.run(f"{canvas}.dataset.azimuth") != before and int(page.run(f"{canvas}.dataset.drawn")) > 0
        page.screenshot(tmp_path / "page.png")
        assert_quiet(page, out)
