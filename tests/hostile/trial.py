"""One mutated input: made, used, and judged."""

import contextlib
import io
import os
import random
import re
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from igllm_jax.errors import UserError
from tests.hostile.kinds import Kind
from tests.hostile.mutate import Files

SECONDS = 30.0  # that an input may take
LONGEST_LINE = 4000  # characters of an error message
OK, REFUSED = "ok", "refused"
PACKAGE = "igllm_jax"


class Hang(BaseException):
    """An input took too long. No Exception, so that nothing takes it for a fault of the data."""


@dataclass
class Outcome:
    """What one input led to. signature: "" for what is allowed, otherwise what went wrong and where."""

    result: str
    signature: str = ""
    detail: str = ""


@dataclass
class Tally:
    """What many inputs of one kind led to."""

    results: Counter[str] = field(default_factory=Counter)
    failures: dict[str, tuple[int, str]] = field(default_factory=dict)  # signature -> the first seed, and its detail

    @property
    def count(self) -> int:
        return sum(self.results.values())

    def add(self, seed: int, outcome: Outcome) -> None:
        self.results[outcome.result] += 1
        if outcome.signature:
            self.failures.setdefault(outcome.signature, (seed, outcome.detail))


class Trials:
    """Runs inputs of one kind. Everything that is written goes to a folder of its own, caches too."""

    def __init__(self, kind: Kind, home: Path):
        self.kind = kind
        self._home = home
        (home / "valid").mkdir(parents=True)
        with _quiet(), _own_cache(home / "cache"):
            self.valid = kind.make(home / "valid")

    def mutated(self, seed: int) -> Files:
        """The files of one input: a function of the seed."""
        rng = random.Random(seed)
        targets = {name: content for name, content in self.valid.items() if self.kind.is_target(name)}
        others = {name: content for name, content in self.valid.items() if name not in targets}
        return {**others, **self.kind.mutate(rng, targets)}

    def run(self, seed: int) -> Outcome:
        return self.judge(self.mutated(seed))

    def judge(self, files: Files) -> Outcome:
        folder = Path(tempfile.mkdtemp(dir=self._home))
        try:
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            with _quiet() as printed, _own_cache(self._home / "cache"), _no_longer_than(SECONDS):
                outcome = _judged(self.kind, folder)
            said = printed()
            if not outcome.signature and "Traceback (most recent call last)" in said:
                return Outcome("traceback", f"printed: {_place(said)}", said)
            return outcome
        finally:
            for used in (folder, self._home / "cache"):
                shutil.rmtree(used, ignore_errors=True)


def _judged(kind: Kind, folder: Path) -> Outcome:
    try:
        difference = kind.differs(folder, kind.run(folder))
    except UserError as error:
        said = str(error)
        if not said or not said.isprintable() or len(said) > LONGEST_LINE:
            return Outcome("not one line", f"message of {len(said)} characters: {said[:80]!r}", said)
        return Outcome(REFUSED, detail=said)
    except Hang:
        return Outcome("hang", "hang " + _place(traceback.format_exc()), traceback.format_exc())
    except BaseException as error:  # SystemExit and the like too: nothing but UserError is allowed
        name = type(error).__name__
        return Outcome("traceback", f"{name} {_place(traceback.format_exc())}", traceback.format_exc())
    if difference:
        return Outcome("different", f"different: {difference}", difference)
    return Outcome(OK)


def _place(text: str) -> str:
    """The innermost line of ours in a traceback."""
    ours = [line.strip() for line in text.splitlines() if line.strip().startswith("File") and f"{PACKAGE}/" in line]
    if ours:
        return ours[-1].replace(os.getcwd() + "/", "")
    return re.sub(r"\d+", "N", text.strip().splitlines()[-1][:120])


@contextlib.contextmanager
def _quiet() -> Iterator[Callable[[], str]]:
    """Takes what is printed, as strictly as a terminal's encoding does; yields what says what stderr got."""
    out, error = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        yield lambda: error.buffer.getvalue().decode("utf-8", "replace")  # type: ignore[attr-defined]


@contextlib.contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    before = os.environ.get("IGLLM_CACHE")
    os.environ["IGLLM_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["IGLLM_CACHE"]
        else:
            os.environ["IGLLM_CACHE"] = before


@contextlib.contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
