"""How each expression shape turns the surface's normals.

Symbols: V vertices, T triangles, E expression shapes.
"""

from __future__ import annotations

import numpy as np

from backend.geometry.mesh import triangle_normals


def morph_normals(
    vertices: np.ndarray, shapes: np.ndarray, triangles: np.ndarray, smallest_move: float = 0.0
) -> np.ndarray:
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
    smallest_move : float
        Triangles whose corners all move less than this, metres along any axis, count as still.

    Returns
    -------
    (E, V, 3) float32, zero where the shape moves no triangle of the vertex
    """
    base = vertices.astype(np.float64)
    base_faces = triangle_normals(base, triangles)
    base_sums = _corner_sums(base_faces, triangles, len(vertices))
    base_normals = _unit(base_sums)
    result = np.zeros((len(shapes), *vertices.shape), np.float32)
    for index, shape in enumerate(shapes):
        moved = any_of_three(np.abs(shape) > smallest_move)
        touched = np.flatnonzero(any_of_three(moved[triangles]))
        corners = triangles[touched]
        # Only the touched triangles change; their vertices' sums are the old ones plus the difference.
        changed = triangle_normals(base + shape, corners) - base_faces[touched]
        sums = base_sums + _corner_sums(changed, corners, len(vertices))
        turning = np.zeros(len(vertices), bool)
        turning[corners] = True
        result[index, turning] = _unit(sums[turning]) - base_normals[turning]
    return result


def any_of_three(values: np.ndarray) -> np.ndarray:
    """(..., 3) bool -> (...) bool; ``np.any`` over an axis of three takes eight times as long."""
    return values[..., 0] | values[..., 1] | values[..., 2]


def _corner_sums(values: np.ndarray, triangles: np.ndarray, vertex_count: int) -> np.ndarray:
    """(T, 3) per triangle -> (V, 3): every vertex adds up the rows of its triangles."""
    flat = triangles.ravel()
    columns = (np.bincount(flat, np.repeat(values[:, axis], 3), vertex_count) for axis in range(3))
    return np.stack(list(columns), axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """(N, 3) at length 1; zeros stay."""
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return vectors / np.maximum(length, np.finfo(np.float64).tiny)
