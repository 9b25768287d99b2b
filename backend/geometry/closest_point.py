"""Closest points on a triangle mesh.

Symbols: V vertices, T triangles, N query points.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

# How many nearest vertices nominate their triangles. On meshes with triangles of similar size eight
# is past what is needed; the exhaustive twin in the tests holds it to that.
CANDIDATE_VERTICES = 8


class ClosestPoint:
    """Finds, for points in space, where on the surface they are nearest.

    Parameters
    ----------
    vertices : (V, 3) float
    triangles : (T, 3) int
    """

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray) -> None:
        self.vertices = np.asarray(vertices, np.float64)
        self.triangles = np.asarray(triangles)
        self.used = np.unique(self.triangles)
        self.tree = cKDTree(self.vertices[self.used])
        order = np.argsort(self.triangles.ravel(), kind="stable")
        counts = np.bincount(self.triangles.ravel(), minlength=len(self.vertices))
        self.incident = order // 3
        self.offsets = np.concatenate([[0], np.cumsum(counts)])

    def embed(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Corners (N, 3) int32 and barycentric weights (N, 3) float32 of the nearest surface points."""
        points = np.asarray(points, np.float64)
        _, near = self.tree.query(points, k=min(CANDIDATE_VERTICES, len(self.used)))
        near = self.used[near.reshape(len(points), -1)]
        corners = np.zeros((len(points), 3), np.int32)
        weights = np.zeros((len(points), 3), np.float32)
        for row, (point, nominated) in enumerate(zip(points, near)):
            spans = [self.incident[self.offsets[v] : self.offsets[v + 1]] for v in nominated]
            candidates = np.unique(np.concatenate(spans))
            barycentric = closest_barycentric(point, self.vertices[self.triangles[candidates]])
            nearest = np.einsum("tk,tkc->tc", barycentric, self.vertices[self.triangles[candidates]])
            best = np.argmin(((nearest - point) ** 2).sum(axis=1))
            corners[row], weights[row] = self.triangles[candidates[best]], barycentric[best]
        return corners, weights


def closest_barycentric(point: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Barycentric weights of the point of each triangle that is nearest to one point.

    The regions of Ericson, "Real-Time Collision Detection" (2005), section 5.1.5, evaluated for all
    triangles at once: inside the triangle the plane's projection, otherwise the best of three edges.

    Parameters
    ----------
    point : (3,) float
    triangles : (T, 3, 3) float

    Returns
    -------
    (T, 3) float64
    """
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    ab, ac, ap = b - a, c - a, point - a
    d11, d12, d22 = (ab * ab).sum(1), (ab * ac).sum(1), (ac * ac).sum(1)
    d1p, d2p = (ab * ap).sum(1), (ac * ap).sum(1)
    determinant = d11 * d22 - d12 * d12
    safe = np.where(determinant > 0, determinant, 1.0)
    v, w = (d22 * d1p - d12 * d2p) / safe, (d11 * d2p - d12 * d1p) / safe
    inside = (determinant > 0) & (v >= 0) & (w >= 0) & (v + w <= 1)
    plane = np.stack([1.0 - v - w, v, w], axis=1)
    best, best_distance = plane, np.where(inside, ((point - _at(plane, triangles)) ** 2).sum(1), np.inf)
    for start, end in ((0, 1), (1, 2), (2, 0)):
        edge = triangles[:, end] - triangles[:, start]
        length = (edge * edge).sum(1)
        along = ((point - triangles[:, start]) * edge).sum(1) / np.where(length > 0, length, 1.0)
        along = np.clip(along, 0.0, 1.0)
        weights = np.zeros_like(plane)
        weights[:, start], weights[:, end] = 1.0 - along, along
        distance = ((point - _at(weights, triangles)) ** 2).sum(1)
        closer = distance < best_distance
        best = np.where(closer[:, None], weights, best)
        best_distance = np.where(closer, distance, best_distance)
    return best


def _at(barycentric: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    return np.einsum("tk,tkc->tc", barycentric, triangles)
