"""LoRA: nothing at the start, the right share of dropout, gradients summed in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from igllm_jax.models import lora
from igllm_jax.models.lora import LoRAConfig, LoRALinear, dropout, dropout_seed


def config(kind="hash", share=0.25, rank=5):
    return LoRAConfig(rank=rank, alpha=7.0, dropout=share, dropout_kind=kind)


def one_layer(width_in, width_out, lora_config):
    """The only slice of a stack of one, as a scan over layers has it."""
    stack = LoRALinear((width_in, width_out), ("embed", "mlp"), lora_config, nnx.Rngs(0), site=0, bias=False, layers=1)
    graphdef, state = nnx.split(stack)
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[0], state))


def test_at_the_start_the_update_is_nothing():
    layer = one_layer(11, 13, config())
    x = jax.random.normal(jax.random.key(1), (2, 3, 11))
    np.testing.assert_allclose(layer(x, dropout_seed(0, 0)), x @ layer.kernel[...], atol=1e-6)


def test_an_exact_small_example():
    layer = one_layer(2, 1, LoRAConfig(1, 3.0, 0.0, "hash"))
    layer.kernel[...] = jnp.array([[1.0], [2.0]])
    layer.lora_a[...] = jnp.array([[1.0], [1.0]])
    layer.lora_b[...] = jnp.array([[0.5]])
    assert float(layer(jnp.array([[4.0, 1.0]]), None)[0, 0]) == 4 + 2 + 3 * 0.5 * 5


@pytest.mark.parametrize("kind", lora.DROPOUT_KINDS)
def test_dropout_keeps_the_mean_and_drops_its_share(kind):
    x = jnp.ones((64, 101, 31))
    y = np.asarray(dropout(x, dropout_seed(3, 17), config(kind)))
    assert abs((y == 0).mean() - 0.25) < 0.003
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    # no row, column or plane of the mask is out of the ordinary: each lies within 5 standard deviations
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        means = (y == 0).mean(axis=others)
        deviation = np.sqrt(0.25 * 0.75 / (y.size / y.shape[axis]))
        assert np.abs(means - 0.25).max() < 5 * deviation


def test_masks_of_other_steps_places_and_seeds_are_unrelated():
    x = jnp.ones((50, 40, 20))
    seeds = [
        dropout_seed(0, 0),
        dropout_seed(0, 1),
        dropout_seed(1, 0),
        dropout_seed(0, 0).fold(0),
        dropout_seed(0, 0).fold(1),
    ]
    masks = [np.asarray(dropout(x, seed, config())).ravel() == 0 for seed in seeds]
    for i, first in enumerate(masks):
        for second in masks[:i]:
            assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_the_weight_s_gradient_is_summed_in_float32():
    """4096 ones times 0.01 in bfloat16 sums would stop growing near 2.6; in float32 they come to 41."""
    x = jnp.full((4096, 1), 1.0, jnp.bfloat16)
    gradient = jax.grad(lambda w: jnp.sum(lora.product(x, w) * jnp.bfloat16(0.01)).astype(jnp.float32))(
        jnp.zeros((1, 1))
    )
    np.testing.assert_allclose(gradient, 41, rtol=0.01)
    assert gradient.dtype == jnp.float32


@pytest.mark.parametrize("wrong", [{"dropout_kind": "rbg"}, {"dropout": 1.0}])
def test_a_wrong_config_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LoRAConfig(**{"rank": 1, "alpha": 1.0, "dropout": 0.0, "dropout_kind": "hash", **wrong})
