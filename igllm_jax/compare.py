"""`igllm compare RUN...`: curves and last values of runs side by side.

Runs that differ by their seed alone are one group: its mean, and a 95 % interval from the spread between its runs. What
cannot be read, or has measured nothing yet, is left out and told, with exit code 1.
"""

import csv
import io
from collections.abc import Sequence

from igllm_jax import files, flags, progress
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath
from igllm_jax.report.curves import Interval, RunCurves, RunGroup, group_runs, read_run, shared_metrics
from igllm_jax.report.curves_page import curves_page

COLUMNS = ("what", "runs", "metric", "last", "low", "high", "least", "least_low", "least_high")


def build_parser() -> flags.Parser:
    """The command line of `igllm compare`."""
    parser = flags.Parser(prog="igllm compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=flags.path, metavar="RUN", help="folders that --workdir named")
    parser.add_argument("--metric", action="append", default=[], help="of metrics.jsonl, such as val/loss (repeatable)")
    parser.add_argument("--out", type=flags.path, metavar="FILE.html", help="a page with curves and a table")
    parser.add_argument("--csv", type=flags.path, metavar="FILE.csv", help="the table's numbers")
    parser.add_argument("--title", default="Runs compared", help="what stands on top of the page")
    return parser


def main(arguments: list[str]) -> int:
    """The command."""
    options = build_parser().parse_args(arguments)
    for flag, path in (("--out", options.out), ("--csv", options.csv)):
        files.try_writing(path, flag) if path else None
    folders = list(dict.fromkeys(options.runs))
    runs = read_runs(folders)
    metrics, groups = shared_metrics(runs, options.metric), group_runs(runs)
    for line in table(groups, metrics):
        progress.result(line)
    if options.out:
        files.write_text(options.out, curves_page(groups, metrics, options.title))
    if options.csv:
        files.write_text(options.csv, csv_text(groups, metrics))
    return 0 if len(runs) == len(folders) else 1


def read_runs(folders: Sequence[FilePath]) -> list[RunCurves]:
    """The runs that can be compared; others, as a sweep has them while it goes on, are noted.

    Raises: UserError of the first where none can.
    """
    runs: list[RunCurves] = []
    problems: list[UserError] = []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except UserError as error:
            problems.append(error)
    if not runs:
        raise problems[0]
    for problem in problems:
        progress.note(f"left out: {problem}")
    return runs


def table(groups: Sequence[RunGroup], metrics: Sequence[str]) -> list[str]:
    """Lines for a terminal: one for each group and metric that it has."""
    lines = []
    for group in groups:
        lines.append(f"{group.name} ({len(group.runs)} run{'s' * (len(group.runs) > 1)})")
        found = {metric: (group.final(metric), group.least(metric)) for metric in metrics}
        lines += [f"  {name:32} {last!s:32} least {least}" for name, (last, least) in found.items() if last]
    return lines


def csv_text(groups: Sequence[RunGroup], metrics: Sequence[str]) -> str:
    """COLUMNS, a row for each group and metric that it has; empty where one run has no interval."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for group in groups:
        for metric in metrics:
            last, least = group.final(metric), group.least(metric)
            if last is not None and least is not None:
                writer.writerow([group.name, len(group.runs), metric, *_numbers(last), *_numbers(least)])
    return text.getvalue()


def _numbers(interval: Interval) -> list[str]:
    return ["" if number is None else repr(number) for number in (interval.mean, interval.low, interval.high)]
