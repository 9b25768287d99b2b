"""What a source may lack or have too much of: texture layouts, mirror pairs, unused vertices.

Symbols: V vertices, F faces, T triangles, U texture coordinates.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from backend.geometry.mesh import NO_CORNER, triangulate
from backend.geometry.rotation import matrix_from_rotation_vector

# Two vertices are each other's mirror image when they agree this well, metres. Sculpted heads are
# symmetric by construction and far below it; averaged scans are not.
MIRROR_TOLERANCE_M = 1e-3

# A vertex this much farther from an eyeball's middle than its radius belongs to the cornea.
CORNEA_RISE = 1.02

# The margin around the cylindrical layout, in units of the texture.
UV_MARGIN = 0.02


def as_quads(triangles: np.ndarray) -> np.ndarray:
    """(T, 3) -> (T, 4) int32 with -1 as the last corner."""
    triangles = np.asarray(triangles, np.int32)
    return np.concatenate([triangles, np.full((len(triangles), 1), NO_CORNER, np.int32)], axis=1)


def compact(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number anew what faces use.

    Parameters
    ----------
    faces : (F, 4) int
        Indices of vertices or of texture coordinates, -1 for a missing corner.

    Returns
    -------
    used : (N,) int64
        The old indices in use, ascending.
    faces : (F, 4) int32
        The same faces with indices into ``used``.
    """
    used = np.unique(faces[faces != NO_CORNER])
    renumbered = np.searchsorted(used, faces)
    return used, np.where(faces == NO_CORNER, NO_CORNER, renumbered).astype(np.int32)


