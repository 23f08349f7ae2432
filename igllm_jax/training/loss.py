"""The loss: cross-entropy over the learned tokens plus squared error over the float tokens."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from igllm_jax.batch import Batch, PromptLayout
from igllm_jax.models.attention import soft_capped
from igllm_jax.models.lora import DropoutSeed
from igllm_jax.models.vlm import VLM


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sums:
    """Sums over a batch, float32 scalars: of token losses (nats), of squared number errors, and what they count."""

    token_loss: jax.Array
    num_tokens: jax.Array
    number_loss: jax.Array
    num_numbers: jax.Array

    def mean(self, float_weight: float) -> dict[str, jax.Array]:
        """loss = mean token loss + float_weight * mean squared error; 0 for a part that counts nothing."""
        token_loss = self.token_loss / jnp.maximum(self.num_tokens, 1)
        number_loss = self.number_loss / jnp.maximum(self.num_numbers, 1)
        return {"loss": token_loss + float_weight * number_loss, "token_loss": token_loss, "number_loss": number_loss}


def sums(model: VLM, batch: Batch, layout: PromptLayout, seed: DropoutSeed | None, *, chunk: int) -> Sums:
    """One forward pass; token logits and numbers come from the same hidden states, from the answer's offset on.

    chunk: of how many answer positions the logits exist at once.
    Source: mean cross-entropy over learned tokens + float_w * mean squared error over all float tokens of the batch.
    """
    states, answer = model.answer_states(batch.images, batch.tokens, layout, seed), layout.answer
    weight = batch.weight[:, None]
    is_learned = batch.is_answer[:, answer] * weight
    is_number = batch.is_number[:, answer] * weight
    kernel, softcap = model.decoder.head_kernel(), model.decoder.config.logit_softcap
    token_losses = cross_entropies(states, kernel, batch.tokens[:, answer], chunk=chunk, softcap=softcap)
    number_losses = jnp.square(model.numbers(states) - batch.numbers[:, answer])
    if model.float_head is None:  # numbers are text: nothing is read, so nothing is counted
        is_number = jnp.zeros_like(is_number)
    return Sums(
        token_loss=jnp.sum(token_losses * is_learned),
        num_tokens=jnp.sum(is_learned),
        number_loss=jnp.sum(number_losses * is_number),
        num_numbers=jnp.sum(is_number),
    )


def cross_entropies(
    states: Float[Array, "b a d"],
    kernel: Float[Array, "d v"],
    targets: Int[Array, "b a"],
    *,
    chunk: int,
    softcap: float = 0.0,
) -> Float[Array, "b a"]:
    """-log softmax(states @ kernel)[target] in nats, float32, of logits that are soft-capped where there is a cap.

    The product runs in the states' dtype and sums in float32; only [B, C, V] of it is alive at a time, C being at most
    `chunk`: the answer is split in equal parts, so that no more than C - 1 positions are filled up.
    """
    batch, length, width = states.shape
    count = -(-length // chunk)
    part = -(-length // count)
    pad = count * part - length
    states = jnp.pad(states, ((0, 0), (0, pad), (0, 0))).reshape(batch, count, part, width).swapaxes(0, 1)
    targets = jnp.pad(targets, ((0, 0), (0, pad))).reshape(batch, count, part).swapaxes(0, 1)
    losses = _by_chunk(states, kernel.astype(states.dtype), targets, softcap)
    return losses.swapaxes(0, 1).reshape(batch, count * part)[:, :length]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _by_chunk(
    states: Float[Array, "n b c d"], kernel: Float[Array, "d v"], targets: Int[Array, "n b c"], softcap: float
) -> Float[Array, "n b c"]:
    """Chunk after chunk. Where the kernel is frozen, the forward pass computes the states' gradient too, while it has
    the logits: two products with the vocabulary instead of three, and nothing of the vocabulary's size is kept.

    The rule is around the loop, not inside: differentiating a loop moves what does not change out of it, here masks and
    indices as large as the logits.
    """
    return jax.lax.map(lambda own: _losses(_logits(own[0], kernel, softcap), own[1])[0], (states, targets))


def _logits(states: jax.Array, kernel: jax.Array, softcap: float) -> jax.Array:
    return soft_capped(jnp.einsum("bcd,dv->bcv", states, kernel, preferred_element_type=jnp.float32), softcap)


def _is_target(targets: jax.Array, logits: jax.Array) -> jax.Array:
    # A comparison with the vocabulary's index instead of a gather: it stays local where the vocabulary is sharded.
    return jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == targets[..., None]


def _losses(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropies, and the logits' logarithm of summed exponentials."""
    total = jax.nn.logsumexp(logits, axis=-1)
    return total - jnp.sum(jnp.where(_is_target(targets, logits), logits, 0.0), axis=-1), total


def _slopes(logits: jax.Array, total: jax.Array, targets: jax.Array, softcap: float) -> jax.Array:
    """The cross-entropies' gradient by the logits, as they are before they are capped: softmax - 1 at the target."""
    slopes = jnp.exp(logits - total[..., None]) - _is_target(targets, logits)
    return slopes * (1 - (logits / softcap) ** 2) if softcap else slopes


def _forward(states: Any, kernel: Any, targets: Any, softcap: float) -> tuple[jax.Array, tuple[Any, ...]]:
    """Inputs are CustomVJPPrimal: values that say whether they are differentiated."""
    inputs = (states.value, kernel.value, targets.value)
    if kernel.perturbed:  # its gradient needs each position's weight, so the backward pass recomputes the logits
        return _by_chunk(*inputs, softcap), (None, inputs)

    def one(own: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        logits = _logits(own[0], kernel.value, softcap)
        losses, total = _losses(logits, own[1])
        slopes = _slopes(logits, total, own[1], softcap).astype(own[0].dtype)
        return losses, jnp.einsum("bcv,dv->bcd", slopes, kernel.value)

    losses, slopes = jax.lax.map(one, (states.value, targets.value))
    return losses, (slopes, None)


def _backward(softcap: float, saved: tuple[Any, ...], weight: jax.Array) -> tuple[Any, Any, None]:
    slopes, inputs = saved
    if inputs is None:
        return slopes * weight[..., None].astype(slopes.dtype), None, None
    states, kernel, targets = inputs

    def one(total: jax.Array, own: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        states, targets, weight = own
        logits = _logits(states, kernel, softcap)
        slopes = _slopes(logits, jax.nn.logsumexp(logits, axis=-1), targets, softcap) * weight[..., None]
        slopes = slopes.astype(states.dtype)
        d_kernel = jnp.einsum("bcd,bcv->dv", states, slopes, preferred_element_type=jnp.float32)
        return total + d_kernel, jnp.einsum("bcv,dv->bcd", slopes, kernel)

    nothing = jnp.zeros(kernel.shape, jnp.float32)
    d_kernel, d_states = jax.lax.scan(one, nothing, (states, targets, weight))
    return d_states, d_kernel.astype(kernel.dtype), None


_by_chunk.defvjp(_forward, _backward, symbolic_zeros=True)
