"""CLEVR's scenes: the rules of placement, the labels, and labels against pictures."""

import colorsys

import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.render.compose import clevr
from igllm_jax.render.flat.draw import draw, see, visible_pixels
from igllm_jax.render.flat.visibility import GROUND
from igllm_jax.render.materials import COLORS_RGB
from igllm_jax.render.objects import SIZES
from igllm_jax.render.recipe import Recipe
from igllm_jax.scene.scene import Scene

WIDTH, HEIGHT = 240, 160
NUM_SCENES = 23


def composed(seed: int, condition: str) -> tuple:
    """(condition, objects, scene, what its pixels show)"""
    split = {"A": "train", "B": "val_OOD"}[condition]
    recipe = Recipe("clevr", 0, WIDTH, HEIGHT, 3, 10)
    spec = clevr.compose(np.random.default_rng(seed), recipe, split, visible_pixels)
    objects = Scene.from_label({"image_filename": "x.png", **spec.label}, "clevr").objects
    return condition, objects, spec, see(spec.camera, spec.objects)[1]


@pytest.fixture(scope="module", params=["A", "B"])
def scenes(request: pytest.FixtureRequest) -> list:
    condition = request.param
    return [composed(seed, condition) for seed in range(NUM_SCENES)]


def test_cogent(scenes: list) -> None:
    for condition, objects, *_ in scenes:
        for thing in objects:
            if thing.shape != "sphere":
                of_a = (thing.shape == "cube") == (thing.color in ("gray", "blue", "brown", "yellow"))
                assert of_a == (condition == "A")


@pytest.mark.parametrize(("split", "cube_colors"), [
    ("train", {"gray", "blue", "brown", "yellow"}),
    ("val_ID", {"gray", "blue", "brown", "yellow"}),
    ("val_OOD", {"red", "green", "purple", "cyan"}),
])  # fmt: skip
def test_splits_have_their_conditions(split: str, cube_colors: set[str]) -> None:
    recipe = Recipe("clevr", 0, 120, 80, 3, 10)
    labels = [clevr.compose(np.random.default_rng(index), recipe, split, visible_pixels).label for index in range(13)]
    cubes = {thing["color"] for label in labels for thing in label["objects"] if thing["shape"] == "cube"}
    assert cubes == cube_colors


def test_placement_rules(scenes: list) -> None:
    for _, objects, spec, _ in scenes:
        assert 3 <= len(objects) <= 10
        assert visible_pixels(spec).min() >= 200 / (480 * 320) * WIDTH * HEIGHT
        right, behind = (np.array(spec.camera.ground_directions()[name]) for name in ("right", "behind"))
        for i, a in enumerate(objects):
            assert abs(a.location[0]) <= 3 and abs(a.location[1]) <= 3
            assert a.location[2] == SIZES[a.size]
            assert 0 <= a.rotation[0] < 360
            for b in objects[:i]:
                apart = np.subtract(a.location, b.location)
                assert np.hypot(apart[0], apart[1]) - SIZES[a.size] - SIZES[b.size] >= 0.25
                assert min(abs(apart[:2] @ right[:2]), abs(apart[:2] @ behind[:2])) >= 0.4


def test_labels_read_back_as_the_scene(scenes: list) -> None:
    for _, objects, spec, _ in scenes:
        label = spec.label
        assert clevr.label(objects, spec.camera) == label
        assert [thing.location for thing in spec.objects] == [thing.location for thing in objects]
        for name, opposite in (("right", "left"), ("behind", "front")):
            there, back = label["relationships"][name], label["relationships"][opposite]
            assert all((i in back[j]) for i, row in enumerate(there) for j in row)
            assert not any(i in row for i, row in enumerate(there))


def test_centres_lie_in_the_visible_mask_of_what_nothing_hides(scenes: list) -> None:
    checked = 0
    for _, objects, _, seen in scenes:
        mask = seen.part.reshape(HEIGHT, WIDTH)
        depth = seen.depth.reshape(HEIGHT, WIDTH)
        for number, thing in enumerate(objects):
            x, y, centre_depth = thing.pixel
            if not (0 <= x < WIDTH and 0 <= y < HEIGHT):
                continue
            shown = mask[int(y), int(x)]
            assert shown != GROUND
            if shown == number:
                # The surface is nearer than the centre, by at most the way from a cube's corner.
                assert 0 < centre_depth - depth[int(y), int(x)] < 3**0.5 * SIZES[thing.size] + 0.02
                checked += 1
            else:
                assert depth[int(y), int(x)] < centre_depth
                assert objects[shown].pixel[2] < centre_depth + SIZES[objects[shown].size]
    assert checked > 2 * NUM_SCENES


def test_rubber_shows_its_colour_at_its_centre(scenes: list) -> None:
    right = total = 0
    for _, objects, spec, seen in scenes:
        pixels = np.asarray(draw(spec).image)
        mask = seen.part.reshape(HEIGHT, WIDTH)
        for number, thing in enumerate(objects):
            x, y = int(thing.pixel[0]), int(thing.pixel[1])
            if thing.material == "metal" or not (0 <= x < WIDTH and 0 <= y < HEIGHT) or mask[y, x] != number:
                continue
            total += 1
            hue, _, saturation = colorsys.rgb_to_hsv(*(pixels[y, x] / 255.0))
            true_hue, _, true_saturation = colorsys.rgb_to_hsv(*(channel / 255 for channel in COLORS_RGB[thing.color]))
            if true_saturation == 0:
                right += saturation < 0.1
            else:
                right += min(abs(hue - true_hue), 1 - abs(hue - true_hue)) < 0.04 and saturation > 0.2
    assert total > NUM_SCENES and right == total


def test_too_many_objects_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clevr, "TRIES_PER_SCENE", 3)
    with pytest.raises(UserError, match="smaller --max_objects"):
        clevr.compose(np.random.default_rng(0), Recipe("clevr", 0, 48, 32, 50, 50), "train", visible_pixels)
