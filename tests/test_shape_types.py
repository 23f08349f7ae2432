"""Tests run with shape types checked in models, training and decoding: what has wrong shapes is an error there."""

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from igllm_jax.decoding import ngram_drafts, sampling
from igllm_jax.models import attention
from igllm_jax.training import loss


def test_wrong_shapes_and_dtypes_are_errors_in_every_room():
    states, targets, is_new = jnp.zeros((2, 3, 5)), jnp.zeros((2, 3), jnp.int32), jnp.ones(3, bool)
    assert loss.cross_entropies(states, jnp.zeros((5, 11)), targets, chunk=2).shape == (2, 3)
    with pytest.raises(TypeCheckError):
        loss.cross_entropies(states, jnp.zeros((7, 11)), targets, chunk=2)
    with pytest.raises(TypeCheckError):
        loss.cross_entropies(states, jnp.zeros((5, 11)), targets.astype(jnp.float32), chunk=2)
    q, k = jnp.zeros((1, 5, 2, 3)), jnp.zeros((1, 7, 2, 3))
    with pytest.raises(TypeCheckError):
        attention.causal(q, k, q, kernel="xla")
    with pytest.raises(TypeCheckError):
        ngram_drafts.judge(ngram_drafts.empty(), jnp.zeros(3, jnp.int32), jnp.zeros(4, jnp.int32), is_new)
    with pytest.raises(TypeCheckError):
        sampling.row_keys(jnp.zeros(3), 1, 0)
