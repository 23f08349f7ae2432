"""The table of docs/reliability.md, written between its marks from what was counted."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tests.hostile.trial import OK, REFUSED, Tally

BEGIN, END = "<!-- table: made by `make fuzz` -->", "<!-- end of table -->"


Counts = dict[str, dict[str, int]]  # kind -> result -> how many


def counts_of(tallies: Mapping[str, Tally], before: Path | None) -> Counts:
    """What was counted, added to what the file `before` holds of earlier sessions; the file then holds the sum."""
    is_there = before is not None and before.is_file()
    found: Counts = json.loads(before.read_bytes()) if is_there else {}  # type: ignore[union-attr]
    for name, tally in tallies.items():
        found[name] = dict(Counter(found.get(name, {})) + tally.results)
    if before is not None:
        before.parent.mkdir(parents=True, exist_ok=True)
        before.write_text(json.dumps(found, indent=1) + "\n")
    return found


def table(counted: Counts) -> str:
    """Markdown: one row for each kind, and their sum."""
    rows = ["| kind of input | tried | read right | refused in one line | tracebacks | hangs | silently different |"]
    rows.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, results in counted.items():
        rows.append(_row(name, results))
    whole: dict[str, int] = {}
    for results in counted.values():
        for what, count in results.items():
            whole[what] = whole.get(what, 0) + count
    return "\n".join([*rows, _row("all", whole)])


def _row(name: str, results: Mapping[str, int]) -> str:
    faults = results.get("traceback", 0) + results.get("not one line", 0)
    counts = (sum(results.values()), results.get(OK, 0), results.get(REFUSED, 0), faults)
    return f"| {name} | " + " | ".join(map(str, (*counts, results.get("hang", 0), results.get("different", 0)))) + " |"


def write_table(page: Path, counted: Counts) -> None:
    """Puts the table between its marks on the page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{table(counted)}\n{END}{after}")
