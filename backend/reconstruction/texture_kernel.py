"""The loop over texels: sample the photo, fall back to the mirrored photo, then to smooth skin.

Colours inside are square roots of linear light: near enough to perception for blending, and a gain in
linear light is its square root here.

Symbols: V vertices, T triangles, S texture size, H, W analysis window, P pyramid levels, G grain size.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from backend.geometry.kernel_cache import njit
from backend.reconstruction.texture_atlas import BARYCENTRIC_SCALE, Atlas
from backend.reconstruction.texture_likeness import LINEAR_OF_BYTE
from backend.reconstruction.texture_raster import in_bands
from backend.reconstruction.texture_view import View

# A texel is visible when its depth is within this of the nearest surface, as a part of the depth
# (1 mm at half a metre), plus this many metres for the slope inside an analysis pixel.
DEPTH_BIAS = 2e-3
SLOPE_BIAS = 2e-3

# A surface turned away further than this is never taken, whatever the depth buffer says of thin parts.
FACING_RAMP = (0.05, 0.25)

# Bounds of the factor that fits a mirrored colour to its new surroundings.
LEAST_RATIO, MOST_RATIO = 0.5, 2.0

SQRT_OF_BYTE = np.sqrt(LINEAR_OF_BYTE).astype(np.float32)
# Encoding table: 8192 steps of the square root of light, finer than a third of the finest sRGB step.
_ROOT = np.arange(8193) / 8192.0
_LIGHT = _ROOT**2
BYTE_OF_SQRT = np.where(_LIGHT <= 0.0031308, 12.92 * _LIGHT, 1.055 * _LIGHT ** (1 / 2.4) - 0.055)
BYTE_OF_SQRT = np.clip(np.rint(255.0 * BYTE_OF_SQRT), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Layers:
    """What the texels are mixed from.

    Attributes
    ----------
    base : (V, 3) float32
        Smooth skin, square root of light.
    gain : (V, 3) float32
        Factor on the photo's colours (square root of light) that takes the light away.
    weight : (H, W) float32
        Belief in each pixel of the analysis window.
    grain : (G, G) float32
        Tileable factor around 1.
    """

    base: np.ndarray
    gain: np.ndarray
    weight: np.ndarray
    grain: np.ndarray


def pyramid(pixels: np.ndarray, levels: int) -> list[np.ndarray]:
    """The photo and its halves by area averaging; level k has ``ceil(size / 2^k)`` pixels a side."""
    result = [np.ascontiguousarray(pixels)]
    for _ in range(levels - 1):
        height, width = result[-1].shape[:2]
        if min(height, width) < 4:
            break
        # An odd row or column is repeated, so that a level's pixel is exactly 2 x 2 of the one below.
        even = cv2.copyMakeBorder(result[-1], 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        half = cv2.resize(even, (even.shape[1] // 2, even.shape[0] // 2), interpolation=cv2.INTER_AREA)
        result.append(half)
    return result


def triangle_levels(view: View, atlas: Atlas) -> np.ndarray:
    """(T, 2) float32: log2 of the photo pixels along a side of a texel of each triangle and its mirror."""
    own = atlas.surface.triangles
    mirrored = own if atlas.surface.mirror[0] < 0 else atlas.surface.mirror[own]
    levels = []
    for triangles in (own, mirrored):
        points = view.points[triangles] / view.scale
        first, second = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
        area = 0.5 * np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])
        levels.append(0.5 * np.log2(np.maximum(area, 1e-6) / np.maximum(atlas.texel_area, 1e-6)))
    return np.stack(levels, axis=1).astype(np.float32)


def flat_pyramid(view: View, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The photo as deep as ``triangle_levels`` (T, 2) ask: pixels in a row, starts of levels, their sizes."""
    photos = pyramid(view.pixels, 1 + max(0, int(np.ceil(np.percentile(levels, 99)))))
    sizes = np.array([level.shape[:2] for level in photos], np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes.prod(axis=1))]).astype(np.int64)
    return np.concatenate([level.reshape(-1, 3) for level in photos]), starts, sizes


def photo_scale(view: View) -> np.ndarray:
    """(2,) photo pixels in a pixel of the analysis window, across and down."""
    return np.array(view.pixels.shape[1::-1]) / view.image.shape[1::-1]


