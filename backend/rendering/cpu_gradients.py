"""Compiled gradients and outline search of the cpu backend, twins of the PyTorch code.

``resolve_backward`` is the derivative of ``barycentric.screen_to_surface`` written out by hand;
``find_outlines`` is ``antialias.pairs_with_a_jump`` and ``antialias.walk_to_outline`` in one loop. The
tests compare them with what PyTorch computes.

Symbols: V vertices, T triangles, H, W image size.
"""

from __future__ import annotations

import numpy as np

from backend.geometry.kernel_cache import njit
from backend.rendering.antialias import LONGEST_WALK, NO_NEIGHBOUR
from backend.rendering.barycentric import SMALLEST_AREA


@njit(inline="always")
def add_pixel(px, py, a, b, c, vertices, gradient_a, gradient_b, gradient_c, gradient_depth, out):
    """Add one pixel's share to ``out`` (V, 3).

    ``px, py`` is the pixel centre; ``gradient_a, _b, _c, _depth`` are the derivatives of the loss with
    respect to its three weights and its depth. With image weights w and q = w / z:
    weight = q / sum(q), depth = sum(w) / sum(q).
    """
    ax, ay = vertices[a, 0], vertices[a, 1]
    bx, by, cx, cy = vertices[b, 0] - ax, vertices[b, 1] - ay, vertices[c, 0] - ax, vertices[c, 1] - ay
    px, py = px - ax, py - ay
    over_a, over_b, over_c = 1.0 / vertices[a, 2], 1.0 / vertices[b, 2], 1.0 / vertices[c, 2]
    area = bx * cy - by * cx
    sliver = abs(area) < SMALLEST_AREA
    raw_a = raw_b = raw_c = 1.0 / 3.0
    if not sliver:
        raw_b, raw_c = (px * cy - py * cx) / area, (bx * py - by * px) / area
        raw_a = 1.0 - raw_b - raw_c
    weight_a, weight_b, weight_c = max(raw_a, 0.0), max(raw_b, 0.0), max(raw_c, 0.0)
    q_a, q_b, q_c = weight_a * over_a, weight_b * over_b, weight_c * over_c
    inverse = 1.0 / (q_a + q_b + q_c)
    total = weight_a + weight_b + weight_c
    shared = inverse * inverse * (gradient_a * q_a + gradient_b * q_b + gradient_c * q_c + gradient_depth * total)
    to_q_a, to_q_b, to_q_c = gradient_a * inverse - shared, gradient_b * inverse - shared, gradient_c * inverse - shared
    out[a, 2] -= to_q_a * q_a * over_a
    out[b, 2] -= to_q_b * q_b * over_b
    out[c, 2] -= to_q_c * q_c * over_c
    if sliver:
        return
    to_a = to_q_a * over_a + gradient_depth * inverse if raw_a >= 0.0 else 0.0
    to_b = (to_q_b * over_b + gradient_depth * inverse if raw_b >= 0.0 else 0.0) - to_a
    to_c = (to_q_c * over_c + gradient_depth * inverse if raw_c >= 0.0 else 0.0) - to_a
    to_b, to_c = to_b / area, to_c / area
    to_area = -(to_b * raw_b + to_c * raw_c)
    to_bx, to_by = to_c * py + to_area * cy, -to_c * px - to_area * cx
    to_cx, to_cy = -to_b * py - to_area * by, to_b * px + to_area * bx
    to_px, to_py = to_b * cy - to_c * by, to_c * bx - to_b * cx
    out[b, 0] += to_bx
    out[b, 1] += to_by
    out[c, 0] += to_cx
    out[c, 1] += to_cy
    out[a, 0] -= to_bx + to_cx + to_px
    out[a, 1] -= to_by + to_cy + to_py


