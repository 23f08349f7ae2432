"""Text to token ids and back, with sentencepiece alone, and small vocabularies for tiny models."""

import hashlib
import io
import re
from collections.abc import Iterable
from functools import cached_property

import sentencepiece

from igllm_jax import files, paths
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath
from igllm_jax.scene.code import FLOAT_TOKEN

MODEL_FILE = "tokenizer.model"
# Pretrained decoders like to break code off in these ways, which no answer contains.
FORBIDDEN_SPELLINGS = ("(\n", "( ", " )")
_SPACE = "▁"  # how sentencepiece spells a space inside a piece


class Tokenizer:
    """A sentencepiece vocabulary. Every `encode` puts sentencepiece's dummy space before the text.

    Example (LLaMA's vocabulary): `encode("The scene", bos=True)` is `[1, 450, 9088]`.
    """

    def __init__(self, model: bytes, origin: str):
        """model: the bytes of a sentencepiece model; origin: the name it has in error messages."""
        self.model = model
        self.origin = origin
        try:
            if not model:
                raise ValueError  # which sentencepiece would take for "not given yet", and print so at every use
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
            for token in range(self._pieces.vocab_size()):
                self.surface(token)  # a damaged piece shows itself when it is read
        except (RuntimeError, ValueError):  # UnicodeDecodeError is a ValueError
            raise UserError(
                f"tokenizer {origin}: not a sentencepiece model; give LLaMA's {MODEL_FILE} or its folder"
            ) from None
        if self.bos_id < 0 or self.eos_id < 0:
            raise UserError(f"tokenizer {origin}: has no begin or no end token; give LLaMA's {MODEL_FILE}")

    @classmethod
    def load(cls, path: str | FilePath) -> "Tokenizer":
        """The vocabulary in a `tokenizer.model`, or in a folder that holds one.

        Raises: UserError where there is none.
        """
        path = paths.to_path(path)
        file = path / MODEL_FILE if path.is_dir() else path
        try:
            model = file.read_bytes()
        except OSError as error:
            raise UserError(f"tokenizer {file}: cannot be read ({error.strerror}); check `tokenizer`") from None
        return cls(model, str(file))

    def save(self, folder: str | FilePath) -> FilePath:
        """Writes `folder`/tokenizer.model, whole or not at all; returns its path."""
        folder = paths.to_path(folder)
        files.write_bytes(folder / MODEL_FILE, self.model)
        return folder / MODEL_FILE

    def __reduce__(self):  # sentencepiece's own pickling loses the bytes that the fingerprint needs
        return Tokenizer, (self.model, self.origin)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that stand for the vocabulary's content."""
        return hashlib.sha256(self.model).hexdigest()[:16]

    @property
    def vocab_size(self) -> int:
        return self._pieces.vocab_size()

    @property
    def pieces(self) -> list[str]:
        """Every token's piece as sentencepiece spells it."""
        return [self._pieces.id_to_piece(token) for token in range(self.vocab_size)]

    @property
    def bos_id(self) -> int:
        return self._pieces.bos_id()

    @property
    def eos_id(self) -> int:
        return self._pieces.eos_id()

    @cached_property
    def float_id(self) -> int:
        """The id of the float token.

        Raises: UserError where the vocabulary splits it, so that one number would be several tokens.
        """
        wanted = self._pieces.piece_to_id(FLOAT_TOKEN)
        ids = self.encode(f"={FLOAT_TOKEN}, ({FLOAT_TOKEN})")
        if wanted == self._pieces.unk_id() or ids.count(wanted) != 2:
            raise UserError(
                f"tokenizer {self.origin}: splits the float token {FLOAT_TOKEN}; use a vocabulary that has it as one "
                "piece (LLaMA's has), or set head=none to write numbers as text"
            )
        return wanted

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        """Token ids of a text, `bos_id` in front where `bos`."""
        ids = self._pieces.encode(text)
        return [self.bos_id, *ids] if bos else ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; begin and end tokens are silent.

        Raises: ValueError for an id outside the vocabulary.
        """
        ids = [int(token) for token in ids]
        if any(not 0 <= token < self.vocab_size for token in ids):
            raise ValueError(f"a token id lies outside 0..{self.vocab_size - 1} of tokenizer {self.origin}")
        return self._pieces.decode(ids)

    def surface(self, token: int) -> str:
        """What one token adds in the middle of a text, its leading space included; "" for begin, end and the like."""
        if self._pieces.is_byte(token):
            return chr(int(self._pieces.id_to_piece(token)[3:-1], 16))  # right for ASCII, all that is asked here
        if self._pieces.is_control(token) or self._pieces.is_unknown(token):
            return ""
        return self._pieces.id_to_piece(token).replace(_SPACE, " ")

    @cached_property
    def splits_digits(self) -> bool:
        """Whether every digit is a token of its own, so that the digits of a number do not change its length."""
        surfaces = (self.surface(token) for token in range(self.vocab_size))
        return not any(len(surface) > 1 and re.search(r"\d", surface) for surface in surfaces)

    @cached_property
    def splits_lines(self) -> bool:
        """Whether no token reaches across a line break, so that the lines of a text can be counted one by one."""
        return not any("\n" in self.surface(token) and len(self.surface(token)) > 1 for token in range(self.vocab_size))

    def forbidden_sequences(self) -> tuple[tuple[int, ...], ...]:
        """The token sequences that spell FORBIDDEN_SPELLINGS; decoding never completes one.

        A sequence is kept only if its tokens, put together, really contain the spelling. No legal answer contains a
        spelling, so none contains such a sequence. (A vocabulary that drops blanks would make `( ` into a bare
        bracket, and forbidding that would forbid every answer.)

        Example: LLaMA's vocabulary gives ((313, 13), (313, 29871), (1723,)).
        """
        sequences = []
        for spelling in FORBIDDEN_SPELLINGS:
            # The dummy space stands in for the spelling's own first one, or is taken off again.
            ids = self.encode(spelling.lstrip(" "))
            if not spelling.startswith(" ") and ids and self.surface(ids[0]) == " ":
                ids = ids[1:]
            if spelling in "".join(self.surface(token) for token in ids):
                sequences.append(tuple(ids))
        return tuple(sequences)

    def float_token_in_bytes(self) -> tuple[tuple[int, ...], ...]:
        """The float token spelled byte by byte, in vocabularies that can; decoding never completes that either, since
        its text would ask for a number that nobody read."""
        ids = [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in FLOAT_TOKEN.encode()]
        return (tuple(ids),) if all(self._pieces.is_byte(token) for token in ids) else ()


def train_small(texts: Iterable[str], folder: str | FilePath, vocab_size: int = 400) -> Tokenizer:
    """Trains a small vocabulary with the float token whole and digits single, and saves it in `folder`.

    vocab_size: at most so many pieces; texts with few words have fewer. The same texts give the same bytes.
    Lines are learned one by one, as LLaMA's vocabulary has the line break as a byte of its own.
    """
    lines = [line for text in texts for line in text.split("\n") if line]
    while True:
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                model_type="bpe",
                vocab_size=vocab_size,
                user_defined_symbols=[FLOAT_TOKEN],
                byte_fallback=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                split_digits=True,
                # "material='metal'," may be one piece: rows half as long, which is what a small model's time goes into
                split_by_unicode_script=False,
                max_sentencepiece_length=32,
                character_coverage=1.0,
                max_sentence_length=1 << 20,
                num_threads=1,  # the order of counting must not depend on the machine
                unk_id=0,
                bos_id=1,
                eos_id=2,
                pad_id=-1,
                minloglevel=2,
            )
            break
        except RuntimeError as error:
            possible = re.search(r"value <= (\d+)", str(error))
            if possible is None or int(possible[1]) >= vocab_size:
                raise UserError(
                    f"no vocabulary of {vocab_size} pieces comes out of {len(lines)} lines: {error}"
                ) from None
            vocab_size = int(possible[1])
    tokenizer = Tokenizer(model.getvalue(), str(paths.to_path(folder) / MODEL_FILE))
    tokenizer.save(folder)
    return tokenizer
