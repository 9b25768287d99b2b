"""Square, turned windows of a photo, resampled without aliasing, and the way back to photo pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# A window is first reduced by a whole number, which is fast and free of aliasing, so that it has about this many
# times the resolution of the crops cut from it; what remains is a scale below 2, which bilinear sampling does well.
OVERSAMPLING = 1.25
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
        factor = min(max(round(window.size / side / OVERSAMPLING), 1), height, width)
        left, right = _span(window.x, reach, width, factor)
        top, bottom = _span(window.y, reach, height, factor)
        self._part = shrink(pixels[top:bottom, left:right], factor)
        self._origin = np.array([left, top], np.float64)
        self._factor = factor
        self._side = side

    def crop(self, window: Window, mirrored: bool = False) -> np.ndarray:
        """(side, side, 3) uint8; outside of the photo its border is repeated."""
        linear, offset = window._affine(self._side, mirrored)
        # From centres at +0.5 to OpenCV's centres at whole numbers, on both ends.
        linear = linear / self._factor
        offset = (offset - self._origin) / self._factor + linear @ np.array([0.5, 0.5]) - 0.5
        return cv2.warpAffine(
            self._part,
            np.column_stack([linear, offset]),
            (self._side, self._side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )


def shrink(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means of ``factor`` x ``factor`` blocks, (H, W, 3) -> (H // factor, W // factor, 3); a remainder is cut off."""
    if factor == 1:
        return np.ascontiguousarray(pixels)
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    whole = pixels[: height * factor, : width * factor]
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)


def _span(centre: float, reach: float, length: int, factor: int) -> tuple[int, int]:
    """The pixels of a row within ``reach`` of ``centre``: a multiple of ``factor``, at least one block."""
    low = int(np.clip(np.floor(centre - reach), 0, length - factor))
    high = int(np.clip(np.ceil(centre + reach), low + factor, length))
    return low, low + (high - low) // factor * factor
