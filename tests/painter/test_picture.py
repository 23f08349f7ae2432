"""Drawing: depth order, anti-aliasing, light."""

import numpy as np

from igllm_jax.painter.camera import Camera, clevr_camera
from igllm_jax.painter.cast import GROUND, see_pixels, see_points
from igllm_jax.painter.light import clevr_lamps, ground, to_bytes
from igllm_jax.painter.parts import Part
from igllm_jax.painter.picture import draw, inside_image, visible_pixels

RED, BLUE = (0.7, 0.0, 0.0), (0.0, 0.0, 0.7)


def ball(location: tuple[float, float, float], radius: float, color: tuple[float, float, float], owner: int) -> Part:
    return Part("ball", np.array(location), radius * np.eye(3), (color,), owner=owner)


def test_the_nearer_one_hides_the_farther_one_in_either_order() -> None:
    camera = Camera((10.0, 0.0, 2.0), 97, 61)
    near, far = ball((3.0, 0.0, 0.5), 0.5, RED, 0), ball((-1.0, 0.0, 0.7), 0.7, BLUE, 1)
    there, back = see_pixels([near, far], camera), see_pixels([far, near], camera)
    assert np.array_equal(there.part == 0, back.part == 1) and np.array_equal(there.depth, back.depth)
    x, y, _ = camera.project(np.array([[3.0, 0.0, 0.5]]))[0]
    assert there.part.reshape(61, 97)[int(y), int(x)] == 0
    assert (there.part == 1).sum() > 0 and there.part[30 * 97] == GROUND
    hidden = see_pixels([far], camera)
    assert (hidden.part == 0).sum() > (there.part == 1).sum()
    assert visible_pixels([near, far], there, 2).tolist() == [(there.part == 0).sum(), (there.part == 1).sum()]


def test_points_and_pixels_see_the_same() -> None:
    camera = clevr_camera(53, 37)
    parts = [ball((0.3, 0.2, 0.7), 0.7, RED, 0), Part("box", np.array([-1.0, 1.0, 0.35]), 0.35 * np.eye(3), (BLUE,))]
    y, x = np.divmod(np.arange(53 * 37), 53)
    points = see_points(parts, camera, x + 0.5, y + 0.5)
    pixels = see_pixels(parts, camera)
    assert np.array_equal(points.part, pixels.part) and np.array_equal(points.face, pixels.face)


def test_a_part_that_sticks_out_of_the_image_or_behind_the_camera_is_fine() -> None:
    camera = clevr_camera(48, 32)
    outside = ball((0.0, 40.0, 0.5), 0.5, RED, 0)
    assert visible_pixels([outside], see_pixels([outside], camera), 1).tolist() == [0]
    behind = ball((12.0, -12.0, 0.5), 0.5, RED, 0)
    assert visible_pixels([behind], see_pixels([behind], camera), 1).tolist() == [0]
    assert not inside_image([outside], camera, 0.0)
    assert draw([outside, behind], camera, clevr_lamps()).size == (48, 32)


def test_edges_are_between_the_colours() -> None:
    """A red ball on the ground: some pixels at its rim lie between red and grey, and those only at the rim."""
    camera = clevr_camera(120, 80)
    part = ball((0.0, 0.0, 0.7), 0.7, RED, 0)
    smooth = np.asarray(draw([part], camera, clevr_lamps())).astype(int)
    saturation = (smooth.max(axis=2) - smooth.min(axis=2)).ravel()
    seen = see_pixels([part], camera)
    assert saturation[seen.part == GROUND].min() <= 3
    between = (saturation > 15) & (seen.part == GROUND)
    assert 3 < between.sum() < 60


def test_shadows_darken_the_ground_beside_a_part_only() -> None:
    camera = clevr_camera(120, 80)
    lit, dark = (ground(parts, camera, clevr_lamps()) for parts in ([], [ball((0.0, 0.0, 0.7), 0.7, RED, 0)]))
    assert (dark <= lit + 1e-6).all()
    share = dark / lit
    assert share.min() < 0.6 and (share > 0.999).mean() > 0.5


def test_srgb_ends() -> None:
    assert to_bytes(np.array([0.0, 0.2140, 1.0, 7.0], np.float32)).tolist() == [0, 127, 255, 255]


def test_an_empty_scene_is_ground() -> None:
    pixels = np.asarray(draw([], clevr_camera(48, 32), clevr_lamps()))
    assert pixels.shape == (32, 48, 3) and np.ptp(pixels.astype(int), axis=2).max() <= 3
