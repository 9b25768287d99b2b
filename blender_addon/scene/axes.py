# SPDX-License-Identifier: GPL-3.0-or-later
"""From model space and OpenCV cameras to Blender, here and nowhere else.

Model space is +X the subject's left, +Y up, +Z out of the face. Blender's head faces -Y, which its front
view shows, with +Z up and +X to the same side. Symbols: N points.
"""

from __future__ import annotations

import numpy as np

# Rows are Blender's axes in model space: x stays, y is minus out of the face, z is up.
BLENDER_FROM_MODEL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
# Blender's cameras look along their -Z with +Y up, OpenCV's along +Z with y down.
OPENCV_FROM_BLENDER_CAMERA = np.diag([1.0, -1.0, -1.0])
# A level camera at the origin that looks along +Y.
LEVEL_CAMERA = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


def points_to_blender(points: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """(..., N, 3) float32 model space, metres -> the same in Blender's axes, times ``scale``, contiguous."""
    result = np.empty(points.shape, np.float32)
    result[..., 0] = points[..., 0]
    np.negative(points[..., 2], out=result[..., 1])
    result[..., 2] = points[..., 1]
    if scale != 1.0:
        result *= np.float32(scale)
    return result


def direction_to_blender(direction: np.ndarray) -> np.ndarray:
    """(3,) model space -> (3,) Blender."""
    return BLENDER_FROM_MODEL @ direction


def camera_matrix(R: np.ndarray, t: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Where a photo's camera stands when the head lies upright at the origin.

    Parameters
    ----------
    R : (3, 3), t : (3,)
        ``X_cam = R X_model + t``, metres.

    Returns
    -------
    (4, 4) float64, the camera's ``matrix_world``
    """
    matrix = np.eye(4)
    matrix[:3, :3] = BLENDER_FROM_MODEL @ R.T @ OPENCV_FROM_BLENDER_CAMERA
    matrix[:3, 3] = BLENDER_FROM_MODEL @ (-R.T @ t) * scale
    return matrix


def as_seen(R: np.ndarray, t: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """(4, 4): moves a head and its camera so that the camera is level at the origin and looks along +Y."""
    level = np.eye(4)
    level[:3, :3] = LEVEL_CAMERA
    return level @ np.linalg.inv(camera_matrix(R, t, scale))


def lens(K: np.ndarray, width: int, height: int, sensor_mm: float) -> tuple[float, float, float]:
    """Focal length in millimetres and Blender's shift in x and y, exact to a fraction of a pixel.

    ``K`` (3, 3) in pixels of a photo of ``width`` by ``height``; ``sensor_mm`` is the longer side of the sensor.
    """
    longer = max(width, height)
    focal_mm = float(K[0, 0]) * sensor_mm / longer
    # A principal point right of the middle means that the camera's frame is shifted to the left of its axis.
    shift_x = (width / 2.0 - float(K[0, 2])) / longer
    shift_y = (float(K[1, 2]) - height / 2.0) / longer
    return focal_mm, shift_x, shift_y
