"""Beyond the model's span: how far each point of the face lies off it, along its normal.

After the identity is refined, what is left of the photos' residuals (``photometric.py``) is explained by one
displacement per vertex, in all photos the same. The system is sparse, one linear solve:

    sum w (r + J d)^2 + sum (B d)^2 / BEND^2 + sum d^2 / AWAY^2

``J`` has what a displacement does to the place that is read in each photo and to the normals of the vertex and its
neighbours; what the skin has of its own is eliminated as before, so that shading that all photos show alike is taken
for skin, and only what changes with light and view for shape. ``B`` is the distance to the mean of the neighbours.
A side that no photo shows follows the other one.

Symbols: N photos, F points, T triangles, V vertices.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from backend.face_model.model import FaceModel
from backend.geometry.mesh import vertex_normals
from backend.reconstruction.photometric_face import Face
from backend.reconstruction.photometric_solve import OWN_SKIN, Rows, noise

# Part of a measurement that a point counts as: its neighbours err like it. This and the next two were chosen on ten
# invented people whose heads lie off the model by smooth random offsets.
INDEPENDENT = 0.3
# Standard deviations, metres: how far a vertex lies off the mean of its neighbours, and off the model.
BEND, AWAY = 3e-4, 2e-3
# A point that no photo shows is drawn to its mirror point's displacement this firmly, in units of AWAY.
MIRROR = 3.0


def offsets(model: FaceModel, face: Face, identity: np.ndarray, rows: Rows) -> np.ndarray:
    """Displacements of all vertices from a model's head, beyond its identity.

    Parameters
    ----------
    model : FaceModel
    face : Face
    identity : (I,) float
    rows : Rows
        At the end of the refinement. Their weights are changed.

    Returns
    -------
    (V, 3) float64, metres
    """
    neutral = model.vertices(identity).astype(np.float64)
    normals = vertex_normals(neutral, model.triangles)
    sigma = noise(rows)
    total = rows.weight.sum(axis=0) + OWN_SKIN
    own = (rows.weight * rows.residual).sum(axis=0) / total
    turning = normals_by_displacement(face, neutral, normals)
    straight = normals[face.vertices]
    count = len(face.vertices)
    hessian = sparse.csr_array((count, count))
    gradient, common = np.zeros(count), sparse.csr_array((count, count))
    for photo in range(len(rows.residual)):
        jacobian = sparse.diags_array((rows.point[photo] * straight).sum(axis=1))
        for axis in range(3):
            jacobian = jacobian + sparse.diags_array(rows.normal[photo, :, axis]) @ turning[axis]
        weighted = sparse.diags_array(rows.weight[photo]) @ jacobian
        hessian = hessian + jacobian.T @ weighted
        gradient += weighted.T @ (rows.residual[photo] - own)
        common = common + weighted
    hessian = (hessian - common.T @ sparse.diags_array(1.0 / total) @ common) * (INDEPENDENT / sigma**2)
    gradient = gradient * (INDEPENDENT / sigma**2)
    bending = bend(face)
    unseen = rows.weight.max(axis=0) <= 0
    known = bending.T @ bending / BEND**2 + mirrored(face, unseen) * (MIRROR / AWAY) ** 2
    found = splu(sparse.csc_array(hessian + known + sparse.eye_array(count) / AWAY**2)).solve(-gradient)
    result = np.zeros(neutral.shape)
    result[face.vertices] = found[:, None] * straight
    return result


def normals_by_displacement(face: Face, vertices: np.ndarray, normals: np.ndarray) -> list[sparse.csr_array]:
    """Three (F, F): how each axis of the points' unit normals changes with displacements along the normals."""
    points, along = vertices[face.around], normals[face.around]
    i, j, k = face.triangles.T
    p, q = points[j] - points[i], points[k] - points[i]
    at_j, at_k = np.cross(along[j], q), np.cross(p, along[k])
    at_i = -np.cross(along[i], q) - np.cross(p, along[i])
    rows = np.concatenate([corner for corner in (i, j, k) for _ in range(3)])
    columns = np.concatenate([i, j, k] * 3)
    values = np.concatenate([at_i, at_j, at_k] * 3)
    total = np.zeros(points.shape)
    facing = np.cross(p, q)
    for corner in (i, j, k):
        np.add.at(total, corner, facing)
    length = np.maximum(np.linalg.norm(total, axis=1), np.finfo(np.float64).tiny)
    unit = total / length[:, None]
    values = values / length[rows, None]
    values -= unit[rows] * (values * unit[rows]).sum(axis=1, keepdims=True)
    size = len(face.around)
    own = face.place
    return [
        sparse.csr_array((values[:, axis], (rows, columns)), shape=(size, size))[own][:, own].tocsr()
        for axis in range(3)
    ]


def bend(face: Face) -> sparse.csr_array:
    """(F, F): each point less the mean of its neighbours; beyond the face displacements are zero."""
    surface = face.surface
    start, count = surface.neighbour_start[face.vertices], np.diff(surface.neighbour_start)[face.vertices]
    rows = np.repeat(np.arange(len(face.vertices)), count)
    within = np.concatenate([np.arange(first, first + n) for first, n in zip(start, count)])
    place = np.full(len(surface.skin), -1)
    place[face.vertices] = np.arange(len(face.vertices))
    columns = place[surface.neighbours[within]]
    share = np.repeat(1.0 / np.maximum(count, 1), count)
    inside = columns >= 0
    size = (len(face.vertices),) * 2
    neighbours = sparse.csr_array((share[inside], (rows[inside], columns[inside])), shape=size)
    return (sparse.eye_array(len(face.vertices)) - neighbours).tocsr()


def mirrored(face: Face, unseen: np.ndarray) -> sparse.csr_array:
    """(F, F) Hessian of the squared differences between unseen points and their mirror points."""
    size = (len(face.vertices),) * 2
    if face.surface.mirror[0] < 0:
        return sparse.csr_array(size)
    place = np.full(len(face.surface.mirror), -1)
    place[face.vertices] = np.arange(len(face.vertices))
    other = place[face.surface.mirror[face.vertices]]
    one = np.flatnonzero(unseen & (other >= 0) & (other != np.arange(len(other))))
    rows = np.arange(len(one))
    difference = sparse.csr_array(
        (
            np.concatenate([np.ones(len(one)), -np.ones(len(one))]),
            (np.tile(rows, 2), np.concatenate([one, other[one]])),
        ),
        shape=(len(one), size[0]),
    )
    return difference.T @ difference
