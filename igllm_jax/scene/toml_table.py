"""Tables of a TOML file, read key by key; what is missing, unknown or of another kind is said by file, line and key."""

import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from igllm_jax.errors import UserError

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"^\s*(\"[^\"]*\"|[\w.-]+)\s*=")
_REQUIRED: Any = object()
LARGEST = 1e15  # of a number: its square must stay a float32
LARGEST_INTEGER = 2**31 - 1

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class KeyLines:
    """A file's name in messages, and the line (from 1) on which each of its keys stands."""

    origin: str
    lines: Mapping[Path, int]

    def error(self, path: Path, said: str) -> UserError:
        """One line: file, line, key, and what is `said` of it. The line is that of the nearest key around."""
        near = path
        while near and near not in self.lines:
            near = near[:-1]
        line = f", line {self.lines[near]}" if near else ""
        return UserError(f"{self.origin}{line}: {_shown_path(path)}{said}")


def _shown_path(path: Path) -> str:
    """`functions[1].name` (from 1, as people count) for ("functions", 0, "name")."""
    text = ""
    for part in path:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text and text + " "


def read_table(text: str, origin: str) -> "TomlTable":
    """The top table of a file's text. Raises: UserError where it is not TOML."""
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # no TOML, a number of thousands of digits, nested beyond measure
        raise UserError(f"{origin}: not TOML: {error}") from None
    return TomlTable(values, (), KeyLines(origin, _lines_of(text)))


def _lines_of(text: str) -> dict[Path, int]:
    """Where each key and header stands; entries of arrays of tables are numbered from 0."""
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    here: Path = ()
    for number, line in enumerate(text.split("\n"), 1):
        if header := _HEADER.match(line):
            names = _names(header[2])
            here = (*_numbered(names[:-1], counts), names[-1])
            found.setdefault(here, number)
            if header[1] == "[[":
                counts[here] = counts.get(here, -1) + 1
                here = (*here, counts[here])
                found.setdefault(here, number)
            elif here in counts:
                here = (*here, counts[here])
        elif key := _KEY.match(line):
            found.setdefault((*here, *_names(key[1])), number)
    return found


def _numbered(names: Sequence[str], counts: Mapping[Path, int]) -> Path:
    """The path of a header's names, with the number of the table that each array of tables is at."""
    path: Path = ()
    for name in names:
        path = (*path, name)
        if path in counts:
            path = (*path, counts[path])
    return path


def _is_usable(value: float) -> bool:
    return -LARGEST <= value <= LARGEST  # neither infinite nor NaN, nor an integer beyond every float


def _names(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip('"') for part in dotted.split("."))


class TomlTable:
    """One table. Each method takes one key, in the kind that it names; `finish` says which keys nobody took."""

    def __init__(self, values: Mapping[str, Any], path: Path, source: KeyLines):
        self._values, self.path, self._source = values, path, source
        self._taken: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def error(self, key: str | None, said: str) -> UserError:
        """The error to raise about `key`, or about the whole table."""
        return self._source.error(self.path if key is None else (*self.path, key), said)

    def take(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value as it is."""
        self._taken.add(key)
        if key in self._values:
            return self._values[key]
        if default is _REQUIRED:
            raise self.error(key, "is missing")
        return default

    def _of(self, key: str, default: Any, kinds: type | tuple[type, ...], expected: str) -> Any:
        value = self.take(key, default)
        is_bool = isinstance(value, bool) and bool not in (kinds if isinstance(kinds, tuple) else (kinds,))
        if key in self._values and (is_bool or not isinstance(value, kinds)):
            raise self.error(key, f"must be {expected}, not {value!r}")
        return value

    def text(self, key: str, default: Any = _REQUIRED) -> str:
        return self._of(key, default, str, "text")

    def name(self, key: str, default: Any = _REQUIRED) -> str:
        """A text of letters, digits and `_` that does not begin with a digit."""
        value = self.text(key, default)
        if key in self._values and not value.isidentifier():
            raise self.error(key, f"must be a name of letters, digits and _, not {value!r}")
        return value

    def boolean(self, key: str, default: Any = _REQUIRED) -> bool:
        return self._of(key, default, bool, "true or false")

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        value = self._of(key, default, (int, float), "a number")
        if key in self._values and not _is_usable(value):
            raise self.error(key, f"must be a number of at most {LARGEST:g}, not {str(value)[:60]}")
        return value

    def integer(
        self, key: str, default: Any = _REQUIRED, *, least: int = -LARGEST_INTEGER, most: int = LARGEST_INTEGER
    ) -> int:
        """An integer from `least` to `most`, which is always finite: what counts is multiplied and allocated."""
        value = self._of(key, default, int, "an integer")
        if key in self._values and not least <= value <= most:
            limit = f"{least} or more" if value < least else f"{most} or less"
            raise self.error(key, f"must be {limit}, not {str(value)[:60]}")
        return value

    def choice(self, key: str, choices: Collection[str], default: Any = _REQUIRED) -> str:
        value = self.text(key, default)
        if key in self._values and value not in choices:
            raise self.error(key, f"must be one of {', '.join(choices)}, not {value!r}")
        return value

    def texts(self, key: str, default: Any = _REQUIRED) -> tuple[str, ...]:
        values = self._of(key, default, list, "a list of texts")
        if not all(isinstance(value, str) for value in values):
            raise self.error(key, f"must be a list of texts, not {values!r}")
        return tuple(values)

    def numbers(self, key: str, count: int, default: float) -> tuple[float, ...]:
        """`count` numbers, from a list or one number for all."""
        value = self._of(key, default, (int, float, list), f"a number or a list of {count}")
        values = list(value) if isinstance(value, list) else [value] * count
        are_numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and _is_usable(v) for v in values)
        if len(values) != count or not are_numbers:
            raise self.error(key, f"must be a number or a list of {count} numbers, not {str(value)[:60]}")
        return tuple(float(v) for v in values)

    def table(self, key: str, default: Any = _REQUIRED) -> "TomlTable":
        """A table in this one; an empty one where `default` is {} and it is missing."""
        value = self._of(key, default, dict, "a table")
        return TomlTable(value, (*self.path, key), self._source)

    def tables(self, key: str, default: Any = _REQUIRED) -> "list[TomlTable]":
        values = self._of(key, default, list, "a list of tables")
        if not all(isinstance(value, dict) for value in values):
            raise self.error(key, f"must be a list of tables, not {values!r}")
        return [TomlTable(value, (*self.path, key, index), self._source) for index, value in enumerate(values)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def finish(self) -> None:
        """Raises: UserError for a key that nobody took, with the nearest that somebody asked for."""
        for key in self._values:
            if key not in self._taken:
                near = difflib.get_close_matches(key, self._taken, n=1, cutoff=0.0)
                hint = f"; the nearest that is is {near[0]!r}" if near else ""
                raise self.error(key, f"is not a key of this table{hint}")
