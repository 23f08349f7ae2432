"""Projection, rays and the fit of a camera to labels."""

import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.render.camera import Camera, clevr_camera, fit_camera


def test_the_origin_is_in_the_middle_at_the_cameras_distance() -> None:
    camera = Camera((3.0, 0.0, 4.0), 480, 320)
    assert camera.project(np.zeros((1, 3)))[0] == pytest.approx([240, 160, 5])


def test_axes_are_right_handed_and_upright() -> None:
    axes = clevr_camera(480, 320).axes
    assert axes @ axes.T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.cross(axes[2], axes[0]) == pytest.approx(axes[1])
    assert axes[0][2] == 0 and axes[1][2] < 0


def test_known_projection_by_hand() -> None:
    """From (10, 0, 0), y is to the right and z up; 35 mm over 32 mm of 320 pixels is a focal length of 350 pixels."""
    camera = Camera((10.0, 0.0, 0.0), 320, 240)
    assert camera.project(np.array([[3.0, 1.0, 2.0]]))[0] == pytest.approx([160 + 50, 120 - 100, 7])


def test_rays_undo_projection() -> None:
    camera = clevr_camera(480, 320, (0.3, -0.2, 0.5))
    points = np.random.default_rng(0).uniform(-3, 3, (17, 3))
    x, y, depth = camera.project(points).T
    rays = np.stack(camera.rays(x, y), axis=1)
    assert np.array(camera.position) + depth[:, None] * rays == pytest.approx(points, abs=1e-4)


def test_ground_directions_follow_the_image() -> None:
    camera = clevr_camera(480, 320)
    step = {name: camera.project(0.1 * np.array([vector]))[0] for name, vector in camera.ground_directions().items()}
    assert step["right"][0] > 240 > step["left"][0]
    assert step["above"][1] < 160 < step["below"][1]
    assert step["behind"][2] > step["front"][2]


def test_the_camera_follows_from_rounded_labels() -> None:
    true = clevr_camera(480, 320, (0.4, -0.3, 0.2))
    locations = np.random.default_rng(1).uniform([-3, -3, 0.35], [3, 3, 0.7], (6, 3))
    pixels = true.project(locations)
    pixels[:, :2] = np.round(pixels[:, :2])
    fitted = fit_camera(locations, pixels, 480, 320)
    assert np.array(fitted.position) == pytest.approx(np.array(true.position), abs=0.04)


def test_errors() -> None:
    with pytest.raises(UserError, match="beside the vertical line"):
        _ = Camera((0.0, 0.0, 5.0), 48, 32).axes
    with pytest.raises(UserError, match="got 0 locations"):
        fit_camera(np.zeros((0, 3)), np.zeros((0, 3)), 48, 32)
