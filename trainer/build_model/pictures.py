"""Pictures of heads for the report: shaded, with the edges of the quads, with a texture or with marks.

Symbols: V vertices, F quads, T triangles, N points.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import igl
import numpy as np
import torch

from backend.face_model.model import SKIN, FaceModel
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.mesh import vertex_normals
from backend.geometry.rotation import rotation_from_head_euler
from backend.rendering.rasterize import rasterize

# Pictures are drawn this many times as large and averaged down.
SUPERSAMPLE = 3
BACKGROUND = (0.96, 0.96, 0.97)
EDGE_COLOUR, EDGE_STRENGTH = (0.10, 0.14, 0.25), 0.75
LIGHT = np.array([-0.35, -0.5, -0.79])
DISTANCE = 1.6
# Light comes from behind the camera and throws no shadow; without this the back of a nostril or of the mouth
# looks as bright as the cheek, like a hole. Directions per vertex, how far above the skin they start (metres)
# and how dark a point of skin, mouth or eye gets that sees no sky: the mouth less, or it would show nothing.
SKY_RAYS, SKY_LIFT, SKY_DARK = 100, 1e-4, np.array([0.85, 0.5, 0.5])
SKIN_TONE, MOUTH_TONE, EYE_TONE = (0.84, 0.70, 0.62), (0.55, 0.25, 0.25), (0.93, 0.93, 0.95)
PART_TONES = {"teeth": (0.94, 0.92, 0.86), "gums": (0.78, 0.47, 0.46), "tongue": (0.76, 0.38, 0.38)}

# Yaw and pitch, degrees, of the views that decide which triangles can be seen.
VIEWS = ((0, 0), (40, 0), (-40, 0), (80, 0), (-80, 0), (0, 30), (0, -30))


@dataclass(frozen=True)
class View:
    """Where to look from (yaw, pitch in degrees), at what (metres) and how wide (metres)."""

    yaw: float = 0.0
    pitch: float = 0.0
    centre: tuple[float, float, float] = (0.0, -0.005, 0.0)
    width: float = 0.30


def view_camera(view: View, size: int) -> Camera:
    """A camera far enough away to draw nearly without perspective."""
    rotation = rotation_from_head_euler(view.yaw, view.pitch, 0.0)
    offset = np.array([0.0, 0.0, DISTANCE]) - rotation @ np.array(view.centre)
    return Camera(intrinsics(size * DISTANCE / view.width, size, size), rotation, offset, size, size)


def visible_triangles(points: np.ndarray, triangles: np.ndarray, size: int = 1200) -> np.ndarray:
    """(T,) bool: triangles that show in at least one of :data:`VIEWS`.

    On a closed face this leaves out the insides of nostrils, lips and lids.
    """
    seen = np.zeros(len(triangles), bool)
    indices = torch.as_tensor(triangles.astype(np.int64))
    for yaw, pitch in VIEWS:
        camera = view_camera(View(yaw, pitch), size)
        image = np.column_stack([camera.project(points), camera.to_camera(points)[:, 2]])
        owner = rasterize(torch.as_tensor(image[None], dtype=torch.float32), indices, size, size).triangle
        seen[np.unique(owner[owner >= 0].numpy())] = True
    return seen


def face_tones(model: FaceModel) -> np.ndarray:
    """(F, 3) plain colours by material and part."""
    tones = np.array([SKIN_TONE, MOUTH_TONE, EYE_TONE])[model.face_material]
    for name, tone in PART_TONES.items():
        tones[model.regions[name][model.faces].all(axis=1)] = tone
    return tones


def drawn_edges(faces: np.ndarray) -> np.ndarray:
    """(T, 3) bool: whether the edge opposite to each corner is an edge of a quad and not its diagonal."""
    first = np.tile([True, False, True], (len(faces), 1))
    second = np.tile([True, True, False], (len(faces), 1))
    return np.concatenate([first, second])


def hidden_sky(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(V,) share of the half space over each vertex that other skin hides: 0 on a hill, near 1 in a nostril."""
    normals = vertex_normals(vertices, triangles)
    start = vertices + SKY_LIFT * normals
    return igl.ambient_occlusion(vertices, triangles.astype(np.int64), start, normals, SKY_RAYS)


