"""Small shaded pictures of a head, for people to judge: clay or textured, under one soft studio light or a photo's.

Symbols: V vertices, T triangles, U texture coordinates, H and W image height and width, N covered pixels.
"""

from __future__ import annotations

import numpy as np
import torch

from backend.export.parts import LOOKS, MOUTH_REGIONS, OTHER_LOOK, faces_within
from backend.face_model.model import MOUTH, SKIN, FaceModel
from backend.geometry.camera import Camera
from backend.geometry.mesh import triangle_faces, vertex_normals
from backend.rendering.rasterize import interpolate, rasterize
from backend.rendering.shade import shade
from backend.rendering.tone import linear_to_srgb8, srgb_to_linear
from backend.rendering.transform import project_to_image

# Samples per pixel along each side; the picture is averaged down.
SUPERSAMPLING = 2
# Linear RGB of the clay, and of the parts that stay recognisable in it.
CLAY = np.array([0.52, 0.48, 0.45], np.float32)
# Directions towards the lights in camera axes (x right, y down, z away from the viewer) and their strengths:
# a key from the upper left, a fill from the right, a rim from behind, and light from everywhere.
LIGHTS = (((-0.55, -0.65, -0.75), 0.78), ((0.85, -0.10, -0.55), 0.22), ((0.35, -0.60, 0.75), 0.25))
AMBIENT = 0.16
# A photo texture keeps some light of its own: a flatter light shows it, enough shade keeps the form.
TEXTURED_AMBIENT, TEXTURED_LIGHT = 0.45, 0.62


class Previewer:
    """Draws heads of one shape from any camera."""

    def __init__(self, model: FaceModel, vertices: np.ndarray) -> None:
        """``vertices`` (V, 3) metres."""
        self.model = model
        self.vertices = torch.from_numpy(np.ascontiguousarray(vertices, np.float32))[None]
        self.normals = torch.from_numpy(vertex_normals(vertices, model.triangles).astype(np.float32))[None]
        self.triangles = torch.from_numpy(model.triangles)
        self.colors = triangle_colors(model)

    def draw(self, camera: Camera, textures: dict[str, np.ndarray], light: np.ndarray | None = None) -> np.ndarray:
        """(H, W, 4) uint8, sRGB with straight alpha: the head as ``camera`` sees it, at the camera's size.

        ``textures`` (S, S, 3) uint8 by material slot (``skin``, ``eyes``); what has none is clay. ``light`` (9, 3)
        is a photo's, as in :class:`~backend.reconstruction.result.Texture`; the studio's when left out.
        """
        large = camera.resized(camera.width * SUPERSAMPLING, camera.height * SUPERSAMPLING)
        K, R, t = (torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in (large.K, large.R, large.t))
        image = project_to_image(self.vertices, K, R, t)
        seen = rasterize(image, self.triangles, large.height, large.width)
        # Everything from here on is done for covered samples only, a third of the picture.
        covered = np.flatnonzero(seen.triangle[0].numpy() >= 0)
        triangle = seen.triangle[0].numpy().ravel()[covered]
        normals = _rows(interpolate(self.normals, seen, self.triangles), covered)
        color = self.colors[triangle]
        if light is None:
            arriving = studio_light(normals @ large.R.T.astype(np.float32))[:, None]
        else:
            arriving = photo_light(normals, light)
        if textures:
            table, corners = torch.from_numpy(self.model.uv)[None], torch.from_numpy(self.model.triangles_uv)
            uv = _rows(interpolate(table, seen, corners), covered)
            slot = self.model.triangle_material[triangle]
            for name in textures.keys() & set(self.model.materials):
                inside = slot == self.model.materials.index(name)
                color[inside] = sample(textures[name], uv[inside])
                if name == SKIN and light is None:
                    arriving[inside] = TEXTURED_AMBIENT + TEXTURED_LIGHT * arriving[inside]
        canvas = np.zeros((large.height * large.width, 4), np.float32)
        canvas[covered] = np.concatenate([color * arriving, np.ones((len(covered), 1), np.float32)], axis=1)
        return _averaged(canvas.reshape(large.height, large.width, 4))


