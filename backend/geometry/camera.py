"""The pinhole camera.

Convention (one everywhere): OpenCV axes, x right, y down, z forward; ``K`` in pixels; the centre of
the top-left pixel is at (0.5, 0.5); ``X_cam = R X_model + t`` in metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Camera:
    """One photo's camera.

    Attributes
    ----------
    K : (3, 3) float64
        Intrinsics in pixels of the photo; square pixels.
    R : (3, 3) float64
        Rotation from model to camera.
    t : (3,) float64
        Translation in metres.
    width, height : int
        Size of the photo in pixels.
    """

    K: np.ndarray
    R: np.ndarray
    t: np.ndarray
    width: int
    height: int

    @property
    def focal_px(self) -> float:
        return float(self.K[0, 0])

    @property
    def centre(self) -> np.ndarray:
        """(3,) position of the camera in model space, metres: ``-R^T t``."""
        return -self.R.T @ self.t

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) model space -> (..., 3) camera space, metres."""
        return points @ self.R.T + self.t

    def project(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) model space, metres -> (..., 2) pixels."""
        return project(self.to_camera(points), self.K)

    def scaled(self, factor: float) -> Camera:
        """The same view in a photo whose sides are ``factor`` times as long."""
        return self.resized(round(self.width * factor), round(self.height * factor))

    def resized(self, width: int, height: int) -> Camera:
        """The same view in a photo of another size (pixels stay aligned because centres are at +0.5)."""
        scale = np.diag([width / self.width, height / self.height, 1.0])
        return Camera(scale @ self.K, self.R, self.t, width, height)

    def cropped(self, left: int, top: int, width: int, height: int) -> Camera:
        """The same view seen through a window of the photo."""
        shift = np.array([[1.0, 0.0, -left], [0.0, 1.0, -top], [0.0, 0.0, 1.0]])
        return Camera(shift @ self.K, self.R, self.t, width, height)


def intrinsics(focal_px: float, width: int, height: int) -> np.ndarray:
    """(3, 3) ``K`` with the principal point at the middle of the photo."""
    return np.array([[focal_px, 0.0, width / 2.0], [0.0, focal_px, height / 2.0], [0.0, 0.0, 1.0]])


def project(points_cam: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(..., 3) camera space -> (..., 2) pixels; points at or behind the camera give inf or nonsense."""
    homogeneous = points_cam @ K.T
    return homogeneous[..., :2] / homogeneous[..., 2:]
