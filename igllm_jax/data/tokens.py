"""Text to token ids and back, and small vocabularies for tiny models."""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import combinations, pairwise
from typing import Any

import sentencepiece

from igllm_jax import files, paths
from igllm_jax.data.vocabularies import (
    GENERATION_FILE,
    JSON_FILE,
    MODEL_FILE,
    SETTINGS_FILE,
    SentencePieces,
    TokenizerJson,
    Vocabulary,
    settings_beside,
)
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath
from igllm_jax.scene.code import FLOAT_TOKEN

# What a folder's tokenizer consists of.
TOKENIZER_FILES = (MODEL_FILE, JSON_FILE, SETTINGS_FILE)
# tokenizer.number_token: the float token is a piece of the vocabulary, or added to it; auto: added where it is none.
NUMBER_TOKENS = ("auto", "piece", "added")
_JSON_START = b"{"  # no sentencepiece model begins so, but with a line break's byte
# Pretrained decoders like to break code off in these ways, which no answer contains.
FORBIDDEN_SPELLINGS = ("(\n", "( ", " )")


def find_tokenizer(folder: str | FilePath) -> FilePath | None:
    """The file of a folder's vocabulary, None where there is none; sentencepiece's where there are both, but for
    Gemma's, whose turns end with tokens that only the other says."""
    folder = paths.to_path(folder)
    found = [folder / name for name in (MODEL_FILE, JSON_FILE) if (folder / name).is_file()]
    if len(found) > 1 and b'"Gemma' in _content(folder / SETTINGS_FILE):
        found.reverse()
    return found[0] if found else None


def _content(file: FilePath) -> bytes:
    return file.read_bytes() if file.is_file() else b""


