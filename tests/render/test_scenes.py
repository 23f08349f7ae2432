"""Given scenes, from labels and from predictions, as pictures; and the turns that they show."""

import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.render import clevr_camera, draw_objects, fit_camera
from igllm_jax.render.compose.composers import COMPOSERS
from igllm_jax.render.dataset import make_example
from igllm_jax.render.flat.visibility import see_pixels
from igllm_jax.render.objects import solid
from igllm_jax.render.recipe import Recipe
from igllm_jax.render.roles import roles_of
from igllm_jax.render.world import world_parts
from igllm_jax.scene.code import read, write
from igllm_jax.scene.language import find_language
from igllm_jax.scene.scene import Object, Scene


def example(task: str, index: int, split: str = "train") -> tuple:
    fewest, most = COMPOSERS[task].num_objects or (1, 1)
    image, label = make_example(Recipe(task, 7, 240, 160, fewest, most), split, index)
    return image, Scene.from_label(label, task)


@pytest.mark.parametrize("index", range(3))
def test_a_label_painted_through_its_fitted_camera_is_the_image(index: int) -> None:
    image, scene = example("clevr", index)
    locations, pixels = ([getattr(thing, name) for thing in scene.objects] for name in ("location", "pixel"))
    again = draw_objects(scene, "clevr", camera=fit_camera(np.array(locations), np.array(pixels), 240, 160))
    difference = np.abs(np.asarray(again).astype(int) - np.asarray(image)).mean()
    other = np.abs(np.asarray(example("clevr", index + 5)[0]).astype(int) - np.asarray(image)).mean()
    assert difference < 0.6 * other and difference < 12  # the lamps, which labels do not have, stood elsewhere


@pytest.mark.parametrize("task", ["so3", "sixdof"])
@pytest.mark.parametrize("split", ["train", "val_ID"])
def test_a_label_without_jitter_paints_the_very_image(task: str, split: str) -> None:
    image, scene = example(task, 2, split)
    assert np.array_equal(np.asarray(draw_objects(scene, task, width=240, height=160)), np.asarray(image))


@pytest.mark.parametrize("rotation_rep", find_language("sixdof").rotation_reps)
def test_code_of_any_representation_paints_the_same(rotation_rep: str) -> None:
    image, scene = example("sixdof", 4)
    code = write(scene, "sixdof", rotation_rep=rotation_rep, numbers_as_tokens=False, rng=None,
                 shuffle_attributes=False, use_synonyms=False)  # fmt: skip
    reading = read(code.text, "sixdof", rotation_rep=rotation_rep)
    again = draw_objects(reading.objects, "sixdof", width=240, height=160, rotation_rep=rotation_rep)
    assert np.abs(np.asarray(again).astype(int) - np.asarray(image)).mean() < 0.5  # numbers have three digits


def test_clevr_code_paints_the_same_outlines() -> None:
    """A cube's code has its yaw modulo a quarter turn, in radians; its label has degrees."""
    _, scene = example("clevr", 0)
    code = write(scene, "clevr", rotation_rep="", numbers_as_tokens=False, rng=None,
                 shuffle_attributes=False, use_synonyms=False)  # fmt: skip
    reading = read(code.text, "clevr", rotation_rep="")
    label, code_picture = (np.asarray(draw_objects(s, "clevr")).astype(int) for s in (scene, reading.objects))
    assert np.abs(label - code_picture).mean() < 0.5


@pytest.mark.parametrize(("yaw", "unit"), [(30.0, "deg"), (np.radians(30.0), "rad")])
def test_a_cubes_corners_are_where_its_yaw_says(yaw: float, unit: str) -> None:
    camera = clevr_camera(480, 320)
    cube = Object(size="large", shape="cube", location=(0.5, -0.5, 0.7), rotation=(yaw,))
    roles = roles_of(cube, find_language("clevr"), rotation_rep="", rotation_unit=unit)
    mask = see_pixels(world_parts(solid(roles, 0)), camera).part.reshape(320, 480) == 0
    corner_angles = np.radians(30.0 + 45.0 + 90.0 * np.arange(4))
    for reach, inside in ((0.97, True), (1.06, False)):
        top = np.stack([0.5 + reach * 0.7 * 2**0.5 * np.cos(corner_angles),
                        -0.5 + reach * 0.7 * 2**0.5 * np.sin(corner_angles), np.full(4, 1.4)], axis=1)  # fmt: skip
        x, y, _ = camera.project(top).astype(int).T
        shown = mask[y, x]
        # Just outside of the corner towards the camera lies the cube's side.
        assert shown.all() if inside else shown.sum() <= 1


