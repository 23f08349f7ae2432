"""The words of the code are the field's: names that made readers translate do not come back."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "igllm_jax"
# what a name would be today; a name is wrong where one of its words is: `_placed` and `cut_rows`
WORDS = {
    "assembly": "RunModel", "bones": "skeleton", "nowhere": "NullMetricsWriter", "placer": "ShardingRules",
    "place": "shard, sharding, index, position, folder", "places": "shardings, positions, folders",
    "placed": "sharded, updated", "placing": "sharding", "cut": "shard, split, unfinished", "trust": "acceptance_rate",
    "forgets": "ACCEPTANCE_EMA_WEIGHT",
}  # fmt: skip
# names that are wrong as a whole, and with other words right
NAMES = {
    "Writer": "AnswerGenerator, BaseFolderWriter", "say": "log_line", "ENOUGH": "MIN_ACCEPTANCE_RATE",
    "head_width": "head_dim", "maps": "projections", "again": "recomputed", "watch": "monitor",
    "meeting": "rendezvous", "meet": "intersect",
}  # fmt: skip
# of some rooms alone: elsewhere these are right
IN_ROOMS = {
    "models": {"turn": "apply_rope", "rotations": "rope_cos_sin"},
    "decoding": {"turn": "apply_rope", "rotations": "rope_cos_sin"},
    "interop": {"table": "rules", "tables": "formats"},
    "render": {"cast": "visibility", "coats": "materials", "Coat": "Material"},
}
# phrases of comments, docstrings and messages, and what is meant
PHRASES = {
    r"\bmeets? the vocabulary": "become logits", r"\bbones\b": "skeleton", r"\bassembl(y|ies)\b": "run model",
    r"\bcuts? over\b": "sharded over", r"\bturn(s|ed)? round\b": "transposed", r"\bhead width": "head_dim",
    r"\bcoats?\b": "material", r"\bplacers?\b": "sharding rules", r"\bhash\w* meet": "hashes collide",
}  # fmt: skip
# `place` is where something is in a scene or an image, so rooms that know neither don't have the word
ROOMS_OF_PLACES = {"scene", "render", "report", "refine", "demo.py"}


def identifiers(path):
    """(line, name) of everything that a file names, and its own name."""
    found = {(0, path.stem)}
    for node in ast.walk(ast.parse(path.read_text())):
        line = getattr(node, "lineno", 0)
        for field in ("id", "arg", "attr", "name", "asname"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                found |= {(line, part) for part in name.split(".")}
    return found


def words(name):
    """`MetricsWriter` and `is_used` as metrics, writer, is, used."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def wrong(name, room):
    """What `name` should be called in a room, "" where it is right."""
    own = IN_ROOMS.get(room, {})
    by_word = next((WORDS[word] for word in words(name) if word in WORDS), "")
    return NAMES.get(name) or own.get(name) or by_word


@pytest.mark.parametrize(
    ("name", "is_wrong"),
    [("Writer", True), ("MetricsWriter", False), ("_placed", True), ("replace", False), ("cut_rows", True)],
)
def test_which_names_are_wrong(name, is_wrong):
    assert bool(wrong(name, "models")) == is_wrong


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_are_the_field_s(path):
    room = path.relative_to(PACKAGE).parts[0]
    found = [f"line {line}: {n} (rather {wrong(n, room)})" for line, n in sorted(identifiers(path)) if wrong(n, room)]
    assert not found, f"{path}: {'; '.join(found)}"


def test_no_two_classes_share_a_name():
    files = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert not {name: found for name, found in files.items() if len(found) > 1}


def prose(path):
    """(line, text) of a file's comments and strings."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            yield token.start[0], token.string


def wrong_phrase(text, room):
    """What a text of a room should say, "" where it is right."""
    if room not in ROOMS_OF_PLACES and re.search(r"\bplaces?\b", text, re.IGNORECASE):
        return WORDS["place"]
    return next((better for phrase, better in PHRASES.items() if re.search(phrase, text, re.IGNORECASE)), "")


@pytest.mark.parametrize(
    ("text", "room", "is_wrong"),
    [
        ("positions that meet the vocabulary", "training", True),
        ("rays that meet a face", "render", False),
        ("weights cut over hosts", "weights", True),
        ("the place of a disc", "scene", False),
        ("the place of a row in a batch", "decoding", True),
    ],
)
def test_which_phrases_are_wrong(text, room, is_wrong):
    assert bool(wrong_phrase(text, room)) == is_wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_sentences_have_the_field_s_words_too(path):
    room = path.relative_to(PACKAGE).parts[0]
    found = [f"line {line}: rather {better}" for line, text in prose(path) if (better := wrong_phrase(text, room))]
    assert not found, f"{path}: {'; '.join(found)}"
