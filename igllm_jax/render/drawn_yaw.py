"""Which of two readings of the labels' rotations an image shows: both are drawn again, and their edges compared."""

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_gradient_magnitude

from igllm_jax.render.renderers import Renderer
from igllm_jax.render.spec import SceneSpec

BLUR_PIXELS = 1.0
AROUND_PIXELS = 3  # of the cube's masks: its outline belongs to what is compared
FEWEST_PIXELS = 100  # of a cube in both drawings
FEWEST_APART = 0.02  # of those pixels, that differ: less says nothing


def cube_leads(
    renderer: Renderer, job: tuple[np.ndarray, Mapping[str, SceneSpec]], *, seed: int = 0
) -> list[dict[str, float]]:
    """For each cube that tells: reading -> how far its drawing is from the image, 0 (the same edges) to 2.

    job: the image, uint8 [H, W, 3], and the scene by the readings' names; camera and objects are the same otherwise.
    """
    picture, specs = job
    drawn = {name: renderer.draw(spec, seed=seed) for name, spec in specs.items()}
    edges = {name: _edges(np.asarray(one.image)) for name, one in drawn.items()}
    seen, leads = _edges(picture), []
    for thing in next(iter(specs.values())).objects:
        if dict(thing.words).get("shape") != "cube":
            continue
        masks = [one.ids == thing.index + 1 for one in drawn.values()]
        both, either = np.logical_and.reduce(masks), np.logical_or.reduce(masks)
        if both.sum() < FEWEST_PIXELS:
            continue
        where = binary_dilation(either, iterations=AROUND_PIXELS)
        shares = {name: _normal(one[where]) for name, one in edges.items()}
        one, other = shares.values()
        if np.abs(one - other).sum() < FEWEST_APART:
            continue
        own = _normal(seen[where])
        leads.append({name: float(np.abs(share - own).sum()) for name, share in shares.items()})
    return leads


def _edges(picture: np.ndarray) -> np.ndarray:
    """float64 [H, W]: how much the colours change. Light and paint that are off a little move no edges."""
    channels = (picture[..., channel].astype(np.float64) for channel in range(3))
    return np.sqrt(sum(gaussian_gradient_magnitude(channel, BLUR_PIXELS) ** 2 for channel in channels))


def _normal(edges: np.ndarray) -> np.ndarray:
    return edges / max(float(edges.sum()), 1e-9)
