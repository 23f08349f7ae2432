"""docs/results.md and its plots, of all the JSON files that claims.py left."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import claims_plots
from benchmarks.claims_cells import CLAIMS, FLOAT_HEAD, HEADS, REPRESENTATIONS, TEXT, Cell
from benchmarks.claims_text import PAGE, WORDS, Words
from igllm_jax import files

DEFAULTS = {field.name: field.default for field in fields(Cell) if field.default is not MISSING}  # of older files
ENOUGH_SEEDS = 3  # for an interval over seeds
MODELS = {"none": "numbers as text", "linear": "float head, linear", "tanh_mlp_gelu": "float head, tanh_mlp_gelu"}
CONTROL = "control (labels shuffled)"
COMMON = (("ace", "count error"), ("parsed", "parsed %"))
COLUMNS = {  # claim -> (metric, heading)
    "float_head": (
        ("l2_unseen", "L2, unseen cells"), ("l2_seen", "L2, seen cells"),
        ("within_5", "within 5 %, % of all"), ("parsed", "parsed %"),
    ),
    "cogent": (
        ("l2", "L2"), ("size", "size %"), ("color", "color %"), ("mat", "material %"), ("shape", "shape %"), *COMMON,
    ),
    "rotations": (("geod", "angle, degrees"), ("l2", "L2"), ("parsed", "parsed %")),
    "shifts": (("l2", "L2"), ("geod", "angle, degrees"), ("shape", "shape %"), ("shp_cls", "class %"), *COMMON),
    "real_weights": (
        ("l2", "L2"), ("size", "size %"), ("color", "color %"), ("mat", "material %"), ("shape", "shape %"), *COMMON,
    ),
}  # fmt: skip
ERRORS = ("l2", "l2_seen", "l2_unseen", "geod", "ace")  # others are percentages
MOST = {"geod": 180.0}  # of an error
MOVED = ("l2", "l2_seen", "l2_unseen", "geod")  # what looking again changes where words stay
DIGITS = {"l2_unseen": 4, "l2_seen": 4, "l2": 3, "ace": 2}  # after the point; of others 1


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; `is_over_seeds`: of seeds, else of images."""

    mean: float
    low: float
    high: float
    is_over_seeds: bool

    def text(self, metric: str) -> str:
        """As a table shows it."""
        digits = DIGITS.get(metric, 1)
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


Group = list[dict[str, Any]]  # the runs that differ in their seed alone
Pick = Callable[[dict[str, Any]], dict[str, Any]]  # a run -> one of its reports, with metrics and intervals


def estimate(group: Group, pick: Pick, metric: str) -> Estimate | None:
    """Over the runs of a group; None where nothing was measured.

    Of enough seeds it is Student's interval, of errors on their logarithm: seeds differ by factors, and no error is
    below 0. Percentages stay within 0 and 100, angles within 180 degrees.

    Example: seeds that score 50, 60 and 70 % have mean 60 and the interval 35.2 to 84.8.
    """
    reports = [report for run in group if (report := pick(run))["metrics"].get(metric) is not None]
    values = np.array([report["metrics"][metric] for report in reports], np.float64)
    if not len(values):
        return None
    mean = float(values.mean())
    if len(values) >= ENOUGH_SEEDS:
        return Estimate(mean, *_student(values, metric), True)
    ends = np.array([report["intervals"][metric] for report in reports], np.float64)
    return Estimate(mean, float(ends[:, 0].min()), float(ends[:, 1].max()), False)


def _student(values: np.ndarray, metric: str) -> tuple[float, float]:
    is_error = metric in ERRORS
    is_logarithm = is_error and bool((values > 0).all())
    shown = np.log(values) if is_logarithm else values
    half = stats.t.ppf(0.975, len(values) - 1) * shown.std(ddof=1) / math.sqrt(len(values))
    ends = shown.mean() - half, shown.mean() + half
    ends = np.exp(ends) if is_logarithm else ends
    low, high = np.clip(ends, 0, MOST.get(metric) if is_error else 100)
    return float(low), float(high)


def read_groups(results: Path) -> dict[str, list[Group]]:
    """Claim -> its groups in the order of the claim's cells, of the JSON files in a folder."""
    runs = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    runs = [{**run, "cell": {**DEFAULTS, **run["cell"]}} for run in runs]
    found: dict[str, dict[str, Group]] = {claim: {} for claim in CLAIMS}
    for run in sorted(runs, key=_order):
        cell = run["cell"]
        key = json.dumps({name: value for name, value in cell.items() if name != "seed"})
        found[cell["claim"]].setdefault(key, []).append(run)
    return {claim: list(groups.values()) for claim, groups in found.items() if groups}