class Tokenizer:
    """A vocabulary. Some put a space before every text they encode, `text_start`, as sentencepiece's do.

    Example (LLaMA's vocabulary): `encode("The scene", bos=True)` is `[1, 450, 9088]`.
    """

    def __init__(self, model: bytes, origin: str, settings: Mapping[str, Any] | None = None):
        """model: the bytes of a sentencepiece model or a tokenizer.json; origin: the name it has in error messages.
        settings: what is known of a tokenizer.json besides, see `vocabularies.settings_beside`."""
        self.model = model
        self.origin = origin
        is_json = model.startswith(_JSON_START)
        try:
            self.vocabulary: Vocabulary = TokenizerJson(model, settings or {}) if is_json else SentencePieces(model)
        except (RuntimeError, ValueError) as error:  # UnicodeDecodeError is a ValueError
            told = str(error) if is_json else f"not a sentencepiece model; give LLaMA's {MODEL_FILE} or its folder"
            raise UserError(f"tokenizer {origin}: {told}") from None
        if not self.vocabulary.end_ids:
            hint = f"keep its {SETTINGS_FILE} beside it" if is_json else f"give LLaMA's {MODEL_FILE}"
            raise UserError(f"tokenizer {origin}: has no end token; {hint}")

    @classmethod
    def load(cls, path: str | FilePath) -> "Tokenizer":
        """The vocabulary in a `tokenizer.model` or `tokenizer.json`, or in a folder that holds one.

        Raises: UserError where there is none.
        """
        path = paths.to_path(path)
        file = (find_tokenizer(path) or path / MODEL_FILE) if path.is_dir() else path
        try:
            model = file.read_bytes()
            if not model.startswith(_JSON_START):
                return cls(model, str(file))
            beside = {name: file.parent / name for name in (SETTINGS_FILE, GENERATION_FILE)}
            found = {name: other.read_bytes() for name, other in beside.items() if other.is_file()}
        except OSError as error:
            raise UserError(f"tokenizer {file}: cannot be read ({error.strerror}); check `tokenizer`") from None
        return cls(model, str(file), _settings(found, file, model))

    def save(self, folder: str | FilePath) -> FilePath:
        """Writes `folder`/tokenizer.model, or tokenizer.json and what belongs to it; returns the vocabulary's path."""
        file = paths.to_path(folder) / self.vocabulary.file_name
        if settings := self.settings():
            files.write_text(file.parent / SETTINGS_FILE, json.dumps(settings, indent=2) + "\n")
        files.write_bytes(file, self.model)
        return file

    def settings(self) -> dict[str, Any]:
        """What stands beside a tokenizer.json: Hugging Face's settings, and all ends of an answer; {} of others."""
        if self.vocabulary.file_name != JSON_FILE:
            return {}
        start = {} if self.bos_id is None else {"bos_token": self.piece(self.bos_id)}
        ends = {"eos_token": self.end_pieces[0], "end_tokens": list(self.end_pieces)}
        return {"tokenizer_class": "PreTrainedTokenizerFast", **start, **ends}

    def for_numbers(self, choice: str) -> "Tokenizer":
        """The same, or one that has the float token added. choice: of NUMBER_TOKENS."""
        if choice == "auto":
            choice = "piece" if self._number_piece() is not None else "added"
        if choice == "piece" or self.has_added_number:
            return self
        return Tokenizer(self.vocabulary.with_piece(FLOAT_TOKEN), self.origin, self.vocabulary.settings)

    @property
    def has_added_number(self) -> bool:
        """Whether the float token was added to a vocabulary that had been trained without it."""
        return self.vocabulary.is_added(self._number_piece())

    def within(self, rows: int) -> "Tokenizer":
        """The same, or one without the control tokens that an embedding of `rows` rows has none for. Gemma 3's text
        models keep one for images, of which no text is made."""
        if self.vocab_size <= rows or self.vocabulary.file_name != JSON_FILE:
            return self
        return Tokenizer(self.vocabulary.without_control_from(rows), self.origin, self.vocabulary.settings)

    def ending_with(self, piece: str) -> "Tokenizer":
        """The same, answers ending with this piece (of a tokenizer.json), or with the others, as before."""
        if not piece or self.vocabulary.file_name != JSON_FILE:
            return self
        return Tokenizer(self.model, self.origin, {"end_tokens": [piece, *self.end_pieces]})

    def __reduce__(self):  # sentencepiece's own pickling loses the bytes that the fingerprint needs
        return Tokenizer, (self.model, self.origin, self.vocabulary.settings)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that stand for the vocabulary's content."""
        ends = "" if self.vocabulary.file_name == MODEL_FILE else json.dumps(self.end_pieces)
        return hashlib.sha256(self.model + ends.encode()).hexdigest()[:16]

    @property
    def vocab_size(self) -> int:
        return self.vocabulary.size

    @property
    def pieces(self) -> list[str]:
        """Every token's piece as sentencepiece spells it."""
        return [self.piece(token) for token in range(self.vocab_size)]

    def piece(self, token: int) -> str:
        return self.vocabulary.piece(token)

    @property
    def bos_id(self) -> int | None:
        """None where texts begin without one."""
        return next(iter(self.vocabulary.start_ids), None)

    @property
    def eos_id(self) -> int:
        return self.end_ids[0]

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Every token that ends an answer, the first of them the one to be taught."""
        return self.vocabulary.end_ids

    @property
    def end_pieces(self) -> tuple[str, ...]:
        return tuple(self.piece(token) for token in self.end_ids)

    @cached_property
    def float_id(self) -> int:
        """The id of the float token.

        Raises: UserError where the vocabulary splits it, so that one number would be several tokens.
        """
        found = self._number_piece()
        if found is None:
            raise UserError(
                f"tokenizer {self.origin}: splits the float token {FLOAT_TOKEN}; use a vocabulary that has it as one "
                "piece (LLaMA's has), let tokenizer.number_token add it, or set head=none to write numbers as text"
            )
        return found

    def _number_piece(self) -> int | None:
        wanted = self.vocabulary.id_of(FLOAT_TOKEN)
        ids = self.encode(f"={FLOAT_TOKEN}, ({FLOAT_TOKEN}, {FLOAT_TOKEN})")
        return wanted if wanted is not None and ids.count(wanted) == 3 else None

    def encode(self, text: str, *, bos: bool = False, control: Iterable[str] = ()) -> list[int]:
        """Token ids of a text, `bos_id` in front where `bos` and there is one.

        control: names of tokens that stand for themselves in this text, as in chat templates.
        Raises: KeyError for such a name that no token has.
        """
        ids = list(self.vocabulary.start_ids) if bos else []
        named = {name: self.vocabulary.id_of(name) for name in control}
        if not named:
            return ids + self.vocabulary.encode(text)
        for part in re.split(f"({'|'.join(map(re.escape, named))})", text):
            token = named.get(part)
            if part in named and token is None:
                raise KeyError(part)
            ids += self.vocabulary.encode(part) if token is None else [token]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; begin and end tokens are silent.

        Raises: ValueError for an id outside the vocabulary.
        """
        ids = [int(token) for token in ids]
        if any(not 0 <= token < self.vocab_size for token in ids):
            raise ValueError(f"a token id lies outside 0..{self.vocab_size - 1} of tokenizer {self.origin}")
        text = self.vocabulary.decode(ids)
        return text if self.vocabulary.file_name == MODEL_FILE else text.removeprefix(self.text_start)

    def surface(self, token: int) -> str:
        """What one token adds in the middle of a text, its leading space included; "" for begin, end and the like."""
        content = self.vocabulary.bytes_of(token)
        try:
            return content.decode()
        except UnicodeDecodeError:  # a part of a character
            return chr(content[0]) if len(content) == 1 else content.decode("utf-8", "replace")

    @cached_property
    def text_start(self) -> str:
        """What `encode` puts before every text: a space, or nothing."""
        return " " if "".join(map(self.surface, self.encode("x"))).startswith(" ") else ""

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
            ids = self.encode(spelling.removeprefix(self.text_start))
            if self.text_start and not spelling.startswith(" ") and ids and self.surface(ids[0]) == " ":
                ids = ids[1:]
            if spelling in "".join(self.surface(token) for token in ids):
                sequences.append(tuple(ids))
        return tuple(sequences)

    def float_token_in_bytes(self) -> tuple[tuple[int, ...], ...]:
        """The float token spelled part by part, in vocabularies that can; decoding never completes that either, since
        its text would ask for a number that nobody read."""
        whole = FLOAT_TOKEN.encode()
        splits = [ends for count in range(len(whole)) for ends in combinations(range(1, len(whole)), count)]
        wanted = [[whole[i:j] for i, j in pairwise((0, *ends, len(whole)))] for ends in splits if ends]
        parts = {part for split in wanted for part in split}
        found: dict[bytes, int] = {}
        for token in range(self.vocab_size):
            if (content := self.vocabulary.bytes_of(token)) in parts:
                found.setdefault(content, token)
        return tuple(tuple(found[part] for part in split) for split in wanted if found.keys() >= set(split))


def _settings(found: Mapping[str, bytes], file: FilePath, model: bytes) -> dict[str, Any]:
    try:
        return settings_beside(found, model)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        several = ", ".join((file.name, *found))
        raise UserError(f"tokenizer {file}: one of {several} is damaged, it is not JSON of a tokenizer") from None


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
