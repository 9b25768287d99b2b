"""Making landmark embeddings from vertex numbers and from other embeddings.

Symbols: V vertices, T triangles, L landmarks.
"""

from __future__ import annotations

import numpy as np

from backend.face_model.model import Embedding

# The seven NoW points as iBUG 68 indices, in NoW's order: right eye outer and inner corner, left eye
# inner and outer corner, nose bottom, right and left mouth corner (right is the subject's).
NOW7_FROM_IBUG68 = (36, 39, 42, 45, 33, 48, 54)


def embed_vertices(vertex_ids: np.ndarray, triangles: np.ndarray) -> Embedding:
    """Landmarks that sit exactly on vertices.

    Parameters
    ----------
    vertex_ids : (L,) int
    triangles : (T, 3) int
        Each landmark takes the first of these that has its vertex; a vertex of no triangle stands
        for itself three times.

    Returns
    -------
    Embedding
        The landmark's vertex is the first corner and has all the weight.
    """
    corners = np.repeat(np.asarray(vertex_ids, np.int32)[:, None], 3, axis=1)
    for row, vertex in enumerate(np.asarray(vertex_ids)):
        owners, positions = np.nonzero(triangles == vertex)
        if len(owners):
            corners[row] = np.roll(triangles[owners[0]], -positions[0])
    weights = np.zeros(corners.shape, np.float32)
    weights[:, 0] = 1.0
    return Embedding(corners, weights)


def subset(embedding: Embedding, rows: tuple[int, ...]) -> Embedding:
    """Some landmarks of a set, in the given order."""
    index = np.asarray(rows)
    spread = None if embedding.spread_mm is None else embedding.spread_mm[index]
    return Embedding(embedding.corners[index], embedding.barycentric[index], spread)


def with_now7(landmarks: dict[str, Embedding]) -> dict[str, Embedding]:
    """The same sets plus ``now7`` where it is missing and ``ibug68`` is there."""
    if "now7" in landmarks or "ibug68" not in landmarks:
        return landmarks
    return {**landmarks, "now7": subset(landmarks["ibug68"], NOW7_FROM_IBUG68)}
