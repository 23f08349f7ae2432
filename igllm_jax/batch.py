"""What travels from the data to the model: one batch of images and text rows. A leaf: every module may import it."""

from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class PromptLayout:
    """Where the image and the answer sit in every row; static, because the prompt is the same for every example.

    image_offset: number of text tokens before the image (BOS included).
    answer_offset: number of text tokens before the answer, both parts of the prompt together (image slots not counted).

    Example: `[BOS, A, <image>, B, C, answer...]` has image_offset 2 and answer_offset 4.
    """

    image_offset: int
    answer_offset: int

    @property
    def answer(self) -> slice:
        """Of T text tokens: those of the answer, the only ones that may be learned."""
        return slice(self.answer_offset, None)

    def predicts_answer(self, num_image_tokens: int) -> slice:
        """Of T + I positions (image slots included): those whose hidden states predict the tokens `answer`, in order.

        This is the one owner of the shift by one between states and the tokens they predict: the state at a position
        predicts the token after it, so the first one sits on the prompt's last token, and the row's last is left out.
        """
        return slice(self.answer_offset + num_image_tokens - 1, -1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """B rows of T text tokens, right-padded, image slots left out (the model puts I of them at `image_offset`).

    images: uint8 [B, S, S, 3], padded and resized, not yet normalised (that happens on the device).
    tokens: int32 [B, T]; padding is any legal id.
    is_answer: bool [B, T], selects the learned tokens: the answer and its end token.
    is_number: bool [B, T], selects the float tokens (a subset of is_answer).
    numbers: float32 [B, T], the value of the float token at that position, 0 elsewhere.
    weight: float32 [B], 1 for an example, 0 for a row that only fills the batch.

    Example: a row whose answer starts at position 4 has is_answer[:4] all False; which hidden state predicts tokens[4]
    is said by `PromptLayout.predicts_answer`.
    """

    images: Any
    tokens: Any
    is_answer: Any
    is_number: Any
    numbers: Any
    weight: Any
