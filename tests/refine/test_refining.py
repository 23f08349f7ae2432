"""Predicted scenes are moved towards the truth, words tried only where asked for, and files kept whole."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from igllm_jax.errors import UserError
from igllm_jax.refine import command
from igllm_jax.refine.problems import Terms, count_for, start_of, turns_seen
from igllm_jax.refine.refined import FAR, UNEXPLAINED, Refined, covariance, flag_of
from igllm_jax.refine.refining import MOST_OBJECTS, group_of, refine_texts
from igllm_jax.refine.reward import score, score_batch
from igllm_jax.render.camera import clevr_camera
from igllm_jax.render.flat.draw import draw
from igllm_jax.scene.language import find_language
from igllm_jax.scene.predictions import Predictions, read_predictions, write_predictions
from igllm_jax.scene.scene import Scene
from tests.render.test_dense import example

TERMS = Terms(find_language("clevr"), "", "deg")
NOISE = 0.25
CAMERA = clevr_camera(64, 48).position


@pytest.fixture(scope="module")
def cases():
    """Two scenes of two objects: true calls, images, and texts with noise on x and y."""
    rng, found = np.random.default_rng(0), []
    for index in range(2):
        spec = example("clevr", index, objects=2)
        things = Scene.from_label(spec.label, "clevr").objects
        found.append((things, draw(spec).image, TERMS.write(moved(things, rng.normal(0, NOISE, (2, 2))))))
    return found


def moved(things, offsets):
    locations = [np.add(thing["location"], (*offset, 0)) for thing, offset in zip(things, offsets, strict=True)]
    return [thing.replace(location=tuple(at)) for thing, at in zip(things, locations, strict=True)]


def errors(things, text):
    said = start_of(text, TERMS, 64, 48).things
    return [np.linalg.norm(np.subtract(a["location"], b["location"])[:2]) for a, b in zip(things, said, strict=True)]


def words(text):
    said = start_of(text, TERMS, 64, 48).things
    return [[thing[name] for name in ("size", "color", "material", "shape")] for thing in said]


@pytest.fixture(scope="module")
def outcome(cases):
    return refine_texts([text for *_, text in cases], [image for _, image, _ in cases], TERMS)


def test_every_number_of_objects_has_a_program():
    assert [count_for(number) for number in (1, 2, 5, 48, 49, 97)] == [2, 2, 7, 48, 96, 144]


def test_one_program_serves_toys_of_any_number_of_parts():
    terms, image = Terms(find_language("shapenet"), "6d", "deg"), Image.new("RGB", (64, 48))

    def group(*shapes):
        where = "loc=(0.0, 0.0, 0.5), rotation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)"
        calls = [f"add(shape='{shape}', {where})" for shape in shapes]
        return group_of([start_of("\n".join(calls), terms, 64, 48)], [image], terms)

    few, many = group("lamp_1"), group("chair_2", "chair_4")
    assert few.how == many.how
    assert [array.shape for array in jax.tree.leaves(few.problems)] == [
        array.shape for array in jax.tree.leaves(many.problems)
    ]
    assert len(group(*["chair_2"] * MOST_OBJECTS).starts[0].spec.objects) == MOST_OBJECTS


def test_scenes_come_nearer_to_the_truth_and_words_stay(cases, outcome):
    before = np.concatenate([errors(things, text) for things, _, text in cases])
    after = np.concatenate([errors(things, result.text) for (things, *_), result in zip(cases, outcome, strict=True)])
    assert after.mean() < before.mean() / 2
    for (_, _, text), result in zip(cases, outcome, strict=True):
        assert result.loss_after <= result.loss_before and words(result.text) == words(text) and not result.flag
        assert all(0 < value < 0.5 for own in result.standard_errors.values() for value in own.values())
        assert Refined.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_the_truth_stays_where_it_is_though_the_camera_is_unknown(cases, outcome):
    texts, images = [TERMS.write(things) for things, *_ in cases], [image for _, image, _ in cases]
    found = refine_texts(texts, images, TERMS)
    assert [result.text for result in found] == texts
    for result in found:
        assert result.loss_after < result.loss_before and np.linalg.norm(np.subtract(result.camera, CAMERA)) > 0.01


def test_text_without_an_object_stays():
    image = draw(example("clevr")).image
    assert refine_texts(["no code"], [image], TERMS) == [Refined("no code")]


def test_the_true_scene_scores_best(cases):
    things, image, noised = cases[0]
    camera = example("clevr", 0, objects=2).camera
    codes = [TERMS.write(things), noised, "no code"]
    scores = score_batch([image] * 3, codes, [camera] * 3)
    assert 0 >= scores[0] > scores[1] > scores[2] >= -255
    assert scores[0] == score(image, codes[0], camera)
    free = score_batch([image], codes[:1])
    assert free == score_batch([image], codes[:1]) and free[0] > score_batch([image], codes[1:2])[0]
    with pytest.raises(UserError, match="one code and camera for each of 1 images"):
        score_batch([image], codes)


def test_errors_follow_from_curvature_and_prior():
    curvature, spreads = np.diag([400.0, 0.0, 9.0]), np.array([0.5, 0.25, 1.0])
    found = covariance(curvature, np.diag(1 / spreads), spreads, np.array([1.0, 1.0, 0.0]))
    assert found[1, 1] == pytest.approx(0.25**2) and found[2, 2] == 0
    assert found[0, 0] == pytest.approx(1 / (400 + 1 / 0.5**2))


def test_flags():
    far, near = np.array([2.0]), np.zeros(1)
    assert [flag_of(near, near, 1.0), flag_of(far, near, 1.0), flag_of(near, far, 1.0)] == ["", FAR, FAR]
    assert flag_of(far, near, np.nan) == UNEXPLAINED


def test_turns_are_as_they_look():
    start = start_of(
        TERMS.write(
            [next(one for one in Scene.from_label(example("clevr").label, "clevr").objects if one.shape == "cube")] * 2
        ),
        TERMS,
        64,
        48,
    )
    moves = np.zeros((2, 6))
    moves[:, 5] = np.radians([80, -30])
    np.testing.assert_allclose(np.degrees(turns_seen(start, moves, TERMS)), [10, 30], atol=1e-6)


@pytest.fixture
def files_of(cases, tmp_path):
    """Arguments of the command, for the cases' images and texts."""
    for index, (_, image, _) in enumerate(cases):
        image.save(tmp_path / f"{index}.png")
    texts = {f"{index}.png": text for index, (*_, text) in enumerate(cases)}
    about = {"model_path": "run", "model_base": None, "model_name": "run"}
    write_predictions(tmp_path / "p.json", Predictions(texts, task="clevr"), **about)
    return ["--predictions", f"{tmp_path}/p.json", "--images", str(tmp_path), "--out", f"{tmp_path}/q.json"]


