"""Attention kernels against a plain statement; rotary positions; the cache."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igllm_jax.models import attention, axes
from igllm_jax.models.rope import apply_rope, rope_cos_sin
from igllm_jax.parallel.sharding import MeshLayout, make_mesh


def plain(q, k, v, window=0, softcap=0.0):
    """One head at a time, one query at a time."""
    out = np.zeros(q.shape)
    for b, t, h in np.ndindex(q.shape[:3]):
        g = h * k.shape[2] // q.shape[2]
        seen = slice(max(t + 1 - window, 0) if window else 0, t + 1)
        scores = k[b, seen, g] @ q[b, t, h] / np.sqrt(q.shape[-1])
        scores = softcap * np.tanh(scores / softcap) if softcap else scores
        weights = np.exp(scores - scores.max())
        out[b, t, h] = weights @ v[b, seen, g] / weights.sum()
    return out


@pytest.mark.parametrize(("window", "softcap"), [(0, 0.0), (3, 0.0), (1, 0.7), (11, 0.7)])
@pytest.mark.parametrize("kernel", ["xla", "chunked"])
def test_kernels_compute_causal_attention(kernel, window, softcap, monkeypatch):
    monkeypatch.setattr(attention, "QUERY_CHUNK", 4)
    monkeypatch.setattr(attention, "QUERY_BLOCK", 4)
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 11, heads, 6)) for i, heads in enumerate((6, 2, 2)))
    found = attention.causal(q, k, v, kernel=kernel, window=window, softcap=softcap)
    np.testing.assert_allclose(found, plain(*map(np.asarray, (q, k, v)), window, softcap), atol=1e-5)


@pytest.mark.parametrize(("window", "softcap"), [(0, 0.0), (3, 0.7)])
def test_the_written_gradient_is_the_one_of_autodiff(window, softcap, monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 4)
    arrays = tuple(jax.random.normal(jax.random.key(i), (2, 11, heads, 6)) for i, heads in enumerate((6, 2, 2)))

    def value(arrays, kernel):
        return jnp.sum(jnp.sin(attention.causal(*arrays, kernel=kernel, window=window, softcap=softcap)))

    written, derived = (jax.grad(value)(arrays, kernel) for kernel in ("xla", "chunked"))
    for one, other in zip(written, derived, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_splash_computes_causal_attention_and_its_gradients(mesh, monkeypatch):
    """The TPU's kernel, interpreted; on several devices each takes its own rows and heads."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    interpreted = partial(splash.make_splash_mha_single_device, interpret=True)
    monkeypatch.setattr(splash, "make_splash_mha_single_device", interpreted)
    sizes = dict(zip(("data", "fsdp", "tensor"), mesh, strict=True))
    layout = MeshLayout.of("train", make_mesh(sizes, jax.devices()[: math.prod(mesh)]))
    q, k, v = (jax.random.normal(jax.random.key(i), (4, 128, heads, 128)) for i, heads in enumerate((4, 2, 2)))

    def value(q, k, v, kernel):
        with axes.sharding_rules(layout):
            found = attention.causal(q, k, v, kernel=kernel)
        return jnp.sum(jnp.sin(found)), found

    both = jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True), static_argnums=3)
    ((_, found), gradients), ((_, wanted), wanted_gradients) = (both(q, k, v, kernel) for kernel in ("splash", "xla"))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    for one, other in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_splash_says_which_lengths_it_takes():
    x = jnp.zeros((1, 100, 1, 128))
    with pytest.raises(ValueError, match="takes 100 tokens only in blocks of 128 to 512"):
        attention.causal(x, x, x, kernel="splash")


def test_an_unknown_kernel_names_the_known_ones():
    x = jnp.zeros((1, 2, 1, 2))
    with pytest.raises(ValueError, match="choose one of"):
        attention.causal(x, x, x, kernel="flash")


def rotate(x, position, theta):
    """x [K] at one position."""
    return apply_rope(x, *(y[0] for y in rope_cos_sin(jnp.array([position]), len(x), theta)))


def test_rotation_is_by_position_over_theta():
    """Width 2 is one pair: position 3 turns it by 3 radians, whatever theta."""
    np.testing.assert_allclose(rotate(jnp.array([1.0, 0.0]), 3, 77.0), [np.cos(3), np.sin(3)], atol=1e-6)


def test_scores_depend_on_the_distance_alone():
    q, k = (jax.random.normal(jax.random.key(i), (8,)) for i in (0, 1))
    near = rotate(q, 5, 100.0) @ rotate(k, 2, 100.0)
    far = rotate(q, 45, 100.0) @ rotate(k, 42, 100.0)
    np.testing.assert_allclose(near, far, rtol=1e-4)