def weld_uv(corner_uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(F, 4, 2) texture coordinates of corners -> the different ones (U, 2) float32 and (F, 4) int32."""
    flat = np.asarray(corner_uv, np.float32).reshape(-1, 2)
    uv, inverse = np.unique(flat, axis=0, return_inverse=True)
    return uv, inverse.reshape(corner_uv.shape[:2]).astype(np.int32)


def components(faces: np.ndarray, vertex_count: int) -> np.ndarray:
    """(V,) int: the number of the connected piece that each vertex is in."""
    triangles = triangulate(faces)
    start, end = triangles[:, [0, 1]].ravel(), triangles[:, [1, 2]].ravel()
    graph = coo_matrix((np.ones(len(start), np.int8), (start, end)), shape=(vertex_count, vertex_count))
    return connected_components(graph, directed=False)[1]


def cylindrical_uv(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A plain layout for a head without one: the angle around the vertical axis, and the height.

    The seam runs down the back; faces across it get coordinates of their own on both sides, so no face
    is smeared over the whole texture. Overhangs (under the chin, behind the ears) overlap.

    Parameters
    ----------
    vertices : (V, 3) float
        Metres, model space.
    faces : (F, 4) int

    Returns
    -------
    uv : (U, 2) float32
    face_uv : (F, 4) int32
    """
    middle = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    across, up, out = (vertices - middle).T
    # The face is in the middle of the texture and the subject's left on its right-hand side.
    u = np.arctan2(across, out) / (2 * np.pi) + 0.5
    v = (up - up.min()) / max(float(np.ptp(up)), np.finfo(np.float32).tiny)
    corner_u = np.where(faces == NO_CORNER, np.nan, u[faces])
    spread = np.nanmax(corner_u, axis=1) - np.nanmin(corner_u, axis=1)
    low = corner_u < 0.5
    corner_u = np.where((spread > 0.5)[:, None] & low, corner_u + 1.0, corner_u)
    # Faces across the seam reach past 1; shrinking the whole layout keeps them inside the texture.
    reach = max(float(np.nanmax(corner_u)), 1.0)
    corner_uv = np.stack([corner_u / reach, v[faces]], axis=-1) * (1 - 2 * UV_MARGIN) + UV_MARGIN
    corner_uv = np.where((faces == NO_CORNER)[..., None], corner_uv[:, :1], corner_uv)
    uv, face_uv = weld_uv(corner_uv)
    return without_missing(uv, np.where(faces == NO_CORNER, NO_CORNER, face_uv))


def without_missing(uv: np.ndarray, face_uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop texture coordinates that no face uses."""
    used, face_uv = compact(face_uv)
    return uv[used].astype(np.float32), face_uv


def azimuthal_eye_uv(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texture coordinates of eyeballs in the project's layout: the iris in the middle, both eyes alike.

    Lambert's azimuthal equal-area map around the optical axis: at the angle ``a`` from the front pole the
    distance from (0.5, 0.5) is ``sin(a / 2) / 2``, so the back pole is the circle of radius 0.5.

    Parameters
    ----------
    vertices : (V, 3) float
    faces : (F, 4) int
        The eyeballs' faces; every connected piece is one eye.

    Returns
    -------
    uv : (U, 2) float32
    face_uv : (F, 4) int32
    """
    used, local = compact(faces)
    points = vertices[used]
    piece = components(local, len(used))
    uv = np.zeros((len(used), 2), np.float32)
    for number in np.unique(piece):
        own = piece == number
        centre, axis = eye_axis(points[own])
        turn = np.cross(axis, [0.0, 0.0, 1.0])
        length = np.linalg.norm(turn)
        if length > 0:
            turn = turn / length * np.arccos(np.clip(axis[2], -1.0, 1.0))
        ray = (points[own] - centre) @ matrix_from_rotation_vector(turn).T
        angle = np.arccos(np.clip(ray[:, 2] / np.maximum(np.linalg.norm(ray, axis=1), 1e-9), -1.0, 1.0))
        radius, direction = 0.5 * np.sin(angle / 2), np.arctan2(ray[:, 1], ray[:, 0])
        uv[own] = 0.5 + np.stack([radius * np.cos(direction), radius * np.sin(direction)], axis=1)
    return uv, local


def eye_axis(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle (3,) and optical axis (3,) of one eyeball with vertices (V, 3).

    The sphere is fitted to the back half by linear least squares (|p|^2 = 2 p.c + k). The axis points at
    the cornea, the part that stands out of the sphere; +Z where nothing does.
    """
    back = points[points[:, 2] <= np.median(points[:, 2])].astype(np.float64)
    system = np.concatenate([2 * back, np.ones((len(back), 1))], axis=1)
    solution = np.linalg.lstsq(system, (back**2).sum(axis=1), rcond=None)[0]
    centre = solution[:3]
    radius = np.sqrt(max(solution[3] + centre @ centre, 0.0))
    ray = points - centre
    distance = np.linalg.norm(ray, axis=1)
    bulge = np.clip(distance - CORNEA_RISE * radius, 0.0, None)
    axis = (ray / np.maximum(distance, 1e-9)[:, None] * bulge[:, None]).sum(axis=0)
    length = np.linalg.norm(axis)
    # A bulge that does not look forward is no cornea.
    return (centre, axis / length) if length > 0 and axis[2] > 0.8 * length else (centre, np.array([0.0, 0.0, 1.0]))


def mirror_pairs(mean: np.ndarray) -> np.ndarray | None:
    """(V,) int32: the vertex on the other side of each one, or None when the mesh is not symmetric.

    The result is its own inverse: where two vertices want the same partner, the pairs with the
    smallest total distance are taken.
    """
    mirrored = mean * np.array([-1.0, 1.0, 1.0], mean.dtype)
    distance, nearest = KDTree(mean).query(mirrored)
    partner = np.asarray(nearest)
    if np.max(distance) > MIRROR_TOLERANCE_M:
        return None
    everyone = np.arange(len(mean))
    open_ones = np.flatnonzero(partner[partner] != everyone)
    if len(open_ones):
        cost = np.linalg.norm(mirrored[open_ones][:, None] - mean[open_ones][None], axis=-1)
        # cost[i, j] and cost[j, i] are the same distance, but one assignment need not pair both ways.
        partner[open_ones] = open_ones[linear_sum_assignment(cost)[1]]
    return partner.astype(np.int32) if (partner[partner] == everyone).all() else None
