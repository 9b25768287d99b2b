"""What the readers of statistical models share: from arrays in metres to a :class:`FaceModel`.

Symbols: V vertices, F faces, I identity modes, E expression shapes, U texture coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from backend.face_model.adapters.layout import (
    azimuthal_eye_uv,
    compact,
    cylindrical_uv,
    mirror_pairs,
    weld_uv,
    without_missing,
)
from backend.face_model.embedding import with_now7
from backend.face_model.model import EYES, SKIN, Embedding, FaceModel, ModelInfo
from backend.geometry.mesh import NO_CORNER, triangulate, vertex_normals

CYLINDER_NOTE = "The source has no texture coordinates: a plain cylindrical layout with its seam at the back was made."


@dataclass
class Parts:
    """A statistical head as its source tells it; metres and model axes.

    Attributes
    ----------
    mean : (V, 3) float
    identity : (I, V, 3) float
        Per standard deviation.
    expression : (E, V, 3) float
        Per standard deviation.
    expression_names : tuple of str, E
    faces : (F, 4) int32
    corner_uv : (F, 4, 2) float or None
        Texture coordinates of the corners; None where the source has none.
    materials : tuple of str
    face_material : (F,) uint8
    regions : dict of str to (V,) bool
    landmarks : dict of str to Embedding
    albedo_mean, albedo_basis : (V, 3) and (A, V, 3) float or None
        Linear RGB.
    """

    mean: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    expression_names: tuple[str, ...]
    faces: np.ndarray
    corner_uv: np.ndarray | None = None
    materials: tuple[str, ...] = (SKIN,)
    face_material: np.ndarray | None = None
    regions: dict[str, np.ndarray] = field(default_factory=dict)
    landmarks: dict[str, Embedding] = field(default_factory=dict)
    albedo_mean: np.ndarray | None = None
    albedo_basis: np.ndarray | None = None


def assemble(info: ModelInfo, parts: Parts) -> FaceModel:
    """A model without vertices that no face uses, faces turned outward, and a layout for every material."""
    used, faces = compact(parts.faces)
    mean = np.ascontiguousarray(parts.mean[used], np.float32)
    material = np.zeros(len(faces), np.uint8) if parts.face_material is None else parts.face_material
    faces, corner_uv = outward(mean, faces, parts.corner_uv)
    uv, face_uv = _layout(mean, faces, corner_uv, material, parts.materials)
    if corner_uv is None:
        info = replace(info, extra={**info.extra, "notes": [*info.extra.get("notes", []), CYLINDER_NOTE]})
    if EYES in parts.materials:
        info = replace(info, extra={**info.extra, "eye_uv": "azimuthal"})
    return FaceModel(
        info=info,
        mean=mean,
        identity=np.ascontiguousarray(parts.identity[:, used], np.float32),
        expression=np.ascontiguousarray(parts.expression[:, used], np.float32),
        expression_names=parts.expression_names,
        faces=faces,
        uv=uv,
        face_uv=face_uv,
        face_material=material.astype(np.uint8),
        materials=parts.materials,
        regions={name: mask[used] for name, mask in parts.regions.items()},
        landmarks=with_now7({name: _renumbered(own, used) for name, own in parts.landmarks.items()}),
        mirror=mirror_pairs(mean),
        albedo_mean=None if parts.albedo_mean is None else np.asarray(parts.albedo_mean[used], np.float32),
        albedo_basis=None if parts.albedo_basis is None else np.asarray(parts.albedo_basis[:, used], np.float32),
        expression_limits="sigma",
    )


def outward(mean: np.ndarray, faces: np.ndarray, corner_uv: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Faces counter-clockwise seen from outside, judged by the normal at the foremost vertex (the nose)."""
    nose = int(np.argmax(mean[:, 2]))
    if vertex_normals(mean, triangulate(faces))[nose, 2] >= 0:
        return faces, corner_uv
    triangle = faces[:, 3] == NO_CORNER
    order = np.where(triangle[:, None], [0, 2, 1, 3], [0, 3, 2, 1])
    flipped = np.take_along_axis(faces, order, axis=1)
    return flipped, None if corner_uv is None else np.take_along_axis(corner_uv, order[..., None], axis=1)


def _renumbered(embedding: Embedding, used: np.ndarray) -> Embedding:
    return replace(embedding, corners=np.searchsorted(used, embedding.corners).astype(np.int32))


def _layout(
    mean: np.ndarray,
    faces: np.ndarray,
    corner_uv: np.ndarray | None,
    material: np.ndarray,
    materials: tuple[str, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """One square of texture per material: (U, 2) and (F, 4)."""
    all_uv, all_faces, offset = [], np.full(faces.shape, NO_CORNER, np.int32), 0
    for slot, name in enumerate(materials):
        own = material == slot
        if not own.any():
            continue
        if name == EYES:
            uv, face_uv = azimuthal_eye_uv(mean, faces[own])
        elif corner_uv is None:
            uv, face_uv = cylindrical_uv(mean, faces[own])
        else:
            uv, face_uv = weld_uv(side_by_side(corner_uv[own], faces[own]))
            uv, face_uv = without_missing(uv, np.where(faces[own] == NO_CORNER, NO_CORNER, face_uv))
        all_faces[own] = np.where(face_uv == NO_CORNER, NO_CORNER, face_uv + offset)
        all_uv.append(uv)
        offset += len(uv)
    return np.concatenate(all_uv).astype(np.float32), all_faces


def side_by_side(corner_uv: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 4, 2): texture tiles (UDIM) of one material squeezed next to each other into one square."""
    there = faces != NO_CORNER
    middle = (corner_uv * there[..., None]).sum(axis=1) / there.sum(axis=1, keepdims=True)
    tile = np.floor(middle)
    tiles, number = np.unique(tile, axis=0, return_inverse=True)
    local = corner_uv - tile[:, None]
    local[..., 0] = (local[..., 0] + number.reshape(-1, 1)) / len(tiles)
    return local
