"""Rays against parts, compared with walking along the ray."""

import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.render.flat.rays import MISS, Triple, albedo, intersect, normals
from igllm_jax.render.spec import Material
from igllm_jax.render.world import WorldPart
from igllm_jax.scene.rotations import euler_to_matrix

INSIDE = {
    "sphere": lambda p: (p**2).sum(-1) <= 1,
    "cube": lambda p: np.abs(p).max(-1) <= 1,
    "cylinder": lambda p: (p[..., 0] ** 2 + p[..., 1] ** 2 <= 1) & (np.abs(p[..., 2]) <= 1),
    "cone": lambda p: (np.hypot(p[..., 0], p[..., 1]) <= (1 - p[..., 2]) / 2) & (np.abs(p[..., 2]) <= 1),
}
ORIGIN = np.array([5.0, -4.0, 3.0])


def some_part(kind: str) -> WorldPart:
    shear = np.array([[0.9, 0.2, 0.0], [0.0, 0.7, 0.1], [0.0, 0.0, 1.1]])
    axes = euler_to_matrix((0.4, -0.7, 1.9)) @ shear
    return WorldPart(kind, np.array([0.2, -0.1, 0.3]), axes, Material((1.0, 0.0, 0.0)))


def some_rays(part: WorldPart) -> np.ndarray:
    targets = part.center + np.random.default_rng(0).uniform(-1.3, 1.3, (211, 3))
    return (targets - ORIGIN).astype(np.float32)


@pytest.mark.parametrize("kind", list(INSIDE))
def test_rays_enter_where_walking_along_them_does(kind: str) -> None:
    part = some_part(kind)
    rays = some_rays(part)
    enter, _ = intersect(part, ORIGIN, Triple(*rays.T))
    steps = np.linspace(0, 2, 4001)
    walked = ORIGIN + steps[:, None, None] * rays.astype(np.float64)
    inside = INSIDE[kind]((walked - part.center) @ np.linalg.inv(part.axes).T)
    hit = inside.any(axis=0)
    assert 0.2 < hit.mean() < 0.9
    # Rays that only graze it fall between two steps.
    assert (hit != (enter != MISS)).mean() < 0.02
    both = hit & (enter != MISS)
    assert enter[both] == pytest.approx(steps[inside.argmax(axis=0)[both]], abs=2e-3)


@pytest.mark.parametrize("kind", list(INSIDE))
def test_normals_point_out_and_stand_on_the_surface(kind: str) -> None:
    part = some_part(kind)
    rays = some_rays(part)
    enter, face = intersect(part, ORIGIN, Triple(*rays.T))
    hit = enter != MISS
    point = ORIGIN + enter[hit, None] * rays[hit]
    own = (point - part.center) @ np.linalg.inv(part.axes).T
    normal = np.stack(normals(part, face[hit], Triple(*own.T.astype(np.float32))), axis=1)
    assert np.linalg.norm(normal, axis=1) == pytest.approx(np.ones(hit.sum()), abs=1e-4)
    assert (normal * rays[hit]).sum(axis=1).max() < 1e-3  # towards where the ray comes from
    inverse = np.linalg.inv(part.axes)
    for step, inside in ((-1e-3, True), (1e-3, False)):
        moved = INSIDE[kind]((point + step * normal - part.center) @ inverse.T)
        assert (moved == inside).mean() > 0.97  # all but points at an edge


def test_faces_of_a_cube_are_told_apart() -> None:
    cube = WorldPart("cube", np.zeros(3), np.eye(3), Material((0.5, 0.0, 0.0)))
    for axis in range(3):
        for sign, face in ((-1.0, 2 * axis), (1.0, 2 * axis + 1)):
            origin = np.zeros(3)
            origin[axis] = 5 * sign
            ray = Triple(*(np.array([-float(c)], np.float32) for c in origin))
            enter, side = intersect(cube, origin, ray)
            assert enter == pytest.approx([0.8]) and side[0] == face


def test_a_mesh_from_a_file_is_a_user_error() -> None:
    part = WorldPart("file", np.zeros(3), np.eye(3), Material((0.5, 0.0, 0.0)))
    with pytest.raises(UserError, match="flat draws sphere, cube, cylinder, cone, not a mesh from a file"):
        intersect(part, ORIGIN, Triple(*np.zeros((3, 1), np.float32)))


def test_stripes_and_checks_alternate() -> None:
    x = np.array([-0.9, -0.1, 0.1, 0.9], np.float32)
    point = Triple(x, np.full(4, -0.9, np.float32), np.full(4, -0.9, np.float32))
    for pattern, expected in (("stripes", [1, 1, 0, 0]), ("checks", [1, 1, 0, 0])):
        part = WorldPart("sphere", np.zeros(3), np.eye(3), Material((1.0, 1.0, 1.0), pattern=pattern, repeats=1.0))
        assert albedo(part, np.zeros(4, np.int8), point)[0].tolist() == expected


def test_polished_edges_are_lighter() -> None:
    point = Triple(*np.array([[0.0, 0.99], [0.0, 0.99], [1.0, 1.0]], np.float32))
    for metallic, lighter in ((0.0, False), (1.0, True)):
        part = WorldPart("cube", np.zeros(3), np.eye(3), Material((0.2, 0.2, 0.2), metallic=metallic))
        middle, edge = albedo(part, np.full(2, 5, np.int8), point)[0]
        assert (edge > middle) == lighter
