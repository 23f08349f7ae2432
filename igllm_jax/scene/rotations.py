"""Rotation representations: what a rotation looks like as numbers in the code, and back. All angles here are radians.

A label's rotation is `euler_xyz_extrinsic_rad`: three angles about the fixed axes x, then y, then z, so that the
matrix is R = Rz(c) Ry(b) Rx(a) and acts on columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

SMALLEST_LENGTH = 1e-9  # relative length under which a predicted direction is taken as absent


@dataclass(frozen=True)
class Representation:
    """One way of writing a rotation.

    num_numbers: how many numbers the code holds.
    from_euler_xyz_extrinsic_rad: a label's 3 angles -> the representation's numbers, as the training code has them.
    from_matrix: rotation matrix float64 [3, 3] -> the representation's numbers.
    to_matrix: the representation's numbers, as predicted (finite, perhaps not legal) -> rotation matrix float64 [3, 3].
    to_matrix_as_reference: the same as the reference's evaluation has it, None where it is the same.
    """

    num_numbers: int
    from_euler_xyz_extrinsic_rad: Callable[[Sequence[float]], tuple[float, ...]]
    from_matrix: Callable[[np.ndarray], tuple[float, ...]]
    to_matrix: Callable[[Sequence[float]], np.ndarray]
    to_matrix_as_reference: Callable[[Sequence[float]], np.ndarray] | None = None


def euler_to_matrix(euler_xyz_extrinsic_rad: Sequence[float]) -> np.ndarray:
    """Rotation matrix float64 [3, 3] = Rz(c) Ry(b) Rx(a) of extrinsic xyz angles (a, b, c) in radians."""
    return Rotation.from_euler("xyz", np.asarray(euler_xyz_extrinsic_rad, np.float64)).as_matrix()


def matrix_to_euler(matrix: np.ndarray) -> tuple[float, float, float]:
    """Extrinsic xyz angles in radians of a rotation matrix [3, 3]; the middle one in [-pi/2, pi/2].

    The last angle is taken after undoing the first, so nothing special happens at the gimbal pose, where only the
    difference or sum of the two is defined.
    Source: I. Herter, K. Lott, "Algorithms for decomposing 3-D orthogonal matrices into primitive rotations", 1993.
    """
    m = np.asarray(matrix, np.float64)
    first = np.arctan2(m[2, 1], m[2, 2])
    sin, cos = np.sin(first), np.cos(first)
    middle = np.arctan2(-m[2, 0], np.hypot(m[0, 0], m[1, 0]))
    last = np.arctan2(sin * m[0, 2] - cos * m[0, 1], cos * m[1, 1] - sin * m[1, 2])
    return float(first), float(middle), float(last)


def matrix_to_intrinsic(matrix: np.ndarray) -> tuple[float, float, float]:
    """Intrinsic XYZ angles in radians (about the turning axes X, then Y, then Z): R = Rx(a) Ry(b) Rz(c).

    The transposed matrix has the same form with the angles negated, so its extrinsic angles are these with the sign
    turned.
    """
    m = np.asarray(matrix, np.float64).T  # = Rz(-c) Ry(-b) Rx(-a)
    first, middle, last = matrix_to_euler(m)
    return -first, -middle, -last


def intrinsic_to_matrix(euler_xyz_intrinsic_rad: Sequence[float]) -> np.ndarray:
    """Rotation matrix float64 [3, 3] = Rx(a) Ry(b) Rz(c) of intrinsic XYZ angles (a, b, c) in radians."""
    return Rotation.from_euler("XYZ", np.asarray(euler_xyz_intrinsic_rad, np.float64)).as_matrix()


def rotation_vector_to_matrix(rotation_vector_rad: Sequence[float]) -> np.ndarray:
    """Rotation matrix float64 [3, 3] about the vector's direction, by its length in radians."""
    return Rotation.from_rotvec(np.asarray(rotation_vector_rad, np.float64)).as_matrix()


def rows_to_matrix(numbers: Sequence[float]) -> np.ndarray:
    """Rotation matrix [3, 3] whose first two rows follow six numbers, which need not be unit length or orthogonal.

    A row that is zero, or parallel to the first, is replaced by a coordinate axis, so that six zeros are the identity.
    Source: Zhou et al., "On the Continuity of Rotation Representations in Neural Networks", 2019 (Gram-Schmidt).
    """
    given = np.asarray(numbers, np.float64).reshape(2, 3)
    axes = np.eye(3)
    first = _direction([given[0], axes[0]], None)
    second = _direction([given[1], axes[1], axes[2], axes[0]], first)
    return np.stack([first, second, np.cross(first, second)])


def rows_to_nearest_matrix(numbers: Sequence[float]) -> np.ndarray:
    """Rotation matrix [3, 3] nearest to the rows (r0, r1, r0 x r1) of six numbers, as the reference's evaluation takes.

    It is the one that `Rotation.from_matrix` gives. Where the rows span no volume there is none; then it is
    `rows_to_matrix`, so that six zeros are the identity.
    """
    first, second = np.asarray(numbers, np.float64).reshape(2, 3)
    try:
        return Rotation.from_matrix(np.stack([first, second, np.cross(first, second)])).as_matrix()
    except (ValueError, np.linalg.LinAlgError):
        return rows_to_matrix(numbers)


