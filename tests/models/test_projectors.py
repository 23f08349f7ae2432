"""Projectors against NumPy, patch by patch, and the FLOPs that they count."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf

from igllm_jax.models.layers import Linear
from igllm_jax.models.projectors import PROJECTORS

VISION_WIDTH, WIDTH = 5, 7
FEATURES = np.random.default_rng(0).normal(size=(2, 3, VISION_WIDTH)).astype(np.float32)


def made(name):
    """A projector whose linear biases are not 0."""
    projector = PROJECTORS[name](VISION_WIDTH, WIDTH, nnx.Rngs(params=0))
    for number, (_, module) in enumerate(nnx.iter_children(projector)):
        if isinstance(module, Linear):
            module.bias[...] = jnp.linspace(-1, 1, WIDTH) + number
    return projector


def affine(linear, x):
    return x @ np.asarray(linear.kernel[...]) + np.asarray(linear.bias[...])


def test_linear_is_one_product_and_a_bias():
    projector = made("linear")
    wanted = affine(projector.linear1, FEATURES)
    np.testing.assert_allclose(projector(jnp.asarray(FEATURES)), wanted, atol=1e-6)


def test_mlp_has_an_exact_gelu_between_its_products():
    projector = made("mlp2x_gelu")
    hidden = affine(projector.linear1, FEATURES)
    wanted = affine(projector.linear2, hidden * (1 + erf(hidden / np.sqrt(2))) / 2)
    np.testing.assert_allclose(projector(jnp.asarray(FEATURES)), wanted, atol=1e-5)


@pytest.mark.parametrize("name", PROJECTORS)
def test_each_patch_is_projected_by_itself(name):
    projector, order = made(name), np.array([2, 0, 1])
    together = np.asarray(projector(jnp.asarray(FEATURES)))
    assert together.shape == (2, 3, WIDTH)
    np.testing.assert_allclose(projector(jnp.asarray(FEATURES[:, order])), together[:, order], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "flops"), [("linear", 2 * VISION_WIDTH * WIDTH), ("mlp2x_gelu", 2 * WIDTH * (VISION_WIDTH + WIDTH))]
)
def test_products_are_counted(name, flops):
    assert PROJECTORS[name].flops(VISION_WIDTH, WIDTH) == flops


@pytest.mark.parametrize("name", PROJECTORS)
def test_features_of_another_width_are_refused(name):
    with pytest.raises((TypeError, ValueError)):
        made(name)(jnp.ones((1, 2, VISION_WIDTH + 1)))
