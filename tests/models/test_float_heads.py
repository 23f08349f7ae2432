"""Float heads against NumPy: a number a state, in float32, and the FLOPs that they count."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf

from igllm_jax.models.float_heads import FLOAT_HEADS

WIDTH = 7
STATES = np.random.default_rng(0).normal(size=(3, 5, WIDTH)).astype(np.float32)
NAMES = [name for name, head in FLOAT_HEADS.items() if head is not None]


def made(name):
    head = FLOAT_HEADS[name](WIDTH, nnx.Rngs(params=0))
    for number, (_, module) in enumerate(nnx.iter_children(head)):
        module.bias[...] = jnp.linspace(-1, 1, module.bias.shape[0]) + number
    return head


def affine(linear, x):
    return x @ np.asarray(linear.kernel[...]) + np.asarray(linear.bias[...])


def test_linear_is_one_product_and_a_bias():
    head = made("linear")
    np.testing.assert_allclose(head(jnp.asarray(STATES)), affine(head.out, STATES)[..., 0], atol=1e-6)


def test_mlp_is_tanh_linear_exact_gelu_linear():
    head = made("tanh_mlp_gelu")
    hidden = affine(head.hidden, np.tanh(STATES))
    wanted = affine(head.out, hidden * (1 + erf(hidden / np.sqrt(2))) / 2)[..., 0]
    np.testing.assert_allclose(head(jnp.asarray(STATES)), wanted, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_float32_whatever_the_states_are(name):
    head, states = made(name), jnp.asarray(STATES).astype(jnp.bfloat16)
    found = head(states)
    assert found.dtype == jnp.float32 and found.shape == (3, 5)
    np.testing.assert_array_equal(found, head(states.astype(jnp.float32)))


@pytest.mark.parametrize(("name", "flops"), [("linear", 2 * WIDTH), ("tanh_mlp_gelu", 2 * WIDTH * (WIDTH + 1))])
def test_products_are_counted(name, flops):
    assert FLOAT_HEADS[name].flops(WIDTH) == flops
