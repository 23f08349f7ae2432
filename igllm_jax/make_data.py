"""`igllm make-data TASK --out DIR`: own data sets in the layout of the released ones."""

import argparse
import sys
import time
from pathlib import Path
from typing import NoReturn

from igllm_jax.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def _at_least(lowest: int):
    """An argparse type: a whole number not below `lowest`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {lowest}, got {text!r}")
        return value

    return parse


def build_parser() -> argparse.ArgumentParser:
    """The command line of `igllm make-data`."""
    parser = _Parser(prog="igllm make-data", description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True, parser_class=_Parser)
    twod = tasks.add_parser("twod", help="points of the plane: 2d.npz with two checkerboards and the whole square")
    twod.add_argument("--num_train", type=_at_least(1), default=10_000, help="points per checkerboard")
    twod.add_argument("--num_val", type=_at_least(1), default=1_000, help="points of the split `random`")
    for task in (twod,):
        task.add_argument("--out", type=Path, required=True, help="folder to write into (made if missing)")
        task.add_argument("--seed", type=_at_least(0), default=0)
        task.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    return parser


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code. Raises: UserError for anything the user can mend."""
    arguments = build_parser().parse_args(argv)
    start = time.monotonic()
    if arguments.task == "twod":
        from igllm_jax.painter.twod import write_twod

        written = [
            write_twod(
                arguments.out,
                num_train=arguments.num_train,
                num_val=arguments.num_val,
                seed=arguments.seed,
                overwrite=arguments.overwrite,
            )
        ]
    for path in written:
        print(path)
    print(f"made in {time.monotonic() - start:.1f} s", file=sys.stderr)
    return 0
