"""The loss against a plain statement of it, and chunks against the whole."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igllm_jax.models.vlm import skeleton
from igllm_jax.training import loss
from tests import small


@pytest.fixture(scope="module")
def params():
    return small.params(small.model())


def plain_logits(model, batch):
    """Every position's logits and numbers, prompt included, the slow way."""
    x = model.decoder(model.embed(batch.images, batch.tokens, small.LAYOUT.image_offset), None)
    states = model.decoder.final_norm(x)
    return states @ model.decoder.head_kernel(), model.numbers(states)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_loss_is_what_the_reference_says(params, chunk):
    batch = small.batch()
    model = skeleton(small.model()).build(params)
    found = loss.sums(model, batch, small.LAYOUT, None, chunk=chunk).mean(0.7)
    logits, numbers = plain_logits(model, batch)
    patches = small.model().vision.num_patches
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    token_losses, number_losses = [], []
    for row, position in zip(*np.nonzero(batch.is_answer), strict=True):
        before = position + patches - 1  # the state that predicts a token sits one position before it
        token_losses.append(-log_probabilities[row, before, batch.tokens[row, position]])
        if batch.is_number[row, position]:
            number_losses.append((numbers[row, before] - batch.numbers[row, position]) ** 2)
    wanted = np.mean(token_losses) + 0.7 * np.mean(number_losses)
    np.testing.assert_allclose(found["loss"], wanted, rtol=1e-5)


def test_rows_of_weight_zero_do_not_count(params):
    batch = small.batch()
    model = skeleton(small.model()).build(params)
    half = jax.tree.map(lambda x: x[:4], batch)
    masked = replace(batch, weight=jnp.asarray(np.arange(8) < 4, jnp.float32))
    whole, part = (loss.sums(model, b, small.LAYOUT, None, chunk=8).mean(1.0)["loss"] for b in (masked, half))
    np.testing.assert_allclose(whole, part, rtol=1e-6)


def test_chunks_have_the_gradient_of_the_whole(params):
    states = jax.random.normal(jax.random.key(0), (2, 7, 11))
    kernel = jax.random.normal(jax.random.key(1), (11, 13))
    targets = jax.random.randint(jax.random.key(2), (2, 7), 0, 13)

    def total(states, kernel, chunk):
        return jnp.sum(loss.cross_entropies(states, kernel, targets, chunk=chunk) ** 2)

    whole = jax.grad(total, (0, 1))(states, kernel, 100)
    for chunk in (1, 3, 7):
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
            jax.grad(total, (0, 1))(states, kernel, chunk),
            whole,
        )


def test_soft_capped_logits_have_the_gradient_of_autodiff():
    states, kernel = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(2, 7, 11), (11, 13)]))
    targets = jax.random.randint(jax.random.key(2), (2, 7), 0, 13)

    def plain(states, kernel):
        logits = 1.7 * jnp.tanh(states @ kernel / 1.7)
        return -jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1) ** 3)

    def ours(states, kernel):
        return jnp.sum(loss.cross_entropies(states, kernel, targets, chunk=3, softcap=1.7) ** 3)

    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, *(jax.value_and_grad(f, (0, 1))(states, kernel) for f in (ours, plain)))
    close(jax.grad(ours)(states, kernel), jax.grad(plain)(states, kernel))


@pytest.mark.parametrize("chunk", [3, 100])
def test_a_frozen_vocabulary_meets_the_states_twice_and_gives_the_same_gradient(chunk):
    states = jax.random.normal(jax.random.key(0), (2, 7, 11))
    kernel = jax.random.normal(jax.random.key(1), (11, 1013))
    targets = jax.random.randint(jax.random.key(2), (2, 7), 0, 1013)

    def total(states, kernel):
        return jnp.sum(loss.cross_entropies(states, kernel, targets, chunk=chunk) ** 2)

    np.testing.assert_allclose(
        jax.grad(total)(states, kernel), jax.grad(total, (0, 1))(states, kernel)[0], rtol=1e-4, atol=1e-5
    )
    products = str(jax.make_jaxpr(jax.grad(total))(states, kernel)).count("dot_general")
    assert products == 2
    assert str(jax.make_jaxpr(jax.grad(total, (0, 1)))(states, kernel)).count("dot_general") == 4


def test_no_float32_logits_of_the_whole_answer():
    """The compiled step holds [B, chunk, V] and never [B, A, V]."""
    shape = jax.ShapeDtypeStruct((2, 64, 11), jnp.float32)
    kernel, targets = jax.ShapeDtypeStruct((11, 1013), jnp.float32), jax.ShapeDtypeStruct((2, 64), jnp.int32)

    def total(states, kernel, targets):
        return jnp.sum(loss.cross_entropies(states, kernel, targets, chunk=16))

    text = jax.jit(jax.grad(total, (0, 1))).lower(shape, kernel, targets).compile().as_text()
    assert "2,16,1013]" in text
    assert "2,64,1013]" not in text and "128,1013]" not in text
