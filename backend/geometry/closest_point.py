"""Closest points on a triangle mesh: a tree of bounding boxes, walked by compiled code; answers are exact.

Signatures are spelled out so that importing this module loads the compiled code from Numba's cache and
nothing is compiled later.

Symbols: N query points, V vertices, T triangles. Any one unit of length throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.geometry.kernel_cache import njit

# A node of the tree with this many triangles or fewer is not split further: below about this size
# testing them all costs less than walking another level.
LEAF_TRIANGLES = 4

# Halving T triangles takes log2(T) levels and the walk keeps at most one open node for each, so this is
# room for 2**60 triangles.
STACK_DEPTH = 64

# A triangle whose two edges enclose an angle with a squared sine of this or less is taken as the lines
# round it. What that leaves out is no wider than 1e-8 of an edge, which is also how far rounding (float64
# keeps 1e-16) shifts the foot of a perpendicular in a triangle as narrow as that.
FLAT = 1e-16


@dataclass(frozen=True)
class ClosestPoints:
    """Where the surface is nearest to each query point.

    Attributes
    ----------
    points : (N, 3) float64
        On the surface.
    distances : (N,) float64
        Unsigned.
    triangles : (N,) int32
        The triangle that holds the point.
    barycentric : (N, 3) float64
        Weights of the triangle's corners, none negative, sum 1.
    """

    points: np.ndarray
    distances: np.ndarray
    triangles: np.ndarray
    barycentric: np.ndarray


class SurfaceTree:
    """A balanced tree of axis-aligned boxes over the triangles of one mesh.

    Parameters
    ----------
    vertices : (V, 3) float
    triangles : (T, 3) int
        At least one. Triangles without area are points or lines like any other.

    Attributes
    ----------
    triangles : (T, 3) int32
    corners : (T, 3, 3) float64
        Positions of the triangles' corners.
    """

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray) -> None:
        self.triangles = np.ascontiguousarray(triangles, np.int32)
        self.corners = np.ascontiguousarray(np.asarray(vertices, np.float64)[self.triangles])
        self._order, self._nodes, self._boxes = _build(self.corners.min(axis=1), self.corners.max(axis=1))

    def query(self, points: np.ndarray, guess: np.ndarray | None = None) -> ClosestPoints:
        """Nearest surface point of each of (N, 3) ``points``.

        ``guess`` (N,) int names a triangle near each point, such as the answer of an earlier query
        close by; it changes the time only, never the answer (save between equally near triangles).
        """
        points = np.ascontiguousarray(points, np.float64)
        start = np.full(len(points), -1, np.int32) if guess is None else np.ascontiguousarray(guess, np.int32)
        weights, squared, index = _query(points, start, self.corners, self._order, self._nodes, self._boxes)
        nearest = np.einsum("nk,nkc->nc", weights, self.corners[index])
        return ClosestPoints(nearest, np.sqrt(squared), index, weights)

    def embed(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (N, 3) int32 and barycentric weights (N, 3) float32 of the nearest surface points."""
        found = self.query(points)
        return self.triangles[found.triangles], found.barycentric.astype(np.float32)


@njit("Tuple((int32[::1], int32[:,::1], float64[:,::1]))(float64[:,::1], float64[:,::1])", cache=True, nogil=True)
def _build(low, high):
    """Split at the median of the longest side until the leaves are small.

    (T, 3) smallest and largest coordinates of the triangles -> order (T,) of the triangles, and for each
    node its [first, end, left child, right child] (children -1 at a leaf) and box (min xyz, max xyz).
    """
    count = len(low)
    centre = (low + high) / 2.0
    order = np.arange(count).astype(np.int32)
    nodes = np.full((2 * count + 1, 4), -1, np.int32)
    boxes = np.zeros((2 * count + 1, 6))
    nodes[0, 0], nodes[0, 1] = 0, count
    made, node = 1, 0
    while node < made:
        first, end = nodes[node, 0], nodes[node, 1]
        members = order[first:end]
        for axis in range(3):
            boxes[node, axis] = low[members, axis].min()
            boxes[node, 3 + axis] = high[members, axis].max()
        if end - first > LEAF_TRIANGLES:
            axis = np.argmax(boxes[node, 3:] - boxes[node, :3])
            order[first:end] = members[np.argsort(centre[members, axis])]
            middle = (first + end) // 2
            nodes[node, 2], nodes[node, 3] = made, made + 1
            nodes[made, 0], nodes[made, 1] = first, middle
            nodes[made + 1, 0], nodes[made + 1, 1] = middle, end
            made += 2
        node += 1
    return order, nodes[:made].copy(), boxes[:made].copy()


