"""Reports side by side as text, Markdown or CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from igllm_jax.errors import shown

COUNTS: dict[str, str] = {
    # entry of a report -> how tables name it
    "num_scenes": "scenes",
    "num_missing": "labelled images without prediction",
    "num_unlabelled": "predictions without label",
    "num_unparsed": "scenes not read entirely",
    "num_unread": "scenes without a readable object",
    "num_without_pairs": "scenes without a matched pair",
    "num_left_out": "scenes left out of the averages",
}
ABSENT = "-"

Rows = list[list[str]]
Reports = Mapping[str, Mapping[str, Any]]


def format_value(digits: int, value: float | None) -> str:
    """A metric's value with as many digits as it deserves, which a report's `about` says."""
    return ABSENT if value is None else f"{value:.{digits}f}"


def _about(reports: Reports) -> dict[str, Mapping[str, Any]]:
    """Every metric that some report has -> what it is, in the order of the language."""
    found: dict[str, Mapping[str, Any]] = {}
    for report in sorted(reports.values(), key=lambda report: -len(report["about"])):
        found |= {name: about for name, about in report["about"].items() if name not in found}
    return found


def main_table(reports: Reports) -> Rows:
    """Header and rows: every metric that some report has, then the counts; one column per report (name -> report)."""
    rows = [["metric", *reports]]
    for name, about in _about(reports).items():
        cells = (_cell(report, name, about["digits"]) for report in reports.values())
        rows.append([f"{name}: {about['text']}", *cells])
    for key, words in COUNTS.items():
        if any(report.get(key) for report in reports.values()):
            rows.append([words, *(str(report.get(key, 0)) for report in reports.values())])
    return rows


def _cell(report: Mapping[str, Any], name: str, digits: int) -> str:
    text = format_value(digits, report["metrics"].get(name))
    low_high = report.get("intervals", {}).get(name)
    if low_high:
        text += f" [{format_value(digits, low_high[0])}, {format_value(digits, low_high[1])}]"
    return text


def object_count_table(report: Mapping[str, Any]) -> Rows:
    """Header and rows: one row per number of true objects, one column per metric."""
    groups = report["by_object_count"].values()
    names = [name for name in report["about"] if any(name in group["metrics"] for group in groups)]
    rows = [["objects", "scenes", *names]]
    for count, group in report["by_object_count"].items():
        cells = [format_value(report["about"][name]["digits"], group["metrics"].get(name)) for name in names]
        rows.append([count, str(group["num_scenes"]), *cells])
    return rows


def confusion_table(confusion: Mapping[str, Mapping[str, int]], attribute: str) -> Rows:
    """Header and rows of one attribute's confusion: true words down, predicted words across, matched pairs inside."""
    predicted = sorted({word for row in confusion.values() for word in row})
    rows = [[f"{attribute}: true \\ predicted", *predicted]]
    rows += [[true, *(str(row.get(word, 0)) for word in predicted)] for true, row in confusion.items()]
    return rows


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """Columns padded with spaces, the first to the left and the others to the right; a rule under the header."""
    rows = [[shown(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(_pad(cell, widths[i], i) for i, cell in enumerate(row)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]]) + "\n"


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    escaped = [[shown(cell).replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(3, *(len(row[i]) for row in escaped)) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(_pad(cell, widths[i], i) for i, cell in enumerate(row)) + " |" for row in escaped]
    rule = "|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def _pad(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column else cell.ljust(width)


def as_csv(reports: Reports) -> str:
    """One row per report, group of scenes (`all`, or a number of true objects) and metric or count, unrounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["predictions", "objects", "metric", "value", "low", "high"])
    for path, report in reports.items():
        name, intervals = shown(path), report.get("intervals", {})
        for metric, value in report["metrics"].items():
            writer.writerow([name, "all", metric, value, *intervals.get(metric, ["", ""])])
        for key in COUNTS:
            writer.writerow([name, "all", key, report.get(key, 0), "", ""])
        for count, group in report["by_object_count"].items():
            writer.writerow([name, count, "num_scenes", group["num_scenes"], "", ""])
            for metric, value in group["metrics"].items():
                writer.writerow([name, count, metric, value, "", ""])
    return text.getvalue()
