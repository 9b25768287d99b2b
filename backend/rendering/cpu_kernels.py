"""The compiled inner loops of the cpu backend.

Kernels are plain single-threaded machine code that releases Python's global lock; ``cpu_backend`` runs
them on a thread pool. Signatures are spelled out so that importing this module loads the compiled code
from Numba's cache and nothing is compiled later. No fast-math: the order of operations is part of the
rule in ``fragments.py``, and the code is checked against ``torch_backend`` bit for bit.

Numba's cache looks at the date of this file only: after a change of the constants imported here, touch it.

Symbols: V vertices, T triangles, H, W image size, K bands, M triangle-band pairs, C channels.
"""

from __future__ import annotations

import numpy as np

from backend.geometry.kernel_cache import njit
from backend.rendering.barycentric import SMALLEST_AREA
from backend.rendering.fragments import BACKGROUND, FAR_LIMIT, GRID, GRID_BITS, HALF_PIXEL, IMAGE_LIMIT, NEAR_PLANE

# Rows of the image that one thread draws at a time: their depth buffer stays in the second-level cache,
# and few triangles of a head span two bands.
BAND_ROWS = 16

# Triangles wider than this find the start of each row by division instead of by walking.
WALK_COLUMNS = 16


@njit(
    "Tuple((int64[::1], int32[::1], int64[:,::1], float64[::1]))(float64[:,::1], int32[:,::1], int64, int64, boolean)",
    cache=True,
    nogil=True,
)
def bin_triangles(vertices, triangles, height, width, cull_back):
    """Sort the triangles of one mesh into bands of rows.

    (V, 3), (T, 3) -> starts (K + 1,), members (M,) ascending triangle ids of each band, grid (V, 2)
    snapped vertices, inverse (V,) 1 / depth, 0 for a vertex that no triangle may use.
    """
    vertex_count, triangle_count = vertices.shape[0], triangles.shape[0]
    grid = np.zeros((vertex_count, 2), np.int64)
    inverse = np.zeros(vertex_count, np.float64)
    for v in range(vertex_count):
        x, y, depth = vertices[v, 0], vertices[v, 1], vertices[v, 2]
        if depth >= NEAR_PLANE and depth <= FAR_LIMIT and abs(x) <= IMAGE_LIMIT and abs(y) <= IMAGE_LIMIT:
            grid[v, 0] = np.int64(np.floor(x * GRID + 0.5))
            grid[v, 1] = np.int64(np.floor(y * GRID + 0.5))
            inverse[v] = 1.0 / depth
    bands = (height + BAND_ROWS - 1) // BAND_ROWS
    first_band = np.zeros(triangle_count, np.int32)
    last_band = np.full(triangle_count, -1, np.int32)
    starts = np.zeros(bands + 1, np.int64)
    for t in range(triangle_count):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        if inverse[a] == 0.0 or inverse[b] == 0.0 or inverse[c] == 0.0:
            continue
        ax, ay, bx, by, cx, cy = grid[a, 0], grid[a, 1], grid[b, 0], grid[b, 1], grid[c, 0], grid[c, 1]
        top = max((min(ay, by, cy) + (HALF_PIXEL - 1)) >> GRID_BITS, 0)
        bottom = min((max(ay, by, cy) - HALF_PIXEL) >> GRID_BITS, height - 1)
        left = max((min(ax, bx, cx) + (HALF_PIXEL - 1)) >> GRID_BITS, 0)
        right = min((max(ax, bx, cx) - HALF_PIXEL) >> GRID_BITS, width - 1)
        if top > bottom or left > right:
            continue
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0 or (cull_back and area > 0):
            continue
        first_band[t], last_band[t] = top // BAND_ROWS, bottom // BAND_ROWS
        for band in range(first_band[t], last_band[t] + 1):
            starts[band + 1] += 1
    for band in range(bands):
        starts[band + 1] += starts[band]
    members = np.empty(starts[bands], np.int32)
    cursor = starts.copy()
    for t in range(triangle_count):
        for band in range(first_band[t], last_band[t] + 1):
            members[cursor[band]] = t
            cursor[band] += 1
    return starts, members, grid, inverse


