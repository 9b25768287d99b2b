"""What the statistical albedo of a head says about the brightness of the skin at its vertices.

Symbols: V vertices, K albedo modes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import cv2
import numpy as np

from backend.errors import ModelError
from backend.face_model.albedo import Albedo
from backend.face_model.albedo_file import get_albedo, layout_of
from backend.face_model.model import SKIN, FaceModel
from backend.reconstruction.texture_atlas import kept

# Brightness of linear RGB (ITU-R BT.709).
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True)
class SkinStatistics:
    """Logarithm of the skin's brightness, linear light: ``mean`` (V,) float64, and its change per standard deviation
    of each albedo coefficient, ``modes`` (K, V) float64, largest first."""

    mean: np.ndarray
    modes: np.ndarray


_statistics: OrderedDict[int, tuple[FaceModel, SkinStatistics | None]] = OrderedDict()


def statistics_of(model: FaceModel) -> SkinStatistics | None:
    """The model's, kept for the next photo; None for a model without statistical albedo."""

    def build() -> SkinStatistics | None:
        albedo = albedo_of(model)
        return None if albedo is None else brightness(model, albedo)

    return kept(_statistics, id(model), model, build)


def albedo_of(model: FaceModel) -> Albedo | None:
    """The statistical albedo that comes with a model, None where there is none for just this head."""
    try:
        albedo = get_albedo(model.info.name)
    except ModelError:
        return None
    return albedo if albedo is not None and albedo.layout == layout_of(model) else None


def brightness(model: FaceModel, albedo: Albedo) -> SkinStatistics:
    """The albedo read at the vertices; without meaning at those that are no skin."""
    skin = model.triangle_material == model.materials.index(SKIN)
    uv = np.zeros((model.vertex_count, 2))
    uv[model.triangles[skin]] = model.uv[model.triangles_uv[skin]]
    texel = (np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1) * albedo.size - 0.5).astype(np.float32)
    part = read(albedo.mean, texel) * LUMINANCE
    total = part.sum(axis=1)
    # The derivative of log(sum of channels): each channel's log change counts by its share of the light.
    modes = np.stack([(read(mode, texel) * part).sum(axis=1) / total for mode in albedo.modes])
    return SkinStatistics(np.log(total), modes)


def read(picture: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Bilinear: (H, W) or (H, W, C) float32 at (N, 2) places, 0 the first pixel's centre -> (N,) or (N, C) float64."""
    places = np.ascontiguousarray(places, np.float32)
    found = cv2.remap(
        picture, places[:, None, 0], places[:, None, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return found[:, 0].astype(np.float64)
