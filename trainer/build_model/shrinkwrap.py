"""Points of ours on the surface of the source, by casting rays.

Symbols: N rays, T triangles, S source vertices.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

# Rays are cast in runs of this many so that the (N, T) table of a run stays small.
RAYS_AT_ONCE = 256
# Slack at triangle borders, relative to the triangle, so that a ray through a shared edge is not lost.
EDGE_SLACK = 1e-7


def cast_rays(
    origins: np.ndarray, directions: np.ndarray, points: np.ndarray, triangles: np.ndarray, last: bool = True
):
    """First or last hit of rays with a mesh (Moeller and Trumbore 1997, every ray against every triangle).

    Parameters
    ----------
    origins, directions : (N, 3) float
    points : (S, 3) float
    triangles : (T, 3) int
    last : bool
        The farthest hit instead of the nearest.

    Returns
    -------
    triangle : (N,) int
        -1 where the ray misses.
    barycentric : (N, 3) float
    distance : (N,) float
        In units of the direction's length.
    """
    a, b, c = (points[triangles[:, k]] for k in range(3))
    ab, ac = b - a, c - a
    hit = np.full(len(origins), -1)
    barycentric = np.zeros((len(origins), 3))
    distance = np.full(len(origins), np.nan)
    for start in range(0, len(origins), RAYS_AT_ONCE):
        rows = slice(start, start + RAYS_AT_ONCE)
        direction, origin = directions[rows, None], origins[rows, None]
        p = np.cross(direction, ac)
        determinant = np.einsum("ntk,tk->nt", p, ab)
        with np.errstate(divide="ignore", invalid="ignore"):
            from_a = origin - a
            u = np.einsum("ntk,ntk->nt", from_a, p) / determinant
            q = np.cross(from_a, ab)
            v = np.einsum("ntk,ntk->nt", np.broadcast_to(direction, q.shape), q) / determinant
            t = np.einsum("ntk,tk->nt", q, ac) / determinant
        inside = (u >= -EDGE_SLACK) & (v >= -EDGE_SLACK) & (u + v <= 1 + EDGE_SLACK) & (t > 0)
        ranked = np.where(inside, t, -np.inf if last else np.inf)
        best = ranked.argmax(axis=1) if last else ranked.argmin(axis=1)
        index = np.arange(len(best))
        found = inside[index, best]
        hit[rows] = np.where(found, best, -1)
        u, v = u[index, best], v[index, best]
        values = np.clip(np.stack([1 - u - v, u, v], axis=1), 0.0, 1.0)
        barycentric[rows] = np.where(found[:, None], values / values.sum(axis=1, keepdims=True), 0.0)
        distance[rows] = np.where(found, t[index, best], np.nan)
    return hit, barycentric, distance


def rows_on_surface(corners: np.ndarray, barycentric: np.ndarray, source_count: int) -> csr_matrix:
    """(N, 3) vertices and weights -> (N, S) sparse rows."""
    rows = np.repeat(np.arange(len(corners)), 3)
    return csr_matrix((barycentric.ravel(), (rows, corners.ravel())), shape=(len(corners), source_count))


def closest_on_surface(targets: np.ndarray, points: np.ndarray, triangles: np.ndarray):
    """Nearest points of a mesh: triangle (N,), barycentric (N, 3), distance (N,)."""
    import igl

    squared, triangle, nearest = igl.point_mesh_squared_distance(
        np.ascontiguousarray(targets, float),
        np.ascontiguousarray(points, float),
        np.ascontiguousarray(triangles, np.int64),
    )
    a, b, c = (points[triangles[triangle, k]] for k in range(3))
    return triangle, barycentric_of(nearest, a, b, c), np.sqrt(squared)


def barycentric_of(point: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """(N, 3) weights of points in the plane of triangles, clipped into the triangle."""
    ab, ac, ap = b - a, c - a, point - a
    d00, d01, d11 = (ab * ab).sum(1), (ab * ac).sum(1), (ac * ac).sum(1)
    d20, d21 = (ap * ab).sum(1), (ap * ac).sum(1)
    scale = np.maximum(d00 * d11 - d01 * d01, 1e-30)
    v, w = (d11 * d20 - d01 * d21) / scale, (d00 * d21 - d01 * d20) / scale
    weights = np.clip(np.stack([1 - v - w, v, w], axis=1), 0.0, 1.0)
    return weights / weights.sum(axis=1, keepdims=True)
