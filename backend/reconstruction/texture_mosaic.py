"""The loop over texels for several photos: the best of each, then their mirror image, then smooth skin.

Rows are done in strips, and within a strip photo after photo, so that memory does not grow with the photos
nor with the texture beyond what comes out.

Symbols: V vertices, T triangles, S texture size, H, W analysis window, G grain size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from backend.geometry.kernel_cache import njit
from backend.reconstruction.texture_atlas import Atlas
from backend.reconstruction.texture_kernel import (
    BYTE_OF_SQRT,
    SQRT_OF_BYTE,
    _belief,
    _between,
    _ratio,
    _root_of,
    _sample,
    _shares,
    _surface_point,
    fill_between_charts,
    flat_pyramid,
    photo_scale,
    triangle_levels,
)
from backend.reconstruction.texture_raster import in_bands
from backend.reconstruction.texture_view import View

# Texels of a strip: its sums take 44 bytes each.
STRIP_TEXELS = 2**20
# What a texel sums up over the photos: three colours and their weight, and how much is not seen yet; the same again
# for its mirror image; and the weight of the photo that counts most.
SUMS = 11
OWN, MIRRORED, BEST = 0, 5, 10
WEIGHT, LEFT = 3, 4


@dataclass(frozen=True)
class Layer:
    """One photo ready to be taken from.

    Attributes
    ----------
    number : int
        What ``sources`` calls it, from 1 on.
    view : View
    gain : (V, 3) float32
        Factor on the photo's colours (square root of light).
    belief : (H, W) float32
        In each pixel of the analysis window.
    choice : (V,) float32
        How much this photo counts.
    """

    number: int
    view: View
    gain: np.ndarray
    belief: np.ndarray
    choice: np.ndarray


def mosaic(
    atlas: Atlas, layers: Sequence[Layer], base: np.ndarray, grain: np.ndarray, report: Callable[[float], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mix every texel.

    Parameters
    ----------
    atlas : Atlas
    layers : sequence of Layer
    base : (V, 3) float32
        Smooth skin, square root of light.
    grain : (G, G) float32
    report : callable (finished part)
        May raise to stop.

    Returns
    -------
    color : (S, S, 3) uint8 sRGB
    confidence, sources : (S, S) uint8
    """
    size = atlas.triangle.shape[0]
    color = np.zeros((size, size, 3), np.uint8)
    confidence, sources = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
    base, grain = np.ascontiguousarray(base, np.float32), np.ascontiguousarray(grain, np.float32)
    arrays = []
    for layer in layers:
        report(0.0)
        arrays.append(layer_arrays(atlas, layer))
    rows = max(1, STRIP_TEXELS // size)
    for first in range(0, size, rows):
        end = min(first + rows, size)
        strip = slice(first, end)
        sums = np.zeros((end - first, size, SUMS), np.float32)
        sums[..., OWN + LEFT] = sums[..., MIRRORED + LEFT] = 1.0
        chart = (atlas.triangle[strip], atlas.barycentric[strip], atlas.surface.triangles, atlas.surface.mirror)
        for place, (layer, photo) in enumerate(zip(layers, arrays)):
            report((first + (end - first) * place / len(layers)) / size)
            number, out = layer.number, (sums, confidence[strip], sources[strip])
            in_bands(end - first, lambda a, b: _add(a, b, chart, photo, base, SQRT_OF_BYTE, number, *out))  # noqa: B023
        in_bands(
            end - first,
            lambda a, b: _mix(a, b, first, chart, sums, base, grain, BYTE_OF_SQRT, color[strip]),  # noqa: B023
        )
    fill_between_charts(atlas, color, base)
    flat_sources = sources.reshape(-1)
    flat_sources[atlas.gutter] = flat_sources[atlas.nearest]
    return color, confidence, sources


def layer_arrays(atlas: Atlas, layer: Layer) -> tuple:
    """What the loop reads of one photo."""
    view = layer.view
    levels = triangle_levels(view, atlas)
    points = np.column_stack([view.points, view.depth])
    floats = (points, view.facing, view.coverage.depth, photo_scale(view), layer.belief, layer.gain, layer.choice)
    return (levels, *flat_pyramid(view, levels), *(np.ascontiguousarray(array, np.float32) for array in floats))


@njit(cache=True, nogil=True)
def _add(first_row, end_row, chart, photo, base, sqrt_of_byte, number, sums, confidence, sources):
    triangle, barycentric, triangles, mirror = chart
    levels, flat, starts, sizes, points, facing, nearest, to_photo, weight, gain, choice = photo
    wx, wy = np.zeros(4, np.float32), np.zeros(4, np.float32)
    sample, share = np.zeros(3, np.float32), np.zeros(3, np.float32)
    own, corner = np.zeros(3, np.int32), np.zeros(3, np.int32)
    for row in range(first_row, end_row):
        for column in range(triangle.shape[1]):
            index = triangle[row, column]
            if index < 0:
                continue
            _shares(barycentric, row, column, share)
            for k in range(3):
                own[k] = triangles[index, k]
            for side in range(2):
                if side == 1 and mirror[own[0]] < 0:
                    break
                for k in range(3):
                    corner[k] = own[k] if side == 0 else mirror[own[k]]
                x, y, depth, cosine = _surface_point(corner, share, points, facing)
                belief = _belief(x, y, depth, cosine, nearest, weight)
                if belief <= 0.0:
                    continue
                says = np.float32(0.0)
                for k in range(3):
                    says += share[k] * choice[corner[k]]
                says = belief * max(says, np.float32(1e-6))
                _sample(flat, starts, sizes, x * to_photo[0], y * to_photo[1], levels[index, side], wx, wy, sample)
                place = OWN if side == 0 else MIRRORED
                for c in range(3):
                    ratio = np.float32(1.0) if side == 0 else _ratio(own, corner, share, base, c)
                    root = _root_of(sample[c], sqrt_of_byte) * _between(corner, share, gain, c) * ratio
                    sums[row, column, place + c] += says * root
                sums[row, column, place + WEIGHT] += says
                sums[row, column, place + LEFT] *= np.float32(1.0) - belief
                if side == 0:
                    sure = np.uint8(255.0 * belief * min(max(cosine, 0.0), 1.0) + 0.5)
                    confidence[row, column] = max(confidence[row, column], sure)
                    if says > sums[row, column, BEST]:
                        sums[row, column, BEST] = says
                        sources[row, column] = number


@njit(cache=True, nogil=True)
def _mix(first_row, end_row, offset, chart, sums, base, grain, byte_of_sqrt, color):
    triangle, barycentric, triangles, _ = chart
    share, own = np.zeros(3, np.float32), np.zeros(3, np.int32)
    for row in range(first_row, end_row):
        for column in range(triangle.shape[1]):
            index = triangle[row, column]
            if index < 0:
                continue
            _shares(barycentric, row, column, share)
            for k in range(3):
                own[k] = triangles[index, k]
            left = sums[row, column, OWN + LEFT]
            unseen = left * sums[row, column, MIRRORED + LEFT]
            speckle = grain[(offset + row) % grain.shape[0], column % grain.shape[1]]
            for c in range(3):
                value = unseen * _between(own, share, base, c) * speckle
                if left < 1.0:
                    mean = sums[row, column, OWN + c] / sums[row, column, OWN + WEIGHT]
                    value += (np.float32(1.0) - left) * mean
                if unseen < left:
                    mean = sums[row, column, MIRRORED + c] / sums[row, column, MIRRORED + WEIGHT]
                    value += (left - unseen) * mean
                color[row, column, c] = byte_of_sqrt[int(min(max(value, 0.0), 1.0) * 8192.0 + 0.5)]
