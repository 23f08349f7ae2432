"""One step: what moves, what stays, micro-batches against the whole, one compile."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from igllm_jax.models.lora import merge
from igllm_jax.models.params import nest, unnest
from igllm_jax.models.vlm import skeleton
from igllm_jax.training import optim
from igllm_jax.training.options import LossOptions
from igllm_jax.training.state import initial_state
from igllm_jax.training.step import make_train_step
from tests import small

OPTIONS = optim.OptimOptions(
    trainable="lora", learning_rates=(("lora", 0.01), ("projector", 0.01), ("float_head", 0.02), ("base", 0.01)),
    warmup=0.0, num_steps=40, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.0, clip_norm=1.0, accumulate=1,
)  # fmt: skip
LOSS = LossOptions(float_weight=1.0, chunk=8, seed=0)


def start(config, options=OPTIONS):
    """Skeleton, state and frozen weights, on the first device (committed, so that the second step finds the same)."""
    model_skeleton = skeleton(config)
    params = small.params(config)
    trains = optim.trainable_paths(params, options.trainable)
    state = initial_state(nest({path: params[path] for path in trains}), options)
    frozen = {path: value for path, value in params.items() if path not in trains}
    return model_skeleton, jax.device_put(state, jax.devices()[0]), frozen


@cache
def losses(config, steps=3, options=OPTIONS):
    model_skeleton, state, frozen = start(config, options)
    step = jax.jit(make_train_step(model_skeleton, small.LAYOUT, options, LOSS))
    found = []
    for number in range(steps):
        state, metrics = step(state, frozen, small.batch(seed=number % 2))
        found.append(float(metrics["loss"]))
    assert step._cache_size() == 1  # one compile, however many steps
    return found, state


def test_a_model_that_trains_whole_learns_its_batches_by_heart():
    found, _ = losses(small.model(rank=0), steps=40, options=replace(OPTIONS, trainable="full"))
    assert found[-2] < 0.8 * found[0]


def test_the_trainables_move_and_nothing_else():
    config = small.model(dropout=0.1)
    _, before, _ = start(config)
    _, after = losses(config)
    old, new = unnest(before.params), unnest(after.params)
    parts = ("projector", "float_head")
    assert set(new) == {p for p in skeleton(config).shapes if "/lora_" in p or p.split("/")[0] in parts}
    assert all(np.any(np.asarray(old[path]) != np.asarray(new[path])) for path in new)


@pytest.mark.parametrize("count", [2, 4])
def test_micro_batches_give_the_whole_batch_s_steps(count):
    whole, _ = losses(small.model())
    parts, _ = losses(small.model(), options=replace(OPTIONS, accumulate=count))
    np.testing.assert_allclose(parts, whole, rtol=2e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"remat": "elementwise"},
        {"remat": "qkv+residual@host"},
        {"attention": "chunked"},
        *(pytest.param({"remat": name}, marks=pytest.mark.slow) for name in ("dots", "qkvctx", "qkvres", "full")),
    ],
    ids=lambda c: "-".join(c.values()),
)
def test_memory_savers_leave_the_losses_alone(change):
    plain, _ = losses(small.model(dropout=0.1))
    found, _ = losses(small.model(dropout=0.1, **change))
    np.testing.assert_allclose(found, plain, rtol=1e-5)


@pytest.mark.slow
def test_dropout_depends_on_the_step_alone_and_on_its_kind():
    first, _ = losses(small.model(dropout=0.1))
    again, _ = losses.__wrapped__(small.model(dropout=0.1))
    other, _ = losses(small.model(dropout=0.1, dropout_kind="threefry"))
    none, _ = losses(small.model())
    assert first == again
    assert first != other and first != none


def test_a_stack_compiles_once_for_any_depth():
    """The compiled text of 2 and of 9 layers differs by the sizes in it, not by its length."""

    def text(layers):
        config = small.model(layers=layers)
        model_skeleton, state, frozen = start(config)
        step = jax.jit(make_train_step(model_skeleton, small.LAYOUT, OPTIONS, LOSS))
        return step.lower(state, frozen, small.batch()).as_text()

    assert abs(text(9).count("\n") - text(2).count("\n")) < 5


def test_merged_lora_is_the_same_model():
    config = small.model()
    _, state = losses(config)
    _, _, frozen = start(config)
    params = {**frozen, **unnest(state.params)}
    batch = small.batch()
    tokens = (batch.images, batch.tokens, small.LAYOUT)
    apart = skeleton(config).build(params).answer_states(*tokens)
    merged_config = replace(config, lora=replace(config.lora, rank=0))
    together = skeleton(merged_config).build(merge(params, config.lora)).answer_states(*tokens)
    np.testing.assert_allclose(apart, together, atol=1e-5)