@njit(inline="always")
def edge_bias(dx, dy):
    """0 for a top or left edge, -1 for others: ``side + bias >= 0`` is the inside test."""
    return 0 if (dy < 0 or (dy == 0 and dx > 0)) else -1


@njit(inline="always")
def row_start(side, step, columns):
    """Columns to skip until ``side + step * columns`` is not negative; ``columns`` when it never is."""
    if side >= 0:
        return np.int64(0)
    if step <= 0:
        return columns
    return min((-side + step - 1) // step, columns)


@njit(inline="always")
def draw_triangle(t, a, b, c, grid, inverse, first_row, last_row, width, nearest, ids):
    """Draw one triangle into ``ids`` (H, W) and into ``nearest`` (rows of the band, W), 1 / depth."""
    ax, ay, bx, by, cx, cy = grid[a, 0], grid[a, 1], grid[b, 0], grid[b, 1], grid[c, 0], grid[c, 1]
    inverse_a, inverse_b, inverse_c = inverse[a], inverse[b], inverse[c]
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if area < 0:
        bx, by, cx, cy = cx, cy, bx, by
        inverse_b, inverse_c = inverse_c, inverse_b
        area = -area
    ab_x, ab_y, ac_x, ac_y = float(bx - ax), float(by - ay), float(cx - ax), float(cy - ay)
    rise_b, rise_c, area_float = inverse_b - inverse_a, inverse_c - inverse_a, float(area)
    slope_x = (rise_b * ac_y - rise_c * ab_y) / area_float
    slope_y = (rise_c * ab_x - rise_b * ac_x) / area_float
    low, high = min(inverse_a, inverse_b, inverse_c), max(inverse_a, inverse_b, inverse_c)

    top = max((min(ay, by, cy) + (HALF_PIXEL - 1)) >> GRID_BITS, first_row)
    bottom = min((max(ay, by, cy) - HALF_PIXEL) >> GRID_BITS, last_row)
    left = max((min(ax, bx, cx) + (HALF_PIXEL - 1)) >> GRID_BITS, 0)
    right = min((max(ax, bx, cx) - HALF_PIXEL) >> GRID_BITS, width - 1)
    columns = right - left + 1
    x0, y0 = left * GRID + HALF_PIXEL, top * GRID + HALF_PIXEL
    row_1 = (bx - ax) * (y0 - ay) - (by - ay) * (x0 - ax) + edge_bias(bx - ax, by - ay)
    row_2 = (cx - bx) * (y0 - by) - (cy - by) * (x0 - bx) + edge_bias(cx - bx, cy - by)
    row_3 = (ax - cx) * (y0 - cy) - (ay - cy) * (x0 - cx) + edge_bias(ax - cx, ay - cy)
    right_1, right_2, right_3 = -(by - ay) * GRID, -(cy - by) * GRID, -(ay - cy) * GRID
    down_1, down_2, down_3 = (bx - ax) * GRID, (cx - bx) * GRID, (ax - cx) * GRID
    for row in range(top, bottom + 1):
        skip = np.int64(0)
        if columns > WALK_COLUMNS:
            skip = max(
                row_start(row_1, right_1, columns),
                row_start(row_2, right_2, columns),
                row_start(row_3, right_3, columns),
            )
        side_1, side_2, side_3 = row_1 + skip * right_1, row_2 + skip * right_2, row_3 + skip * right_3
        across_y = slope_y * float(row * GRID + HALF_PIXEL - ay)
        entered = False
        for column in range(left + skip, right + 1):
            if (side_1 | side_2 | side_3) >= 0:
                entered = True
                value = inverse_a + (slope_x * float(column * GRID + HALF_PIXEL - ax) + across_y)
                nearness = np.float32(min(max(value, low), high))
                if nearness > nearest[row - first_row, column]:
                    nearest[row - first_row, column] = nearness
                    ids[row, column] = t
            elif entered:
                break
            side_1 += right_1
            side_2 += right_2
            side_3 += right_3
        row_1 += down_1
        row_2 += down_2
        row_3 += down_3


@njit(inline="always")
def resolve_row(row, vertices, triangles, ids, barycentric, depth):
    """Weights and depth of one row, the formulas of ``barycentric.screen_to_surface``."""
    last = np.int32(BACKGROUND)
    ax = ay = bx = by = cx = cy = per_area = 0.0
    over_a = over_b = over_c = 1.0
    for column in range(ids.shape[1]):
        t = ids[row, column]
        if t < 0:
            barycentric[row, column, 0] = barycentric[row, column, 1] = barycentric[row, column, 2] = 0.0
            depth[row, column] = 0.0
            continue
        if t != last:
            last = t
            a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            ax, ay = vertices[a, 0], vertices[a, 1]
            bx, by, cx, cy = vertices[b, 0] - ax, vertices[b, 1] - ay, vertices[c, 0] - ax, vertices[c, 1] - ay
            over_a, over_b, over_c = 1.0 / vertices[a, 2], 1.0 / vertices[b, 2], 1.0 / vertices[c, 2]
            area = bx * cy - by * cx
            per_area = 0.0 if abs(area) < SMALLEST_AREA else 1.0 / area
        if per_area == 0.0:
            weight_a = weight_b = weight_c = 1.0 / 3.0
        else:
            px, py = column + 0.5 - ax, row + 0.5 - ay
            weight_b, weight_c = (px * cy - py * cx) * per_area, (bx * py - by * px) * per_area
            weight_a = max(1.0 - weight_b - weight_c, 0.0)
            weight_b, weight_c = max(weight_b, 0.0), max(weight_c, 0.0)
        total = weight_a + weight_b + weight_c
        weight_a, weight_b, weight_c = weight_a * over_a, weight_b * over_b, weight_c * over_c
        surface_depth = 1.0 / (weight_a + weight_b + weight_c)
        barycentric[row, column, 0] = np.float32(weight_a * surface_depth)
        barycentric[row, column, 1] = np.float32(weight_b * surface_depth)
        barycentric[row, column, 2] = np.float32(weight_c * surface_depth)
        depth[row, column] = np.float32(total * surface_depth)


@njit(
    "void(int64, int64, float64[:,::1], int32[:,::1], int64[:,::1], float64[::1], int64[::1], int32[::1],"
    " int32[:,::1], float32[:,:,::1], float32[:,::1], boolean)",
    cache=True,
    nogil=True,
)
def draw_bands(worker, workers, vertices, triangles, grid, inverse, starts, members, ids, barycentric, depth, resolve):
    """Draw the bands ``worker, worker + workers, ...`` of one image; ``ids`` (H, W), outputs in place."""
    height, width = ids.shape
    nearest = np.zeros((BAND_ROWS, width), np.float32)
    for band in range(worker, starts.shape[0] - 1, workers):
        first_row, last_row = band * BAND_ROWS, min(band * BAND_ROWS + BAND_ROWS, height) - 1
        nearest[:] = 0.0
        ids[first_row : last_row + 1] = BACKGROUND
        for m in range(starts[band], starts[band + 1]):
            t = members[m]
            a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            draw_triangle(t, a, b, c, grid, inverse, first_row, last_row, width, nearest, ids)
        if resolve:
            for row in range(first_row, last_row + 1):
                resolve_row(row, vertices, triangles, ids, barycentric, depth)


@njit(
    "void(int64, int64, float32[:,:,::1], float32[:,:,:,::1], int32[:,:,::1], int32[:,::1], float32[:,:,:,::1])",
    cache=True,
    nogil=True,
)
def interpolate_rows(worker, workers, attributes, barycentric, ids, triangles, out):
    """Rows ``worker, worker + workers, ...`` of ``out`` (B, H, W, C); ``attributes`` (B or 1, V, C)."""
    batch, height, width, channels = out.shape
    for line in range(worker, batch * height, workers):
        item, row = line // height, line % height
        source = item if attributes.shape[0] > 1 else 0
        for column in range(width):
            t = ids[item, row, column]
            if t < 0:
                for channel in range(channels):
                    out[item, row, column, channel] = 0.0
                continue
            a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            weight_a, weight_b = barycentric[item, row, column, 0], barycentric[item, row, column, 1]
            weight_c = barycentric[item, row, column, 2]
            for channel in range(channels):
                out[item, row, column, channel] = (
                    weight_a * attributes[source, a, channel]
                    + weight_b * attributes[source, b, channel]
                    + weight_c * attributes[source, c, channel]
                )
