"""Faults, drawn at random: of bytes, of JSON, and of a tar's headers. Each is a function of the random numbers."""

import json
import random
import string
from typing import Any

Files = dict[str, bytes]  # name -> content

_BYTES = (b"\0", b"\xff", b"\n", b'"', b"{", b"[", b"-", b"9", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\0" * 512, b"1e999")
_DEEP = 100_000
# What JSON can hold and a reader may not expect, as it stands in a file, so that what json can't write can be there
_VALUES = (
    "null", "true", "false", "0", "-1", "1", "3", "1e400", "-1e400", "1e39", "NaN", "Infinity", "0.5", "1" * 400,
    "1e-320",
    "9" * 5000, "9223372036854775808", "18446744073709551616", '""', '"\\ud800"', '"\\u0000"', '"\\u202e"', '"a\\nb"',
    '"\'"', '"../../x"', '"/"', '"."', '"1e9"', '"nan"', '"true"', "[]", "{}", "[[]]", "[null]", '{"a": 1}',
    "[1, 2, 3]",
    "[1e39, 0, 0]", '["a", "b"]', '"' + "x" * 3000 + '"', "[" * 900 + "]" * 900,
)  # fmt: skip


def of_bytes(rng: random.Random, files: Files) -> Files:
    """Changes some bytes of one of the files."""
    name = rng.choice(sorted(files))
    return {**files, name: _of_bytes(rng, files[name])}


def _of_bytes(rng: random.Random, content: bytes) -> bytes:
    at, other = sorted((rng.randint(0, len(content)), rng.randint(0, len(content))))
    match rng.randrange(10):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + content[other:]
        case 2:
            return content[:other] + content[at:]
        case 3:
            return content[:at] + rng.choice(_BYTES) + content[at:]
        case 4:
            return content[:at] + bytes(other - at) + content[other:]
        case 5:
            return rng.choice((b"", b"\xff\xfe", b"\xef\xbb\xbf" + content, content + content, content + b"\0"))
        case 6:
            return content[:at] + rng.randbytes(min(64, len(content) - at)) + content[at + 64 :]
        case _:
            changed = bytearray(content)
            for _ in range(rng.choice((1, 1, 1, 2, 8, 100)) if content else 0):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            return bytes(changed)


def of_json(rng: random.Random, files: Files) -> Files:
    """Changes a value, a key or the writing of one of the files that are JSON; now and then bytes of it."""
    name = rng.choice(sorted(name for name in files if name.endswith((".json", ".config"))))
    content = files[name]
    if rng.random() < 0.25:
        return {**files, name: _of_bytes(rng, content)}
    if rng.random() < 0.05:
        odd = (
            b"[" * _DEEP,
            b'{"a":' * _DEEP,
            b"null",
            b"3",
            b'"x"',
            b"[]",
            b"{}",
            b" ",
            content.decode().encode("utf-16"),
        )
        return {**files, name: rng.choice(odd)}
    root = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        root = changed(rng, root)
    return {**files, name: text(root).encode("utf-8", "surrogatepass")}


class _Raw:
    """A value that stands in the file as this text."""

    def __init__(self, text: str):
        self.text = text


def drawn_value(rng: random.Random) -> str:
    """A value as it stands in a file."""
    return rng.choice(_VALUES)


def changed(rng: random.Random, root: Any) -> Any:
    """A JSON-like value with one value or key of it changed; `text` writes it."""
    slots = list(_slots(root))
    if not slots:
        return _Raw(rng.choice(_VALUES))
    holder, key = rng.choice(slots)
    match rng.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(("", "\ud800", "x", key + " ", key.upper()))] = holder.pop(key)
        case 1 | 2:
            other, there = rng.choice(slots)
            if other is not holder or there != key:
                holder[key] = json.loads(json.dumps(other[there], default=lambda raw: raw.text))
        case 3 if isinstance(holder, list):
            holder.insert(key, holder[key])
        case 4 if isinstance(holder[key], str) and holder[key]:
            at = rng.randrange(len(holder[key]))
            holder[key] = (
                holder[key][:at] + rng.choice(string.printable + "\ud800\udfff\u202eé") + holder[key][at + 1 :]
            )
        case 5 if isinstance(holder[key], int | float):
            holder[key] = _Raw(repr(holder[key] * rng.choice((-1, 0, 1e38, 1e300, 1.5, 1e-40))).replace("nan", "NaN"))
        case _:
            holder[key] = _Raw(rng.choice(_VALUES))
    return root


