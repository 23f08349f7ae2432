"""What decoding is asked, and what comes out."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from igllm_jax.decoding import ngram_drafts
from igllm_jax.decoding.sampling import GREEDY, SamplingOptions


@dataclass(frozen=True)
class DecodeOptions:
    """before, after: token ids of the prompt before (at least the start token) and after the image. end_id: ends an
    answer, as other_ends do. forbidden: id sequences never written.

    vocab_size: of the tokenizer; ids from there on (a padded vocabulary) are never written. num_drafts: tokens guessed
    a step. has_log_probabilities: whether they are kept. sampling: how tokens are chosen. num_samples: answers of each
    image, K, whose prompt and image are computed once.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    max_new_tokens: int
    end_id: int
    number_id: int
    vocab_size: int
    forbidden: tuple[tuple[int, ...], ...]
    num_drafts: int = 0
    has_log_probabilities: bool = False
    sampling: SamplingOptions = GREEDY
    num_samples: int = 1
    other_ends: tuple[int, ...] = ()

    def is_end(self, tokens: Any) -> Any:
        """bool, as tokens: which of them end an answer."""
        found = tokens == self.end_id
        for token in self.other_ends:
            found |= tokens == token
        return found

    def goes_on(self, tokens: Any) -> Any:
        """The opposite."""
        found = tokens != self.end_id
        for token in self.other_ends:
            found &= tokens != token
        return found


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Decoded:
    """tokens: int32 [B, N], what follows an end token filled with `end_id`. numbers: float32 [B, N],
    the float head's reading where the token is the float token, 0 elsewhere. lengths: int32 [B], tokens before the end
    (N where the end never came). is_finite: bool [B], whether all logits and numbers of the row were. num_steps: int32
    [], passes over the weights after the prefill. table: what the next batch guesses from, see ngram_drafts.py; None
    without guesses."""

    tokens: jax.Array | np.ndarray
    numbers: jax.Array | np.ndarray
    lengths: jax.Array | np.ndarray
    is_finite: jax.Array | np.ndarray
    num_steps: jax.Array | np.ndarray
    table: ngram_drafts.Table | None
    log_probabilities: jax.Array | np.ndarray | None = None