def _direction(candidates: list[np.ndarray], normal: np.ndarray | None) -> np.ndarray:
    """Unit vector of the first candidate that has a length, after its part along `normal` is taken off."""
    for candidate in candidates:
        size = np.abs(candidate).max()
        if size < SMALLEST_LENGTH:
            continue
        vector = candidate / size  # scaled first: squares of large predictions would overflow
        if normal is not None:
            vector = vector - normal * (normal @ vector)
        length = np.linalg.norm(vector)
        if length > SMALLEST_LENGTH:
            return vector / length
    raise AssertionError("the coordinate axes cannot all be parallel to one vector")


def quaternion_to_matrix(numbers: Sequence[float]) -> np.ndarray:
    """Rotation matrix [3, 3] of a quaternion (x, y, z, w) of any length; four zeros are the identity."""
    quaternion = np.asarray(numbers, np.float64)
    size = np.abs(quaternion).max()
    if size < SMALLEST_LENGTH:
        return np.eye(3)
    return Rotation.from_quat(quaternion / size).as_matrix()


def yaw_to_matrix(yaw_rad: Sequence[float]) -> np.ndarray:
    """Rotation matrix [3, 3] of a turn about the vertical axis z."""
    return euler_to_matrix((0.0, 0.0, yaw_rad[0]))


def geodesic_deg(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Angle in degrees, 0 to 180, of the rotation that leads from one to the other: [..., 3, 3] twice -> [...].

    From sine and cosine together, since the arc cosine of the trace alone loses half the digits near 0 and 180.
    """
    between = np.swapaxes(predicted, -1, -2) @ true
    axis = np.stack(
        [
            between[..., 2, 1] - between[..., 1, 2],
            between[..., 0, 2] - between[..., 2, 0],
            between[..., 1, 0] - between[..., 0, 1],
        ],
        axis=-1,
    )
    cosine_twice = np.trace(between, axis1=-2, axis2=-1) - 1
    return np.degrees(np.arctan2(np.linalg.norm(axis, axis=-1), cosine_twice))


def yaw_error_deg(predicted_rad: float, true_rad: float, *, period_rad: float) -> float:
    """Smallest difference in degrees between two yaws in radians, where turns by `period_rad` look the same."""
    half = period_rad / 2
    return float(np.degrees(abs((predicted_rad - true_rad + half) % period_rad - half)))


def _numbers(array: np.ndarray) -> tuple[float, ...]:
    return tuple(float(number) for number in array)


def _rotation(euler_xyz_extrinsic_rad: Sequence[float]) -> Rotation:
    return Rotation.from_euler("xyz", np.asarray(euler_xyz_extrinsic_rad, np.float64))


REPRESENTATIONS: dict[str, Representation] = {
    # Extrinsic xyz, written as the label has it, not brought into a standard range.
    "euler": Representation(
        num_numbers=3,
        from_euler_xyz_extrinsic_rad=lambda angles: tuple(float(angle) for angle in angles),
        from_matrix=matrix_to_euler,
        to_matrix=euler_to_matrix,
    ),
    # Intrinsic XYZ.
    "euler_int": Representation(
        num_numbers=3,
        from_euler_xyz_extrinsic_rad=lambda angles: matrix_to_intrinsic(euler_to_matrix(angles)),
        from_matrix=matrix_to_intrinsic,
        to_matrix=intrinsic_to_matrix,
    ),
    # Rotation vector: the axis, as long as the angle in radians.
    "aa": Representation(
        num_numbers=3,
        from_euler_xyz_extrinsic_rad=lambda angles: _numbers(_rotation(angles).as_rotvec()),
        from_matrix=lambda matrix: _numbers(Rotation.from_matrix(matrix).as_rotvec()),
        to_matrix=rotation_vector_to_matrix,
    ),
    # The first two rows of the matrix.
    "6d": Representation(
        num_numbers=6,
        from_euler_xyz_extrinsic_rad=lambda angles: _numbers(euler_to_matrix(angles)[:2].reshape(-1)),
        from_matrix=lambda matrix: _numbers(np.asarray(matrix, np.float64)[:2].reshape(-1)),
        to_matrix=rows_to_matrix,
        to_matrix_as_reference=rows_to_nearest_matrix,
    ),
    # x, y, z, w.
    "quat": Representation(
        num_numbers=4,
        from_euler_xyz_extrinsic_rad=lambda angles: _numbers(_rotation(angles).as_quat()),
        from_matrix=lambda matrix: _numbers(Rotation.from_matrix(matrix).as_quat()),
        to_matrix=quaternion_to_matrix,
    ),
    # One angle about the vertical axis z. What an object's symmetry makes of it, a language says.
    "yaw": Representation(
        num_numbers=1,
        from_euler_xyz_extrinsic_rad=lambda angles: (matrix_to_euler(euler_to_matrix(angles))[2],),
        from_matrix=lambda matrix: (matrix_to_euler(matrix)[2],),
        to_matrix=yaw_to_matrix,
    ),
}
