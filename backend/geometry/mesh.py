"""Mesh operations on plain arrays.

Symbols: V vertices, F faces (quads, a last index of -1 marks a triangle), T triangles.
"""

from __future__ import annotations

import numpy as np

# A face index that marks a missing fourth corner.
NO_CORNER = -1


def triangulate(faces: np.ndarray) -> np.ndarray:
    """Split quads along the (0, 2) diagonal.

    Parameters
    ----------
    faces : (F, 4) int
        Quads; ``faces[f, 3] == -1`` marks a triangle. A (T, 3) array is returned unchanged.

    Returns
    -------
    triangles : (T, 3) int32
        First every face's (0, 1, 2), in face order, then (0, 2, 3) of the faces that are quads, in
        face order. ``triangle_faces`` gives the way back.
    """
    faces = np.asarray(faces)
    if faces.shape[1] == 3:
        return faces.astype(np.int32)
    quads = faces[faces[:, 3] != NO_CORNER]
    return np.concatenate([faces[:, :3], quads[:, [0, 2, 3]]]).astype(np.int32)


def triangle_faces(faces: np.ndarray) -> np.ndarray:
    """(T,) int32: the face that each triangle of :func:`triangulate` came from."""
    faces = np.asarray(faces)
    own = np.arange(len(faces), dtype=np.int32)
    if faces.shape[1] == 3:
        return own
    return np.concatenate([own, own[faces[:, 3] != NO_CORNER]])


def triangle_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(..., T, 3) normals whose length is twice the area, outward for counter-clockwise faces."""
    a, b, c = (vertices[..., triangles[:, corner], :] for corner in range(3))
    return np.cross(b - a, c - a)


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(V, 3) area-weighted unit normals; an isolated vertex gets (0, 0, 0)."""
    face_normals = triangle_normals(vertices, triangles)
    total = np.stack(
        [
            np.bincount(triangles.ravel(), weights=np.repeat(face_normals[:, axis], 3), minlength=len(vertices))
            for axis in range(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return total / np.maximum(length, np.finfo(np.float64).tiny)


def edges(faces: np.ndarray) -> np.ndarray:
    """(E, 2) int32 unique undirected edges of quads or triangles, smaller index first."""
    faces = np.asarray(faces)
    if faces.shape[1] == 3:
        loops = [faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]
    else:
        is_quad = faces[:, 3] != NO_CORNER
        last = np.where(is_quad, faces[:, 3], faces[:, 2])
        loops = [faces[:, [0, 1]], faces[:, [1, 2]], faces[is_quad][:, [2, 3]]]
        loops.append(np.stack([last, faces[:, 0]], axis=1))
    pairs = np.sort(np.concatenate(loops), axis=1)
    return np.unique(pairs, axis=0).astype(np.int32)


def boundary_edges(triangles: np.ndarray) -> np.ndarray:
    """(E, 2) int32 edges that belong to exactly one triangle."""
    loops = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    unique, counts = np.unique(np.sort(loops, axis=1), axis=0, return_counts=True)
    return unique[counts == 1].astype(np.int32)


def interpolate_on_triangles(values: np.ndarray, triangles: np.ndarray, barycentric: np.ndarray) -> np.ndarray:
    """Values at points of a mesh.

    Parameters
    ----------
    values : (..., V, C) float
        Per-vertex values.
    triangles : (L, 3) int
        Vertex indices of the triangle that holds each point.
    barycentric : (L, 3) float
        Weights that sum to 1.

    Returns
    -------
    (..., L, C) float
    """
    corners = values[..., triangles, :]
    return np.einsum("...lkc,lk->...lc", corners, barycentric)
