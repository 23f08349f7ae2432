"""The two kinds of vocabularies: sentencepiece's `tokenizer.model`, and `tokenizer.json` of Hugging Face's tokenizers.

Both say what every token is, by id, as bytes; `tokens.Tokenizer` says what follows from that.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import sentencepiece

MODEL_FILE, JSON_FILE = "tokenizer.model", "tokenizer.json"
SETTINGS_FILE, GENERATION_FILE = "tokenizer_config.json", "generation_config.json"  # beside a tokenizer.json
# Pieces that end an answer, where nothing beside a tokenizer.json says it.
END_PIECES = ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>")
MOST_TOKENS = 1 << 24
_USER_DEFINED = 4  # sentencepiece's type of a piece that is whole wherever it stands
_CODE = (*range(0x20, 0x7F), ord("\n"))  # bytes that code is written in
_SPACE = "▁"  # how a space is spelled inside a piece


class Vocabulary(ABC):
    """content: the file's bytes. settings: what else is kept beside it, as JSON. size: tokens.

    start_ids: what a text begins with, none or one. end_ids: what ends an answer. unknown_id: of what can't be spelled,
    -1 where there is no such token. has_bytes: whether everything can be spelled. is_merged: whether it is byte pair
    encoding. has_words: whether texts are split before merging, by what stands around.
    """

    file_name: str
    content: bytes
    settings: Mapping[str, Any]
    size: int
    start_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    unknown_id: int
    has_bytes: bool
    is_merged: bool
    has_words: bool

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids of a text, in which nothing stands for a control token."""

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """The text of token ids, control tokens left out."""

    @abstractmethod
    def piece(self, token: int) -> str:
        """A token as sentencepiece would spell it: "▁" for a space, "<0x0A>" for a byte."""

    @abstractmethod
    def id_of(self, piece: str) -> int | None:
        """The token of this name or text, None where there is none."""

    @abstractmethod
    def bytes_of(self, token: int) -> bytes:
        """What a token adds in the middle of a text, b"" for control tokens and what can't be spelled."""

    @abstractmethod
    def is_added(self, token: int | None) -> bool:
        """Whether `with_piece` made this token."""

    @abstractmethod
    def with_piece(self, piece: str) -> bytes:
        """The file with one piece more, the last, that is a token wherever its text stands."""

    def without_control_from(self, size: int) -> bytes:
        """The file without added control tokens from this id on; as it is where it has none."""
        return self.content


class SentencePieces(Vocabulary):
    """A `tokenizer.model`."""

    file_name = MODEL_FILE
    has_words = False

    def __init__(self, content: bytes):
        """Raises: RuntimeError or ValueError for what is no such file."""
        if not content:
            raise ValueError  # which sentencepiece would take for "not given yet", and print so at every use
        self.content, self.settings = content, {}
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=content)
        self.size = self._pieces.vocab_size()
        self.unknown_id = self._pieces.unk_id()
        self.start_ids = (self._pieces.bos_id(),) if self._pieces.bos_id() >= 0 else ()
        self.end_ids = (self._pieces.eos_id(),) if self._pieces.eos_id() >= 0 else ()
        self.has_bytes = any(self._pieces.is_byte(token) for token in range(self.size))
        for token in range(self.size):
            self.bytes_of(token)  # a damaged piece shows itself when it is read

    def encode(self, text: str) -> list[int]:
        return self._pieces.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self._pieces.decode(ids)

    def piece(self, token: int) -> str:
        return self._pieces.id_to_piece(token)

    def id_of(self, piece: str) -> int | None:
        found = self._pieces.piece_to_id(piece)
        return None if found == self.unknown_id else found

    def bytes_of(self, token: int) -> bytes:
        if self._pieces.is_byte(token):
            return bytes([int(self.piece(token)[3:-1], 16)])
        if self._pieces.is_control(token) or self._pieces.is_unknown(token):
            return b""
        return self.piece(token).replace(_SPACE, " ").encode()

    @cached_property
    def is_merged(self) -> bool:  # type: ignore[override]
        spec = self._model().trainer_spec
        return spec.model_type == spec.BPE

    def is_added(self, token: int | None) -> bool:
        return token == self.size - 1 and self._model().pieces[-1].type == _USER_DEFINED

    def with_piece(self, piece: str) -> bytes:
        model = self._model()
        found = [entry for entry in model.pieces if entry.piece == piece] or [model.pieces.add(piece=piece)]
        found[0].type = _USER_DEFINED
        return model.SerializeToString()

    def _model(self) -> Any:
        from sentencepiece import sentencepiece_model_pb2  # needs protobuf, which takes a moment

        return sentencepiece_model_pb2.ModelProto.FromString(self.content)  # type: ignore[attr-defined]


