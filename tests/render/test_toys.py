"""The toys, and the scenes of so3, sixdof and shapenet."""

import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.render.camera import clevr_camera
from igllm_jax.render.compose import poses, shapenet
from igllm_jax.render.compose.composers import COMPOSERS
from igllm_jax.render.dataset import make_example
from igllm_jax.render.flat.draw import visible_pixels
from igllm_jax.render.materials import PALETTE, PALETTE_OOD, draw_materials
from igllm_jax.render.objects import toy_object
from igllm_jax.render.recipe import Recipe
from igllm_jax.render.roles import Roles
from igllm_jax.render.toys import CLASSES, MOST_PIECES, toy
from igllm_jax.render.world import WorldPart, inside_image, lowest, world_parts
from igllm_jax.scene.rotations import euler_to_matrix, geodesic_deg
from igllm_jax.scene.scene import Scene


def posed(shape: str, turn: np.ndarray, location: tuple = (0.0, 0.0, 0.0), scale: float = 1.0) -> list[WorldPart]:
    return world_parts(toy_object(Roles(shape=shape, rotation=turn, location=location), 0, scale))


SHAPES = ["plane"] + [f"{name}_{number}" for name in CLASSES for number in range(10)]


def scenes(task: str, split: str, count: int) -> list[Scene]:
    recipe = Recipe(task, 3, 120, 80, *(COMPOSERS[task].num_objects or (1, 1)))
    return [Scene.from_label(make_example(recipe, split, index)[1], task) for index in range(count)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_toy_is_whole(shape: str) -> None:
    pieces = toy(shape)
    assert pieces
    parts = posed(shape, np.eye(3))
    corners = np.concatenate([part.corners() for part in parts])
    assert np.abs(corners).max() < 1.3
    assert all(np.linalg.det(part.axes) > 0 for part in parts)  # mirrored parts would have their normals inside
    low = lowest(parts)
    assert corners[:, 2].min() <= low + 1e-9 < 0


def test_no_toy_has_more_pieces_than_the_most() -> None:
    shapes = ["plane", *(f"{name}_{number}" for name in CLASSES for number in range(60))]
    assert max(len(toy(shape) or ()) for shape in shapes) == MOST_PIECES


def test_models_differ_and_stay_the_same() -> None:
    for name in CLASSES:
        spreads = [tuple(float(v) for one in toy(f"{name}_{number}") for v in one.center) for number in range(10)]
        assert len(set(spreads)) == 10
        assert spreads[4] == tuple(float(v) for one in toy(f"{name}_4") for v in one.center)


@pytest.mark.parametrize(
    "word", ["", "chair", "chair_", "chair_x", "yacht_1", "_1", "chair_-1", "chair_99999999999999"]
)
def test_other_words_are_no_toys(word: str) -> None:
    assert toy(word) is None


def test_lowest_touches_the_ground_for_every_kind() -> None:
    rng = np.random.default_rng(0)
    for shape in ("plane", "lamp_0", "car_1"):
        turn = poses.random_turn(rng)
        for part in posed(shape, turn):
            directions = rng.normal(size=(40_000, 3))
            unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
            if part.kind == "cube":
                surface = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
            elif part.kind == "sphere":
                surface = unit
            else:
                circle = unit[:, :2] / np.linalg.norm(unit[:, :2], axis=1, keepdims=True)
                bottom = np.column_stack([circle, np.full(len(unit), -1.0)])
                top = np.column_stack([circle * (part.kind == "cylinder"), np.ones(len(unit))])
                surface = np.concatenate([bottom, top])
            assert lowest([part]) == pytest.approx((part.center + surface @ part.axes.T)[:, 2].min(), abs=1e-3)


def test_so3_splits_and_labels() -> None:
    for split in poses.SPLITS:
        for scene in scenes("so3", split, 13):
            (thing,) = scene.objects
            assert (thing.shape, thing.location, thing.size, thing.color, thing.material) == ("plane", *[None] * 4)
            angle = geodesic_deg(euler_to_matrix(thing.rotation), np.eye(3))
            assert (angle <= 30) == (split == "val_OOD")
            assert thing.pixel == pytest.approx((60, 40, np.linalg.norm(clevr_camera(120, 80).position)))


def test_turns_are_uniform() -> None:
    """Uniform rotations: the mean matrix is 0 and the angle t has the density (1 - cos t) / pi."""
    rng = np.random.default_rng(0)
    turns = np.stack([poses.random_turn(rng) for _ in range(4000)])
    assert np.abs(turns.mean(axis=0)).max() < 0.04
    angles = geodesic_deg(turns, np.eye(3))
    assert (angles < 90).mean() == pytest.approx(0.5 - 1 / np.pi, abs=0.03)
    within = np.stack([poses.random_turn_within(rng, 30.0) for _ in range(2000)])
    small = np.radians(geodesic_deg(within, np.eye(3)))
    assert small.max() <= np.radians(30)
    half = np.radians(15)
    expected = (half - np.sin(half)) / (np.radians(30) - np.sin(np.radians(30)))
    assert (small < half).mean() == pytest.approx(expected, abs=0.03)


def test_the_airplane_is_always_in_the_picture() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        turn = poses.random_turn(rng)
        for camera in (clevr_camera(336, 336), clevr_camera(480, 320), clevr_camera(60, 90)):
            parts = world_parts(poses.plane_object(turn, scale=poses.so3_scale(camera)))
            assert inside_image(parts, camera, 0.0)


def test_sixdof_hovers_over_the_ground_and_its_middle_is_on_it() -> None:
    for scene in scenes("sixdof", "train", 13):
        (thing,) = scene.objects
        parts = posed("plane", euler_to_matrix(thing.rotation), thing.location, poses.SIXDOF_SCALE)
        assert -1e-9 <= lowest(parts) <= poses.SIXDOF_LIFT
        x, y, depth = thing.pixel
        assert clevr_camera(120, 80).project(np.array(thing.location))[0] == pytest.approx([x, y, depth], abs=0.501)


def test_shapenet_splits_and_places() -> None:
    for split in shapenet.SPLITS:
        for scene in scenes("shapenet", split, 7):
            assert 2 <= len(scene.objects) <= 4
            for thing in scene.objects:
                name, number = thing.shape.split("_")
                assert name in CLASSES and (int(number) >= 6) == (split == "val_OOD_shape")
                assert thing.rotation[:2] == (0.0, 0.0) and abs(thing.rotation[2]) <= np.pi
                parts = posed(thing.shape, euler_to_matrix(thing.rotation), thing.location)
                assert lowest(parts) == pytest.approx(0, abs=1e-9)
            for i, a in enumerate(scene.objects):
                for b in scene.objects[:i]:
                    assert np.hypot(*np.subtract(a.location, b.location)[:2]) > 0.5


def test_ood_materials_share_nothing_with_training() -> None:
    assert not set(PALETTE) & set(PALETTE_OOD)
    rng = np.random.default_rng(0)
    for ood, palette in ((False, PALETTE), (True, PALETTE_OOD)):
        for _ in range(20):
            paint = draw_materials(rng, ood=ood)
            assert {paint["body"].color, paint["body"].second, paint["accent"].color} <= set(palette)
            assert (paint["body"].pattern == "checks") == ood


def test_too_many_toys_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapenet, "TRIES_PER_SCENE", 2)
    with pytest.raises(UserError, match="smaller --max_objects"):
        shapenet.compose(np.random.default_rng(0), Recipe("shapenet", 0, 60, 40, 40, 40), "train", visible_pixels)
