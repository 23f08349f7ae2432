"""Representations: known values, and that nothing is lost on the way through a matrix."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from igllm_jax.scene.rotations import (
    REPRESENTATIONS,
    euler_to_matrix,
    geodesic_deg,
    matrix_to_euler,
    rows_to_matrix,
    rows_to_nearest_matrix,
    yaw_error_deg,
)

FREE = ("euler", "euler_int", "aa", "6d", "quat")
POSES = [0.0, np.pi / 2, -np.pi / 2, np.pi, -np.pi]
angle = st.one_of(
    st.floats(-np.pi, np.pi),
    st.sampled_from(POSES),
    st.builds(lambda pose, off: pose + off, st.sampled_from(POSES), st.floats(-1e-6, 1e-6)),
)
euler = st.tuples(angle, angle, angle)


def elementary(axis: int, angle_rad: float) -> np.ndarray:
    """Turn about one axis, written out."""
    matrix = np.eye(3)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix[i, i] = matrix[j, j] = np.cos(angle_rad)
    matrix[j, i], matrix[i, j] = np.sin(angle_rad), -np.sin(angle_rad)
    return matrix


def test_extrinsic_and_intrinsic_are_the_products_they_say() -> None:
    a, b, c = 0.3, -0.7, 1.1
    x, y, z = elementary(0, a), elementary(1, b), elementary(2, c)
    assert euler_to_matrix((a, b, c)) == pytest.approx(z @ y @ x)
    assert REPRESENTATIONS["euler_int"].to_matrix((a, b, c)) == pytest.approx(x @ y @ z)


def test_known_numbers_of_a_quarter_turn_about_z() -> None:
    turn = (0.0, 0.0, np.pi / 2)
    written = {name: REPRESENTATIONS[name].from_euler_xyz_extrinsic_rad(turn) for name in FREE}
    half = np.sqrt(0.5)
    assert written["euler"] == turn
    assert written["euler_int"] == pytest.approx(turn)
    assert written["aa"] == pytest.approx(turn)
    assert written["6d"] == pytest.approx((0, -1, 0, 1, 0, 0))
    assert written["quat"] == pytest.approx((0, 0, half, half))


@pytest.mark.parametrize("name", FREE)
@given(angles=euler)
def test_numbers_matrix_numbers_is_the_same_rotation(name: str, angles: tuple[float, float, float]) -> None:
    representation = REPRESENTATIONS[name]
    matrix = euler_to_matrix(angles)
    for numbers in (representation.from_euler_xyz_extrinsic_rad(angles), representation.from_matrix(matrix)):
        assert len(numbers) == representation.num_numbers
        there = representation.to_matrix(numbers)
        again = representation.to_matrix(representation.from_matrix(there))
        assert there == pytest.approx(matrix, abs=1e-9)
        assert again == pytest.approx(matrix, abs=1e-6)
        assert geodesic_deg(there, matrix) == pytest.approx(0, abs=1e-6)


@given(angles=euler)
def test_euler_from_matrix_agrees_with_scipy_away_from_the_gimbal(angles: tuple[float, float, float]) -> None:
    matrix = euler_to_matrix(angles)
    ours = matrix_to_euler(matrix)
    assert abs(ours[1]) <= np.pi / 2 + 1e-12
    if abs(abs(ours[1]) - np.pi / 2) > 1e-3:
        theirs = Rotation.from_matrix(matrix).as_euler("xyz")
        assert np.exp(1j * np.array(ours)) == pytest.approx(np.exp(1j * theirs), abs=1e-9)


@pytest.mark.parametrize("name", FREE)
def test_all_zero_numbers_are_the_identity(name: str) -> None:
    representation = REPRESENTATIONS[name]
    assert representation.to_matrix((0.0,) * representation.num_numbers) == pytest.approx(np.eye(3))


number = st.floats(-1e12, 1e12)


@pytest.mark.parametrize("name", [*FREE, "yaw"])
@given(data=st.data())
def test_any_predicted_numbers_are_some_rotation(name: str, data: st.DataObject) -> None:
    representation = REPRESENTATIONS[name]
    count = representation.num_numbers
    numbers = data.draw(st.tuples(*[st.one_of(number, st.sampled_from([0.0, 1.0, -1.0]))] * count))
    matrix = representation.to_matrix(numbers)
    assert matrix @ matrix.T == pytest.approx(np.eye(3), abs=1e-8)
    assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-8)


@given(angles=euler, lengths=st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), lean=st.floats(-3, 3))
def test_6d_takes_rows_of_any_length_that_lean_on_each_other(angles, lengths, lean) -> None:
    matrix = euler_to_matrix(angles)
    first, second = matrix[0] * lengths[0], matrix[1] * lengths[1] + lean * matrix[0]
    assert REPRESENTATIONS["6d"].to_matrix((*first, *second)) == pytest.approx(matrix, abs=1e-6)


def test_quaternion_of_any_length_and_sign() -> None:
    quaternion = np.array(REPRESENTATIONS["quat"].from_euler_xyz_extrinsic_rad((0.4, 0.5, -2.0)))
    for factor in (1.0, -1.0, 7.5, 1e-3):
        assert REPRESENTATIONS["quat"].to_matrix((factor * quaternion).tolist()) == pytest.approx(
            euler_to_matrix((0.4, 0.5, -2.0))
        )


@given(turn_deg=st.floats(0, 180), axis=st.tuples(*[st.floats(-1, 1)] * 3))
def test_geodesic_is_the_angle_between(turn_deg: float, axis: tuple[float, ...]) -> None:
    axis_array = np.array(axis)
    if np.linalg.norm(axis_array) < 1e-3:
        axis_array = np.array([1.0, 0, 0])
    turn = Rotation.from_rotvec(np.radians(turn_deg) * axis_array / np.linalg.norm(axis_array)).as_matrix()
    base = euler_to_matrix((1.0, 2.0, 3.0))
    assert geodesic_deg(base, base @ turn) == pytest.approx(turn_deg, abs=1e-9)


def test_yaw_error_goes_round_the_symmetry() -> None:
    low, high = np.radians(-44), np.radians(44)
    assert yaw_error_deg(low, high, period_rad=np.pi / 2) == pytest.approx(2)
    assert yaw_error_deg(low, high, period_rad=2 * np.pi) == pytest.approx(88)


def test_six_numbers_as_the_reference_takes_them() -> None:
    """The nearest rotation shares the error between both rows; Gram-Schmidt believes the first one."""
    numbers = (1.0, 0.0, 0.0, 0.5, 1.0, 0.0)
    half = np.arctan2(0.5, 2.0)  # of the polar factor of [[1, 0], [0.5, 1]]
    expected = [[np.cos(half), -np.sin(half), 0], [np.sin(half), np.cos(half), 0], [0, 0, 1]]
    np.testing.assert_allclose(rows_to_nearest_matrix(numbers), expected, atol=1e-12)
    np.testing.assert_allclose(rows_to_matrix(numbers), np.eye(3), atol=1e-12)
    np.testing.assert_array_equal(rows_to_nearest_matrix((0.0,) * 6), np.eye(3))
    exact = REPRESENTATIONS["6d"].from_euler_xyz_extrinsic_rad((0.3, -1.0, 2.0))
    np.testing.assert_allclose(rows_to_nearest_matrix(exact), euler_to_matrix((0.3, -1.0, 2.0)), atol=1e-12)
