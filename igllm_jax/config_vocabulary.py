"""A run's tokenizer by its config, and the model's rows for what was added to it."""

from ml_collections import ConfigDict

from igllm_jax.data.tokens import Tokenizer, find_tokenizer
from igllm_jax.errors import UserError
from igllm_jax.models.number_row import room
from igllm_jax.paths import FilePath
from igllm_jax.training.optim import FROZEN, groups

EMBEDDING = "decoder/embedding"


def tokenizer_source(config: ConfigDict, workdir: FilePath) -> str | FilePath | None:
    """Where a run's tokenizer comes from: the workdir where it has one, the config's, or the base's; None where a small
    one is to be trained. Raises: UserError where none is named."""
    if find_tokenizer(workdir) is not None:
        return workdir
    if config.tokenizer.train_vocab_size:
        return None
    if config.tokenizer.path or config.model.base:
        return str(config.tokenizer.path or config.model.base)
    raise UserError("no tokenizer: set tokenizer.path, model.base, or tokenizer.train_vocab_size for a small one")


def with_number_token(config: ConfigDict, tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer as a run with this config begins with it."""
    return tokenizer if config.head == "none" else tokenizer.for_numbers(config.tokenizer.number_token)


def fit_vocabulary(config: ConfigDict, tokenizer: Tokenizer) -> None:
    """Gives the model the size of a tokenizer that was trained, and room and rows that train for an added float token.

    Raises: UserError where another one is too large.
    """
    decoder, vocab_size = config.model.decoder, tokenizer.vocab_size
    if config.tokenizer.train_vocab_size:
        decoder.vocab_size = vocab_size
    elif config.head != "none" and tokenizer.has_added_number:
        if decoder.vocab_size == vocab_size - 1:  # no row was to spare
            decoder.vocab_size = room(decoder.vocab_size, vocab_size)
        if groups([EMBEDDING], config.optim.trainable)[EMBEDDING] == FROZEN:
            decoder.number_row = tokenizer.float_id
    if decoder.vocab_size < vocab_size:
        raise UserError(f"model.decoder.vocab_size {decoder.vocab_size} is smaller than the tokenizer's {vocab_size}")
