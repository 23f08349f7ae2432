"""What the vision tower makes of pixels before its first weights."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from igllm_jax.models.vision import normalise, resized
from tests import small

EVERY_VALUE = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 1, 1, 3))


def normalised(mean, std):
    config = replace(small.model().vision, image_mean=mean, image_std=std)
    return np.asarray(jax.jit(lambda images: normalise(images, config))(EVERY_VALUE))


def test_pixels_are_normalised_as_clip_does():
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    np.testing.assert_allclose(normalised(mean, std), (EVERY_VALUE / 255 - mean) / std, atol=1e-6)


@pytest.mark.parametrize("value", [0, 49, 168, 255])
def test_a_pixel_at_the_mean_is_0_and_not_rounding_noise(value):
    """Adam would follow the noise, and every compiler makes its own."""
    assert np.all(normalised((value / 255,) * 3, (0.5,) * 3)[value] == 0)


@pytest.mark.parametrize("size", [15, 21, 40])
def test_images_are_resized_as_pillow_does(size):
    pixels = np.random.default_rng(0).integers(0, 256, (21, 21, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
    found = np.asarray(resized(jax.numpy.asarray(pixels[None]), size))[0]
    assert found.dtype == np.uint8 and np.abs(found.astype(int) - expected).max() <= 1