class TokenizerJson(Vocabulary):
    """A `tokenizer.json` whose pieces are spelled in bytes: byte-level, or with a byte for what has no piece."""

    file_name = JSON_FILE

    def __init__(self, content: bytes, settings: Mapping[str, Any]):
        """settings: of the files beside it (see `settings_beside`), for what the file itself does not say.

        Raises: ValueError, with what is wrong, for what is no such file.
        """
        import tokenizers  # takes a moment, and most vocabularies are sentencepiece's

        self.content, self.settings = content, settings
        try:
            text = content.decode("utf-8")
            described = json.loads(text)
            _check_model(described.get("model"))
            self._pieces = tokenizers.Tokenizer.from_str(text)
            self._open(described)
        except Exception as error:  # the library raises bare Exceptions, and a damaged file whatever it leads to
            told = " ".join(str(error).split())[:200]
            raise ValueError(f"not a tokenizer.json of pieces that are spelled in bytes ({told})") from None

    def _open(self, described: Mapping[str, Any]) -> None:
        self._pieces.no_padding()
        self._pieces.no_truncation()
        self._pieces.encode_special_tokens = True  # of a text: what a label says must not become a control token
        model = described["model"]
        self._is_byte_level = _has_part(described.get("decoder"), "ByteLevel")
        self.is_merged = model.get("type", "BPE") == "BPE"
        self.has_bytes = self._is_byte_level or bool(model.get("byte_fallback"))
        if not self.has_bytes:
            raise ValueError("neither byte-level nor with byte_fallback")
        self.has_words = described.get("pre_tokenizer") is not None
        self._added = added = self._pieces.get_added_tokens_decoder()
        self._control = {token for token, about in added.items() if about.special}
        vocab = self._pieces.get_vocab(with_added_tokens=True)
        self.size = max(vocab.values()) + 1
        self._spelled = [""] * self.size
        for piece, token in vocab.items():
            self._spelled[token] = piece
        unknown = model.get("unk_token")
        self.unknown_id = vocab.get(unknown, -1) if isinstance(unknown, str) else -1
        self._bytes = [self._read(token, token in added) for token in range(self.size)]
        spelled = set(self._bytes)
        absent = [chr(byte) for byte in _CODE if bytes([byte]) not in spelled]
        if absent:
            raise ValueError(f"it has no pieces for {absent}")
        self.start_ids = self._starts()
        self.end_ids = self._ends(vocab)

    def _read(self, token: int, is_added: bool) -> bytes:
        piece = self._spelled[token]
        if token in self._control or token == self.unknown_id:
            return b""
        if is_added:
            return piece.encode()
        if self._is_byte_level:
            return bytes(_BYTES[character] for character in piece)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:-1], 16)])
        return piece.replace(_SPACE, " ").encode()

    def _starts(self) -> tuple[int, ...]:
        """What the file's own template puts before a text."""
        inside, whole = (self._pieces.encode("a", add_special_tokens=add).ids for add in (False, True))
        return tuple(whole[: whole.index(inside[0])])

    def _ends(self, vocab: Mapping[str, int]) -> tuple[int, ...]:
        """Those that the settings name; the first of END_PIECES where they name none."""
        named = [vocab[piece] for piece in self.settings.get("end_tokens", ()) if piece in vocab]
        found = named or [vocab[piece] for piece in END_PIECES if piece in vocab][:1]
        return tuple(dict.fromkeys(found))

    def encode(self, text: str) -> list[int]:
        return self._pieces.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return b"".join(self._bytes[token] for token in ids).decode("utf-8", "replace")

    def piece(self, token: int) -> str:
        content = self._bytes[token]
        if len(content) == 1 and not 0x20 <= content[0] < 0x7F:
            return f"<0x{content[0]:02X}>"
        try:
            return content.decode().replace(" ", _SPACE) or self._spelled[token]
        except UnicodeDecodeError:
            return self._spelled[token]

    def id_of(self, piece: str) -> int | None:
        found = self._pieces.token_to_id(piece)
        if found is None and self._is_byte_level:
            found = self._pieces.token_to_id("".join(_CHARACTERS[byte] for byte in piece.encode()))
        return found

    def bytes_of(self, token: int) -> bytes:
        return self._bytes[token]

    def is_added(self, token: int | None) -> bool:
        return token in self._added and token not in self._control

    def with_piece(self, piece: str) -> bytes:
        import tokenizers

        copy = tokenizers.Tokenizer.from_str(self.content.decode())
        copy.add_tokens([tokenizers.AddedToken(piece, normalized=False)])
        return copy.to_str().encode()

    def without_control_from(self, size: int) -> bytes:
        described = json.loads(self.content)
        beyond = {entry["content"] for entry in described["added_tokens"] if entry["special"] and entry["id"] >= size}
        described["added_tokens"] = [entry for entry in described["added_tokens"] if entry["content"] not in beyond]
        vocab = described["model"]["vocab"]
        if isinstance(vocab, dict):
            described["model"]["vocab"] = {piece: token for piece, token in vocab.items() if piece not in beyond}
        return json.dumps(described, ensure_ascii=False).encode()