def triangle_colors(model: FaceModel) -> np.ndarray:
    """(T, 3) float32 linear RGB: clay for the skin, each other part in its own colour, muted."""
    colors = np.empty((len(model.faces), 3), np.float32)
    for slot, name in enumerate(model.materials):
        look = LOOKS.get(name, OTHER_LOOK)
        colors[model.face_material == slot] = CLAY if name == SKIN else _muted(look.color)
        if name == MOUTH:
            for region in MOUTH_REGIONS:
                inside = (model.face_material == slot) & faces_within(model.faces, model.regions.get(region))
                colors[inside] = _muted(LOOKS[region].color)
    return colors[triangle_faces(model.faces)]


def studio_light(normals: np.ndarray) -> np.ndarray:
    """(N,) float32: brightness of a white matte surface; normals in camera axes are turned to the viewer."""
    length = np.sqrt(np.einsum("ij,ij->i", normals, normals))
    normals = normals / np.maximum(length, 1e-12)[:, None]
    # The inside of lips and lids is seen from behind.
    normals[normals[:, 2] > 0.3] *= -1.0
    result = np.full(len(normals), AMBIENT, np.float32)
    for direction, strength in LIGHTS:
        towards = np.array(direction, np.float32) / np.linalg.norm(direction)
        # Wrapped diffuse: the terminator is soft, as on skin under a large light.
        result += strength * np.clip((normals @ towards + 0.25) / 1.25, 0.0, 1.0).astype(np.float32)
    return result


def photo_light(normals: np.ndarray, light: np.ndarray) -> np.ndarray:
    """(N, 3) float32: what arrives of a light (9, 3) at surfaces with normals (N, 3) in model space, linear."""
    length = np.sqrt(np.einsum("ij,ij->i", normals, normals))
    unit = torch.from_numpy(normals / np.maximum(length, 1e-12)[:, None])
    return shade(unit, torch.from_numpy(np.ascontiguousarray(light.T, np.float32))).clamp(min=0.0).numpy()


def sample(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """(N, 3) float32 linear RGB: nearest texel of (S, S, 3) uint8 sRGB at (N, 2), v upward, repeated outside."""
    height, width = texture.shape[:2]
    column = np.floor(uv[:, 0] * width).astype(int) % width
    row = np.floor((1.0 - uv[:, 1]) * height).astype(int) % height
    return srgb_to_linear(texture[row, column])


def _rows(picture: torch.Tensor, covered: np.ndarray) -> np.ndarray:
    """(1, H, W, C) -> (N, C): the samples with the flat indices ``covered``."""
    return picture.numpy().reshape(-1, picture.shape[-1])[covered]


def _muted(color: tuple[float, float, float]) -> np.ndarray:
    """Halfway to grey of the same brightness, so that clay pictures stay quiet."""
    value = np.array(color, np.float32)
    return 0.5 * value + 0.5 * value.mean()


def _averaged(canvas: np.ndarray) -> np.ndarray:
    """(2H, 2W, 4) premultiplied linear -> (H, W, 4) uint8 sRGB with straight alpha."""
    # Sums of strided views: five times as fast as a mean over two axes of a reshaped array.
    total = np.zeros((canvas.shape[0] // SUPERSAMPLING, canvas.shape[1] // SUPERSAMPLING, 4), np.float32)
    for y in range(SUPERSAMPLING):
        for x in range(SUPERSAMPLING):
            total += canvas[y::SUPERSAMPLING, x::SUPERSAMPLING]
    result = np.zeros(total.shape, np.uint8)
    covered = total[..., 3] > 0
    seen = total[covered]
    result[covered, :3] = linear_to_srgb8(seen[:, :3] / seen[:, 3:])
    result[covered, 3] = (seen[:, 3] / SUPERSAMPLING**2 * 255.0 + 0.5).astype(np.uint8)
    return result
