"""What several runs measured, side by side: curves and last values, of runs that differ by their seed together."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from igllm_jax import config as configs
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath
from igllm_jax.scene.language import find_language
from igllm_jax.training import metrics_log
from igllm_jax.versions import flatten

SEED = "seed"
CONFIDENCE = 0.95
# keys that say nothing of what is learned
APART = ("train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.tensorboard", "train.wandb")

MOST_POINTS = 400  # of a curve on the report's page

Curve = dict[int, float]  # step -> value


@dataclass(frozen=True)
class Interval:
    """The mean over runs, and where it lies with CONFIDENCE by Student's distribution; None for one run alone."""

    mean: float
    low: float | None
    high: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Example: of 1, 2 and 3 it is 2 and from -0.484 to 4.484."""
        mean, count = float(np.mean(values)), len(values)
        if count < 2:
            return cls(mean, None, None, count)
        half = float(student.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
        return cls(mean, mean - half, mean + half, count)

    def __str__(self) -> str:
        return f"{self.mean:.4g}" if self.low is None else f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class RunCurves:
    """One run. settings: its config, flat. curves: by the names of metrics.jsonl."""

    name: str
    settings: dict[str, object]
    curves: dict[str, Curve]


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ by their seed alone. name: what they have and others have not."""

    name: str
    runs: tuple[RunCurves, ...]

    def final(self, metric: str) -> Interval | None:
        """Of each run's last value; None where a run has none."""
        return self._over_runs(metric, lambda curve: curve[max(curve)])

    def least(self, metric: str) -> Interval | None:
        """Of each run's least value; None where a run has none."""
        return self._over_runs(metric, lambda curve: min(curve.values()))

    def _over_runs(self, metric: str, value: Callable[[Curve], float]) -> Interval | None:
        curves = [run.curves.get(metric) for run in self.runs]
        return Interval.of([value(curve) for curve in curves if curve]) if all(curves) else None

    def mean_curve(self, metric: str) -> dict[int, Interval]:
        """At every step that all runs have."""
        curves = [run.curves.get(metric, {}) for run in self.runs]
        shared = sorted(set.intersection(*map(set, curves)))
        return {step: Interval.of([curve[step] for curve in curves]) for step in shared}


def read_run(folder: FilePath) -> RunCurves:
    """A run's config and metrics. Raises: UserError where the folder holds no run, or nothing was measured yet."""
    config = configs.read(folder)
    settings = {**flatten(config), "task": find_language(config.task).name}  # each run has a file of its own
    curves: dict[str, Curve] = {}
    for line in metrics_log.load_metrics(folder):
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(name, {})[line["step"]] = float(value)
    if not curves:
        raise UserError(f"{folder}: its {metrics_log.METRICS_FILE} holds no measurement yet; train it first")
    return RunCurves(str(folder), settings, curves)


def group_runs(runs: Sequence[RunCurves]) -> list[RunGroup]:
    """The runs by what they are, in the order in which they were given."""
    keys = list(dict.fromkeys(key for run in runs for key in run.settings if key not in APART))
    differing = [key for key in keys if len({repr(run.settings.get(key)) for run in runs}) > 1 and key != SEED]
    groups: dict[str, list[RunCurves]] = {}
    for run in runs:
        name = ", ".join(f"{key}={_shown(run.settings.get(key))}" for key in differing)
        groups.setdefault(name, []).append(run)
    if len(groups) == 1:
        return [RunGroup(Path(runs[0].name).name if len(runs) == 1 else "all runs", tuple(runs))]
    return [RunGroup(name, tuple(members)) for name, members in groups.items()]


def _shown(value: object) -> str:
    return str(value) or "''"


def shared_metrics(runs: Sequence[RunCurves], wanted: Sequence[str]) -> list[str]:
    """`wanted`, or the training loss and all that was measured on held-out examples.

    Raises: UserError for one that no run has.
    """
    known = list(dict.fromkeys(name for run in runs for name in run.curves))
    if unknown := [name for name in wanted if name not in known]:
        raise UserError(f"--metric {unknown[0]}: no run has it; choose from {', '.join(known)}")
    return list(wanted) or [name for name in known if name == "loss" or ("/" in name and not name.startswith("lr/"))]


def curve_content(runs: Sequence[RunCurves], names: Sequence[str]) -> list[dict[str, object]]:
    """For the report: of each run the curves of what it measured on held-out examples, and of the training loss's parts
    that bear the same names, as [[step, value], ...] of at most MOST_POINTS."""
    content: list[dict[str, object]] = []
    for run, title in zip(runs, names, strict=True):
        measures = {_measure(name) for name in run.curves if "/" in name} - {""}
        kept = {name: _thinned(curve) for name, curve in run.curves.items() if _measure(name) in measures}
        content.append({"name": title, "curves": kept})
    return content


def _measure(name: str) -> str:
    """What was measured, whatever the set: `loss` of `val_OOD/loss`; of a learning rate nothing."""
    return "" if name.startswith("lr/") else name.rpartition("/")[2]


def _thinned(curve: Curve) -> list[list[float]]:
    steps = sorted(curve)
    chosen = {steps[int(index)] for index in np.linspace(0, len(steps) - 1, MOST_POINTS).round()}
    return [[step, curve[step]] for step in sorted(chosen)]