def _check_model(model: Any) -> None:
    """Raises: ValueError for what the library itself would end the process at."""
    if not isinstance(model, dict):
        raise ValueError("it has no model")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ValueError(f"model.{key} is {model[key]!r}")
    vocab = model.get("vocab")
    ids = vocab.values() if isinstance(vocab, dict) else ()
    if any(type(token) is not int or not 0 <= token < MOST_TOKENS for token in ids):
        raise ValueError(f"model.vocab has ids that are no number from 0 to {MOST_TOKENS - 1}")


def _has_part(part: Any, kind: str) -> bool:
    """Whether a part of a tokenizer.json is of this type, or a sequence with such a one."""
    if isinstance(part, dict):
        return part.get("type") == kind or any(_has_part(value, kind) for value in part.values())
    return isinstance(part, list) and any(_has_part(value, kind) for value in part)


def _byte_characters() -> dict[int, str]:
    """Byte -> the character that byte-level pieces have for it: printable ones of Latin-1 as themselves, the others
    from U+0100 on, in order.

    Source: GPT-2's encoder.py, `bytes_to_unicode`.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + rank) for rank, byte in enumerate(others)}


_CHARACTERS = _byte_characters()
_BYTES = {character: byte for byte, character in _CHARACTERS.items()}


def settings_beside(files: Mapping[str, bytes], content: bytes) -> dict[str, Any]:
    """What a folder says of its tokenizer.json beside it. files: name -> bytes of SETTINGS_FILE and GENERATION_FILE, as
    far as they are there. content: of the tokenizer.json.

    Returns: {"end_tokens": [piece, ...]}, empty where nothing is said. Raises: ValueError for a file that is no JSON.
    """
    about, generation = (json.loads(files.get(name, b"{}")) for name in (SETTINGS_FILE, GENERATION_FILE))
    ids = generation.get("eos_token_id")
    ids = ids if isinstance(ids, list) else [ids]
    spelled = {entry["id"]: entry["content"] for entry in json.loads(content).get("added_tokens", ())}
    eos = about.get("eos_token")
    named = [eos.get("content") if isinstance(eos, dict) else eos, *about.get("end_tokens", ())]
    found = [piece for piece in (*named, *(spelled.get(token) for token in ids)) if isinstance(piece, str)]
    return {"end_tokens": list(dict.fromkeys(found))} if found else {}
