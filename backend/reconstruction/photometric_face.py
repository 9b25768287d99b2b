"""What the photometric refinement knows of a face model: which skin counts, and what skins look like there.

Symbols: V vertices, F skin vertices of the face that count, T triangles round them, K albedo modes, Q shapes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from backend.face_model.model import FaceModel
from backend.geometry.kernel_cache import njit
from backend.reconstruction.skin_statistics import SkinStatistics, statistics_of
from backend.reconstruction.texture_atlas import Surface, kept, surface_of

# Vertices that count at least this much: face and jaw, not eyes, brows, nostrils and lips, whose borders a
# landmark fit misses by a pixel or two and whose colours differ most from one person to another, nor the scalp.
LEAST_TAKE = 0.05


@dataclass(frozen=True)
class Face:
    """The part of a model that is compared with photos.

    Attributes
    ----------
    surface : Surface
    vertices : (F,) int64
        Rows of the model's vertices.
    weight : (F,) float64
        How much each counts, in (0, 1].
    around : (A,) int64
        Vertices of all triangles that touch them.
    triangles : (T, 3) int64
        Those triangles, places in ``around``.
    place : (F,) int64
        Of each vertex in ``around``.
    log_albedo : (F,) float64
        Logarithm of the mean skin's brightness, linear light.
    albedo_modes : (K, F) float64
        Its change per standard deviation.
    """

    surface: Surface
    vertices: np.ndarray
    weight: np.ndarray
    around: np.ndarray
    triangles: np.ndarray
    place: np.ndarray
    log_albedo: np.ndarray
    albedo_modes: np.ndarray


_faces: OrderedDict[int, tuple[FaceModel, Face | None]] = OrderedDict()


def face_of(model: FaceModel) -> Face | None:
    """The model's :class:`Face`, kept for the next photo; None for a model without statistical albedo."""

    def build() -> Face | None:
        skins = statistics_of(model)
        return None if skins is None else build_face(model, skins)

    return kept(_faces, id(model), model, build)


def build_face(model: FaceModel, skins: SkinStatistics) -> Face:
    surface = surface_of(model)
    weight = (surface.take * (1.0 - surface.feature)).astype(np.float64)
    vertices = np.flatnonzero((weight > LEAST_TAKE) & surface.skin)
    touched = np.zeros(model.vertex_count, bool)
    touched[vertices] = True
    around, triangles = np.unique(model.triangles[touched[model.triangles].any(axis=1)], return_inverse=True)
    return Face(
        surface,
        vertices,
        weight[vertices],
        around,
        triangles.reshape(-1, 3),
        np.searchsorted(around, vertices),
        skins.mean[vertices],
        np.ascontiguousarray(skins.modes[:, vertices]),
    )


def normals_and_derivatives(face: Face, vertices: np.ndarray, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals of the face, area-weighted, and how they turn with each shape.

    Parameters
    ----------
    face : Face
    vertices : (V, 3) float
        Metres.
    shapes : (Q, V, 3) float
        What is added to the vertices.

    Returns
    -------
    (F, 3) float64 and (Q, F, 3) float64
    """
    points = np.ascontiguousarray(vertices[face.around], np.float64)
    moves = np.ascontiguousarray(shapes[:, face.around], np.float64)
    total, turned = np.zeros(points.shape), np.zeros(moves.shape)
    _turn(points, moves, face.triangles, total, turned)
    total, turned = total[face.place], turned[:, face.place]
    length = np.maximum(np.linalg.norm(total, axis=1), np.finfo(np.float64).tiny)[:, None]
    unit = total / length
    turned = turned / length
    turned -= unit * (turned * unit).sum(axis=2, keepdims=True)
    return unit, turned


@njit(cache=True, nogil=True)
def _turn(points, moves, triangles, total, turned):
    """Sums of the triangles' normals at their corners, and the derivatives of these sums."""
    for t in range(len(triangles)):
        i, j, k = triangles[t]
        p, q = points[j] - points[i], points[k] - points[i]
        for axis in range(3):
            b, c = (axis + 1) % 3, (axis + 2) % 3
            value = p[b] * q[c] - p[c] * q[b]
            total[i, axis] += value
            total[j, axis] += value
            total[k, axis] += value
    for s in range(len(moves)):
        move = moves[s]
        for t in range(len(triangles)):
            i, j, k = triangles[t]
            for axis in range(3):
                b, c = (axis + 1) % 3, (axis + 2) % 3
                pb, pc = points[j, b] - points[i, b], points[j, c] - points[i, c]
                qb, qc = points[k, b] - points[i, b], points[k, c] - points[i, c]
                ub, uc = move[j, b] - move[i, b], move[j, c] - move[i, c]
                wb, wc = move[k, b] - move[i, b], move[k, c] - move[i, c]
                value = ub * qc - uc * qb + pb * wc - pc * wb
                turned[s, i, axis] += value
                turned[s, j, axis] += value
                turned[s, k, axis] += value
