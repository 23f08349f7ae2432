"""Mirrored and moved images: labels follow as the language says, and languages that do not say are refused."""

import importlib.util

import numpy as np
import pytest

from igllm_jax.data.augment import AugmentOptions, augment
from igllm_jax.data.images import draw_disc
from igllm_jax.data.options import Source
from igllm_jax.data.order import is_flipped
from igllm_jax.data.pipeline import TrainPipeline
from igllm_jax.errors import UserError
from igllm_jax.scene.examples import example_scene
from igllm_jax.scene.language import SHIPPED, find_language, parse_language
from igllm_jax.scene.scene import mirrored
from tests import runs
from tests.data import samples

LANGUAGES = runs.ROOT / "docs" / "languages"


@pytest.fixture(scope="module")
def painter():
    spec = importlib.util.spec_from_file_location("draw", LANGUAGES / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.draw


def test_a_mirrored_scene_is_drawn_as_the_mirrored_picture(painter):
    language, rng = find_language(LANGUAGES / "drawing.toml"), np.random.default_rng(0)
    assert language.flips
    for _ in range(20):
        scene = example_scene(language, rng, calls=3, least=0.0, most=1.0)
        picture, other = (np.asarray(painter(s, language, 256), int) for s in (scene, mirrored(scene, language)))
        differing = (np.abs(picture[:, ::-1] - other).max(axis=2) > 0).mean()
        assert differing < 0.03, differing  # Pillow rounds borders to pixels, from one side
        twice = mirrored(mirrored(scene, language), language)
        for before, after in zip(scene.objects, twice.objects, strict=True):
            for name, value in before.items():
                assert after[name] == (value if isinstance(value, str) else pytest.approx(value))


def test_discs_and_their_numbers_are_mirrored_together(tiny, tmp_path):
    points = np.random.default_rng(0).uniform(0.1, 0.9, (6, 2))
    np.savez(tmp_path / "2d.npz", train=points)
    spec = f"{tmp_path}/2d.npz:train"
    options = samples.options(task="twod", image_size=336, augment=AugmentOptions(flip=True))
    data = TrainPipeline([Source(spec, spec)], options, tiny, seed=1, batch_size=6)
    batch, visits = data.batch(0), data._order.step(0)[0]
    flips = [is_flipped(1, visit) for visit in visits]
    assert 0 < sum(flips) < 6
    for image, numbers, is_number, example, flip in zip(
        batch.images, batch.numbers, batch.is_number, data.examples(0), flips, strict=True
    ):
        x, y = points[example]
        assert sorted(numbers[is_number]) == pytest.approx(sorted([1 - x if flip else x, y]), abs=1e-3)
        drawn = np.asarray(draw_disc(1 - x if flip else x, y))
        assert (np.abs(image.astype(int) - drawn).max(axis=2) > 100).sum() < 40  # of 80 of the disc, at its border


def test_only_languages_that_say_so():
    assert [name for name in SHIPPED if find_language(name).flips] == ["twod"]
    assert [name for name in SHIPPED if find_language(name).shifts] == ["so3"]
    assert [name for name in SHIPPED if find_language(name).crops] == ["so3"]
    with pytest.raises(UserError, match=r"data.augment.flip is on, but the language clevr does not say"):
        samples.options(augment=AugmentOptions(flip=True))
    with pytest.raises(UserError, match=r"data.augment.shift is on, but the language twod does not say"):
        samples.options(task="twod", augment=AugmentOptions(shift=0.1))
    with pytest.raises(UserError, match=r"data.augment.crop is on, but the language sixdof does not say"):
        samples.options(task="sixdof", rotation_rep="6d", augment=AugmentOptions(crop=0.1))
    samples.options(task="so3", rotation_rep="6d", augment=AugmentOptions(shift=0.1, crop=0.1))


def test_content_moves_by_whole_pixels():
    image = np.zeros((20, 20, 3), np.uint8)
    image[9, 9] = 255
    found = [augment(image, AugmentOptions(shift=0.2), np.random.default_rng(seed)) for seed in range(60)]
    places = np.array([np.argwhere(one[..., 0]).ravel() for one in found])
    assert places.shape == (60, 2) and places.min() == 5 and places.max() == 13


def test_a_crop_enlarges_a_part():
    """Of a ramp from 0 to 126: what is left out at both ends is at most the share, and the rest is spread evenly."""
    image = np.repeat(np.arange(0, 128, 2, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    found = [augment(image, AugmentOptions(crop=0.25), np.random.default_rng(seed)) for seed in range(60)]
    spans = np.array([int(one[0, -1, 0]) - int(one[0, 0, 0]) for one in found])
    assert spans.min() in range(92, 102) and spans.max() in range(120, 127)
    assert len({int(one[0, 0, 0]) for one in found}) > 10  # it begins anywhere
    assert all(np.ptp(np.diff(one[0, 1:-1, 0].astype(int))) <= 1 and (one == one[:1]).all() for one in found)
    kept = augment(image, AugmentOptions(brightness=0.2), np.random.default_rng(7))
    both = augment(image, AugmentOptions(brightness=0.2, crop=1e-9), np.random.default_rng(7))
    np.testing.assert_array_equal(kept, both)  # what else is drawn stays as it was


def test_flips_change_nothing_that_is_said():
    twod = find_language("twod")
    lines = [line for line in twod.text.split("\n") if not line.startswith("flip")]
    before = parse_language("\n".join(lines), "twod.toml")
    assert not before.flips and before.says_as(twod) and before.is_shipped
    assert not twod.says_as(parse_language(twod.text.replace("What Python", "Which Python"), "twod.toml"))
    with pytest.raises(UserError, match="flip must be"):
        parse_language('name = "a"\n[[functions]]\nname = "f"\n[[functions.attributes]]\nname = "w"\nkind = "word"\n'
                       "flip = { scale = [1] }", "a.toml")  # fmt: skip
