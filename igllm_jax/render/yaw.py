"""How a cube is turned in a picture: the yaw whose edges lie where the picture's colours change."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from igllm_jax.render.camera import Camera
from igllm_jax.render.objects import SIZES
from igllm_jax.scene.scene import Object

BOX_PERIOD_DEG = 90.0  # a box of equal sides looks the same after a quarter turn about the vertical axis
STEP_DEG = 2.0  # between the yaws that are tried
POINTS_PER_EDGE = 24
BLUR_PIXELS = 0.7  # against noise; lines of one pixel stay
REACH_PIXELS = 1.5  # to both sides of an edge: between these positions the colour should change
SHIFTS_PIXELS = (-1.0, 0.0, 1.0)  # rounded labels and bevelled edges are off by about so much
MOST_CONTRAST = 0.25  # of a colour's range: what lies above counts no more, or one bright line would outshine all
FEWEST_OPEN = 0.5  # share of a cube's edges that no nearer object may hide, for its yaw to be read
BOUNDS = {"sphere": 1.0, "cylinder": 2**0.5, "cube": 3**0.5}  # of the ball around an object, in its radius or half-side
LARGEST, WIDEST = max(SIZES.values()), max(BOUNDS.values())  # of objects that do not say

_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
# Pairs of corners that differ along one axis, and the two faces (axis, sign) that meet in each such edge.
_EDGES = [(a, b) for a in range(8) for b in range(a) if np.abs(_CORNERS[a] - _CORNERS[b]).sum() == 2]
_FACES = np.array([[sign * axis for sign in (-1, 1)] for axis in np.eye(3)]).reshape(6, 3)
_ON_FACE = np.array([[(_CORNERS[a] + _CORNERS[b]) @ face == 2 for face in _FACES] for a, b in _EDGES])


def smooth(picture: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> float32 [H, W, 3] in [0, 1], as `seen_yaw_deg` wants it."""
    return gaussian_filter(np.asarray(picture, np.float32) / 255, (BLUR_PIXELS, BLUR_PIXELS, 0))


def seen_yaw_deg(picture: np.ndarray, camera: Camera, cube: Object, others: Sequence[Object]) -> float | None:
    """A cube's turn about the vertical axis as the picture shows it: degrees in [0, 90), counter-clockwise from above.

    picture: from `smooth`, seen by `camera`. cube: its location and size are used, its rotation is not. others: what
    may stand in front of it. None where too much of the cube is hidden or outside of the picture.
    """
    if cube.location is None or cube.size not in SIZES:
        return None
    yaws_deg = np.arange(0.0, BOX_PERIOD_DEG, STEP_DEG)
    corners, is_visible = _cubes(np.radians(yaws_deg), np.array(cube.location), SIZES[cube.size], camera)
    first, second = (corners[:, [edge[end] for edge in _EDGES]] for end in (0, 1))
    samples = first[:, :, None] + np.linspace(0.03, 0.97, POINTS_PER_EDGE)[:, None] * (second - first)[:, :, None]
    pixels = camera.project(samples.reshape(-1, 3)).reshape(samples.shape)[..., :2]
    along = (camera.project(second.reshape(-1, 3)) - camera.project(first.reshape(-1, 3)))[:, :2]
    across = along[:, ::-1] * (1, -1) / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6)
    contrast = _contrast(picture, pixels, across.reshape(*first.shape[:2], 1, 2))
    is_open = is_visible[..., None] & _is_open(pixels, camera, cube, others)
    if (is_open.sum(axis=(1, 2)) < FEWEST_OPEN * is_visible.sum(axis=1) * POINTS_PER_EDGE).any():
        return None
    scores = (contrast * is_open).sum(axis=(1, 2)) / is_open.sum(axis=(1, 2))
    return float(yaws_deg[scores.argmax()])


def _cubes(yaws_rad: np.ndarray, middle: np.ndarray, half: float, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Corners float64 [Y, 8, 3] of the cube at each yaw, and bool [Y, 12]: whether an edge's faces look our way."""
    cos, sin, zero, one = np.cos(yaws_rad), np.sin(yaws_rad), np.zeros_like(yaws_rad), np.ones_like(yaws_rad)
    turns = np.array([[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]]).transpose(2, 0, 1)
    normals = _FACES @ turns.transpose(0, 2, 1)
    is_front = np.einsum("yfc,yfc->yf", normals, np.array(camera.position) - middle - half * normals) > 0
    return middle + half * _CORNERS @ turns.transpose(0, 2, 1), (is_front[:, None] & _ON_FACE).any(axis=2)


def _contrast(picture: np.ndarray, pixels: np.ndarray, across: np.ndarray) -> np.ndarray:
    """How much the colour changes across the edge at `pixels` [..., 2] (x, y): float64 [...], 0 to MOST_CONTRAST.

    across: the unit vectors of the image that cross the edges, broadcast against `pixels`.
    """
    found = np.zeros(pixels.shape[:-1])
    for shift in SHIFTS_PIXELS:
        one, other = (_sample(picture, pixels + (shift + side * REACH_PIXELS) * across) for side in (-1, 1))
        found = np.maximum(found, np.abs(one - other).max(axis=0))
    return np.minimum(found, MOST_CONTRAST)


def _sample(picture: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The picture's colours [3, ...] at image positions [..., 2]; pixel (i, j) has its centre at (i + 0.5, j + 0.5)."""
    rows_columns = np.moveaxis(pixels[..., ::-1] - 0.5, -1, 0)
    channels = (picture[..., channel] for channel in range(3))
    return np.stack([map_coordinates(channel, rows_columns, order=1, mode="nearest") for channel in channels])


def _is_open(pixels: np.ndarray, camera: Camera, cube: Object, others: Sequence[Object]) -> np.ndarray:
    """bool [...]: which `pixels` [..., 2] lie in the picture, and not behind the ball around a nearer object."""
    is_open = np.all((pixels > 1) & (pixels < np.array([camera.width, camera.height]) - 1), axis=-1)
    (_, _, depth) = camera.project(np.array(cube.location))[0]
    for other in others:
        if other.location is None or other is cube:
            continue
        x, y, nearer = camera.project(np.array(other.location))[0]
        if 0 < nearer < depth:
            radius = SIZES.get(other.size or "", LARGEST) * BOUNDS.get(other.shape or "", WIDEST)
            is_open &= np.hypot(pixels[..., 0] - x, pixels[..., 1] - y) > camera.focal_pixels * radius / nearer
    return is_open
