"""Early stopping: how many measurements in a row brought nothing better."""

import math
from dataclasses import dataclass
from typing import Any

PATIENCE = "patience"  # in the meta of a checkpoint


@dataclass
class Patience:
    """limit: measurements without a new best after which a run ends; 0: it never does. best: the least so far, None
    before the first. num_worse: measurements since then. metric: what is measured; "": whatever it was."""

    limit: int
    best: float | None = None
    num_worse: int = 0
    metric: str = ""

    def see(self, value: float) -> None:
        """Counts a measurement; smaller is better, and NaN is never.

        Example: after 3.0, 2.0, 2.0 the best is 2.0, and num_worse is 1.
        """
        if value < (math.inf if self.best is None else self.best):
            self.best, self.num_worse = value, 0
        else:
            self.num_worse += 1

    @property
    def is_over(self) -> bool:
        return 0 < self.limit <= self.num_worse

    def describe(self) -> str:
        """For people."""
        return f"{self.metric} was measured {self.num_worse} times in a row without getting below {self.best}"

    def meta(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON values."""
        return {PATIENCE: {"best": self.best, "num_worse": self.num_worse, "metric": self.metric}}

    def restore(self, meta: dict[str, Any]) -> None:
        """Goes on from a checkpoint's meta; old ones hold nothing of it. Of another metric nothing is counted on."""
        found = meta.get(PATIENCE, {})
        if self.metric and found.get("metric", self.metric) != self.metric:
            return
        self.best, self.num_worse = found.get("best"), found.get("num_worse", 0)