def rotation_by_hand(euler_xyz_extrinsic_rad: tuple[float, ...]) -> np.ndarray:
    """Rz Ry Rx, multiplied out here independently of the package."""
    a, b, c = euler_xyz_extrinsic_rad
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@pytest.mark.parametrize(("task", "scale"), [("so3", 3.3 * 160 / 240), ("sixdof", 1.4)])
def test_the_airplanes_sides_are_where_the_label_turns_them(task: str, scale: float) -> None:
    """Nose red, right wing blue, belly orange: looked up at their projected places, where those face the camera."""
    marks = {  # own place, own outward direction, and a test of the colour there
        "nose": ((1.07, 0.0, 0.0), (1, 0, 0), lambda r, g, b: r > 1.5 * g and r > 1.5 * b),
        "right wing": ((-0.05, -0.8, 0.03), (0, 0, 1), lambda r, g, b: b > 1.3 * r and b > 1.3 * g),
        "under the right wing": ((-0.05, -0.8, -0.03), (0, 0, -1), lambda r, g, b: b > 1.3 * r and b > 1.3 * g),
        "belly": ((-0.05, 0.0, -0.25), (0, 0, -1), lambda r, g, b: r > 1.2 * g and g > 1.5 * b),
    }  # fmt: skip
    camera = clevr_camera(240, 160)
    looked, right = dict.fromkeys(marks, 0), dict.fromkeys(marks, 0)
    for index in range(60):
        image, scene = example(task, index)
        (thing,) = scene.objects
        turn, middle = rotation_by_hand(thing.rotation), np.array(thing.location or (0, 0, 0))
        pixels = np.asarray(image).astype(float)
        for name, (point_of_it, outward, is_right) in marks.items():
            point = middle + scale * turn @ np.array(point_of_it)
            towards = (np.array(camera.position) - point) @ (turn @ np.array(outward, float))
            if towards < 0.5 * np.linalg.norm(np.array(camera.position) - point):
                continue
            x, y, _ = camera.project(point)[0].astype(int)
            looked[name] += 1
            right[name] += is_right(*pixels[y, x])
    for name in marks:
        assert looked[name] >= 3 and right[name] >= 0.9 * looked[name], (name, looked, right)


def test_predictions_may_hold_anything() -> None:
    text = "add(shape='teapot', color='mauve', loc=(0.5, 0.5, 0.35), rotation=2)\nadd(shape='cube')\nadd(\n"
    reading = read(text, "clevr", rotation_rep="")
    empty, painted = (np.asarray(draw_objects(things, "clevr")).astype(int) for things in ((), reading.objects))
    x, y, _ = clevr_camera(480, 320).project(np.array([0.5, 0.5, 0.35]))[0].astype(int)
    assert np.abs(empty - painted)[y, x].max() > 10
    toys = read("add(shape='yacht_3', loc=(0, 0, 0.5))\nadd(shape='car_x', loc=(2, 0, 0.5))", "shapenet",
                rotation_rep="euler")  # fmt: skip
    assert draw_objects(toys.objects, "shapenet").size == (480, 320)


def test_errors() -> None:
    with pytest.raises(UserError, match="draw_disc"):
        draw_objects((), "twod")
    with pytest.raises(UserError, match="rotation_rep='quat'"):
        draw_objects((Object(rotation=(1.0,), location=(0.0, 0.0, 0.3)),), "clevr", rotation_rep="quat")
    with pytest.raises(UserError, match="rotation_unit='turns'"):
        draw_objects((Object(rotation=(1.0,), location=(0.0, 0.0, 0.3)),), "clevr", rotation_unit="turns")
