"""Rotations between the forms the project uses.

Symbols: B batch (any leading dimensions). All functions take and return NumPy arrays; matrices act
on column vectors, ``x' = R x``.
"""

from __future__ import annotations

import numpy as np

# Below this angle (radians) the exact formulas divide by nearly zero and the Taylor series is exact
# to double precision.
SMALL_ANGLE = 1e-8

# A face that looks straight into an OpenCV camera (x right, y down, z forward): model axes
# (+X subject's left, +Y up, +Z out of the face) map to (+X right, -Y, -Z).
FRONTAL = np.diag([1.0, -1.0, -1.0])


def matrix_from_rotation_vector(vector: np.ndarray) -> np.ndarray:
    """Rodrigues' formula: (..., 3) radians along the axis -> (..., 3, 3)."""
    vector = np.asarray(vector, dtype=np.float64)
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    cross = skew(vector)
    small = angle < SMALL_ANGLE
    safe = np.where(small, 1.0, angle)
    first = np.where(small, 1.0, np.sin(safe) / safe)
    second = np.where(small, 0.5, (1.0 - np.cos(safe)) / safe**2)
    return np.eye(3) + first * cross + second * (cross @ cross)


def skew(vector: np.ndarray) -> np.ndarray:
    """(..., 3) -> (..., 3, 3) with ``skew(a) @ b == cross(a, b)``."""
    x, y, z = np.moveaxis(np.asarray(vector, dtype=np.float64), -1, 0)
    zero = np.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """Closest proper rotation in the Frobenius norm, (..., 3, 3) -> (..., 3, 3)."""
    u, _, vt = np.linalg.svd(matrix)
    sign = np.sign(np.linalg.det(u @ vt))
    u = u.copy()
    u[..., :, 2] *= sign[..., None]
    return u @ vt


def head_euler_degrees(rotation: np.ndarray) -> dict[str, float]:
    """Yaw, pitch and roll of a head from its camera rotation.

    Parameters
    ----------
    rotation : (3, 3) float
        ``R`` of ``X_cam = R X_model + t`` in the OpenCV camera frame.

    Returns
    -------
    dict of float
        Degrees. ``yaw`` is positive when the nose points to the image's right, ``pitch`` is positive
        when it points up, ``roll`` is positive when the head leans clockwise in the image. All are
        zero for a face that looks straight into the camera. With ``A = FRONTAL^T R`` (the head in a
        frame that looks back at the camera): ``A = Ry(yaw) Rx(-pitch) Rz(-roll)``.
    """
    head = FRONTAL.T @ np.asarray(rotation, dtype=np.float64)
    yaw = np.arctan2(head[0, 2], head[2, 2])
    pitch = np.arcsin(np.clip(head[1, 2], -1.0, 1.0))
    roll = -np.arctan2(head[1, 0], head[1, 1])
    return {name: float(np.degrees(value)) for name, value in zip(("yaw", "pitch", "roll"), (yaw, pitch, roll))}


def rotation_from_head_euler(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Inverse of :func:`head_euler_degrees`: degrees -> (3, 3)."""
    yaw, pitch, roll = np.radians([yaw, pitch, roll])
    vectors = np.array([[0.0, yaw, 0.0], [-pitch, 0.0, 0.0], [0.0, 0.0, -roll]])
    about_y, about_x, about_z = matrix_from_rotation_vector(vectors)
    return FRONTAL @ about_y @ about_x @ about_z
