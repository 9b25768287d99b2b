"""What every face model is to the rest of the project.

Symbols: V vertices, F faces, T triangles, U texture coordinates, I identity modes, E expression
shapes, L landmarks, B batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from backend.geometry.mesh import interpolate_on_triangles, triangle_faces, triangulate

# Names of the landmark sets that the project knows, with the number of points in each.
LANDMARK_SETS = {"ibug68": 68, "mediapipe478": 478, "now7": 7}

# Names of the material slots a model may use, in slot order.
SKIN, MOUTH, EYES = "skin", "mouth", "eyes"


@dataclass(frozen=True)
class Embedding:
    """Landmarks as fixed points of the surface.

    Attributes
    ----------
    corners : (L, 3) int32
        Vertex indices of the triangle that holds each point.
    barycentric : (L, 3) float32
        Weights of those vertices; each row sums to 1.
    spread_mm : (L,) float32 or None
        How far the point wandered between people when the embedding was measured (median distance,
        millimetres); None where the embedding was not measured but chosen.
    """

    corners: np.ndarray
    barycentric: np.ndarray
    spread_mm: np.ndarray | None = None

    def points(self, vertices: np.ndarray) -> np.ndarray:
        """(..., V, 3) -> (..., L, 3), any per-vertex values of any width."""
        return interpolate_on_triangles(vertices, self.corners, self.barycentric)


@dataclass(frozen=True)
class ModelInfo:
    """Who made a model and what one may do with it.

    ``licence`` is an SPDX expression; ``commercial`` says whether output may be sold; ``terms`` is one
    sentence for people; ``attribution`` is the notice that the source asks for.
    """

    name: str
    version: str
    licence: str
    commercial: bool
    terms: str
    attribution: str
    extra: dict = field(default_factory=dict)


@dataclass(frozen=True)
class FaceModel:
    """A linear face model: ``vertices = mean + identity . alpha + expression . delta``.

    Attributes
    ----------
    info : ModelInfo
    mean : (V, 3) float32
        Metres, model space (+X the subject's left, +Y up, +Z out of the face, origin between the ears).
    identity : (I, V, 3) float32
        Metres per standard deviation.
    expression : (E, V, 3) float32
        Metres at coefficient 1.
    expression_names : tuple of str, E
    faces : (F, 4) int32
        Quads, counter-clockwise seen from outside; a last index of -1 marks a triangle.
    uv : (U, 2) float32
        Texture coordinates, v upward, origin at the lower left of the texture.
    face_uv : (F, 4) int32
        Index into ``uv`` of each face corner, -1 where ``faces`` has -1.
    face_material : (F,) uint8
        Index into ``materials``.
    materials : tuple of str
        Material slots; ``skin`` always first.
    regions : dict of str to (V,) bool
        ``nose mouth eyes brows forehead cheeks ears neck scalp face`` and the like.
    landmarks : dict of str to Embedding
        Keys of :data:`LANDMARK_SETS`.
    mirror : (V,) int32 or None
        Vertex on the other side of the face; itself on the mid-line.
    albedo_mean : (V, 3) float32 or None
        Linear RGB in [0, 1].
    albedo_basis : (A, V, 3) float32 or None
        Linear RGB per standard deviation.
    expression_limits : str
        ``unit`` when coefficients live in [0, 1] (blend shapes), ``sigma`` when they are standard
        deviations (statistical expressions: FLAME, BFM).
    """

    info: ModelInfo
    mean: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    expression_names: tuple[str, ...]
    faces: np.ndarray
    uv: np.ndarray
    face_uv: np.ndarray
    face_material: np.ndarray
    materials: tuple[str, ...]
    regions: dict[str, np.ndarray]
    landmarks: dict[str, Embedding]
    mirror: np.ndarray | None = None
    albedo_mean: np.ndarray | None = None
    albedo_basis: np.ndarray | None = None
    expression_limits: str = "unit"

    @property
    def vertex_count(self) -> int:
        return len(self.mean)

    @cached_property
    def triangles(self) -> np.ndarray:
        """(T, 3) int32 vertex indices, see :func:`backend.geometry.mesh.triangulate`."""
        return triangulate(self.faces)

    @cached_property
    def triangles_uv(self) -> np.ndarray:
        """(T, 3) int32 texture-coordinate indices, same order as :attr:`triangles`."""
        return triangulate(self.face_uv)

    @cached_property
    def triangle_material(self) -> np.ndarray:
        """(T,) uint8 material slot of each triangle."""
        return self.face_material[triangle_faces(self.faces)]

    def vertices(self, identity: np.ndarray | None = None, expression: np.ndarray | None = None) -> np.ndarray:
        """Vertices of one head or a batch.

        Parameters
        ----------
        identity : (..., <= I) float, optional
            Standard deviations; missing trailing modes are zero.
        expression : (..., E) float, optional

        Returns
        -------
        (..., V, 3) float32, metres
        """
        result = self.mean
        if identity is not None:
            identity = np.asarray(identity, np.float32)
            modes = identity.shape[-1]
            result = result + np.tensordot(identity, self.identity[:modes], axes=1)
        if expression is not None:
            result = result + np.tensordot(np.asarray(expression, np.float32), self.expression, axes=1)
        return result

    def landmark_points(self, vertices: np.ndarray, name: str) -> np.ndarray:
        """(..., V, 3) -> (..., L, 3) points of one landmark set."""
        return self.landmarks[name].points(vertices)

    def replaced(self, **changes: object) -> FaceModel:
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]