def _slots(value: Any) -> Any:
    """(holder, key) of every value in a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _slots(inner)


def text(value: Any) -> str:
    """JSON, with halves of characters and raw texts as they are."""
    if isinstance(value, _Raw):
        return value.text.replace("inf", "Infinity") if value.text in ("inf", "-inf") else value.text
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(text, value)) + "]"
    return json.dumps(value)


# (first byte, number of bytes) of the fields of a tar's header
_FIELDS = {
    "name": (0, 100), "mode": (100, 8), "uid": (108, 8), "size": (124, 12), "mtime": (136, 12),
    "checksum": (148, 8),
    "type": (156, 1), "linkname": (157, 100), "magic": (257, 8), "prefix": (345, 155), "holes": (386, 97),
    "real": (483, 12),
}  # fmt: skip
_NUMBERS = (
    b"0",
    b"1",
    b"777",
    b"77777777777",
    b"-1",
    b"8",
    b" ",
    b"\x80" + b"\xff" * 11,
    b"\xff" * 12,
    b"\x80\0\0\0\0\0\0\1\0\0\0\0",
)
_TYPES = b"01234567gxLKSMVDNAX\0"


def of_tar(rng: random.Random, files: Files) -> Files:
    """Changes a field of one header, whose checksum then fits again, zeroes a block, or changes bytes."""
    name = next(name for name in files if name.endswith(".tar"))
    content = bytearray(files[name])
    headers = [at for at in range(0, len(content) - 511, 512) if content[at + 257 : at + 262] == b"ustar"]
    choice = rng.random()
    if choice < 0.15 or not headers:
        return {**files, name: _of_bytes(rng, bytes(content))}
    at = rng.choice(headers)
    if choice < 0.25:
        content[at : at + 512] = bytes(512)
        return {**files, name: bytes(content)}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        field = rng.choice(sorted(_FIELDS))
        start, size = _FIELDS[field]
        value = rng.choice(_NUMBERS)
        if field == "type":
            value = bytes([rng.choice(_TYPES)])
        elif field in ("name", "linkname", "prefix"):
            value = rng.choice(
                (b"../x.png", b"/x.png", b"\xff.png", b"0.png", b"\x1b[2J.png", b"", b"a/" * 40 + b"b.png", b".")
            )
        content[at + start : at + start + size] = value[:size].ljust(size, b"\0")
    if rng.random() < 0.9:
        content[at + 148 : at + 156] = b" " * 8
        content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    return {**files, name: bytes(content)}


_SPARSE = ("map", "size", "major", "realsize", "name", "offset", "numbytes", "numblocks")
_KEYWORDS = ("path", "size", "linkpath", "mtime", "hdrcharset", *(f"GNU.sparse.{key}" for key in _SPARSE))
_SETTINGS = (
    b"0",
    b"-1",
    b"1",
    b"512",
    b"1e9",
    b"9" * 30,
    b"",
    b"x",
    b"\xff\xfe",
    b"0,10,20,5",
    b"a/../0.png",
    b"BINARY",
    b"0.png",
    b"1\n2",
)


def of_pax(rng: random.Random, files: Files) -> Files:
    """Puts another record into an extended header, or changes the length that a record says it has."""
    name = next(name for name in files if name.endswith(".tar"))
    content = bytearray(files[name])
    headers = [at for at in range(0, len(content) - 511, 512) if content[at + 257 : at + 262] == b"ustar"]
    extended = [at for at in headers if content[at + 156 : at + 157] in (b"x", b"g")]
    if rng.random() < 0.2 or not extended:
        return of_tar(rng, files)
    at = rng.choice(extended)
    records = b""
    for _ in range(rng.choice((1, 1, 2, 4))):
        line = b" " + rng.choice(_KEYWORDS).encode() + b"=" + rng.choice(_SETTINGS) + b"\n"
        length = next(n for n in range(len(line), len(line) + 8) if n == len(str(n)) + len(line))
        if rng.random() < 0.2:
            length = rng.choice((0, 1, 3, -1, 10**6, 10**30))
        records += str(length).encode() + line
    old = int(content[at + 124 : at + 135].strip(b"\0 ") or b"0", 8)
    kept = bytes(content[at + 512 : at + 512 + old]) if rng.random() < 0.7 else b""
    fresh = kept + records
    content[at + 124 : at + 136] = b"%011o\0" % len(fresh)
    content[at + 148 : at + 156] = b" " * 8
    content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    content[at + 512 : at + 512 + -(-old // 512) * 512] = fresh + bytes(-len(fresh) % 512)
    return {**files, name: bytes(content)}
