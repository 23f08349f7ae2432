"""How linear maps start."""

import jax
import numpy as np
import pytest
from flax import nnx

from igllm_jax.models.layers import Linear


@pytest.mark.parametrize("layers", [None, 3])
@pytest.mark.parametrize("inputs", [31, 509])
def test_a_fresh_map_keeps_the_size_of_its_input(inputs, layers):
    kernel = Linear((inputs, 997), ("embed", "mlp"), nnx.Rngs(params=0), bias=False, layers=layers).kernel[...]
    x = jax.random.normal(jax.random.key(1), (64, inputs))
    for one in [kernel] if layers is None else kernel:
        np.testing.assert_allclose(np.std(x @ one), 1, atol=0.05)
