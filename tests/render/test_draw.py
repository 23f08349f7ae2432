"""Drawing: depth order, anti-aliasing, light."""

import numpy as np

from igllm_jax.render.camera import Camera, clevr_camera
from igllm_jax.render.flat.draw import draw, ids, see, visible_pixels
from igllm_jax.render.flat.shading import Illumination, ground, to_bytes
from igllm_jax.render.flat.visibility import GROUND, see_pixels, see_points
from igllm_jax.render.lights import CLEVR_LIGHTS
from igllm_jax.render.lights import GROUND as GREY_GROUND
from igllm_jax.render.spec import IDENTITY, Material, ObjectSpec, Part, SceneSpec
from igllm_jax.render.world import all_world_parts, inside_image, world_parts

RED, BLUE = (0.7, 0.0, 0.0), (0.0, 0.0, 0.7)


def ball(location: tuple, radius: float, color: tuple, index: int, kind: str = "sphere") -> ObjectSpec:
    return ObjectSpec(index, f"ball_{index}", location, (Part(kind, Material(color)),), IDENTITY, radius)


def scene(objects: tuple[ObjectSpec, ...], camera: Camera) -> SceneSpec:
    return SceneSpec(camera, CLEVR_LIGHTS, GREY_GROUND, objects)


def test_the_nearer_one_hides_the_farther_one_in_either_order() -> None:
    camera = Camera((10.0, 0.0, 2.0), 97, 61)
    near, far = ball((3.0, 0.0, 0.5), 0.5, RED, 0), ball((-1.0, 0.0, 0.7), 0.7, BLUE, 1)
    there, back = see(camera, (near, far))[1], see(camera, (far, near))[1]
    assert np.array_equal(there.part == 0, back.part == 1) and np.array_equal(there.depth, back.depth)
    x, y, _ = camera.project(np.array([[3.0, 0.0, 0.5]]))[0]
    assert there.part.reshape(61, 97)[int(y), int(x)] == 0
    assert (there.part == 1).sum() > 0 and there.part[30 * 97] == GROUND
    hidden = see(camera, (far,))[1]
    assert (hidden.part == 0).sum() > (there.part == 1).sum()
    assert visible_pixels(scene((near, far), camera)).tolist() == [(there.part == 0).sum(), (there.part == 1).sum()]


def test_points_and_pixels_see_the_same() -> None:
    camera = clevr_camera(53, 37)
    parts = all_world_parts([ball((0.3, 0.2, 0.7), 0.7, RED, 0), ball((-1.0, 1.0, 0.35), 0.35, BLUE, 1, kind="cube")])
    y, x = np.divmod(np.arange(53 * 37), 53)
    points = see_points(parts, camera, x + 0.5, y + 0.5)
    pixels = see_pixels(parts, camera)
    assert np.array_equal(points.part, pixels.part) and np.array_equal(points.face, pixels.face)


def test_a_part_that_sticks_out_of_the_image_or_behind_the_camera_is_fine() -> None:
    camera = clevr_camera(48, 32)
    outside = ball((0.0, 40.0, 0.5), 0.5, RED, 0)
    assert visible_pixels(scene((outside,), camera)).tolist() == [0]
    behind = ball((12.0, -12.0, 0.5), 0.5, RED, 0)
    assert visible_pixels(scene((behind,), camera)).tolist() == [0]
    assert not inside_image(world_parts(outside), camera, 0.0)
    assert draw(scene((outside, behind), camera)).image.size == (48, 32)


def test_edges_are_between_the_colours() -> None:
    """A red ball on the ground: some pixels at its rim lie between red and grey, and those only at the rim."""
    camera = clevr_camera(120, 80)
    part = ball((0.0, 0.0, 0.7), 0.7, RED, 0)
    smooth = np.asarray(draw(scene((part,), camera)).image).astype(int)
    saturation = (smooth.max(axis=2) - smooth.min(axis=2)).ravel()
    seen = see_pixels(world_parts(part), camera)
    assert saturation[seen.part == GROUND].min() <= 3
    between = (saturation > 15) & (seen.part == GROUND)
    assert 3 < between.sum() < 60


def test_shadows_darken_the_ground_beside_a_part_only() -> None:
    camera = clevr_camera(120, 80)
    light = Illumination(CLEVR_LIGHTS, 0.26)
    lit, dark = (ground(parts, camera, light) for parts in ([], world_parts(ball((0.0, 0.0, 0.7), 0.7, RED, 0))))
    assert (dark <= lit + 1e-6).all()
    share = dark / lit
    assert share.min() < 0.6 and (share > 0.999).mean() > 0.5


def test_srgb_ends() -> None:
    assert to_bytes(np.array([0.0, 0.2140, 1.0, 7.0], np.float32)).tolist() == [0, 127, 255, 255]


def test_an_empty_scene_is_ground() -> None:
    pixels = np.asarray(draw(scene((), clevr_camera(48, 32))).image)
    assert pixels.shape == (32, 48, 3) and np.ptp(pixels.astype(int), axis=2).max() <= 3


def test_ids_are_index_plus_one_and_agree_with_the_counts() -> None:
    camera = clevr_camera(60, 40)
    spec = scene((ball((0.0, 1.0, 0.7), 0.7, RED, 4), ball((1.5, -1.5, 0.35), 0.35, BLUE, 2)), camera)
    rendering = draw(spec)
    assert np.array_equal(rendering.ids, ids(spec)) and set(np.unique(rendering.ids)) == {0, 3, 5}
    assert rendering.visible_pixels(5)[[4, 2]].tolist() == visible_pixels(spec).tolist()
    assert rendering.ids.dtype == np.int32 and rendering.ids.shape == (40, 60)
