"""The skin of a face model as a square of texels: which texel is what.

Symbols: S side of the texture, V vertices.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from backend.errors import ModelError
from backend.face_model.model import FaceModel
from backend.reconstruction.texture_atlas import BARYCENTRIC_SCALE, Atlas, atlas_of

# A texture is symmetric when the two sides of the skin lie this close to mirror images (part of its side).
MIRROR_TOLERANCE = 1e-4
# What an error on the scalp, neck or ears counts beside one on the face: photos show little of them.
BEYOND_WEIGHT = 0.1


@dataclass(frozen=True)
class Chart:
    """Values at texel centres, row 0 at v = 1.

    Attributes
    ----------
    inside : (S, S) bool
        Texels of skin, alike on both sides.
    trust : (S, S) float32
        Bare skin: cheeks and nose.
    counts : (S, S) float32
        How much an error there matters: by area on the mean head, the face more than the rest; mean 1 inside.
    nearest : (S, S) int32
        Flat index of the nearest texel of skin.
    """

    inside: np.ndarray
    trust: np.ndarray
    counts: np.ndarray
    nearest: np.ndarray

    @property
    def size(self) -> int:
        return len(self.inside)

    def spread(self, texels: np.ndarray) -> np.ndarray:
        """(..., S, S, C) with everything outside the skin set to the nearest texel of skin, for filters."""
        flat = texels.reshape(*texels.shape[:-3], -1, texels.shape[-1])
        return flat[..., self.nearest.ravel(), :].reshape(texels.shape)


def chart_of(model: FaceModel, size: int) -> Chart:
    """The chart of a symmetric model.

    Raises
    ------
    ModelError
        The model has no mirror, or its texture is not symmetric: a skin and its mirror image would not both fit.
    """
    _check_symmetric(model)
    atlas = atlas_of(model, size)
    inside = atlas.triangle >= 0
    # Charts may differ from their mirror image by single texels along the border.
    inside = inside & inside[:, ::-1]
    corners = atlas.surface.triangles
    area = _areas(model.mean.astype(float), corners) / np.maximum(atlas.texel_area, 1e-6)
    face = _on_texels(atlas, model.regions["face"].astype(np.float32))
    counts = area[np.maximum(atlas.triangle, 0)] * (BEYOND_WEIGHT + (1.0 - BEYOND_WEIGHT) * face) * inside
    # Triangles under a texel in size share it, and one of them owns it: even that out.
    counts = cv2.GaussianBlur(counts.astype(np.float32), (0, 0), 1.0) * inside
    counts = 0.5 * (counts + counts[:, ::-1])
    _, labels = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    label = np.asarray(labels, np.int32)
    owner = np.zeros(int(label.max()) + 1, np.int32)
    owner[label[inside]] = np.flatnonzero(inside)
    trust = _on_texels(atlas, atlas.surface.trust)
    return Chart(inside, trust, counts / counts[inside].mean(), owner[label])


def _on_texels(atlas: Atlas, values: np.ndarray) -> np.ndarray:
    """(V,) -> (S, S) float32, 0 outside the skin."""
    second = atlas.barycentric.astype(np.float32) / BARYCENTRIC_SCALE
    weights = np.dstack([1.0 - second.sum(axis=2), second])
    corners = atlas.surface.triangles[np.maximum(atlas.triangle, 0)]
    return np.where(atlas.triangle >= 0, (values[corners] * weights).sum(axis=2), 0.0).astype(np.float32)


def _areas(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(T,) square metres."""
    a, b, c = (points[triangles[:, corner]] for corner in range(3))
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)


def _check_symmetric(model: FaceModel) -> None:
    if model.mirror is None:
        raise ModelError(f"The face model {model.info.name} has no mirror pairs; an albedo needs a symmetric head.")
    skin = model.faces[model.face_material == 0]
    uv = np.zeros((model.vertex_count, 2))
    uv[skin[skin >= 0]] = model.uv[model.face_uv[model.face_material == 0][skin >= 0]]
    used = np.unique(skin[skin >= 0])
    apart = np.abs(uv[model.mirror[used]] - [1.0, 0.0] - uv[used] * [-1.0, 1.0]).max(axis=1)
    # Vertices on the cut have two places each, of which one was written.
    if np.quantile(apart, 0.9) > MIRROR_TOLERANCE:
        raise ModelError(
            f"The texture of the face model {model.info.name} is not symmetric; an albedo needs one that is."
        )
