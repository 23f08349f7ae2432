"""Metrics beside those of `metrics`: how they are named in tables, and how they are put into a report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Weights = np.ndarray  # float64 [scenes]: how often each scene was drawn


@dataclass(frozen=True)
class Measure:
    """What a metric is, in words; its digits in tables; which way is better.

    is_grouped: whether it is told by number of objects too.
    """

    text: str
    digits: int
    is_better_low: bool = False
    is_grouped: bool = True

    def about(self) -> dict[str, Any]:
        """Its entry of a report's `about`."""
        return {"text": self.text, "digits": self.digits, "is_better_low": self.is_better_low}


def weighted_mean(values: np.ndarray) -> Callable[[Weights], float]:
    """The mean of a scene-wise metric, float64 [scenes], NaN where a scene has no value; NaN where none has."""
    is_measured = np.isfinite(values)
    filled = np.where(is_measured, values, 0.0)

    def mean(weights: Weights) -> float:
        total = float(weights @ is_measured)
        return float(weights @ filled) / total if total else float("nan")

    return mean


def add_measures(
    report: dict[str, Any],
    measures: Mapping[str, Measure],
    values: Mapping[str, Callable[[Weights], float]],
    counts: Mapping[str, int],
    *,
    num_objects: np.ndarray,
    bootstrap: int,
    seed: int,
) -> None:
    """Adds metrics to a report of `metrics.report`: averages, scenes behind them, intervals, and what they are.

    num_objects: int [scenes], the true ones of each. values: metric -> its value when each scene counts as often as the
    weights say; those that are NaN for weights of one are left out. counts: metric -> scenes that have a value.
    bootstrap, seed: as `metrics.report` has them; the scenes are drawn alike.
    """
    num_scenes = len(num_objects)
    ones = np.ones(num_scenes)
    found = {name: value for name in measures if name in values and np.isfinite(value := values[name](ones))}
    report["metrics"] |= found
    report["averaged_scenes"] |= {name: counts[name] for name in found}
    report["about"] |= {name: measures[name].about() for name in found}
    for count, group in report["by_object_count"].items():
        weights = (num_objects == int(count)).astype(np.float64)
        in_group = {name: values[name](weights) for name in found if measures[name].is_grouped}
        group["metrics"] |= {name: value for name, value in in_group.items() if np.isfinite(value)}
    if not bootstrap:
        return
    rng = np.random.default_rng(seed)
    drawn = [_draw(rng, num_scenes) for _ in range(bootstrap)]
    for name in found:
        low, high = np.nanpercentile([values[name](weights) for weights in drawn], (2.5, 97.5))
        report["intervals"][name] = [float(low), float(high)]


def _draw(rng: np.random.Generator, num_scenes: int) -> Weights:
    drawn = rng.integers(num_scenes, size=num_scenes)
    return np.bincount(drawn, minlength=num_scenes).astype(np.float64)
