"""Which triangle covers which pixel: the texture's own layout, and the photo's view of the head.

Symbols: V points, T triangles, H, W image size, S texture size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange

NO_TRIANGLE = -1

# Rows that one thread rasterizes at a time. Threads own rows, so no two of them write one pixel.
BAND = 32

# Barycentric coordinates are kept as 16-bit fractions: 1/65535 of a 6 mm triangle is 0.1 micrometre,
# and an atlas of 4096 x 4096 takes 134 MB instead of 200.
BARYCENTRIC_SCALE = 65535.0


@dataclass(frozen=True)
class Coverage:
    """The triangle behind each pixel.

    Attributes
    ----------
    triangle : (H, W) int32
        Row of the triangle array, :data:`NO_TRIANGLE` where nothing is.
    barycentric : (H, W, 2) uint16
        Weights of the second and third corner times :data:`BARYCENTRIC_SCALE`, affine in the image.
    depth : (H, W) float32
        Smallest depth; ``inf`` where nothing is.
    """

    triangle: np.ndarray
    barycentric: np.ndarray
    depth: np.ndarray


def cover(points: np.ndarray, depth: np.ndarray | None, triangles: np.ndarray, height: int, width: int) -> Coverage:
    """Rasterize triangles at pixel centres (+0.5), the nearest in front.

    Parameters
    ----------
    points : (V, 2) float
        Pixels, x right and y down.
    depth : (V,) float or None
        Positive distances; a triangle with a corner at or behind 0 is left out. None draws every
        triangle at depth 1, the first one stays in front.
    triangles : (T, 3) int
    height, width : int

    Returns
    -------
    Coverage
    """
    points = np.ascontiguousarray(points, np.float64)
    depth = np.ones(len(points)) if depth is None else np.ascontiguousarray(depth, np.float64)
    triangle = np.full((height, width), NO_TRIANGLE, np.int32)
    barycentric = np.zeros((height, width, 2), np.uint16)
    nearest = np.full((height, width), np.inf, np.float32)
    _cover(points, depth, np.ascontiguousarray(triangles), triangle, barycentric, nearest)
    return Coverage(triangle, barycentric, nearest)


@njit(cache=True, parallel=True, nogil=True)
def _cover(points, depth, triangles, out_triangle, out_barycentric, out_depth):
    height, width = out_triangle.shape
    bands = (height + BAND - 1) // BAND
    for band in prange(bands):
        top = band * BAND
        bottom = min(height, top + BAND)
        for index in range(len(triangles)):
            a, b, c = triangles[index]
            ax, ay = points[a]
            bx, by = points[b]
            cx, cy = points[c]
            low_y, high_y = min(ay, by, cy), max(ay, by, cy)
            if not (high_y >= top and low_y <= bottom) or min(depth[a], depth[b], depth[c]) <= 0.0:
                continue
            area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
            if area == 0.0 or not np.isfinite(area):
                continue
            first_row = max(top, int(np.ceil(low_y - 0.5)))
            last_row = min(bottom - 1, int(np.floor(high_y - 0.5)))
            first_column = max(0, int(np.ceil(max(min(ax, bx, cx), -1.0) - 0.5)))
            last_column = min(width - 1, int(np.floor(min(max(ax, bx, cx), width + 1.0) - 0.5)))
            za, zb, zc = 1.0 / depth[a], 1.0 / depth[b], 1.0 / depth[c]
            for row in range(first_row, last_row + 1):
                y = row + 0.5
                for column in range(first_column, last_column + 1):
                    x = column + 0.5
                    second = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) / area
                    third = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / area
                    first = 1.0 - second - third
                    if first < -1e-9 or second < -1e-9 or third < -1e-9:
                        continue
                    z = 1.0 / (first * za + second * zb + third * zc)
                    if z < out_depth[row, column]:
                        out_depth[row, column] = z
                        out_triangle[row, column] = index
                        out_barycentric[row, column, 0] = np.uint16(max(0.0, second) * BARYCENTRIC_SCALE + 0.5)
                        out_barycentric[row, column, 1] = np.uint16(max(0.0, third) * BARYCENTRIC_SCALE + 0.5)


def interpolate(coverage: Coverage, triangles: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Per-vertex values in the image, affine inside each triangle; 0 where nothing is.

    (V, C) float -> (H, W, C) float32
    """
    result = np.zeros((*coverage.triangle.shape, values.shape[1]), np.float32)
    values = np.ascontiguousarray(values, np.float32)
    _interpolate(coverage.triangle, coverage.barycentric, np.ascontiguousarray(triangles), values, result)
    return result


@njit(cache=True, parallel=True, nogil=True)
def _interpolate(triangle, barycentric, triangles, values, result):
    height, width = triangle.shape
    channels = values.shape[1]
    for row in prange(height):
        for column in range(width):
            index = triangle[row, column]
            if index < 0:
                continue
            a, b, c = triangles[index]
            second = np.float32(barycentric[row, column, 0] / BARYCENTRIC_SCALE)
            third = np.float32(barycentric[row, column, 1] / BARYCENTRIC_SCALE)
            first = np.float32(1.0) - second - third
            for k in range(channels):
                result[row, column, k] = first * values[a, k] + second * values[b, k] + third * values[c, k]
