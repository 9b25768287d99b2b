"""MICC Florence: how far a scan of the face lies from a reconstruction, one number for each mesh.

There is no public reference code. This follows what two authors say of theirs: the author of Deep3D
(microsoft/Deep3DFaceReconstruction, issue 23: similarity ICP for each mesh with a scale of its own, ground truth
within 95 mm of the nose tip, forehead cut away, point-to-plane, RMSE of each mesh, then mean and standard deviation
over meshes) and the author of MGCNet (issue 16: five landmarks on the scan, crop, rigid alignment by them, ICP,
point-to-plane RMSE). What both leave open is decided here and said in docs/evaluation.md.

Symbols: N scan vertices, V mesh vertices, T triangles. Lengths go in as metres; figures whose name ends in ``_mm`` are
millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.geometry.alignment import Similarity
from backend.geometry.closest_point import SurfaceTree
from backend.geometry.mesh import vertex_normals
from trainer.evaluate.now_protocol import ProtocolError, align_landmarks, refine

# Order of the five landmarks, "right" is the subject's; and their numbers in iBUG 68.
LANDMARKS = ("right_eye_outer", "left_eye_outer", "nose_tip", "mouth_right", "mouth_left")
IBUG68 = (36, 45, 30, 48, 54)
RIGHT_EYE, LEFT_EYE, NOSE_TIP, MOUTH_RIGHT, MOUTH_LEFT = range(5)

RADIUS_M = 0.095

# Where the forehead begins: this part of the way from the mouth to the eyes above the eyes, about the upper rim of the
# brows. Nobody says where they cut; ours to choose.
FOREHEAD = 0.4

# Rough alignment on a part of the points, as in the NoW protocol.
ROUGH_STRIDE = 5
FEWEST_POINTS = 100
MM = 1000.0

VARIANTS = ("similarity", "rigid")


@dataclass(frozen=True)
class FaceScan:
    """``vertices`` (N, 3) metres, ``landmarks`` (5, 3) metres in the order of :data:`LANDMARKS`."""

    vertices: np.ndarray
    landmarks: np.ndarray


@dataclass(frozen=True)
class Mesh:
    """A reconstructed neutral face: ``vertices`` (V, 3), ``triangles`` (T, 3) int, ``landmarks`` (5, 3); metres."""

    vertices: np.ndarray
    triangles: np.ndarray
    landmarks: np.ndarray


def crop(scan: FaceScan, forehead: bool = False) -> np.ndarray:
    """(N,) bool: what counts of a scan, a sphere about the tip of the nose without (or with) the forehead."""
    inside = np.linalg.norm(scan.vertices - scan.landmarks[NOSE_TIP], axis=1) <= RADIUS_M
    if forehead:
        return inside
    eyes = scan.landmarks[[RIGHT_EYE, LEFT_EYE]].mean(axis=0)
    up = eyes - scan.landmarks[[MOUTH_RIGHT, MOUTH_LEFT]].mean(axis=0)
    height = float(np.linalg.norm(up))
    return inside & ((scan.vertices - eyes) @ (up / height) <= FOREHEAD * height)


def score(scan: FaceScan, mesh: Mesh, variant: str = "similarity", forehead: bool = False) -> float:
    """Root mean square point-to-plane distance of one mesh, millimetres.

    Parameters
    ----------
    scan : FaceScan
    mesh : Mesh
    variant : str
        ``similarity``: the mesh gets the scale that fits best; ``rigid``: it keeps its size.
    forehead : bool
        Whether the forehead counts.

    Raises
    ------
    ProtocolError
        The mesh is a mirror image or has no finite surface, or the scan has hardly a face.
    """
    _check(scan, mesh)
    points = scan.vertices[crop(scan, forehead)]
    if len(points) < FEWEST_POINTS:
        raise ProtocolError(
            f"Only {len(points)} points of the scan lie within {MM * RADIUS_M:.0f} mm of its nose; check its unit and "
            "its landmarks."
        )
    with_scale = variant == "similarity"
    start = align_landmarks(mesh.landmarks, scan.landmarks)
    if not with_scale:
        start = rigid(mesh.landmarks, scan.landmarks, start)
    tree = SurfaceTree(mesh.vertices, mesh.triangles)
    rough = refine(points[::ROUGH_STRIDE], tree, start, with_scale)
    alignment = refine(points, tree, rough, with_scale)
    return MM * float(np.sqrt((to_plane(points, mesh, tree, alignment) ** 2).mean()))


def rigid(source: np.ndarray, target: np.ndarray, start: Similarity) -> Similarity:
    """The rotation of a similarity between (L, 3) landmarks, with scale 1 and middles on each other."""
    rotation = start.rotation
    return Similarity(1.0, rotation, target.mean(axis=0) - rotation @ source.mean(axis=0))


def to_plane(points: np.ndarray, mesh: Mesh, tree: SurfaceTree, alignment: Similarity) -> np.ndarray:
    """(N,) ``|(p - q) . n|``, q the nearest point of the aligned surface and n its interpolated normal; metres.

    Nearest points on a border of the mesh count like all others.
    """
    found = tree.query(alignment.inverse().apply(points))
    normals = vertex_normals(np.asarray(mesh.vertices, np.float64), mesh.triangles)
    normal = np.einsum("nk,nkc->nc", found.barycentric, normals[mesh.triangles[found.triangles]])
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    away = points - alignment.apply(found.points)
    return np.abs((away * (normal @ alignment.rotation.T)).sum(axis=1))


def _check(scan: FaceScan, mesh: Mesh) -> None:
    shapes = (scan.landmarks.shape, mesh.landmarks.shape)
    if shapes != ((5, 3), (5, 3)):
        raise ProtocolError(f"The protocol needs five 3D landmarks on scan and mesh, not {shapes[0]} and {shapes[1]}.")
    if not (np.isfinite(mesh.vertices).all() and np.isfinite(mesh.landmarks).all()):
        raise ProtocolError("The reconstructed face has vertices that are not numbers; the reconstruction failed.")
    if len(mesh.triangles) == 0:
        raise ProtocolError("The reconstructed face has no triangles; export it as a surface, not as points.")
