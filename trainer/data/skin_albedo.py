"""The statistical albedo of a head at its vertices: what heads are painted with that are drawn many at once.

A vertex takes what the texture (:mod:`backend.face_model.albedo`) holds where it lies. Between the vertices, 3 mm
apart on the face, detail is lost; pictures of some hundred pixels show none of it.

Symbols: B heads, K modes, V vertices, S side of the texture.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from backend.face_model.albedo import BRIGHTEST, Albedo
from backend.face_model.model import SKIN, FaceModel


@dataclass(frozen=True)
class VertexAlbedo:
    """``albedo = mean * exp(coefficients @ modes)``, linear RGB.

    Attributes
    ----------
    source : Albedo
    mean : (V, 3) float
    modes : (K, V, 3) float
    on : (V,) bool
        Vertices of the skin, which alone have an albedo.
    """

    source: Albedo
    mean: torch.Tensor
    modes: torch.Tensor
    on: torch.Tensor

    @classmethod
    def of(cls, albedo: Albedo, model: FaceModel, device: torch.device) -> VertexAlbedo:
        uv, on = skin_places(model)
        mean = read_at(albedo.mean[None], uv)[0]
        modes = read_at(albedo.modes, uv)
        return cls(albedo, *(torch.from_numpy(part).to(device) for part in (mean, modes, on)))

    def __call__(self, coefficients: torch.Tensor) -> torch.Tensor:
        """(B, K) standard deviations -> (B, V, 3) linear RGB."""
        log = (coefficients @ self.modes.flatten(1)).reshape(len(coefficients), *self.mean.shape)
        return (self.mean * log.exp()).clamp(max=BRIGHTEST)

    @property
    def fingerprint(self) -> str:
        """8 hexadecimal digits that tell one albedo from another.

        Made of what is stored as it is; the modes are computed from layers, and their last bits differ by machine.
        """
        digest = hashlib.blake2b(digest_size=4)
        for array in (self.source.mean, self.source.sigma, self.source.tone_curve, self.source.tone_spread):
            digest.update(np.ascontiguousarray(array, np.float32).tobytes())
        return digest.hexdigest()


def skin_places(model: FaceModel) -> tuple[np.ndarray, np.ndarray]:
    """(V, 2) one texture coordinate of each vertex of the skin, and (V,) bool which vertices those are."""
    faces = model.face_material == model.materials.index(SKIN)
    corners, places = model.faces[faces], model.face_uv[faces]
    used = corners >= 0
    uv, on = np.zeros((model.vertex_count, 2)), np.zeros(model.vertex_count, bool)
    uv[corners[used]] = model.uv[places[used]]
    on[corners[used]] = True
    return uv, on


def read_at(textures: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """(N, S, S, C) textures, row 0 at v = 1, read bilinearly at (V, 2) -> (N, V, C) float32."""
    grid = torch.from_numpy(np.stack([2.0 * uv[:, 0] - 1.0, 1.0 - 2.0 * uv[:, 1]], axis=1)).float()[None, :, None]
    pictures = torch.from_numpy(np.ascontiguousarray(textures, np.float32)).permute(0, 3, 1, 2)
    read = torch.nn.functional.grid_sample(
        pictures, grid.expand(len(textures), -1, -1, -1), "bilinear", padding_mode="border", align_corners=False
    )
    return read[..., 0].permute(0, 2, 1).contiguous().numpy()
