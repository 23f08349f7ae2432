"""One step of training, jitted: batch in, updated trainables and metrics out."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from igllm_jax.batch import Batch, PromptLayout
from igllm_jax.models import axes
from igllm_jax.models.lora import DropoutSeed, dropout_seed
from igllm_jax.models.params import Params, Skeleton, unnest
from igllm_jax.training import loss, optim
from igllm_jax.training.options import LossOptions
from igllm_jax.training.state import TrainState

Metrics = dict[str, jax.Array]


def make_train_step(
    skeleton: Skeleton,
    layout: PromptLayout,
    options: optim.OptimOptions,
    loss_options: LossOptions,
    rules: axes.ShardingRules | None = None,
) -> Callable[[TrainState, Params, Batch], tuple[TrainState, Metrics]]:
    """The step, to be jitted with the state donated: (state, frozen by path, batch) -> (state, metrics).

    The loss is the mean over the whole batch, however many micro-batches it is split into. Frozen weights are no
    argument of the differentiated function, so nothing of theirs is computed or kept.
    """
    tx = optim.optimizer(options)

    def step(state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, Metrics]:
        with axes.sharding_rules(rules):
            grads, metrics = gradients(state, frozen, batch)
        updates, optimizer_state = tx.update(grads, state.optimizer, state.params)
        metrics |= {"grad_norm": optax.global_norm(grads)}
        new = TrainState(state.step + 1, optax.apply_updates(state.params, updates), optimizer_state)
        return new, metrics

    def gradients(state: TrainState, frozen: Params, batch: Batch) -> tuple[Any, Metrics]:
        totals = _counts(batch)

        def share(params: Any, part: Batch, seed: DropoutSeed) -> tuple[jax.Array, loss.Sums]:
            model = skeleton.build({**frozen, **unnest(params)})
            sums = loss.sums(model, part, layout, seed, chunk=loss_options.chunk)
            whole = loss.Sums(sums.token_loss, totals[0], sums.number_loss, totals[1])
            return whole.mean(loss_options.float_weight)["loss"], sums

        seed = dropout_seed(loss_options.seed, state.step)
        value_and_grad = jax.value_and_grad(share, has_aux=True)
        if options.accumulate == 1:
            (_, sums), grads = value_and_grad(state.params, batch, seed)
            return grads, sums.mean(loss_options.float_weight)

        def body(carry: tuple[Any, loss.Sums], part: tuple[Batch, jax.Array]) -> tuple[tuple[Any, loss.Sums], None]:
            (_, sums), grads = value_and_grad(state.params, part[0], seed.fold(part[1]))
            return jax.tree.map(jnp.add, carry, (grads, sums)), None

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        nothing = loss.Sums(*(jnp.zeros((), jnp.float32) for _ in range(4)))
        parts = (micro_batches(batch, options.accumulate), jnp.arange(options.accumulate))
        (grads, sums), _ = jax.lax.scan(body, (zeros, nothing), parts)
        return grads, sums.mean(loss_options.float_weight)

    return step


def jit_step(step: Callable[..., Any], state: TrainState) -> Any:
    """`step` compiled: the state (arrays, or shapes with shardings) is donated, and comes back where it was."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, shardings.step))


def make_eval_step(
    skeleton: Skeleton, layout: PromptLayout, loss_options: LossOptions, rules: axes.ShardingRules | None = None
) -> Callable[[Any, Params, Batch], loss.Sums]:
    """(nested trainables, frozen, batch) -> sums over the batch, without dropout."""

    def step(params: Any, frozen: Params, batch: Batch) -> loss.Sums:
        with axes.sharding_rules(rules):
            model = skeleton.build({**frozen, **unnest(params)})
            return loss.sums(model, batch, layout, None, chunk=loss_options.chunk)

    return step


def micro_batches(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B / count, ...]; rows are dealt like cards, so that each device keeps its own rows."""

    def deal(x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(deal, batch)


def _counts(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Learned tokens and float tokens of the whole batch, float32."""
    weight = batch.weight[:, None]
    return jnp.sum(batch.is_answer * weight), jnp.sum(batch.is_number * weight)
