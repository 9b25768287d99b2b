"""A head whose texture is known, and photos of it: the truth that the texture tests compare with."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np

from backend.face_model.model import SKIN, FaceModel
from backend.face_model.registry import get_model
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.mesh import vertex_normals
from backend.geometry.rotation import rotation_from_head_euler
from backend.reconstruction.texture_atlas import BARYCENTRIC_SCALE, atlas_of
from backend.reconstruction.texture_raster import cover, interpolate
from backend.rendering.tone import linear_to_srgb8, srgb_to_linear

TONE = np.array([205.0, 160.0, 135.0])
GREEN = (0, 255, 0)


@lru_cache(maxsize=1)
def head() -> FaceModel:
    return get_model("open-head")


@lru_cache(maxsize=1)
def person() -> np.ndarray:
    """(V, 3) one invented person, neutral."""
    model = head()
    return model.vertices(np.random.default_rng(5).normal(0, 0.6, len(model.identity)))


def camera(yaw: float = 0.0, pitch: float = 0.0, size: int = 900, distance: float = 0.7) -> Camera:
    rotation = rotation_from_head_euler(yaw, pitch)
    centre = head().mean[head().regions["face"]].mean(axis=0)
    translation = np.array([0.0, 0.0, distance]) - rotation @ centre
    return Camera(intrinsics(1.6 * size, size, size), rotation, translation, size, size)


def texel_values(values: np.ndarray, size: int = 1024) -> np.ndarray:
    """Per-vertex values on the texture: (V, C) -> (S, S, C), 0 outside the charts."""
    atlas = atlas_of(head(), size)
    share = atlas.barycentric / BARYCENTRIC_SCALE
    share = np.concatenate([1.0 - share.sum(axis=2, keepdims=True), share], axis=2)
    corners = atlas.surface.triangles[np.maximum(atlas.triangle, 0)]
    result = sum(share[..., k, None] * values[corners[..., k]] for k in range(3))
    return np.where(atlas.triangle[..., None] >= 0, result, 0.0)


def region_texels(name: str, size: int = 1024) -> np.ndarray:
    """(S, S) bool: texels well inside a region of the model."""
    return texel_values(head().regions[name][:, None].astype(float), size)[..., 0] > 0.99


@lru_cache(maxsize=1)
def true_texture() -> np.ndarray:
    """(1024, 1024, 3) uint8: skin with fine freckles and slow changes, red lips, dark brows."""
    rng = np.random.default_rng(3)
    fine = cv2.GaussianBlur(rng.normal(0, 1, (1024, 1024)).astype(np.float32), (0, 0), 1.5)
    slow = cv2.GaussianBlur(rng.normal(0, 1, (1024, 1024)).astype(np.float32), (0, 0), 40)
    factor = 1.0 + 0.03 * fine / fine.std() + 0.03 * slow / slow.std()
    texture = TONE * factor[..., None]
    model = head()
    for name, color in {"lips": (165, 80, 80), "brows": (70, 50, 40)}.items():
        share = texel_values(model.regions[name][:, None].astype(float))
        texture = texture * (1 - share) + share * np.array(color)
    return np.clip(np.rint(texture), 0, 255).astype(np.uint8)


@dataclass
class Scene:
    """What stands before the camera; every colour is sRGB."""

    texture: np.ndarray = field(default_factory=true_texture)
    vertices: np.ndarray = field(default_factory=person)
    background: tuple[int, int, int] = GREEN
    eyes: tuple[int, int, int] = (235, 232, 228)
    mouth: tuple[int, int, int] = (60, 20, 20)
    light: tuple[float, float, float] | None = None  # direction it comes from, model space; None is even
    ambient: float = 0.25


def photograph(scene: Scene, view: Camera, supersample: int = 2) -> np.ndarray:
    """(H, W, 3) uint8: plain rasterization, bilinear texture, averaged samples."""
    model = head()
    big = view.scaled(supersample)
    points, depth = big.project(scene.vertices), big.to_camera(scene.vertices)[:, 2]
    found = cover(points, depth, model.triangles, big.height, big.width)
    uv = interpolate(found, model.triangles_uv, model.uv)
    size = scene.texture.shape[0]
    column = (uv[..., 0] * size - 0.5).astype(np.float32)
    row = ((1.0 - uv[..., 1]) * size - 0.5).astype(np.float32)
    picture = cv2.remap(scene.texture, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    slot = np.where(found.triangle >= 0, model.triangle_material[np.maximum(found.triangle, 0)], 255)
    for index, name in enumerate(model.materials):
        if name != SKIN:
            picture[slot == index] = getattr(scene, name)
    if scene.light is not None:
        direction = np.array(scene.light) / np.linalg.norm(scene.light)
        lit = vertex_normals(scene.vertices, model.triangles) @ direction
        shade = scene.ambient + (1.0 - scene.ambient) * np.clip(0.5 + 0.5 * lit, 0, 1) ** 1.5
        shade = interpolate(found, model.triangles, shade[:, None])
        picture = linear_to_srgb8(srgb_to_linear(picture) * shade)
    picture[slot == 255] = scene.background
    return cv2.resize(picture, (view.width, view.height), interpolation=cv2.INTER_AREA)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Decibels of two equally shaped uint8 arrays."""
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float(10 * np.log10(255.0**2 / max(error, 1e-12)))
