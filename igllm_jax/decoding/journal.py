"""Answers on the disk as they come, so that a command that was killed goes on where it stopped.

Beside the predictions file lies, while it is being made, `OUT.partial.jsonl`: a line that says what was asked, and
lines of answers as they finish (in a bucket, objects below `OUT.partial/`; see line_log.py). A line that was cut off
counts as not written. Where images take each other's slots in a running batch (see stream.py), answers count once
their window has ended, after which nothing is half done; those of a window that had not ended are made again.
`OUT.partial.table` holds what the next window guesses from (see ngram_drafts.py), so that a command that goes on reads
and rounds as one that was never stopped.
"""

import contextlib
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from igllm_jax import files, line_log
from igllm_jax.decoding.answer import Answer
from igllm_jax.decoding.ngram_drafts import Table, empty
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath

_ANSWERS, _IMAGE, _GOES_ON = "answers", "image", "window_goes_on"


Row = TypeVar("Row")


class Journal(Generic[Row]):
    """The journal of one predictions file; of several processes, the first one keeps it.

    about: all that the answers depend on, JSON values. It must be the same for a command that goes on; the batch size
    and the number of processes need not. kind: what is kept of an image, a class with to_json and from_json.
    """

    def __init__(self, out: FilePath, about: Mapping[str, Any], kind: Any = Answer):
        self.out, self.about, self.kind = out, dict(about), kind
        self.path = out.with_name(f"{out.name}.partial.jsonl")
        self.table_path = out.with_name(f"{out.name}.partial.table")
        self._count = 0  # windows
        self._log: line_log.DiskLog | line_log.BucketLog | None = None

    def open(self) -> tuple[dict[str, Row], Table | None]:
        """Image name -> answer, of what was answered before, and what to guess from (None: nothing is known).

        Begins the file where there is none. Raises: UserError where the file is another command's, or the system
        refuses.
        """
        lines = self._lines()
        if lines:
            self._check(lines[0])
        windows, table = self._with_table(_windows(lines[1:]))
        batches = [batch for window in windows for batch in window]
        try:
            rows = [dict(row) for batch in batches for row in batch[_ANSWERS]]
            answers = {row.pop(_IMAGE): self.kind.from_json(row) for row in rows}
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.path}: no journal of answers ({error!r}); remove it to start anew") from None
        self._count = len(windows)
        text = "".join(f"{json.dumps(line)}\n" for line in [self.about, *batches])
        self._log = line_log.open_log(self.path, text)
        return answers, table

    def add(self, answers: Mapping[str, Any], table: Table | None = None, *, goes_on: bool = False) -> None:
        """Writes answers, and, unless their window goes on, what the next one guesses from."""
        batch = {_ANSWERS: [{_IMAGE: name, **answer.to_json()} for name, answer in answers.items()]}
        assert self._log is not None  # opened
        self._log.write(f"{json.dumps(batch | ({_GOES_ON: True} if goes_on else {}))}\n")
        self._log.sync()
        if goes_on:
            return
        self._count += 1
        if table is None:
            self.table_path.unlink(missing_ok=True)
        else:
            found, content = jax.device_get(table), io.BytesIO()
            np.savez(content, entries=found.entries, acceptance_rate=found.acceptance_rate, count=self._count)
            files.write_bytes(self.table_path, content.getvalue(), is_synced=False)

    def remove(self) -> None:
        """Once the predictions file is there."""
        if self._log is not None:
            self._log.close()
        line_log.remove(self.path)
        with contextlib.suppress(OSError):
            self.table_path.unlink()

    def _lines(self) -> list[dict[str, Any]]:
        """Every line up to the first that is not whole."""
        try:
            content = line_log.read(self.path)
            text = "" if content is None else content.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path}: cannot be read ({error}); remove it to start anew") from None
        found: list[dict[str, Any]] = []
        for line in text.split("\n")[:-1]:
            try:
                parsed = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(parsed, dict):
                break
            found.append(parsed)
        return found

    def _check(self, about: Mapping[str, Any]) -> None:
        differing = sorted(key for key in {*about, *self.about} if about.get(key) != self.about.get(key))
        if differing:
            raise UserError(
                f"{self.path} holds answers of another command, with another {', '.join(differing)}: run that one "
                "again to finish them, give another --out, or remove the file to start anew"
            )

    def _with_table(self, windows: list[Any]) -> tuple[list[Any], Table | None]:
        """The windows, and the table after them: of a window that came without its table, the table before it, and the
        window is done again."""
        try:
            with np.load(io.BytesIO(self.table_path.read_bytes())) as found:
                table, count = Table(found["entries"], found["acceptance_rate"]), int(found["count"])
            if _shapes(table) != _shapes(empty()):
                return windows, None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return windows, None
        return (windows[:count], table) if count in (len(windows), len(windows) - 1) else (windows, None)


def _windows(batches: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The lines of each window that has ended."""
    found: list[list[dict[str, Any]]] = []
    current: list[dict[str, Any]] = []
    for batch in batches:
        current.append(batch)
        if not batch.get(_GOES_ON):
            found.append(current)
            current = []
    return found


def _shapes(table: Table) -> list[tuple[Any, ...]]:
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(table)]
