"""How each expression shape turns the surface's normals.

Symbols: V vertices, T triangles, E expression shapes.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from backend.geometry.mesh import triangle_normals, vertex_normals


def morph_normals(vertices: np.ndarray, shapes: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Change of the unit normals when a shape is fully on.

    A player adds these to the base normals as it adds the offsets to the positions; without them a smile
    is lit as if the cheek were still flat.

    Parameters
    ----------
    vertices : (V, 3) float32
        The base shape, metres.
    shapes : (E, V, 3) float32
        Offsets at weight 1, metres.
    triangles : (T, 3) int32

    Returns
    -------
    (E, V, 3) float32, zero where the shape moves no triangle of the vertex
    """
    base_faces = triangle_normals(vertices.astype(np.float64), triangles)
    base_normals = vertex_normals(vertices.astype(np.float64), triangles)
    gather = _corner_sums(triangles, len(vertices))
    base_sums = gather @ base_faces
    result = np.zeros((len(shapes), *vertices.shape), np.float32)
    for shape, turn in zip(shapes, result):
        moved = (shape != 0).any(axis=1)
        touched = np.flatnonzero(moved[triangles].any(axis=1))
        if not len(touched):
            continue
        # Only the touched triangles change; their vertices' sums are the old ones plus the difference.
        changed = triangle_normals(vertices.astype(np.float64) + shape, triangles[touched]) - base_faces[touched]
        rows = np.unique(triangles[touched])
        sums = base_sums[rows] + (gather[:, touched] @ changed)[rows]
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        turn[rows] = sums / np.maximum(length, np.finfo(np.float64).tiny) - base_normals[rows]
    return result


def _corner_sums(triangles: np.ndarray, vertex_count: int) -> csr_matrix:
    """(V, T) matrix that adds up, for every vertex, the rows of its triangles."""
    columns = np.repeat(np.arange(len(triangles)), 3)
    ones = np.ones(len(columns))
    return csr_matrix((ones, (triangles.ravel(), columns)), shape=(vertex_count, len(triangles)))