def _order(run: dict[str, Any]) -> tuple[Any, ...]:
    cell = run["cell"]
    representation = REPRESENTATIONS.index(cell["rotation_rep"]) if cell["rotation_rep"] else 0
    tasks = cell["task"] == "sixdof", cell["train_split"] == "checkerboard_dense"
    kinds = cell["is_shuffled"], cell["is_single"], cell["weights"] == "random"
    return *tasks, cell["num_images"], *kinds, representation, -HEADS.index(cell["head"]), cell["seed"]


def label_of(cell: dict[str, Any]) -> str:
    """What a row or a line of a plot is called."""
    model = CONTROL if cell["is_shuffled"] else MODELS[cell["head"]]
    parts = [cell["train_split"].removeprefix("checkerboard_")] if cell["task"] == "twod" else []
    parts += [f"{cell['num_images']} images"] if cell["num_images"] else []
    parts += [f"{cell['weights']} weights"] if cell["weights"] else []
    parts += ["one toy"] if cell["is_single"] else []
    parts += [cell["task"], cell["rotation_rep"]] if cell["claim"] == "rotations" else [model]
    return ", ".join(parts)


def table(claim: str, groups: list[Group]) -> str:
    """A row for each group and split."""
    columns = COLUMNS[claim]
    heads = ["", "split", *(title for _, title in columns), "paper", "seeds", "steps", "minutes"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for group in groups:
        for split in group[0]["splits"]:
            found = [estimate(group, lambda run, split=split: run["splits"][split], metric) for metric, _ in columns]
            cells = ["-" if one is None else one.text(metric) for one, (metric, _) in zip(found, columns, strict=True)]
            spent = np.mean([sum(_processor_minutes(run)) for run in group])
            own = ["", str(len(group)), str(group[0]["steps"]), f"{spent:.1f}"]
            lines.append("| " + " | ".join([label_of(group[0]["cell"]), split, *cells, *own]) + " |")
    return "\n".join(lines)


def refined_table(claim: str, groups: list[Group]) -> str:
    """A row for each group and split of runs that were looked at again: numbers before and after; "" without any."""
    columns = [column for column in COLUMNS[claim] if column[0] in MOVED]
    heads = ["", "split", *(f"{title}{side}" for _, title in columns for side in ("", ", refined")), "seeds", "images"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for group in groups:
        own = [run for run in group if "refined" in run]
        for split in own[0]["splits"] if own else ():
            cells = []
            for metric, _ in columns:
                for side in ("before", "after"):
                    one = estimate(own, lambda run, at=(split, side): run["refined"]["splits"][at[0]][at[1]], metric)
                    cells.append("-" if one is None else one.text(metric))
            images = own[0]["refined"]["splits"][split]["before"]["num_scenes"]
            lines.append(
                "| " + " | ".join([label_of(own[0]["cell"]), split, *cells, str(len(own)), str(images)]) + " |"
            )
    return "**What looking again adds**, numbers alone (`igllm refine`):\n\n" + "\n".join(lines) if lines[2:] else ""


def _processor_minutes(run: dict[str, Any]) -> tuple[float, float]:
    return run["minutes"]["training_processor"], run["minutes"]["scoring_processor"]


def verdict(claim: str, groups: list[Group]) -> list[str]:
    """Sentences on what stands and what does not, read off the figures."""
    told = {"float_head": _float_head, "cogent": _cogent, "rotations": _rotations, "real_weights": _real_weights}
    return told.get(claim, lambda _: [])(groups)


def _float_head(groups: list[Group]) -> list[str]:
    def runs(density: str, head: str) -> Group:
        chosen = (f"checkerboard_{density}", head)
        return next((g for g in groups if (g[0]["cell"]["train_split"], g[0]["cell"]["head"]) == chosen), [])

    lines = []
    for density in ("sparse", "dense"):
        text = runs(density, "none")
        for head in ("linear", "tanh_mlp_gelu"):
            own = runs(density, head)
            if not own or not text:
                continue
            one, other = (estimate(group, _random, "l2_unseen") for group in (own, text))
            if one is None or other is None:
                continue
            leads = "leads outside the intervals" if one.high < other.low else "does not lead outside the intervals"
            worst, best = max(_unseen(own)), min(_unseen(text))
            seeds = f"its worst seed has {worst:.4f}, the best of text {best:.4f}"
            ratio = f"text is {other.mean / one.mean:.1f} times as far off"
            lines.append(f"{density}, unseen cells: {MODELS[head]} {leads}; {ratio}; {seeds}.")
    return lines


def _random(run: dict[str, Any]) -> dict[str, Any]:
    return run["splits"]["random"]


def _unseen(group: Group) -> list[float]:
    """What each seed measured."""
    return [value for run in group if (value := _random(run)["metrics"].get("l2_unseen")) is not None]


def _cogent(groups: list[Group]) -> list[str]:
    own = [g for g in groups if g[0]["cell"]["head"] != "none" and not g[0]["cell"]["is_shuffled"]]
    if not own:
        return []
    most = max(own, key=lambda g: g[0]["cell"]["num_images"])
    color, l2 = (estimate(most, lambda run: run["splits"]["val_ID"], metric) for metric in ("color", "l2"))
    if color is None or l2 is None:
        return []
    reached = " and ".join(
        f"{name} {'reached' if is_reached else 'not reached'}"
        for name, is_reached in (("55 %", color.mean >= 55), ("1.0", l2.mean <= 1.0))
    )
    return [
        f"With {label_of(most[0]['cell'])}: colour ID {color.mean:.1f} %, L2 {l2.mean:.2f}; aims: {reached}.",
        *_shapes_by_images(own),
    ]


def _shapes_by_images(groups: list[Group]) -> list[str]:
    """What the paper speaks of: whether shapes are read, or taken from the colours that they had in training."""
    told = []
    for group in groups:
        sides = [estimate(group, lambda run, at=split: run["splits"][at], "shape") for split in ("val_ID", "val_OOD")]
        if all(side is not None for side in sides):
            told.append(f"{group[0]['cell']['num_images']} images {' / '.join(f'{side.mean:.0f}' for side in sides)} %")
    return [f"Right shapes, ID / OOD: {', '.join(told)}."] if len(told) > 1 else []


def _rotations(groups: list[Group]) -> list[str]:
    found = {label_of(g[0]["cell"]): estimate(g, lambda run: run["splits"]["val_ID"], "geod") for g in groups}
    known = {name: one for name, one in found.items() if one is not None}
    if not known:
        return []
    best = min(known, key=lambda name: known[name].mean)
    under = [name for name, one in known.items() if one.mean < 15]
    told = f"Under 15 degrees ID: {'; '.join(under)}." if under else "No representation is under 15 degrees ID."
    return [f"Best ID: {best}, {known[best].text('geod')} degrees. {told}"]


def _real_weights(groups: list[Group]) -> list[str]:
    """Each other model beside the one of real weights with a float head, metric by metric."""

    def named(weights: str, head: str) -> Group:
        return next((g for g in groups if (g[0]["cell"]["weights"], g[0]["cell"]["head"]) == (weights, head)), [])

    own, lines = named("real", FLOAT_HEAD), []
    metrics = {"l2": "L2", "size": "size", "color": "colour", "mat": "material", "shape": "shape"}
    for other in (named("random", FLOAT_HEAD), named("real", TEXT)):
        told = []
        for metric, name in metrics.items():
            one, beside = (estimate(group, lambda run: run["splits"]["val_ID"], metric) for group in (own, other))
            if one is None or beside is None:
                continue
            low, high = (one, beside) if metric in ERRORS else (beside, one)
            told.append(
                f"{name} {'better' if low.high < high.low else 'worse' if high.high < low.low else 'not apart'}"
            )
        if told:
            lines.append(f"{label_of(own[0]['cell'])}, beside {label_of(other[0]['cell'])}: {', '.join(told)}.")
    return lines


def section(claim: str, groups: list[Group], words: Words, figure: str | None) -> str:
    """A claim's part of the page."""
    parts = [f"## {words.title}", words.question, words.setting]
    parts += [f"![{words.title}]({figure})"] if figure else []
    parts += [
        table(claim, groups),
        refined_table(claim, groups),
        "\n".join(f"- {line}" for line in verdict(claim, groups)),
    ]
    parts += [f"**What was tried.** {words.tried}"] if words.tried else []
    seeds = max(run["cell"]["seed"] for group in groups for run in group)
    parts.append(f"    python benchmarks/claims.py --claim {claim} --seeds {seeds}")
    machines = sorted({f"{run['machine']}, {run['date']}" for group in groups for run in group})
    parts.append(f"Machine and date: {'; '.join(machines)}.")
    return "\n\n".join(filter(None, parts))


def write_page(results: Path, page: Path) -> None:
    """Writes the page and, beside the JSON files, its plots."""
    parts = [PAGE.strip()]
    for size in ("", "paper"):
        groups = read_groups(results / size)
        if size and groups:
            parts.append("# At full size, with the released data and the reference's settings")
        for claim, own in groups.items():
            picture = results / size / f"{claim}.png"
            is_drawn = claims_plots.draw(claim, own, picture, estimate, label_of)
            figure = os.path.relpath(picture, page.parent) if is_drawn else None
            parts.append(section(claim, own, WORDS[claim], figure))
        missing = [WORDS[claim].title for claim in CLAIMS if claim not in groups]
        if missing and not size:
            parts.append(f"## Not run yet\n\n{'; '.join(missing)}.")
    files.write_text(page, "\n\n".join(parts) + "\n")
