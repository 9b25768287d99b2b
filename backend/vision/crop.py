"""Square, turned windows of a photo, resampled without aliasing, and the way back to photo pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# A window is first reduced to about this many times the resolution of the crops that are cut from it; what
# remains is a scale that bilinear sampling does without aliasing.
OVERSAMPLING = 4.0 / 3.0
# The reduced picture reaches this much beyond the window, for crops that are shifted, turned or larger.
REACH = 1.15 * 2**0.5


@dataclass(frozen=True)
class Window:
    """A square in a photo.

    Attributes
    ----------
    x, y : float
        Centre, pixels of the photo.
    size : float
        Side, pixels of the photo.
    angle : float
        Radians; the direction of the crop's x axis in the photo, clockwise because y is down.
    """

    x: float
    y: float
    size: float
    angle: float = 0.0

    def to_photo(self, points: np.ndarray, side: int, mirrored: bool = False) -> np.ndarray:
        """(..., 2) pixels of the crop of ``side`` x ``side`` -> (..., 2) pixels of the photo."""
        linear, offset = self._affine(side, mirrored)
        return points @ linear.T + offset

    def to_crop(self, points: np.ndarray, side: int, mirrored: bool = False) -> np.ndarray:
        """(..., 2) pixels of the photo -> (..., 2) pixels of the crop; inverse of :meth:`to_photo`."""
        linear, offset = self._affine(side, mirrored)
        return (points - offset) @ np.linalg.inv(linear).T

    def _affine(self, side: int, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
        scale = self.size / side
        cos, sin = np.cos(self.angle) * scale, np.sin(self.angle) * scale
        linear = np.array([[cos, -sin], [sin, cos]])
        if mirrored:
            linear = linear * [-1.0, 1.0]
        return linear, np.array([self.x, self.y]) - linear @ np.array([side / 2.0, side / 2.0])


class Reduced:
    """The part of a photo around a window, area-averaged once so that many crops near it are cheap.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
    window : Window
        Crops should have about this place and size.
    side : int
        Their side in pixels.
    """

    def __init__(self, pixels: np.ndarray, window: Window, side: int) -> None:
        height, width = pixels.shape[:2]
        reach = window.size / 2.0 * REACH + 2.0
        # At least one pixel is kept, so that a window beside the photo shows its border.
        left, top = (int(np.clip(np.floor(c - reach), 0, n - 1)) for c, n in ((window.x, width), (window.y, height)))
        right = int(np.clip(np.ceil(window.x + reach), left + 1, width))
        bottom = int(np.clip(np.ceil(window.y + reach), top + 1, height))
        part = pixels[top:bottom, left:right]
        factor = window.size / (side * OVERSAMPLING)
        self._origin = np.array([left, top], np.float64)
        self._per_pixel = np.ones(2)
        if factor > 1.0:
            reduced = (max(round(part.shape[1] / factor), 1), max(round(part.shape[0] / factor), 1))
            self._per_pixel = np.array([part.shape[1] / reduced[0], part.shape[0] / reduced[1]])
            part = cv2.resize(part, reduced, interpolation=cv2.INTER_AREA)
        self._part = np.ascontiguousarray(part)
        self._side = side

    def crop(self, window: Window, mirrored: bool = False) -> np.ndarray:
        """(side, side, 3) uint8; outside of the photo its border is repeated."""
        linear, offset = window._affine(self._side, mirrored)
        # From centres at +0.5 to OpenCV's centres at whole numbers, on both ends.
        linear = linear / self._per_pixel[:, None]
        offset = (offset - self._origin) / self._per_pixel + linear @ np.array([0.5, 0.5]) - 0.5
        return cv2.warpAffine(
            self._part,
            np.column_stack([linear, offset]),
            (self._side, self._side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
