"""`igllm generate` from images as people give them, and what it prints."""

import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from igllm_jax import generate
from igllm_jax.errors import UserError, shown
from igllm_jax.scene.predictions import read_predictions
from tests import runs

QUICK = ("--max_new_tokens", "20", "--batch_size", "2", "--num_drafts", "0", "--grammar", "none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose vocabulary is drawn at random, and three images."""
    folder = tmp_path_factory.mktemp("generate")
    with tarfile.open(runs.ROOT / "tests" / "golden" / "format_1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (21, 23, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """(stdout, stderr) of the command."""
    monkeypatch.chdir(folder)

    def call(*words):
        assert generate.main(["--workdir", "run", *QUICK, *words]) == 0
        return capsys.readouterr()

    return call


def test_one_image_is_printed_several_are_lines_and_a_file_has_the_same(run, folder, tmp_path):
    out = tmp_path / "out.json"
    found = run("--images", "[0-9].png", "--out", str(out))
    assert found.out == f"3 answers in {out}\n"
    answers = {name: answer["outputs"] for name, answer in json.loads(out.read_text())["answers"].items()}
    assert list(answers) == ["0.png", "1.png", "2.png"]
    found = run("--images", "2.png", str(folder / "0.png"), "--out", "-")
    lines = [json.loads(line) for line in found.out.splitlines()]
    assert [line["image"] for line in lines] == ["2.png", "0.png"] and "answers in" not in found.err
    assert all(line["code"] == answers[line["image"]] for line in lines)
    assert {"calls", "problems", "is_finished"} <= lines[0].keys()
    alone = run("--images", "1.png")
    assert alone.out.split("\n")[:-1] == [shown(line) for line in answers["1.png"].split("\n")]
    both = run("--images", "1.png", "--out", str(tmp_path / "one.json"))
    assert both.out == alone.out and "1 answers in" in both.err
    assert not list(folder.glob("*.partial*"))


@pytest.mark.slow
def test_several_answers_of_an_image_stand_in_the_file_and_depend_on_no_batch(run, folder, tmp_path):
    """Numbers in full, parsed calls and log-probabilities beside the text; the first sample is the answer."""
    draws = ("--images", "[0-9].png", "--temperature", "3", "--seed", "3", "--grammar", "scene")
    draws += ("--max_new_tokens", "120")
    files = [tmp_path / f"{name}.json" for name in "abc"]
    run(*draws, "--out", str(files[0]), "--num_samples", "3", "--batch_size", "3")
    run(*draws, "--out", str(files[1]), "--batch_size", "3")
    run(*draws, "--out", str(files[2]), "--num_samples", "3", "--batch_size", "9")
    several, single, wide = (json.loads(file.read_text())["answers"] for file in files)
    for name, entry in several.items():
        texts = [sample["outputs"] for sample in entry["samples"]]
        assert entry["outputs"] == texts[0] == single[name]["outputs"] and len(texts) == 3
        assert texts == [sample["outputs"] for sample in wide[name]["samples"]]
        calls = entry["outputs"].count("add(")
        assert calls == len(entry["calls"]) == len(entry["log_probabilities"]) == len(entry["agreement"])
        likelihood = sum(entry["token_log_probabilities"])
        assert likelihood == pytest.approx(entry["samples"][0]["log_likelihood"]) and likelihood < 0
        assert sum(entry["log_probabilities"]) >= likelihood - 1e-4
        for number in entry["numbers"]:
            assert f"{number:.3f}" in entry["outputs"] and float(str(np.float32(number))) == number
    assert len({sample["outputs"] for entry in several.values() for sample in entry["samples"]}) > 1
    found = read_predictions(files[0])
    assert [len(samples) for samples in found.samples.values()] == [3, 3, 3]
    assert found.confidences.keys() == several.keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "*.png"], r"--images \*.png has 3 images: give --out FILE, or --out - for JSON lines"),
        (["--images", "*.gif"], r"images \*.gif: matches no file \(.png, .*\); check the pattern"),
        (["--images", "*.json"], r"images \*.json: matches \d files, none of which is an image"),
        (["--images", "0.png", "run"], r"images run: is no image file; give several image files, or one TAR"),
        (["--images", "0.png", "9.png"], r"images 9.png: does not exist"),
        (
            ["--images", "0.png", "--num_samples", "4"],
            r"num_samples, top_p and min_p draw tokens, so they need a temperature above 0",
        ),
        (["--images", "9.png", "--out", "-"], r"images 9.png: does not exist; give a TAR, a folder, image files"),
    ],
)
def test_a_mistake_is_one_line(run, words, message):
    with pytest.raises(UserError, match=message) as error:
        run(*words)
    assert "\n" not in str(error.value)