def paint(atlas: Atlas, view: View, layers: Layers, camera_points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mix every texel.

    Parameters
    ----------
    atlas, view, layers
    camera_points : (V, 3) float
        ``x, y`` in analysis pixels and depth in metres.

    Returns
    -------
    color : (S, S, 3) uint8 sRGB
    confidence : (S, S) uint8
    """
    levels = triangle_levels(view, atlas)
    photo = flat_pyramid(view, levels)
    size = atlas.triangle.shape[0]
    color, confidence = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.uint8)

    def floats(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(np.ascontiguousarray(array, np.float32) for array in arrays)

    arrays = (
        (atlas.triangle, atlas.barycentric, atlas.surface.triangles, atlas.surface.mirror, levels),
        floats(camera_points, view.facing, view.coverage.depth, photo_scale(view)),
        photo,
        floats(layers.weight, layers.base, layers.gain, layers.grain),
        (SQRT_OF_BYTE, BYTE_OF_SQRT),
        color,
        confidence,
    )
    in_bands(size, lambda first, end: _paint(first, end, *arrays))
    fill_between_charts(atlas, color, layers.base)
    return color, confidence


def fill_between_charts(atlas: Atlas, color: np.ndarray, base: np.ndarray) -> None:
    """Give texels outside the triangles a colour: those nearby their neighbour's, the rest that of the skin (V, 3)."""
    flat_color = color.reshape(-1, 3)
    flat_color[atlas.gutter] = flat_color[atlas.nearest]
    tone = np.median(base[atlas.surface.skin], axis=0)
    flat_color[atlas.far] = BYTE_OF_SQRT[np.rint(tone * 8192).astype(int)]


@njit(cache=True, nogil=True, inline="always")
def _belief(x, y, depth, facing, nearest, weight):
    """Weight of the photo at a point of the surface: 0 when hidden."""
    height, width = weight.shape
    if facing <= FACING_RAMP[0] or not (x >= 0.0 and y >= 0.0 and x < width and y < height):
        return np.float32(0.0)
    column = min(max(x - np.float32(0.5), np.float32(0.0)), np.float32(width - 1))
    row = min(max(y - np.float32(0.5), np.float32(0.0)), np.float32(height - 1))
    x0, y0 = int(column), int(row)
    x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
    behind = np.float32(0.0)
    for z in (nearest[y0, x0], nearest[y0, x1], nearest[y1, x0], nearest[y1, x1]):
        if z < np.inf and z > behind:
            behind = z
    if depth > behind * np.float32(1.0 + DEPTH_BIAS) + np.float32(SLOPE_BIAS):
        return np.float32(0.0)
    fx, fy = column - x0, row - y0
    top = weight[y0, x0] * (1 - fx) + weight[y0, x1] * fx
    bottom = weight[y1, x0] * (1 - fx) + weight[y1, x1] * fx
    turned = min((facing - np.float32(FACING_RAMP[0])) / np.float32(FACING_RAMP[1] - FACING_RAMP[0]), np.float32(1.0))
    return np.float32((top * (1 - fy) + bottom * fy) * turned)


@njit(cache=True, nogil=True, inline="always")
def _cubic(t, out):
    """Catmull-Rom weights of the four neighbours at offset t in [0, 1)."""
    t2 = t * t
    t3 = t2 * t
    out[0] = -0.5 * t + t2 - 0.5 * t3
    out[1] = 1.0 - 2.5 * t2 + 1.5 * t3
    out[2] = 0.5 * t + 2.0 * t2 - 1.5 * t3
    out[3] = -0.5 * t2 + 0.5 * t3


@njit(cache=True, nogil=True)
def _sample(flat, starts, sizes, x, y, level, wx, wy, out):
    """Colour bytes at a photo position: cubic in the finest level that matters, the nearest level by area."""
    k = min(max(int(np.floor(level + np.float32(0.5))), 0), len(sizes) - 1)
    height, width = sizes[k]
    shrink = np.float32(1.0 / (1 << k))
    column, row = x * shrink - np.float32(0.5), y * shrink - np.float32(0.5)
    x0, y0 = int(np.floor(column)), int(np.floor(row))
    _cubic(column - np.float32(x0), wx)
    _cubic(row - np.float32(y0), wy)
    for c in range(3):
        out[c] = 0.0
    for j in range(4):
        yy = min(max(y0 + j - 1, 0), height - 1)
        for i in range(4):
            xx = min(max(x0 + i - 1, 0), width - 1)
            w = wx[i] * wy[j]
            base = starts[k] + yy * width + xx
            for c in range(3):
                out[c] += w * flat[base, c]


@njit(cache=True, nogil=True, inline="always")
def _surface_point(corner, share, points, facing):
    """Where a point of a triangle is in the photo: x, y, depth, cosine. Corners weigh by their depth."""
    depth, x, y, cosine = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for k in range(3):
        q = share[k] * points[corner[k], 2]
        depth += q
        x += q * points[corner[k], 0]
        y += q * points[corner[k], 1]
        cosine += share[k] * facing[corner[k]]
    return x / depth, y / depth, depth, cosine


@njit(cache=True, nogil=True, inline="always")
def _between(corner, share, values, c):
    """Channel c of per-vertex values at a point of a triangle."""
    return share[0] * values[corner[0], c] + share[1] * values[corner[1], c] + share[2] * values[corner[2], c]


@njit(cache=True, nogil=True, inline="always")
def _shares(barycentric, row, column, share):
    """How much each corner of a texel's triangle counts there."""
    share[1] = np.float32(barycentric[row, column, 0] / BARYCENTRIC_SCALE)
    share[2] = np.float32(barycentric[row, column, 1] / BARYCENTRIC_SCALE)
    share[0] = np.float32(1.0) - share[1] - share[2]


@njit(cache=True, nogil=True, inline="always")
def _ratio(own, mirrored, share, base, c):
    """Factor that fits a colour of the mirrored place to this one: of their smooth skins, within bounds."""
    there = max(_between(mirrored, share, base, c), np.float32(1e-3))
    return min(max(_between(own, share, base, c) / there, LEAST_RATIO), MOST_RATIO)


@njit(cache=True, nogil=True, inline="always")
def _root_of(value, sqrt_of_byte):
    """Square root of light of an sRGB value between bytes."""
    value = min(max(value, np.float32(0.0)), np.float32(255.0))
    low = min(int(value), 254)
    part = value - low
    return sqrt_of_byte[low] * (1 - part) + sqrt_of_byte[low + 1] * part


@njit(cache=True, nogil=True)
def _paint(first_row, end_row, atlas, view, photo, layers, tables, color, confidence):
    triangle, barycentric, triangles, mirror, levels = atlas
    points, facing, nearest, to_photo = view
    flat, starts, sizes = photo
    weight, base, gain, grain = layers
    sqrt_of_byte, byte_of_sqrt = tables
    wx, wy = np.zeros(4, np.float32), np.zeros(4, np.float32)
    sample, mixed, share = np.zeros(3, np.float32), np.zeros(3, np.float32), np.zeros(3, np.float32)
    own, corner = np.zeros(3, np.int32), np.zeros(3, np.int32)
    for row in range(first_row, end_row):
        for column in range(triangle.shape[1]):
            index = triangle[row, column]
            if index < 0:
                continue
            _shares(barycentric, row, column, share)
            for k in range(3):
                own[k] = triangles[index, k]
                mixed[k] = 0.0
            left = np.float32(1.0)
            for side in range(2):
                # First the point itself, then, for what is left, its mirror point.
                if side == 1 and (left < 0.004 or mirror[own[0]] < 0):
                    break
                for k in range(3):
                    corner[k] = own[k] if side == 0 else mirror[own[k]]
                x, y, depth, cosine = _surface_point(corner, share, points, facing)
                belief = _belief(x, y, depth, cosine, nearest, weight)
                if side == 0:
                    confidence[row, column] = np.uint8(255.0 * belief * min(max(cosine, 0.0), 1.0) + 0.5)
                if belief <= 0.0:
                    continue
                _sample(flat, starts, sizes, x * to_photo[0], y * to_photo[1], levels[index, side], wx, wy, sample)
                for c in range(3):
                    ratio = np.float32(1.0) if side == 0 else _ratio(own, corner, share, base, c)
                    root = _root_of(sample[c], sqrt_of_byte)
                    mixed[c] += left * belief * root * _between(corner, share, gain, c) * ratio
                left *= np.float32(1.0) - belief
            speckle = grain[row % grain.shape[0], column % grain.shape[1]]
            for c in range(3):
                value = mixed[c] + left * _between(own, share, base, c) * speckle
                color[row, column, c] = byte_of_sqrt[int(min(max(value, 0.0), 1.0) * 8192.0 + 0.5)]
