"""The camera: where it stands, how scene points become pixels, and how pixels become rays."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from igllm_jax.errors import UserError

LENS_MM = 35.0  # Source: the CLEVR generator's base scene.
SENSOR_MM = 32.0
CLEVR_POSITION = (7.481, -6.508, 5.344)
DEPTH_WEIGHT = 10.0  # of an error in depth against one across the image, when a camera is fitted


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks at a point, upright (world z is up in the image).

    position, look_at: x, y, z in scene units. width, height: of the image in pixels; the longer one is as wide as the
    sensor (Blender's sensor fit AUTO). lens_mm: focal length. Pixels are square, the image's middle is the point.
    """

    position: tuple[float, float, float]
    width: int
    height: int
    look_at: tuple[float, float, float] = (0.0, 0.0, 0.0)
    lens_mm: float = LENS_MM
    sensor_mm: float = SENSOR_MM

    @property
    def focal_pixels(self) -> float:
        """Distance of the image plane from the pinhole, in pixels."""
        return self.lens_mm / self.sensor_mm * max(self.width, self.height)

    @functools.cached_property
    def axes(self) -> np.ndarray:
        """float64 [3, 3]: the unit vectors right, down and forward of the image as rows, in world coordinates.

        Raises: UserError when the camera stands at, straight above or below what it looks at: upright has no meaning.
        """
        x, y, z = (own - aim for own, aim in zip(self.position, self.look_at, strict=True))
        sideways, distance = math.hypot(x, y), math.hypot(x, y, z)
        if sideways < 1e-9:
            raise UserError(
                f"camera position {self.position}: expected a point beside the vertical line through {self.look_at}, "
                "which it looks at; move it in x or y"
            )
        right = (-y / sideways, x / sideways, 0.0)
        forward = (-x / distance, -y / distance, -z / distance)
        down = (x * z / (sideways * distance), y * z / (sideways * distance), -sideways / distance)
        return np.array([right, down, forward])

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points [N, 3] to float64 [N, 3]: x, y in pixels from the top left corner, and the depth in scene units.

        The depth is measured along the view axis (Blender's `world_to_camera_view` measures it so too), and pixel
        (i, j) covers x from i to i + 1.
        """
        right, down, depth = self.axes @ (np.asarray(points, np.float64).reshape(-1, 3) - self.position).T
        scale = self.focal_pixels / depth
        return np.stack([self.width / 2 + right * scale, self.height / 2 + down * scale, depth], axis=1)

    def rays(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image positions in pixels to the ray directions (dx, dy, dz) in world coordinates, float32, shaped as `x`.

        Each has length 1 along the view axis, so a ray parameter is a depth.
        """
        right, down, forward = self.axes
        across = (np.asarray(x, np.float32) - np.float32(self.width / 2)) / np.float32(self.focal_pixels)
        along = (np.asarray(y, np.float32) - np.float32(self.height / 2)) / np.float32(self.focal_pixels)
        # Sums, not a matrix product: BLAS may add up in another order with another number of threads, and then an
        # image would depend on how many workers made the data set.
        dx, dy, dz = (
            across * np.float32(right[axis]) + along * np.float32(down[axis]) + np.float32(forward[axis])
            for axis in range(3)
        )
        return dx, dy, dz

    def ground_directions(self) -> dict[str, tuple[float, float, float]]:
        """The six unit vectors of CLEVR's labels: right, left, front, behind (all along the ground), above, below."""
        right, _, forward = self.axes
        behind = np.array([forward[0], forward[1], 0.0]) / np.hypot(forward[0], forward[1])
        up = np.array([0.0, 0.0, 1.0])
        vectors = {"right": right, "left": -right, "behind": behind, "front": -behind, "above": up, "below": -up}
        return {name: (float(v[0]), float(v[1]), float(v[2])) for name, v in vectors.items()}


def clevr_camera(width: int, height: int, jitter: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Camera:
    """CLEVR's camera, moved by `jitter` (scene units; CLEVR draws each from -0.5 to 0.5)."""
    x, y, z = (float(base + moved) for base, moved in zip(CLEVR_POSITION, jitter, strict=True))
    return Camera((x, y, z), width, height)


def fit_camera(locations: np.ndarray, pixels: np.ndarray, width: int, height: int) -> Camera:
    """The camera that saw `locations` [N, 3] at `pixels` [N, 3] (x, y, depth): labels hold no camera, but imply it.

    It looks at the origin, so its position is all that is unknown. With CLEVR's rounded pixels and five objects it
    comes out within a few hundredths of a scene unit. Raises: UserError without any object.
    """
    locations, pixels = np.asarray(locations, np.float64).reshape(-1, 3), np.asarray(pixels, np.float64).reshape(-1, 3)
    if len(locations) == 0 or locations.shape != pixels.shape:
        raise UserError(
            f"fitting a camera needs a location and a pixel for each object, got {len(locations)} locations and "
            f"{len(pixels)} pixels; use clevr_camera for scenes without labels"
        )
    # One scene unit of depth is worth about as many pixels as the focal length over the distance; and pixels are
    # rounded, depths are not.
    per_unit = LENS_MM / SENSOR_MM * max(width, height) / np.linalg.norm(CLEVR_POSITION)
    weights = np.array([1.0, 1.0, DEPTH_WEIGHT * per_unit])

    def miss(position: np.ndarray) -> np.ndarray:
        camera = Camera((float(position[0]), float(position[1]), float(position[2])), width, height)
        return ((camera.project(locations) - pixels) * weights).ravel()

    x, y, z = least_squares(miss, np.asarray(CLEVR_POSITION)).x
    return Camera((float(x), float(y), float(z)), width, height)
