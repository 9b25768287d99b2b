"""The colour of a person's eyes, read from the photo."""

from __future__ import annotations

import numpy as np

from backend.vision.landmark_sets import LEFT_EYE, LEFT_IRIS, RIGHT_EYE, RIGHT_IRIS

# Between pupil and limbus, over the radius of the iris.
INNER, OUTER = 0.45, 0.85
# Fewer pixels than this say nothing: the eye is closed or the photo is small.
FEWEST_PIXELS = 25
# The catch light and the shade under the upper lid are the brightest and darkest pixels of the ring.
BRIGHTEST, DARKEST = 0.80, 0.20
# Largest channel of a believable iris texture, sRGB: the lids' shade or a dark photo makes eyes read as
# black (44 on a studio photo of brown eyes), a flash as milky.
DARKEST_PEAK, BRIGHTEST_PEAK = 75.0, 170.0


def iris_color(pixels: np.ndarray, landmarks: np.ndarray | None) -> tuple[int, int, int] | None:
    """Median sRGB of the open part of both irises, its brightness brought into the range of real eyes.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
        The photo, sRGB.
    landmarks : (478, 2) float or None
        MediaPipe's points, pixels.

    Returns
    -------
    three int, or None when no iris is open and large enough to be measured
    """
    if landmarks is None or len(landmarks) <= max(LEFT_IRIS):
        return None
    eyes = ((RIGHT_IRIS, RIGHT_EYE), (LEFT_IRIS, LEFT_EYE))
    samples = [_ring_pixels(pixels, landmarks[list(iris)], landmarks[list(lids)]) for iris, lids in eyes]
    ring = np.concatenate(samples)
    if len(ring) < FEWEST_PIXELS:
        return None
    brightness = ring.astype(np.float32).sum(axis=1)
    low, high = np.quantile(brightness, [DARKEST, BRIGHTEST])
    kept = ring[(brightness >= low) & (brightness <= high)]
    color = np.maximum(np.median(kept, axis=0), 1.0)
    color *= np.clip(color.max(), DARKEST_PEAK, BRIGHTEST_PEAK) / color.max()
    red, green, blue = (round(float(value)) for value in color)
    return red, green, blue


def _ring_pixels(pixels: np.ndarray, iris: np.ndarray, lids: np.ndarray) -> np.ndarray:
    """(N, 3) uint8: pixels of one iris's ring that lie between the lids and inside the photo."""
    centre = iris[0].astype(np.float64)
    radius = float(np.linalg.norm(iris[1:] - centre, axis=1).mean())
    height, width = pixels.shape[:2]
    left, top = np.floor(centre - radius).astype(int)
    right, bottom = np.ceil(centre + radius).astype(int)
    columns, rows = np.arange(max(left, 0), min(right, width)), np.arange(max(top, 0), min(bottom, height))
    if not len(columns) or not len(rows):
        return np.zeros((0, 3), np.uint8)
    x, y = np.meshgrid(columns + 0.5, rows + 0.5)
    distance = np.hypot(x - centre[0], y - centre[1]) / radius
    inside = (distance > INNER) & (distance < OUTER) & between_lids(x, y, lids)
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][inside]


def between_lids(x: np.ndarray, y: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """Even-odd rule: (H, W) bool, pixels inside the closed outline (N, 2)."""
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0)):
        crosses = (y0 > y) != (y1 > y)
        if crosses.any():
            inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0 + 1e-12) + x0)
    return inside
