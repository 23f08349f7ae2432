"""One disc is found wherever an answer puts it, and what cannot be said of it is flagged."""

import json

import numpy as np
import pytest
from PIL import Image

from igllm_jax import make_data
from igllm_jax.data.images import DISC_IMAGE_SIZE, draw_disc
from igllm_jax.data.tars import open_images
from igllm_jax.refine import command
from igllm_jax.refine.problems import Terms
from igllm_jax.refine.refined import UNEXPLAINED, Refined
from igllm_jax.refine.refining import refine_texts
from igllm_jax.refine.reward import score, score_batch
from igllm_jax.scene.language import find_language
from igllm_jax.scene.predictions import Predictions, read_predictions, write_predictions
from igllm_jax.scene.reading import read

TERMS = Terms(find_language("twod"), "", "deg")
ROUNDED = 0.0005  # numbers are written with three digits
FAR_OFF = "add(x=0.900, y=0.100)"


def place(text, language="twod"):
    (thing,) = read(text, language, rotation_rep="").objects
    return thing["location"]


def refined(text, image, terms=TERMS):
    (found,) = refine_texts([text], [image], terms)
    assert Refined.from_json(json.loads(json.dumps(found.to_json()))) == found
    return found


@pytest.mark.parametrize("at", [(0.25, 0.75), (0.0, 0.5), (0.999, 0.003), (0.6180, 0.3333)])
def test_a_disc_is_found_from_anywhere(at):
    found = refined(FAR_OFF, draw_disc(*at))
    assert np.abs(np.subtract(place(found.text), at)).max() <= 0.5 / DISC_IMAGE_SIZE + ROUNDED
    assert found.loss_after == 0 < found.loss_before and not found.flag
    assert found.standard_errors["0"]["x"] == pytest.approx(1 / DISC_IMAGE_SIZE / 12**0.5)


def test_the_truth_keeps_its_text():
    text = "add(x=0.250,  y=0.750)"
    assert refined(text, draw_disc(0.25, 0.75)).text == text


def test_images_of_other_sizes_and_modes():
    image = draw_disc(0.25, 0.75).resize((168, 168), Image.Resampling.BOX).convert("RGBA")
    found = refined(FAR_OFF, image)
    assert np.abs(np.subtract(place(found.text), (0.25, 0.75))).max() < 0.006 and not found.flag


@pytest.mark.parametrize("text", ["no code", "", "add(x=0.5)"])
def test_text_without_a_disc_stays(text):
    assert refined(text, draw_disc(0.5, 0.5)) == Refined(text)


@pytest.mark.parametrize("shade", [255, 40])
def test_images_without_a_disc_are_flagged(shade):
    found = refined(FAR_OFF, Image.new("RGB", (100, 50), (shade,) * 3))
    assert found.flag == UNEXPLAINED and not found.standard_errors and found.loss_after <= found.loss_before


def test_only_the_first_call_has_a_disc():
    found = refined(FAR_OFF + "\nadd(x=0.100, y=0.100)", draw_disc(0.25, 0.75))
    first, second = read(found.text, "twod", rotation_rep="").objects
    assert second["location"] == (0.1, 0.1) and first["location"] == pytest.approx((0.25, 0.75), abs=0.002)


def test_languages_of_points_have_discs_too(tmp_path):
    (tmp_path / "dots.toml").write_text(
        """
name = "dots"
question = "Where?"
[label]
file = "points"
[[functions]]
name = "dot"
[[functions.attributes]]
name = "location"
kind = "vector"
size = 2
arguments = ["at"]
label = "3d_coords"
role = "location"
matched = true
"""
    )
    terms = Terms(find_language(str(tmp_path / "dots.toml")), "", "deg")
    found = refined("dot(at=(0.900, 0.100))", draw_disc(0.25, 0.75), terms)
    assert place(found.text, terms.language) == pytest.approx((0.25, 0.75), abs=0.002) and not found.flag


def test_the_true_place_scores_best():
    image = draw_disc(0.25, 0.75)
    codes = ["add(x=0.250, y=0.750)", "add(x=0.255, y=0.750)", FAR_OFF]
    scores = score_batch([image] * 3, codes, task="twod")
    assert scores[0] == score(image, codes[0], task="twod") == 0 > scores[1] > scores[2]


def test_the_command_moves_the_answers_of_a_2d_file(tmp_path):
    make_data.main(["twod", "--out", str(tmp_path / "data"), "--num_train", "3", "--num_val", "3"])
    images = f"{tmp_path}/data/2d.npz:random"
    answers = dict.fromkeys(open_images([images]).names, FAR_OFF)
    about = {"model_path": "run", "model_base": None, "model_name": "run"}
    write_predictions(tmp_path / "p.json", Predictions(answers, task="twod"), **about)
    said = ["--predictions", f"{tmp_path}/p.json", "--images", images, "--out", f"{tmp_path}/q.json"]
    assert command.main(said) == 0
    found = read_predictions(tmp_path / "q.json")
    truth = np.load(tmp_path / "data" / "2d.npz")["random"]
    places = [place(text) for text in found.answers.values()]
    assert np.abs(places - truth).max() < 0.003
    assert all(detail["refined"]["loss_after"] == 0 for detail in found.details.values())
