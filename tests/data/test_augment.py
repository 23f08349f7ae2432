"""Images varied in training: by how much, and the same wherever they are prepared."""

import numpy as np
import pytest

from igllm_jax import config as configs
from igllm_jax.data.augment import AugmentOptions, augment
from igllm_jax.data.pipeline import EvalData, TrainPipeline
from igllm_jax.errors import UserError
from tests.data import samples

ALL = AugmentOptions(brightness=0.3, contrast=0.3, color=0.2, noise=0.05, blur=1.5, jpeg=40)


def flat(level: int) -> np.ndarray:
    return np.full((32, 32, 3), level, np.uint8)


@pytest.mark.parametrize("options, low, high", [
    (AugmentOptions(brightness=0.5), 50, 150),
    (AugmentOptions(contrast=0.5), 86, 114),  # 27.5 levels below the middle
    (AugmentOptions(color=0.5), 50, 150),
])  # fmt: skip
def test_levels_stay_within_what_was_asked_for(options, low, high):
    means = [augment(flat(100), options, np.random.default_rng(seed)).mean() for seed in range(200)]
    assert low <= min(means) < max(means) <= high and max(means) - min(means) > 0.7 * (high - low) / (
        3 if options.color else 1  # of three gains that are drawn apart
    )


def test_noise_blur_and_jpeg_do_what_they_say():
    rng = np.random.default_rng(0)
    deviations = [augment(flat(128), AugmentOptions(noise=0.1), rng).std() for _ in range(100)]
    assert deviations.count(0) in range(75, 98) and 20 < max(deviations) < 26  # up to 25.5
    board = np.kron(np.indices((16, 16)).sum(axis=0) % 2 * 255, np.ones((2, 2)))
    image = np.stack([board] * 3, axis=-1).astype(np.uint8)
    for options in (AugmentOptions(blur=2.0), AugmentOptions(jpeg=10)):
        found = [augment(image, options, rng) for _ in range(40)]
        changed = sum((one != image).any() for one in found)
        assert 1 <= changed <= 12 and all(one.shape == image.shape and one.dtype == np.uint8 for one in found)
    assert min(augment(image, AugmentOptions(blur=2.0), rng).std() for _ in range(40)) < 40 < image.std()


def test_off_is_untouched():
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    assert not AugmentOptions().is_on and ALL.is_on
    np.testing.assert_array_equal(augment(image, AugmentOptions(), np.random.default_rng(1)), image)


@pytest.mark.slow
def test_the_same_for_any_workers_hosts_and_start(tmp_path, tiny):
    source = samples.clevr_set(tmp_path, count=9)

    def pipeline(rows=None, **changed):
        return TrainPipeline([source], samples.options(image_size=14, **changed), tiny, seed=3, batch_size=4, rows=rows)

    whole, plain = pipeline(augment=ALL), pipeline()
    images = [whole.batch(step).images for step in range(8)]
    assert any((images[step] != plain.batch(step).images).any() for step in range(8))
    np.testing.assert_array_equal(plain.batch(3).tokens, whole.batch(3).tokens)  # only images vary
    host = pipeline(rows=[1, 3], augment=ALL)
    np.testing.assert_array_equal(host.batch(5).images, images[5][[1, 3]])
    with pipeline(augment=ALL, num_workers=2).iterate(start_step=4) as batches:
        for step in range(4, 8):
            np.testing.assert_array_equal(next(batches).images, images[step])
    evaluated = [next(EvalData(source, samples.options(augment=a), tiny).batches(4)).images
                 for a in (ALL, AugmentOptions())]  # fmt: skip
    np.testing.assert_array_equal(*evaluated)


def test_the_config_says_it():
    config = configs.load(["--config=tiny", "--config.data.augment.blur=2", "--config.data.augment.jpeg=70"])[0]
    assert configs.data_options(config).augment == AugmentOptions(blur=2.0, jpeg=70)
    with pytest.raises(UserError, match=r"data.augment.noise is 2.0; it must be a number in \[0, 1\]"):
        configs.load(["--config=tiny", "--config.data.augment.noise=2.0"])
