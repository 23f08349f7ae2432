"""Faults of files in a folder and of records in a zip, drawn at random; and of TOML, which has the shape of JSON."""

import io
import json
import random
import tomllib
import zipfile
from typing import Any

from tests.hostile import mutate
from tests.hostile.mutate import Files


def of_folder(rng: random.Random, files: Files) -> Files:
    """One file or two are changed, emptied, truncated, taken away, or get another one's content; or a folder goes."""
    changed = dict(files)
    for _ in range(rng.choice((1, 1, 1, 2))):
        name = rng.choice(sorted(changed))
        match rng.randrange(8):
            case 0:
                del changed[name]
            case 1:
                changed[name] = changed[rng.choice(sorted(changed))]
            case 2:
                other = rng.choice(sorted(changed))
                changed[name], changed[other] = changed[other], changed[name]
            case 3:
                changed[name] = changed[name][: rng.randrange(len(changed[name]) + 1)]
            case 4 if "/" in name and rng.random() < 0.3:
                folder = name.rpartition("/")[0] + "/"
                changed = {other: content for other, content in changed.items() if not other.startswith(folder)}
            case 5 if _is_json(changed[name]):
                changed[name] = mutate.of_json(rng, {"x.json": changed[name]})["x.json"]
            case _:
                changed[name] = mutate.of_bytes(rng, {name: changed[name]})[name]
        if not changed:
            break
    return changed


def _is_json(content: bytes) -> bool:
    try:
        return bool(content.strip()[:1] == b"{" and json.loads(content))
    except ValueError:
        return False


def of_zip(rng: random.Random, files: Files) -> Files:
    """Changes bytes of one record of a zip, whose checksum then fits again; drops, doubles or renames records."""
    name = rng.choice(sorted(files))
    if rng.random() < 0.4 or not zipfile.is_zipfile(io.BytesIO(files[name])):
        return {**files, name: mutate.of_bytes(rng, {name: files[name]})[name]}
    with zipfile.ZipFile(io.BytesIO(files[name])) as old:
        records = [(entry.filename, old.read(entry)) for entry in old.infolist()]
    at = rng.randrange(len(records))
    inner, content = records[at]
    match rng.randrange(8):
        case 0:
            del records[at]
        case 1:
            records[at] = (inner + rng.choice(("x", "/", "é")), content)
        case 2:
            other = rng.randrange(len(records))
            records[at], records[other] = (inner, records[other][1]), (records[other][0], content)
        case _:
            records[at] = (inner, mutate.of_bytes(rng, {inner: content})[inner])
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as new:
        for inner, content in records:
            new.writestr(inner, content)
    return {**files, name: whole.getvalue()}


def of_toml(rng: random.Random, files: Files) -> Files:
    """Changes a value or a key of a TOML file, or its lines, or bytes of it."""
    name = rng.choice(sorted(name for name in files if name.endswith(".toml")))
    content = files[name]
    choice = rng.random()
    if choice < 0.15:
        return {**files, name: mutate.of_bytes(rng, {name: content})[name]}
    if choice < 0.45:
        return {**files, name: _of_lines(rng, content)}
    root = tomllib.loads(content.decode())
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        root = mutate.changed(rng, root)
    written = "".join(f"{json.dumps(key)} = {_toml(value)}\n" for key, value in root.items())
    return {**files, name: written.encode("utf-8", "surrogatepass")}


def _of_lines(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[other])
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case _:
            key = lines[at].partition(b"=")[0]
            lines[at] = key + b"= " + mutate.drawn_value(rng).encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def _toml(value: Any) -> str:
    """A value as TOML writes it on one line; what is mutated stands as it is."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return mutate.text(value)
