"""`igllm_jax.load`: a model in Python, from a run and from imported weights, on whatever images there are."""

import doctest
import io
import json
import os
import tarfile

import jax
import numpy as np
import pytest
from PIL import Image

import igllm_jax
from igllm_jax import api, generate, make_data
from igllm_jax.data.given_images import GivenImages, image_source
from igllm_jax.data.options import DataOptions
from igllm_jax.decoding.answers import Answer
from igllm_jax.decoding.generated import generated
from igllm_jax.errors import UserError
from igllm_jax.scene.predictions import read_predictions
from tests import runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained run, `runs/clevr`, its data, a photo, and imported weights, `whole`, with a random vocabulary."""
    folder = tmp_path_factory.mktemp("api")
    counts = ["--num_train", "24", "--num_val", "3", "--max_objects", "3", "--image_size", "48x32", "--workers", "1"]
    make_data.main(["clevr", "--out", str(folder / "data"), *counts])
    runs.untrained(folder / "runs/clevr", folder / "data")
    with tarfile.open(folder / "data/images/val_ID.tar") as images:
        images.extractall(folder / "images", filter="data")
    Image.open(next((folder / "images").rglob("*.png"))).save(folder / "photo.png")
    with tarfile.open(runs.ROOT / "tests" / "golden" / "format_1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """What one test compiled, the others find."""
    kept = {
        key: getattr(jax.config, key)
        for key in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    }
    for key, value in zip(kept, (os.environ[runs.COMPILED], 0), strict=True):
        jax.config.update(key, value)
    yield
    for key, value in kept.items():
        jax.config.update(key, value)


def test_an_answer_is_read():
    data = DataOptions("clevr", "none", image_size=1, image_mean=(0, 0, 0), max_length=1)
    text = "add(size='large', color='red', loc=(0.500, -1.250, 0.700), rotation=-0.250)\nnonsense\n"
    found = generated("a.png", Answer(text, True), data)
    assert found.numbers == (0.5, -1.25, 0.7, -0.25) and found.problems == ("line 2: not a line of code: 'nonsense'",)
    (thing,) = found.scene.objects
    assert (thing.color, thing.location, found.calls[0].rotation) == ("red", (0.5, -1.25, 0.7), (-0.25,))
    numbers = {"location": [0.5, -1.25, 0.7], "rotation": [-0.25]}
    assert found.to_json() == {
        "image": "a.png",
        "code": text,
        "calls": [{"function": "add", "size": "large", "color": "red"} | numbers],
        "problems": list(found.problems),
        "is_finished": True,
        "log_probabilities": [],
        "log_likelihood": 0.0,
    }


@pytest.fixture(scope="module")
def model(folder):
    return igllm_jax.load(folder / "runs/clevr", step="last")


@pytest.mark.slow
def test_the_example_of_the_docstring(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (example,) = doctest.DocTestFinder(recurse=False).find(api.load, "load", globs={"numpy": np})
    told = io.StringIO()
    assert doctest.DocTestRunner().run(example, out=told.write).failed == 0, told.getvalue()
    assert len(example.examples) > 5


@pytest.mark.slow
def test_every_way_of_giving_an_image_is_answered_alike(model, folder):
    path = folder / "photo.png"
    picture = Image.open(path).convert("RGB")
    pixels = np.asarray(picture)
    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    found = model.generate([path, picture, pixels, opaque, str(path)])
    assert [one.image for one in found] == [str(path), "image 1", "image 2", "image 3", f"{path} (2)"]
    assert len({one.code for one in found}) == 1 and found[0].scene.image == str(path)
    for given in (path, picture, pixels, pixels[None], [path]):
        (one,) = model.generate(given)
        assert one.code == found[0].code
    assert model.generate([]) == [] and [one.image for one in model.generate([path])] == ["photo.png"]


@pytest.mark.slow
def test_it_writes_what_the_command_writes(model, folder, tmp_path):
    tar, out = str(folder / "data/images/val_ID.tar"), tmp_path / "out.json"
    words = ["--workdir", str(folder / "runs/clevr"), "--images", tar, "--out", str(out), "--batch_size", "8"]
    assert generate.main(words) == 0
    found = model.generate(tar, batch_size=8)
    assert {one.image: one.code for one in found} == read_predictions(out).answers
    assert not any(one.problems for one in found) and all(len(one.scene.objects) == len(one.calls) for one in found)
    assert found[0].to_json()["calls"][0]["function"] == "add"
    first = json.loads(out.read_text())["answers"][found[0].image]
    assert found[0].log_probabilities == pytest.approx(first["log_probabilities"], abs=1e-4)


@pytest.mark.slow
def test_several_answers_are_drawn(model, folder):
    """They depend on the seed and the image's name, not on what comes with it."""
    path, other = folder / "photo.png", next((folder / "images").rglob("*.png"))
    drawing = {"temperature": 1.0, "num_samples": 2, "max_new_tokens": 60, "batch_size": 4, "fills_batch": True}
    (alone,) = model.generate(path, **drawing)
    first, second = alone.samples
    assert first.code == alone.code != second.code and alone.log_likelihood == first.log_likelihood < 0
    assert len(alone.agreement) == len(alone.calls)
    assert [sample["code"] for sample in alone.to_json()["samples"]] == [first.code, second.code]
    named = GivenImages([Image.open(other), Image.open(path)], ["other", "photo.png"])
    assert [sample.code for sample in model.generate(named, **drawing)[1].samples] == [first.code, second.code]
    (again,) = model.generate(path, **drawing | {"seed": 1})
    assert again.code != alone.code