def draw(
    model: FaceModel,
    vertices: np.ndarray,
    view: View,
    size: int = 540,
    tones: np.ndarray | None = None,
    edges: float = 0.8,
    texture: np.ndarray | None = None,
    eye_texture: np.ndarray | None = None,
    marks: np.ndarray | None = None,
    hidden: np.ndarray | None = None,
) -> np.ndarray:
    """One picture.

    Parameters
    ----------
    model : FaceModel
        All quads.
    vertices : (V, 3) float
        Metres.
    view : View
    size : int
        Pixels of a side.
    tones : (F, 3) or (V, 3) float, optional
        Colour per quad or per vertex; by material where left out.
    edges : float
        Width of the drawn edges in pixels, 0 for none.
    texture, eye_texture : (H, W, 3) float in [0, 1], optional
        Looked up by the skin's or the eyes' texture coordinates, row 0 at v = 1.
    marks : (N, 3) float, optional
        Points drawn as dots.
    hidden : (V,) float, optional
        From :func:`hidden_sky`; darkens cavities.

    Returns
    -------
    (size, size, 3) uint8
    """
    large = size * SUPERSAMPLE
    camera = view_camera(view, large)
    image = np.column_stack([camera.project(vertices), camera.to_camera(vertices)[:, 2]])
    triangles = torch.as_tensor(model.triangles.astype(np.int64))
    fragments = rasterize(torch.as_tensor(image[None], dtype=torch.float32), triangles, large, large)
    owner, weights = fragments.triangle[0].numpy(), fragments.barycentric[0].numpy()
    shown = owner >= 0
    index, weight = owner[shown], weights[shown]
    colour = _textured(model, _base_colour(model, tones, index, weight), index, weight, {0: texture, 2: eye_texture})
    normals = vertex_normals(vertices, model.triangles) @ camera.R.T
    facing = np.einsum("pkc,pk->pc", normals[model.triangles[index]], weight)
    colour = colour * (0.35 + 0.65 * np.clip(facing @ LIGHT, 0, 1))[:, None]
    if hidden is not None:
        dark = SKY_DARK[model.triangle_material[index]] * np.einsum("pk,pk->p", hidden[model.triangles[index]], weight)
        colour = colour * (1 - dark)[:, None]
    if edges:
        alpha = _edge_alpha(image, model, index, weight, edges * SUPERSAMPLE)
        colour = colour * (1 - alpha) + alpha * np.array(EDGE_COLOUR)
    canvas = np.tile(np.array(BACKGROUND), (large, large, 1))
    canvas[shown] = colour
    result = cv2.resize((np.clip(canvas, 0, 1) * 255).astype(np.uint8), (size, size), interpolation=cv2.INTER_AREA)
    if marks is not None:
        for x, y in np.rint(camera.project(marks) / SUPERSAMPLE * 8).astype(int):
            cv2.circle(result, (int(x), int(y)), 18, (20, 70, 200), -1, cv2.LINE_AA, 3)
    return result


def _base_colour(model: FaceModel, tones: np.ndarray | None, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
    tones = face_tones(model) if tones is None else tones
    if len(tones) == model.vertex_count:
        return np.einsum("pkc,pk->pc", tones[model.triangles[index]], weight)
    return tones[np.where(index < len(model.faces), index, index - len(model.faces))]


def _textured(model: FaceModel, colour: np.ndarray, index: np.ndarray, weight: np.ndarray, pictures: dict):
    """(N, 3) colours with those of the materials that have a picture replaced by it."""
    for material, picture in pictures.items():
        if picture is not None:
            chosen = model.triangle_material[index] == material
            uv = np.einsum("pkc,pk->pc", model.uv[model.triangles_uv[index[chosen]]], weight[chosen])
            colour[chosen] = _look_up(picture, uv)
    return colour


def _look_up(picture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    column = np.clip((uv[:, 0] * width).astype(int), 0, width - 1)
    row = np.clip(((1 - uv[:, 1]) * height).astype(int), 0, height - 1)
    return picture[row, column]


def _edge_alpha(image: np.ndarray, model: FaceModel, index: np.ndarray, weight: np.ndarray, width: float) -> np.ndarray:
    """(N, 1) how much of the edge colour each pixel takes, from its distance to the nearest drawn edge."""
    corner = image[model.triangles[index], :2]
    area = np.abs(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]))
    real = drawn_edges(model.faces)[index]
    nearest = np.full(len(index), np.inf)
    for k in range(3):
        length = np.linalg.norm(corner[:, (k + 1) % 3] - corner[:, (k + 2) % 3], axis=1)
        height = weight[:, k] * area / np.maximum(length, 1e-9)
        nearest = np.where(real[:, k], np.minimum(nearest, height), nearest)
    return (np.clip(width * 0.5 - nearest + 0.5, 0, 1) * EDGE_STRENGTH)[:, None]


def checkerboard(size: int = 2048, squares: int = 64) -> np.ndarray:
    """(size, size, 3) float: a checkerboard whose tint changes over the texture, so that places can be told apart."""
    cell = np.arange(size) * squares // size
    dark = (cell[:, None] + cell[None]) % 2 == 1
    ramp = np.linspace(0, 1, size)
    tint = np.stack(np.broadcast_arrays(0.55 + 0.4 * ramp[None], 0.6 + 0.3 * ramp[:, None], 0.9 - 0.3 * ramp[None]), -1)
    return np.where(dark[..., None], tint * 0.45, tint)


def draw_chart(model: FaceModel, material: str = SKIN, size: int = 1000) -> np.ndarray:
    """(size, size, 3) uint8: the edges of a material's charts over a checkerboard."""
    large = size * SUPERSAMPLE
    canvas = (checkerboard(large) * 127 + 128).astype(np.uint8)
    quads = model.face_uv[model.face_material == model.materials.index(material)]
    corners = np.column_stack([model.uv[:, 0], 1 - model.uv[:, 1]])[quads] * large * 8
    cv2.polylines(canvas, list(np.rint(corners).astype(np.int32)), True, (15, 20, 40), 1, cv2.LINE_AA, 3)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)


def save(rows: list[list[np.ndarray]], path: Path) -> None:
    """Put pictures into a grid and write them as JPEG."""
    grid = np.vstack([np.hstack(row) for row in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(grid, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
