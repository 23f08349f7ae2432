"""The loss: cross-entropy over the learned tokens plus squared error over the float tokens."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from igllm_jax.batch import Batch, PromptLayout
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

    chunk: how many answer positions meet the vocabulary at once.
    Source: mean cross-entropy over learned tokens + float_w * mean squared error over all float tokens of the batch.
    """
    states = model.answer_states(batch.images, batch.tokens, layout.image_offset, layout.answer_offset, seed)
    answer = slice(layout.answer_offset, None)
    weight = batch.weight[:, None]
    is_learned = batch.is_answer[:, answer] * weight
    is_number = batch.is_number[:, answer] * weight
    token_losses = cross_entropies(states, model.decoder.head_kernel(), batch.tokens[:, answer], chunk=chunk)
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
    states: Float[Array, "b a d"], kernel: Float[Array, "d v"], targets: Int[Array, "b a"], *, chunk: int
) -> Float[Array, "b a"]:
    """-log softmax(states @ kernel)[target] in nats, float32.

    The product runs in the states' dtype and sums in float32; only [B, chunk, V] of it is alive at a time, in the
    backward pass too, where each chunk is computed again.
    """
    batch, length, width = states.shape
    kernel = kernel.astype(states.dtype)

    @jax.checkpoint
    def one(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        states, targets = part
        logits = jnp.einsum("bad,dv->bav", states, kernel, preferred_element_type=jnp.float32)
        # A comparison with the vocabulary's index instead of a gather: it stays local where the vocabulary is sharded.
        is_target = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == targets[..., None]
        return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)

    if length <= chunk:
        return one((states, targets))
    count = -(-length // chunk)
    pad = count * chunk - length
    states = jnp.pad(states, ((0, 0), (0, pad), (0, 0))).reshape(batch, count, chunk, width).swapaxes(0, 1)
    targets = jnp.pad(targets, ((0, 0), (0, pad))).reshape(batch, count, chunk).swapaxes(0, 1)
    losses = jax.lax.map(one, (states, targets))
    return losses.swapaxes(0, 1).reshape(batch, count * chunk)[:, :length]
