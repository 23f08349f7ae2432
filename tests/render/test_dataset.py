"""Composing and drawing are two steps; what a seed gives stays what it was before they were."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igllm_jax.render.compose.composers import COMPOSERS
from igllm_jax.render.dataset import compose_example, label_entry, make_example
from igllm_jax.render.flat.draw import draw, visible_pixels
from igllm_jax.render.labels import RENDERING
from igllm_jax.render.recipe import Recipe
from igllm_jax.render.scenes import STORED, label_stage, scene_spec
from igllm_jax.render.spec import from_json, to_json
from igllm_jax.scene.scene import Scene

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())  # released keys; pictures reduced 16 times


def recipe(task: str, seed: int = 11) -> Recipe:
    return Recipe(task, seed, 96, 64, *(COMPOSERS[task].num_objects or (1, 1)))


def assert_same(value: Any, expected: Any) -> None:
    """Keys in the same order; numbers to the twelfth digit, as other machines add up products otherwise."""
    assert type(value) is type(expected)
    if isinstance(value, dict):
        assert list(value) == list(expected)
        value, expected = list(value.values()), list(expected.values())
    if isinstance(value, list):
        assert len(value) == len(expected)
        for one, other in zip(value, expected, strict=True):
            assert_same(one, other)
    else:
        assert value == (pytest.approx(expected, rel=1e-12, abs=1e-12) if isinstance(value, float) else expected)


@pytest.mark.parametrize("golden", GOLDEN, ids=[f"{one['task']}-{one['split']}" for one in GOLDEN])
def test_a_seed_gives_the_picture_and_the_label_that_it_always_gave(golden: dict) -> None:
    image, label = make_example(recipe(golden["task"]), golden["split"], 1)
    assert list(label)[-1] == RENDERING
    del label[RENDERING]
    assert_same(label, golden["label"])
    picture = np.asarray(image.reduce(16)).astype(int).ravel()
    assert np.abs(picture - golden["picture"]).max() <= 1


@pytest.mark.parametrize("task", COMPOSERS)
def test_a_label_holds_all_that_its_picture_was_drawn_from(task: str) -> None:
    for split in COMPOSERS[task].splits:
        spec = compose_example(recipe(task), split, 3)
        label = json.loads(json.dumps(label_entry(spec, recipe(task))))
        assert from_json(to_json(spec)) == spec
        scene = Scene.from_label(label, task)
        stage, source = label_stage(label, scene, task, 1, 1)
        assert source == STORED
        again = scene_spec(scene.objects, task, stage, rotation_unit=COMPOSERS[task].rotation_unit)
        one, other = draw(spec), draw(again)
        assert np.array_equal(one.ids, other.ids)
        assert np.abs(np.asarray(one.image).astype(int) - np.asarray(other.image)).max() <= 1
        for key in ("camera", "lights", "ambient", "ground"):
            assert getattr(again, key) == getattr(spec, key)
        for thing, twin in zip(spec.objects, again.objects, strict=True):
            assert (thing.name, thing.words, thing.parts, thing.scale) == (
                twin.name,
                twin.words,
                twin.parts,
                twin.scale,
            )
            assert np.allclose(thing.rotation, twin.rotation, atol=1e-12)
            assert (thing.location, thing.scale) == (twin.location, twin.scale)


def test_another_count_of_visible_pixels_rejects_other_scenes() -> None:
    first = compose_example(recipe("clevr"), "train", 0)

    def strict(spec):
        return visible_pixels(spec) * (spec.objects != first.objects)  # nothing shows in what `flat` would take

    second = compose_example(recipe("clevr"), "train", 0, strict)
    assert second.objects != first.objects and second.camera == first.camera
    assert visible_pixels(second).min() >= 200 / (480 * 320) * 96 * 64
