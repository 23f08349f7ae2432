"""Words and numbers of objects are changed where the image says so, and nowhere else."""

import json

import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.refine import command
from igllm_jax.refine.alternatives import at_height, inserted, object_at, other_words
from igllm_jax.refine.problems import start_of_things
from igllm_jax.refine.refined import UNEXPLAINED
from igllm_jax.refine.refining import RefineOptions, refine_texts
from igllm_jax.refine.revise import Reviser
from igllm_jax.render.flat.draw import draw
from igllm_jax.scene.predictions import Predictions, write_predictions
from igllm_jax.scene.scene import Scene
from tests.refine.test_refining import TERMS, words
from tests.render.test_dense import example

BOTH = ("words", "count")
NAMES = ("size", "color", "material", "shape")


@pytest.fixture(scope="module")
def case():
    """A scene of two objects: true calls, camera and image."""
    spec = example("clevr", 0, objects=2)
    return Scene.from_label(spec.label, "clevr").objects, spec.camera, draw(spec).image


def said(things):
    return sorted(tuple(thing[name] for name in NAMES) for thing in things)


def revised(case, things):
    """What becomes of calls, seen by the true camera."""
    _, camera, image = case
    return Reviser(image, TERMS, BOTH).best([start_of_things(things, TERMS, camera)]).things


@pytest.mark.slow
def test_nothing_changes_in_the_true_scene(case):
    assert said(revised(case, case[0])) == said(case[0])


@pytest.mark.slow
def test_an_object_of_another_color_is_recolored(case):
    first, second = case[0]
    other = "green" if first.color != "green" else "purple"
    assert said(revised(case, (first.replace(color=other), second))) == said(case[0])


@pytest.mark.slow
def test_a_missing_object_is_added(case):
    found = revised(case, case[0][1:])
    assert len(found) == 2 and {thing.color for thing in found} == {thing.color for thing in case[0]}
    missing = case[0][0]
    assert min(np.linalg.norm(np.subtract(a["location"], missing["location"])[:2]) for a in found) < 0.3


@pytest.mark.slow
def test_a_surplus_object_is_removed(case):
    surplus = object_at(10, 40, "small", "yellow", TERMS.language, case[1])
    assert said(revised(case, (*case[0], surplus))) == said(case[0])


@pytest.mark.slow
def test_two_objects_that_stand_for_one_become_one(case):
    first, second = case[0]
    x, y, _ = first["location"]
    parts = [
        first.replace(size="small", shape="sphere", location=(x + dx, y - dx, 0.35), rotation=None)
        for dx in (0.3, -0.3)
    ]
    assert said(revised(case, (*parts, second))) == said(case[0])


@pytest.mark.slow
def test_what_no_one_sees_is_removed(case):
    first, second = case[0]
    inside = first.replace(size="small", shape="sphere", location=(*first["location"][:2], 0.35), rotation=None)
    if first.size == "small":
        inside = inside.replace(location=(*first["location"][:2], 0.2))
    assert said(revised(case, (first, inside, second))) == said(case[0])


@pytest.mark.slow
def test_a_scene_without_one_of_its_objects_is_flagged(case):
    things, _, image = case
    right, wrong = refine_texts([TERMS.write(things), TERMS.write(things[1:])], [image, image], TERMS)
    assert (right.flag, wrong.flag) == ("", UNEXPLAINED)


def test_other_words_keep_the_point_of_the_picture(case):
    things, camera, _ = case
    others = list(other_words(things[0], TERMS.language, camera))
    changed = [[name for name in NAMES if other[name] != things[0][name]] for other in others]
    assert all(len(names) == 1 for names in changed) and {names[0] for names in changed} == set(NAMES)
    resized = next(other for other in others if other["size"] != things[0]["size"])
    pixels = camera.project(np.array([thing["location"] for thing in (things[0], resized)]))[:, :2]
    np.testing.assert_allclose(*pixels, atol=1e-3)
    assert at_height((0.0, 0.0, 0.5), 0.5, camera) == pytest.approx((0.0, 0.0, 0.5))


def test_a_new_object_stands_where_it_is_seen(case):
    things, camera, _ = case
    new = object_at(30.0, 25.0, "large", "cyan", TERMS.language, camera)
    np.testing.assert_allclose(camera.project(np.array([new["location"]]))[0, :2], (30, 25), atol=1e-3)
    assert new["location"][2] == pytest.approx(0.7) and len(inserted(things, new, TERMS.language, camera)) == 3


@pytest.mark.slow
def test_samples_are_starts_where_words_may_change(case):
    things, _, image = case
    wrong, right = TERMS.write([thing.replace(location=(2.9, -2.9, 0.35)) for thing in things]), TERMS.write(things)
    (plain,) = refine_texts([wrong], [image], TERMS, RefineOptions(), [[right]])
    (moved,) = refine_texts([wrong], [image], TERMS, RefineOptions(moves=("words",)), [[right]])
    assert words(plain.text) == words(wrong)
    assert moved.loss_after < plain.loss_after <= plain.loss_before == moved.loss_before


def test_the_command_takes_moves_and_samples(case, tmp_path, monkeypatch):
    case[2].save(tmp_path / "0.png")
    texts = {"0.png": TERMS.write(case[0])}
    seen = {}

    def refine(texts, images, terms, options, others):
        seen.update(moves=options.moves, others=others)
        return refine_texts(["no code"], images, terms)

    monkeypatch.setattr(command, "refine_texts", refine)
    predictions = Predictions(texts, task="clevr")
    write_predictions(tmp_path / "p.json", predictions, model_path="run", model_base=None, model_name="run")
    content = json.loads((tmp_path / "p.json").read_text())
    content["answers"]["0.png"]["samples"] = [{"outputs": "one", "log_likelihood": -1.0}]
    (tmp_path / "p.json").write_text(json.dumps(content))
    flags = ["--predictions", f"{tmp_path}/p.json", "--images", str(tmp_path), "--out", f"{tmp_path}/q.json"]
    assert command.main([*flags, "--moves", "count,words"]) == 0
    assert seen == {"moves": BOTH, "others": [["one"]]}


def test_moves_need_words_that_show(case, tmp_path):
    case[2].save(tmp_path / "0.png")
    about = {"model_path": "run", "model_base": None, "model_name": "run"}
    write_predictions(tmp_path / "p.json", Predictions({"0.png": ""}, task="so3", rotation_rep="euler"), **about)
    flags = ["--predictions", f"{tmp_path}/p.json", "--images", str(tmp_path), "--out", f"{tmp_path}/q.json"]
    with pytest.raises(UserError, match="which only the tasks clevr have"):
        command.main([*flags, "--moves", "words"])