def test_names_of_given_images_are_told_apart():
    images = [Image.new("RGB", (2, 2))] * 4
    assert GivenImages(images, ["a", "a", "a (2)", "a"]).names == ["a", "a (2)", "a (2) (2)", "a (3)"]


def test_imported_weights_and_a_dtype(folder):
    imported = igllm_jax.load(folder / "whole", task="twod", prompt="short", grammar="none", dtype="bfloat16")
    (found,) = imported.generate(np.zeros((9, 7), np.uint8), max_new_tokens=8)
    assert found.problems and not found.is_finished and imported.language.name == "twod"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((4, 4, 3)),
            r"image 0: expected a path, a Pillow image, or an array uint8 .*, got float64\[4, 4, 3\]",
        ),
        ([np.zeros((4, 4, 5), np.uint8)], r"got uint8\[4, 4, 5\]"),
        ([Image.new("RGB", (2, 2)), None], r"image 1: expected a path, .* got "),
        (np.zeros((0, 4, 3), np.uint8), r"image 0: has no pixels, its shape is \[0, 4, 3\]"),
        (3, "images: expected images or paths, got int"),
        ("nowhere.png", "images nowhere.png: does not exist"),
        ([Image.new("RGB", (2, 2)), "nowhere.png"], "image nowhere.png: cannot be read"),
    ],
)
def test_what_is_no_image_is_told(images, message):
    with pytest.raises(UserError, match=message) as error:
        source = image_source(images)
        [source.read(index) for index in range(len(source))]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"temperature": -1}, "temperature: expected a number from 0 to 100, got '-1'"),
        ({"num_samples": 2}, "num_samples, top_p and min_p draw tokens, so they need a temperature above 0"),
        ({"batch_size": 0}, "batch_size: expected a whole number from 1 to"),
        ({"seed": 0.5, "temperature": 1}, "seed: expected a whole number"),
    ],
)
def test_what_cannot_be_drawn_is_told(model, words, message):
    with pytest.raises(UserError, match=message):
        model.generate(np.zeros((4, 4, 3), np.uint8), **words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"folder": "runs/clevr", "task": "clevr"}, "task='clevr' goes with imported weights"),
        ({"folder": "whole", "step": 3}, "whole is a folder of imported weights, which has no steps"),
        ({"folder": "images"}, "images is no run"),
        ({"folder": "runs/clevr", "step": 7}, "runs/clevr has no checkpoint '7'; there are 0, last and best"),
        ({"folder": "runs/clevr", "dtype": "int8"}, "dtype='int8': choose one of float32, bfloat16"),
        ({"folder": "runs/clevr", "tensor": 3}, "mesh.tensor=3"),
    ],
)
def test_a_mistake_is_one_line(folder, monkeypatch, words, message):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=message):
        igllm_jax.load(**words)
