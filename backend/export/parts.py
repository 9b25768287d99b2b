"""A head in parts: which faces get which look, and corners that pair a vertex with a texture coordinate.

Symbols: V vertices, F faces, T triangles, U texture coordinates, N corners after unification.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.face_model.model import EYES, MOUTH, SKIN, FaceModel
from backend.geometry.mesh import NO_CORNER, triangulate

# Regions that divide the mouth slot further; a face belongs to one when all its corners do.
MOUTH_REGIONS = ("teeth", "gums", "tongue")


@dataclass(frozen=True)
class Look:
    """A plain physically based material.

    Attributes
    ----------
    color : (3,) tuple of float
        Linear RGB; multiplies the texture where the part has one.
    roughness : float
        0 is a mirror, 1 is chalk.
    """

    color: tuple[float, float, float]
    roughness: float


# Chosen by eye under a neutral studio light. Skin roughness is the usual value for a face without
# make-up; wet surfaces are smoother, an eye is the smoothest.
LOOKS = {
    SKIN: Look((0.60, 0.36, 0.26), 0.55),
    # In its own shadow, which viewers without ambient occlusion do not draw.
    MOUTH: Look((0.06, 0.012, 0.01), 0.6),
    "teeth": Look((0.72, 0.66, 0.54), 0.25),
    "gums": Look((0.42, 0.12, 0.11), 0.35),
    "tongue": Look((0.40, 0.11, 0.10), 0.45),
    EYES: Look((0.82, 0.80, 0.77), 0.10),
}
OTHER_LOOK = Look((0.5, 0.5, 0.5), 0.6)


@dataclass(frozen=True)
class Part:
    """Faces that share one material.

    Attributes
    ----------
    name : str
        ``skin``, ``mouth``, ``teeth``, ``gums``, ``tongue``, ``eyes`` or another material slot of the model.
    faces, face_uv : (F, 4) int32
        Rows of the model's arrays, in the model's order.
    """

    name: str
    faces: np.ndarray
    face_uv: np.ndarray

    @property
    def look(self) -> Look:
        return LOOKS.get(self.name, OTHER_LOOK)


@dataclass(frozen=True)
class Corners:
    """Vertices split where a seam gives one vertex several texture coordinates.

    Attributes
    ----------
    vertex : (N,) int32
        Model vertex of each corner, ascending.
    uv : (N,) int32
        Texture coordinate of each corner.
    triangles : (T, 3) int32
        Corner indices.
    """

    vertex: np.ndarray
    uv: np.ndarray
    triangles: np.ndarray


def split_parts(model: FaceModel) -> list[Part]:
    """The model's material slots in order, the mouth divided by its regions; empty parts are left out."""
    parts = []
    for slot, material in enumerate(model.materials):
        free = model.face_material == slot
        if material == MOUTH:
            for region in MOUTH_REGIONS:
                inside = free & faces_within(model.faces, model.regions.get(region))
                parts.append(Part(region, model.faces[inside], model.face_uv[inside]))
                free &= ~inside
        parts.append(Part(material, model.faces[free], model.face_uv[free]))
    return [part for part in parts if len(part.faces)]


def faces_within(faces: np.ndarray, region: np.ndarray | None) -> np.ndarray:
    """(F,) bool: faces with every corner in ``region`` ((V,) bool); none when there is no such region."""
    if region is None:
        return np.zeros(len(faces), bool)
    # A triangle's missing fourth corner must not decide, whatever vertex -1 happens to be.
    return (region[faces] | (faces == NO_CORNER)).all(axis=1)


def unify_corners(faces: np.ndarray, face_uv: np.ndarray, uv_count: int) -> Corners:
    """One corner for every (vertex, texture coordinate) pair that the faces use.

    Parameters
    ----------
    faces, face_uv : (F, 4) int32
        Quads or triangles as in :class:`FaceModel`.
    uv_count : int
        U, the length of the table that ``face_uv`` points into.
    """
    pairs = triangulate(faces).astype(np.int64) * uv_count + triangulate(face_uv)
    unique, inverse = np.unique(pairs, return_inverse=True)
    vertex, uv = np.divmod(unique, uv_count)
    triangles = inverse.reshape(pairs.shape).astype(np.int32)
    return Corners(vertex.astype(np.int32), uv.astype(np.int32), triangles)
