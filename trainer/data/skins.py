"""Skins of real people, unwrapped from photos, for invented heads to wear.

A head that wears a photographed skin is as close to a photo as a head of known shape comes. Skins are
made when they are needed and never kept: who wears one has another's shape, and what is learned from
thousands of such pictures holds no picture.

Symbols: S skins, V vertices, T texture side.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

from backend.face_model.model import FaceModel
from backend.reconstruction.pipeline import Pipeline
from backend.rendering.tone import srgb_to_linear

TEXTURE_SIZE = 1024


def unwrap_skins(model: FaceModel, photos: list[Path], progress: Callable[[float], None] | None = None) -> np.ndarray:
    """(S, V, 3) float32 linear RGB of every vertex, one skin for each photo that shows a face."""
    pipeline = Pipeline(model, texture_size=TEXTURE_SIZE, stages=("detect", "fit", "texture"))
    skins = []
    for index, outcome in enumerate(pipeline.reconstruct_many(photos)):
        if progress is not None:
            progress((index + 1) / len(photos))
        for head in outcome.reconstructions or ():
            if head.texture is not None:
                skins.append(at_vertices(model, head.texture.color))
    return np.array(skins, np.float32).reshape(-1, model.vertex_count, 3)


def at_vertices(model: FaceModel, texture: np.ndarray) -> np.ndarray:
    """(T, T, 3) uint8 sRGB -> (V, 3) float32 linear RGB, read where one of a vertex's texture coordinates lies."""
    uv = np.zeros((model.vertex_count, 2))
    corner = model.faces >= 0
    uv[model.faces[corner]] = model.uv[model.face_uv[corner]]
    size = texture.shape[0]
    row, column = (1.0 - uv[:, 1]) * size - 0.5, uv[:, 0] * size - 0.5
    linear = srgb_to_linear(texture.astype(np.float32) / 255.0)
    channels = [map_coordinates(linear[..., channel], [row, column], order=1, mode="nearest") for channel in range(3)]
    return np.stack(channels, axis=1).astype(np.float32)
