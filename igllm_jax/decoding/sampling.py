"""Tokens drawn from the model's distribution, each with a key of its own.

A token's key follows from the seed, the image, the number of the answer and the token's position, so an answer depends
neither on the batch that it came in nor on guesses: a guess is accepted where it is the token that is drawn at its
position, as in Leviathan et al. 2023 for a draft that is certain of its guess. Tokens are drawn by adding Gumbel noise
to logits (the Gumbel-max trick, Gumbel 1954).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from igllm_jax.errors import UserError

_KEYS = "threefry2x32"  # by name, so that a program's default changes no answer


@dataclass(frozen=True)
class SamplingOptions:
    """temperature: what logits are divided by; 0 takes the likeliest token. top_p: only the likeliest tokens that have
    this probability together are drawn (nucleus sampling, Holtzman et al. 2020). min_p: only tokens that are at least
    this share of the likeliest one's probability are (Nguyen et al. 2025). Both count after the temperature, and at
    least one token stays. seed: of the draws, uint32.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    def check(self, num_samples: int) -> None:
        """Raises: UserError where nothing is drawn, but several answers, or some tokens alone, are asked for."""
        if self.is_greedy and (num_samples > 1 or self.top_p < 1.0 or self.min_p > 0.0):
            raise UserError("num_samples, top_p and min_p draw tokens, so they need a temperature above 0, say 1")


GREEDY = SamplingOptions()


def image_ids(names: Sequence[str]) -> np.ndarray:
    """uint32 [names]: what stands for an image in its keys, by its name alone."""
    digests = (hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest() for name in names)
    return np.array([int.from_bytes(digest[:4], "little") for digest in digests], np.uint32)


def row_keys(ids: UInt32[Array, "b"], num_samples: int, seed: int) -> UInt32[Array, "bk 2"]:
    """The keys of `num_samples` answers of each image, side by side."""
    start = jax.random.key(seed, impl=_KEYS)
    of_image = jax.vmap(lambda image: jax.random.fold_in(start, image))(ids)
    numbers = jnp.arange(num_samples)
    keys = jax.vmap(lambda key: jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers))(of_image)
    return jax.random.key_data(keys.reshape(-1))


def draw(
    logits: Float[Array, "v bt"], keys: UInt32[Array, "b 2"], positions: Int[Array, "b t"], options: SamplingOptions
) -> Float[Array, "v bt"]:
    """What the drawn token is the largest of: logits, those of tokens that may not be drawn -inf.

    keys: from row_keys. positions: of the tokens in their answers.
    """
    logits = logits / options.temperature
    if options.top_p < 1.0 or options.min_p > 0.0:
        logits = jnp.where(logits >= _least(logits, options), logits, -jnp.inf)
    rows = jax.random.wrap_key_data(keys, impl=_KEYS)
    of_token = jax.vmap(lambda key, own: jax.vmap(lambda position: jax.random.fold_in(key, position))(own))
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (len(logits),)))(of_token(rows, positions).reshape(-1))
    return logits + noise.T


def _least(logits: Float[Array, "v bt"], options: SamplingOptions) -> Float[Array, "bt"]:
    """The smallest logit that may be drawn."""
    least = jnp.full(logits.shape[1], -jnp.inf)
    most = jnp.max(logits, axis=0)
    if options.min_p > 0.0:
        least = most + jnp.log(jnp.float32(options.min_p))
    if options.top_p < 1.0:
        descending = -jnp.sort(-logits, axis=0)
        shares = jax.nn.softmax(descending, axis=0)
        is_kept = jnp.cumsum(shares, axis=0) - shares < options.top_p
        least = jnp.maximum(least, jnp.min(jnp.where(is_kept, descending, jnp.inf), axis=0))
    return jnp.minimum(least, most)
