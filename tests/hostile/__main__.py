"""Tries mutated inputs for some minutes, kind by kind in turn, and says what they led to."""

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.hostile.kinds import all_kinds
from tests.hostile.report import counts_of, write_table
from tests.hostile.trial import Tally, Trials

_SECONDS_IN_TURN = 5.0
_PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def campaign(names: Sequence[str], *, minutes: float, least: int, seed: int, keep: Path | None) -> dict[str, Tally]:
    """The kinds in turn, until the time is over and every one has had `least` inputs.

    keep: where the input that a fault was found with is put, as it was. The same seed gives the same inputs.
    """
    kinds = all_kinds()
    tallies = {name: Tally() for name in names}
    with tempfile.TemporaryDirectory() as home:
        trials = {name: Trials(kinds[name], Path(home) / name.replace(" ", "_")) for name in names}
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end or any(tally.count < least for tally in tallies.values()):
            for name in names:
                if time.monotonic() >= end and tallies[name].count >= least:
                    continue
                _turn(name, trials[name], tallies[name], seed, keep)
    return tallies


def _turn(name: str, trials: Trials, tally: Tally, seed: int, keep: Path | None) -> None:
    stop = time.monotonic() + _SECONDS_IN_TURN
    while time.monotonic() < stop:
        own = seed + tally.count
        outcome = trials.run(own)
        is_new = outcome.signature and outcome.signature not in tally.failures
        tally.add(own, outcome)
        if is_new:
            print(f"{name}, seed {own}: {outcome.signature}", flush=True)
            if keep is not None:
                folder = keep / name.replace(" ", "_") / str(own)
                for file, content in trials.mutated(own).items():
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    (folder / file).write_bytes(content)
                (folder / "OUTCOME.txt").write_text(outcome.detail)


def main(argv: Sequence[str]) -> int:
    kinds = all_kinds()
    names = [name for name, kind in kinds.items() if kind.is_possible]
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--least", type=int, default=0, help="inputs of every kind, however long that takes")
    parser.add_argument("--kinds", nargs="*", choices=names, default=names, metavar="KIND", help=", ".join(names))
    parser.add_argument("--seed", type=int, default=0, help="the first input's; the others follow it")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that faults were found with")
    parser.add_argument("--counts", type=Path, help="adds what earlier sessions counted there, and keeps the sum there")
    parser.add_argument("--table", action="store_true", help=f"write the table of {_PAGE.name}")
    options = parser.parse_args(argv)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # as the command line does
    for name in sorted(set(kinds) - set(names)):
        print(f"{name}: left out, it needs {kinds[name].needs}")
    tallies = campaign(
        options.kinds, minutes=options.minutes, least=options.least, seed=options.seed, keep=options.keep
    )
    for name, tally in tallies.items():
        print(
            f"{name:20} {tally.count:7} inputs: {', '.join(f'{n} {what}' for what, n in tally.results.most_common())}"
        )
        for signature, (seed, _) in tally.failures.items():
            print(f"    seed {seed}: {signature}")
    counted = counts_of(tallies, options.counts)
    if options.table:
        write_table(_PAGE, counted)
    total, faults = sum(t.count for t in tallies.values()), sum(len(t.failures) for t in tallies.values())
    print(f"{total} inputs, {faults} distinct faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