@njit(inline="always")
def _box_distance(x, y, z, box):
    """Squared distance to a box, 0 inside."""
    dx = max(box[0] - x, 0.0, x - box[3])
    dy = max(box[1] - y, 0.0, y - box[4])
    dz = max(box[2] - z, 0.0, z - box[5])
    return dx * dx + dy * dy + dz * dz


@njit
def _on_edge(x, y, z, start, end):
    """Share of the way from ``start`` to ``end`` (3,) where the edge is nearest, and the squared distance."""
    ex, ey, ez = end[0] - start[0], end[1] - start[1], end[2] - start[2]
    px, py, pz = x - start[0], y - start[1], z - start[2]
    length = ex * ex + ey * ey + ez * ez
    share = 0.0
    if length > 0.0:
        share = min(max((px * ex + py * ey + pz * ez) / length, 0.0), 1.0)
    dx, dy, dz = px - share * ex, py - share * ey, pz - share * ez
    return share, dx * dx + dy * dy + dz * dz


@njit
def _nearest_on_triangle(x, y, z, corners):
    """Weights of the corners (3, 3) at a triangle's nearest point, and the squared distance.

    Inside, the foot of the perpendicular; otherwise, as for triangles without area, the best of three edges.
    """
    a, b, c = corners[0], corners[1], corners[2]
    bx, by, bz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    cx, cy, cz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    px, py, pz = x - a[0], y - a[1], z - a[2]
    nx, ny, nz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
    area = nx * nx + ny * ny + nz * nz
    if area > FLAT * (bx * bx + by * by + bz * bz) * (cx * cx + cy * cy + cz * cz):
        v = ((py * cz - pz * cy) * nx + (pz * cx - px * cz) * ny + (px * cy - py * cx) * nz) / area
        w = ((by * pz - bz * py) * nx + (bz * px - bx * pz) * ny + (bx * py - by * px) * nz) / area
        if v >= 0.0 and w >= 0.0 and v + w <= 1.0:
            dx, dy, dz = px - v * bx - w * cx, py - v * by - w * cy, pz - v * bz - w * cz
            return 1.0 - v - w, v, w, dx * dx + dy * dy + dz * dz
    share, best = _on_edge(x, y, z, a, b)
    u, v, w = 1.0 - share, share, 0.0
    share, squared = _on_edge(x, y, z, b, c)
    if squared < best:
        best, u, v, w = squared, 0.0, 1.0 - share, share
    share, squared = _on_edge(x, y, z, c, a)
    if squared < best:
        best, u, v, w = squared, share, 0.0, 1.0 - share
    return u, v, w, best


@njit(
    "Tuple((float64[:,::1], float64[::1], int32[::1]))(float64[:,::1], int32[::1], float64[:,:,::1], int32[::1],"
    " int32[:,::1], float64[:,::1])",
    cache=True,
    nogil=True,
)
def _query(points, guess, corners, order, nodes, boxes):
    """Depth-first search, nearer child first, of one point after another.

    (N, 3), (N,) triangles to begin with or -1 -> barycentric (N, 3), squared distance (N,), triangle (N,).
    """
    weights = np.zeros((len(points), 3))
    squared = np.full(len(points), np.inf)
    index = np.zeros(len(points), np.int32)
    stack = np.zeros(STACK_DEPTH, np.int32)
    for row in range(len(points)):
        x, y, z = points[row, 0], points[row, 1], points[row, 2]
        best = np.inf
        if guess[row] >= 0:
            index[row] = guess[row]
            u, v, w, best = _nearest_on_triangle(x, y, z, corners[guess[row]])
            weights[row, 0], weights[row, 1], weights[row, 2] = u, v, w
        stack[0], depth = 0, 1
        while depth > 0:
            depth -= 1
            node = stack[depth]
            if _box_distance(x, y, z, boxes[node]) >= best:
                continue
            left, right = nodes[node, 2], nodes[node, 3]
            if left < 0:
                for slot in range(nodes[node, 0], nodes[node, 1]):
                    u, v, w, distance = _nearest_on_triangle(x, y, z, corners[order[slot]])
                    if distance < best:
                        best, index[row] = distance, order[slot]
                        weights[row, 0], weights[row, 1], weights[row, 2] = u, v, w
            else:
                if _box_distance(x, y, z, boxes[left]) < _box_distance(x, y, z, boxes[right]):
                    left, right = right, left
                stack[depth], stack[depth + 1] = left, right
                depth += 2
        squared[row] = best
    return weights, squared, index
