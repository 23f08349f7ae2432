"""What a search found for one image, and how far it is to be believed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from igllm_jax.refine.problems import Start
from igllm_jax.refine.vectors import Layout
from igllm_jax.scene.predictions import REFINED

MOST_LOSS = 3.0  # of 255: above it the scene does not explain its image
MOST_MOVE, MOST_TURN = 1.2, np.pi / 3  # scene units, radians: further off, the start was no start
UNEXPLAINED, FAR = "does not explain the image", "moved far from where it began"
# what the curvature says of mistakes is that too little, on 24 flat scenes with noise: outlines are of whole pixels
CALIBRATION = 1.5
NAMES = ("x", "y", "z", "about_x", "about_y", "about_z")


@dataclass(frozen=True)
class Refined:
    """text: the scene's code after the search. loss_before, loss_after: see `picture_loss`. camera: its position that
    goes with the scene, scene units; () where nothing was drawn. standard_errors: of each call that is drawn, by its
    number among all calls: NAMES -> scene units or radians. flag: why not to believe it; "" where nothing says so.
    """

    text: str
    loss_before: float | None = None
    loss_after: float | None = None
    camera: tuple[float, ...] = ()
    standard_errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)
    flag: str = ""

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Refined":
        """The same again. Raises: TypeError for another content."""
        return cls(**{**content, "camera": tuple(content["camera"])})

    def details(self) -> dict[str, Any]:
        """What the image's entry of a predictions file says beside its text."""
        return {REFINED: {key: value for key, value in self.to_json().items() if key != "text"}}


def picture_loss(penalty: float, num_pixels: int) -> float:
    """By how much pictures differ, of 255: the root of the mean square of what is compared, where what differs much has
    a limit (see lens.py)."""
    return float(255 * np.sqrt(2 * penalty / (3 * num_pixels)))


def covariance(curvature: np.ndarray, pull: np.ndarray, spreads: np.ndarray, is_free: np.ndarray) -> np.ndarray:
    """float64 [K, K] of a search's moves about what they should be; 0 for those that may not move. See `State`."""
    free = np.flatnonzero(is_free > 0)
    picked = np.ix_(free, free)
    own = pull[picked].astype(np.float64)
    found = np.zeros(curvature.shape)
    moves = own * spreads[free][:, None]  # by the search's numbers
    found[picked] = moves @ np.linalg.pinv(curvature[picked] + own.T @ own, hermitian=True) @ moves.T
    return found


def standard_errors(start: Start, layout: Layout, errors: np.ndarray) -> dict[str, dict[str, float]]:
    """Errors [K], calibrated, by call and name; those of numbers that may not move are left out."""
    names = [NAMES[number] for number in layout.free]
    rows = CALIBRATION * errors[: layout.objects * len(names)].reshape(layout.objects, len(names))
    return {
        str(thing.index): {name: error for name, error in zip(names, row, strict=True) if error > 0}
        for thing, row in zip(start.spec.objects, rows.tolist(), strict=False)
    }


def flag_of(moved: np.ndarray, turned: np.ndarray, loss: float) -> str:
    """Of how far objects are moved [M] (scene units) and turned [N] (radians), and the loss that they end with."""
    if not loss <= MOST_LOSS:
        return UNEXPLAINED
    return FAR if moved.max(initial=0) > MOST_MOVE or turned.max(initial=0) > MOST_TURN else ""