def test_the_command_goes_on_where_it_was_stopped(cases, files_of, tmp_path, monkeypatch):
    calls = []

    def refine(texts, images, terms, options, others):
        calls.append(len(texts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return [Refined(text, 2.0, 1.0, (1.0, 2.0, 3.0), {"0": {"x": 0.1}}, FAR) for text in texts]

    monkeypatch.setattr(command, "refine_texts", refine)
    with pytest.raises(KeyboardInterrupt):
        command.main([*files_of, "--batch", "1"])
    assert not (tmp_path / "q.json").exists()
    assert command.main([*files_of, "--batch", "1"]) == 0 and calls == [1, 1, 1]
    found = read_predictions(tmp_path / "q.json")
    assert list(found.answers) == ["0.png", "1.png"] and found.details["0.png"]["refined"]["flag"] == FAR
    assert (
        not list(tmp_path.glob("*.partial*")) and json.loads((tmp_path / "q.json").read_text())["model_path"] == "run"
    )


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        (["--moves", "colours"], "--moves"),
        (["--predictions", "none.json"], "none.json"),
        (["--seconds", "0"], "--seconds"),
    ],
)
def test_mistakes_are_told(files_of, extra, match):
    with pytest.raises(UserError, match=match):
        command.main([*files_of, *extra])
