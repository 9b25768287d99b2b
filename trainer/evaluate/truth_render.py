"""Photographs of a known surface: a perspective camera, three soft lights, texture, antialiasing.

Symbols: V vertices, T triangles, H, W image size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import map_coordinates

from backend.geometry.camera import Camera, intrinsics
from backend.geometry.mesh import interpolate_on_triangles, vertex_normals
from backend.geometry.rotation import FRONTAL, rotation_from_head_euler
from backend.rendering.rasterize import rasterize

# The camera of the truth renders: a 50 mm lens on a 36 mm sensor, 60 cm from the face, 1000 pixels
# square. The photo carries no EXIF, so the focal length has to be solved.
PHOTO_SIZE = 1000
FOCAL_PX = PHOTO_SIZE * 50.0 / 36.0
DISTANCE = 0.60

# Samples per pixel and axis.
SUPERSAMPLE = 2

SRGB_GAMMA = 2.2


@dataclass(frozen=True)
class Surface:
    """A textured triangle mesh.

    ``vertices`` (V, 3) metres in a model frame (+X the subject's left, +Y up, +Z out of the face),
    ``triangles`` (T, 3) int, ``texel`` (V, 2) or ``corner_texel`` (T, 3, 2) texture coordinates in
    texels (row down, centres at +0.5), ``texture`` (H, W, 3) float sRGB in [0, 1].
    """

    vertices: np.ndarray
    triangles: np.ndarray
    corner_texel: np.ndarray
    texture: np.ndarray


def truth_camera(centre: np.ndarray, yaw: float) -> Camera:
    """The camera that sees ``centre`` (3,) in the middle of the photo with the head turned by ``yaw`` degrees."""
    rotation = rotation_from_head_euler(yaw=yaw)
    translation = np.array([0.0, 0.0, DISTANCE]) - rotation @ centre
    return Camera(intrinsics(FOCAL_PX, PHOTO_SIZE, PHOTO_SIZE), rotation, translation, PHOTO_SIZE, PHOTO_SIZE)


def photograph(surface: Surface, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 sRGB photo with lights and a background drawn from ``rng``."""
    large = camera.resized(camera.width * SUPERSAMPLE, camera.height * SUPERSAMPLE)
    triangle, weights = _visible(surface, large)
    background = _backdrop(triangle.shape, rng)
    hit = triangle >= 0
    found, weights = triangle[hit], weights[hit]
    texel = np.einsum("nkc,nk->nc", surface.corner_texel[found], weights)
    albedo = _sample(surface.texture, texel) ** SRGB_GAMMA
    normals = vertex_normals(surface.vertices, surface.triangles) @ camera.R.T @ FRONTAL
    normal = interpolate_on_triangles(normals, surface.triangles[found], weights)
    picture = background
    picture[hit] = albedo * _irradiance(normal, rng)
    encoded = (255.0 * picture.clip(0.0, 1.0) ** (1.0 / SRGB_GAMMA)).round().astype(np.uint8)
    return np.asarray(Image.fromarray(encoded).resize((camera.width, camera.height), Image.Resampling.BOX))


def _visible(surface: Surface, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Triangle (H, W), -1 for background, and barycentric weights (H, W, 3)."""
    points = camera.to_camera(surface.vertices)
    image = np.concatenate([camera.project(surface.vertices), points[:, 2:]], axis=1)
    fragments = rasterize(
        torch.as_tensor(image, dtype=torch.float32)[None],
        torch.as_tensor(np.ascontiguousarray(surface.triangles, np.int32)),
        camera.height,
        camera.width,
    )
    return fragments.triangle[0].numpy(), fragments.barycentric[0].numpy().astype(np.float64)


def _irradiance(normal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N, 3) from (N, 3) normals in a frame that looks back at the camera: key, fill and rim light and a sky."""
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    side = rng.choice([-1.0, 1.0])
    lights = (
        (np.array([0.5 * side, 0.5, 0.8]), rng.uniform(0.55, 0.75)),
        (np.array([-0.7 * side, 0.2, 0.6]), rng.uniform(0.2, 0.35)),
        (np.array([0.1 * side, 0.9, 0.2]), rng.uniform(0.05, 0.2)),
    )
    total = np.full(len(normal), 0.22) + 0.08 * normal[:, 1]
    for direction, strength in lights:
        direction = direction + rng.normal(0.0, 0.1, 3)
        cosine = normal @ (direction / np.linalg.norm(direction))
        # A light of some size reaches past the terminator.
        total = total + strength * ((cosine + 0.15) / 1.15).clip(0.0)
    tint = 1.0 + rng.uniform(-0.05, 0.05, 3)
    return total[:, None] * tint


def _sample(texture: np.ndarray, texel: np.ndarray) -> np.ndarray:
    """Bilinear lookup, (N, 2) texel coordinates -> (N, 3)."""
    where = texel.T[::-1] - 0.5
    return np.stack([map_coordinates(texture[..., band], where, order=1, mode="nearest") for band in range(3)], axis=1)


def _backdrop(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) linear light: a plain wall, a little darker towards one side."""
    colour = rng.uniform(0.15, 0.55) * rng.uniform(0.85, 1.15, 3)
    slope = np.linspace(1.0, rng.uniform(0.6, 1.0), shape[1])[None, :, None]
    return np.ascontiguousarray(np.broadcast_to(colour * slope, (*shape, 3)))
