"""What a kind of input is, and the table of them all.

To add a kind: write a function that makes a valid input, one that uses a folder of it through what users call, and
where another reader exists one that says what is silently different; put them in a table beside the part they belong
to, and name the table here.
"""

import importlib.util
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hostile import mutate
from tests.hostile.mutate import Files


def nothing_to_compare(folder: Path, result: Any) -> str:
    return ""


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    make: the valid files, by name below a folder; made once. Those that `is_target` names are mutated.
    run: uses the folder; what it returns goes to `differs`. It may raise UserError, and nothing else.
    differs: what is silently different from an independent reader, "" where nothing is.
    needs: a package without which the kind can't be tried.
    """

    make: Callable[[Path], Files]
    run: Callable[[Path], Any]
    mutate: Callable[[random.Random, Files], Files] = mutate.of_bytes
    differs: Callable[[Path, Any], str] = nothing_to_compare
    is_target: Callable[[str], bool] = lambda name: True
    needs: str = ""

    @property
    def is_possible(self) -> bool:
        return not self.needs or importlib.util.find_spec(self.needs) is not None


def files_below(folder: Path) -> Files:
    """Every file of a folder, by its name below it."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def all_kinds() -> dict[str, Kind]:
    """The kinds of every part, by name."""
    from tests.hostile.command_kinds import COMMAND_KINDS
    from tests.hostile.data_kinds import DATA_KINDS
    from tests.hostile.run_kinds import RUN_KINDS
    from tests.hostile.text_kinds import TEXT_KINDS
    from tests.hostile.weight_kinds import WEIGHT_KINDS

    return {**DATA_KINDS, **RUN_KINDS, **WEIGHT_KINDS, **TEXT_KINDS, **COMMAND_KINDS}
