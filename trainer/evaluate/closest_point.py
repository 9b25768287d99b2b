"""Closest points on a triangle mesh: a bounding-box tree, and the brute-force twin it is tested against.

Symbols: N query points, V vertices, T triangles. Any one unit of length throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

# A node of the tree with this many triangles or fewer is not split further: below about this size
# testing them all costs less than walking another level.
LEAF_TRIANGLES = 4

# Deep enough for 2**60 leaves; a balanced tree never comes near it.
STACK_DEPTH = 64


@dataclass(frozen=True)
class ClosestPoints:
    """Where the surface is nearest to each query point.

    ``points`` (N, 3) on the surface, ``distances`` (N,) unsigned, ``triangles`` (N,) int32 index of
    the triangle that holds the point.
    """

    points: np.ndarray
    distances: np.ndarray
    triangles: np.ndarray


class SurfaceTree:
    """A balanced tree of axis-aligned boxes over the triangles of one mesh; answers are exact.

    Parameters
    ----------
    vertices : (V, 3) float
    triangles : (T, 3) int
    """

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray):
        self.corners = np.ascontiguousarray(np.asarray(vertices, np.float64)[np.asarray(triangles)])
        self._order, self._range, self._box = _build(self.corners.min(axis=1), self.corners.max(axis=1))

    def query(self, points: np.ndarray, guess: np.ndarray | None = None) -> ClosestPoints:
        """Nearest surface point of each of (N, 3) ``points``.

        ``guess`` (N,) int names a triangle near each point, such as the answer of an earlier query
        close by; it changes the time only, never the answer (save between equally near triangles).
        """
        points = np.ascontiguousarray(points, np.float64)
        start = np.full(len(points), -1, np.int32) if guess is None else np.asarray(guess, np.int32)
        nearest, squared, index = _query(points, start, self.corners, self._order, self._range, self._box)
        return ClosestPoints(nearest, np.sqrt(squared), index)


def closest_points_brute_force(points: np.ndarray, vertices: np.ndarray, triangles: np.ndarray) -> ClosestPoints:
    """The slow twin of :meth:`SurfaceTree.query`: projects every point on every triangle and edge."""
    a, b, c = (np.asarray(vertices, np.float64)[triangles[:, corner]] for corner in range(3))
    nearest = np.zeros((len(points), 3))
    index = np.zeros(len(points), np.int32)
    for row, point in enumerate(np.asarray(points, np.float64)):
        candidates = np.stack(
            [_on_edge(point, a, b), _on_edge(point, b, c), _on_edge(point, c, a), _in_plane(point, a, b, c)]
        )
        squared = ((candidates - point) ** 2).sum(axis=-1)
        kind, triangle = np.unravel_index(np.nanargmin(squared), squared.shape)
        nearest[row], index[row] = candidates[kind, triangle], triangle
    return ClosestPoints(nearest, np.linalg.norm(nearest - points, axis=1), index)


def _on_edge(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(T, 3) nearest point of each edge."""
    along = end - start
    length = np.maximum((along**2).sum(axis=1), np.finfo(np.float64).tiny)
    fraction = np.clip(((point - start) * along).sum(axis=1) / length, 0.0, 1.0)
    return start + fraction[:, None] * along


def _in_plane(point: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """(T, 3) foot of the perpendicular on each triangle's plane; NaN where it falls outside."""
    normal = np.cross(b - a, c - a)
    squared = (normal**2).sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        foot = point - ((point - a) * normal).sum(axis=1, keepdims=True) / squared * normal
    inside = np.ones(len(a), bool)
    for start, end in ((a, b), (b, c), (c, a)):
        inside &= (np.cross(end - start, foot - start) * normal).sum(axis=1) >= 0.0
    return np.where(inside[:, None], foot, np.nan)


@numba.njit(cache=True)
def _build(low, high):
    """Split at the median of the longest side until the leaves are small.

    Returns the triangle order (T,), and for each node its [first, end, left child, right child]
    (children -1 at a leaf) and box (min xyz, max xyz).
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


@numba.njit(cache=True, inline="always")
def _box_distance(x, y, z, box):
    """Squared distance to a box, 0 inside."""
    dx = max(box[0] - x, 0.0, x - box[3])
    dy = max(box[1] - y, 0.0, y - box[4])
    dz = max(box[2] - z, 0.0, z - box[5])
    return dx * dx + dy * dy + dz * dz


@numba.njit(cache=True)
def _nearest_on_triangle(p, corners):
    """Closest point of a triangle by Voronoi region (Ericson, Real-Time Collision Detection, 5.1.5)."""
    a, b, c = corners[0], corners[1], corners[2]
    ab, ac, ap = b - a, c - a, p - a
    d1, d2 = ab @ ap, ac @ ap
    if d1 <= 0.0 and d2 <= 0.0:
        return a.copy()
    bp = p - b
    d3, d4 = ab @ bp, ac @ bp
    if d3 >= 0.0 and d4 <= d3:
        return b.copy()
    vc = d1 * d4 - d3 * d2
    if vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0:
        return a + d1 / (d1 - d3) * ab
    cp = p - c
    d5, d6 = ab @ cp, ac @ cp
    if d6 >= 0.0 and d5 <= d6:
        return c.copy()
    vb = d5 * d2 - d1 * d6
    if vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0:
        return a + d2 / (d2 - d6) * ac
    va = d3 * d6 - d5 * d4
    if va <= 0.0 and d4 - d3 >= 0.0 and d5 - d6 >= 0.0:
        return b + (d4 - d3) / ((d4 - d3) + (d5 - d6)) * (c - b)
    total = va + vb + vc
    return a + vb / total * ab + vc / total * ac


@numba.njit(cache=True)
def _query(points, guess, corners, order, nodes, boxes):
    """Depth-first search, nearer child first, of one point after another."""
    nearest = np.zeros((len(points), 3))
    squared = np.full(len(points), np.inf)
    index = np.zeros(len(points), np.int32)
    stack = np.zeros(STACK_DEPTH, np.int32)
    for row in range(len(points)):
        p = points[row]
        x, y, z = p[0], p[1], p[2]
        best, best_triangle = np.inf, np.int32(-1)
        if guess[row] >= 0:
            best_triangle = guess[row]
            q = _nearest_on_triangle(p, corners[best_triangle])
            best = ((q - p) ** 2).sum()
            nearest[row] = q
        stack[0], depth = 0, 1
        while depth > 0:
            depth -= 1
            node = stack[depth]
            if _box_distance(x, y, z, boxes[node]) >= best:
                continue
            left, right = nodes[node, 2], nodes[node, 3]
            if left < 0:
                for slot in range(nodes[node, 0], nodes[node, 1]):
                    q = _nearest_on_triangle(p, corners[order[slot]])
                    distance = ((q - p) ** 2).sum()
                    if distance < best:
                        best, best_triangle = distance, order[slot]
                        nearest[row] = q
            else:
                if _box_distance(x, y, z, boxes[left]) < _box_distance(x, y, z, boxes[right]):
                    left, right = right, left
                stack[depth], stack[depth + 1] = left, right
                depth += 2
        squared[row], index[row] = best, best_triangle
    return nearest, squared, index