@njit(
    "void(int64, int64, float64[:,::1], int32[:,::1], int32[:,::1], float32[:,:,::1], float32[:,::1], float64[:,::1])",
    cache=True,
    nogil=True,
)
def resolve_backward(worker, workers, vertices, triangles, ids, to_barycentric, to_depth, out):
    """Rows ``worker, worker + workers, ...`` of one image: add to ``out`` (V, 3) the gradient of the vertices.

    ``ids`` (H, W); ``to_barycentric`` (H, W, 3) and ``to_depth`` (H, W) are the incoming gradients.
    """
    height, width = ids.shape
    for row in range(worker, height, workers):
        for column in range(width):
            t = ids[row, column]
            if t < 0:
                continue
            a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            gradient_a, gradient_b = to_barycentric[row, column, 0], to_barycentric[row, column, 1]
            gradient_c, gradient_depth = to_barycentric[row, column, 2], to_depth[row, column]
            if gradient_a == 0.0 and gradient_b == 0.0 and gradient_c == 0.0 and gradient_depth == 0.0:
                continue
            add_pixel(
                column + 0.5, row + 0.5, a, b, c, vertices, gradient_a, gradient_b, gradient_c, gradient_depth, out
            )


@njit(inline="always")
def edge_reach(first, second, axis, along, across, step, vertices):
    """``antialias.crossing`` for one edge."""
    first_across, second_across = vertices[first, 1 - axis], vertices[second, 1 - axis]
    if (first_across > across) == (second_across > across):
        return -np.inf
    run = second_across - first_across
    place = vertices[first, axis] + (across - first_across) / run * (vertices[second, axis] - vertices[first, axis])
    return (place - along) * step


@njit(inline="always")
def edge_ends(t, edge, other, vertices, triangles):
    """``antialias._folds`` for one edge, and True at the border of the mesh."""
    if other == NO_NEIGHBOUR:
        return True
    first, second, own = triangles[t, edge], triangles[t, (edge + 1) % 3], triangles[t, (edge + 2) % 3]
    apex = triangles[other, 0] + triangles[other, 1] + triangles[other, 2] - first - second
    x, y = vertices[first, 0], vertices[first, 1]
    dx, dy = vertices[second, 0] - x, vertices[second, 1] - y
    own_side = dx * (vertices[own, 1] - y) - dy * (vertices[own, 0] - x)
    other_side = dx * (vertices[apex, 1] - y) - dy * (vertices[apex, 0] - x)
    return own_side * other_side > 0.0


@njit(
    "Tuple((int64, int64[:,::1]))(int64, float64[:,::1], int32[:,::1], int64[:,::1], int32[:,::1], float32[:,::1])",
    cache=True,
    nogil=True,
)
def find_outlines(axis, vertices, triangles, neighbours, ids, depth):
    """Outlines between neighbouring pixels of one image along an axis (0 horizontal, 1 vertical).

    Returns how many there are and a table whose rows are: near pixel, far pixel (flat indices), triangle,
    edge.
    """
    height, width = ids.shape
    rows, columns = (height, width - 1) if axis == 0 else (height - 1, width)
    found, table = 0, np.zeros((256, 4), np.int64)
    for row in range(rows):
        for column in range(columns):
            next_row, next_column = (row, column + 1) if axis == 0 else (row + 1, column)
            one, other = ids[row, column], ids[next_row, next_column]
            if one == other:
                continue
            one_is_near = other < 0 or (one >= 0 and depth[row, column] <= depth[next_row, next_column])
            t = one if one_is_near else other
            near_row, near_column = (row, column) if one_is_near else (next_row, next_column)
            step = 1.0 if one_is_near else -1.0
            along = (near_column if axis == 0 else near_row) + 0.5
            across = (near_row if axis == 0 else near_column) + 0.5
            for _ in range(LONGEST_WALK):
                reach, edge = -np.inf, 0
                for k in range(3):
                    here = edge_reach(triangles[t, k], triangles[t, (k + 1) % 3], axis, along, across, step, vertices)
                    if here > reach:
                        reach, edge = here, k
                if reach > 1.0 or reach == -np.inf:
                    break
                behind = neighbours[t, edge]
                if edge_ends(t, edge, behind, vertices, triangles):
                    if found == len(table):
                        table = np.concatenate((table, np.zeros_like(table)))
                    one_pixel, other_pixel = row * width + column, next_row * width + next_column
                    table[found, 0] = one_pixel if one_is_near else other_pixel
                    table[found, 1] = other_pixel if one_is_near else one_pixel
                    table[found, 2], table[found, 3] = t, edge
                    found += 1
                    break
                t = np.int32(behind)
    return found, table
