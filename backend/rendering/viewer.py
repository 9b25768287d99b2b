"""Pictures of a mesh: overlays, documentation, renders for evaluation. NumPy in, NumPy out.

Symbols: V vertices, T triangles, F faces, U texture coordinates, H, W picture size, S texture side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from backend.geometry.camera import Camera
from backend.geometry.mesh import NO_CORNER
from backend.rendering import tone
from backend.rendering.fragments import Fragments
from backend.rendering.rasterize import interpolate, rasterize
from backend.rendering.shade import shade, vertex_normals
from backend.rendering.texture_sampling import sample_mipmapped, texel_level
from backend.rendering.transform import project_to_image

# MGCNet's picture of the bare geometry: three point lights, metres in model space, each of this
# intensity, on grey clay. Its values are display values and are not gamma-corrected.
CLAY_LIGHTS = ((0.0, 0.0, 1.0), (-1.0, 0.0, 1.0), (1.0, 0.0, 1.0))
CLAY_INTENSITY = 0.5
CLAY_GREY = 0.7529

# Colour and width (pixels of the picture) of the lines of a wireframe.
WIRE_COLOR = (0.10, 0.12, 0.16)
WIRE_WIDTH = 1.0


@dataclass(frozen=True)
class _View:
    """One mesh in front of one camera at the supersampled size, ready to be shaded."""

    vertices: torch.Tensor
    vertices_image: torch.Tensor
    triangles: torch.Tensor
    fragments: Fragments
    camera: Camera


def render_mesh(
    vertices: np.ndarray,
    triangles: np.ndarray,
    camera: Camera,
    colors: np.ndarray | None = None,
    texture: np.ndarray | None = None,
    uv: np.ndarray | None = None,
    triangles_uv: np.ndarray | None = None,
    light: str | np.ndarray = "clay",
    supersample: int = 2,
    wireframe_faces: np.ndarray | None = None,
    wire_width: float = WIRE_WIDTH,
    cull: str = "none",
    backend: str = "auto",
) -> np.ndarray:
    """Draw a mesh as a camera sees it.

    Parameters
    ----------
    vertices : (V, 3) float
        Model space, metres.
    triangles : (T, 3) int
        Counter-clockwise seen from outside.
    camera : Camera
        Also says how large the picture is.
    colors : (V, 3) float, optional
        Albedo at the vertices, linear RGB in [0, 1]; grey clay without it and without a texture.
    texture : (S, S', 3) uint8, optional
        sRGB, row 0 is v = 1; needs ``uv`` (U, 2) and ``triangles_uv`` (T, 3).
    light : str or (3, 9) float
        ``clay``: MGCNet's three lights, fixed in front of the face. ``studio``: the same lights carried
        along with the camera, for views from the side and behind. ``flat``: colours as they are.
        An array: spherical harmonics (:func:`backend.rendering.shade.shade`), linear light.
    supersample : int
        Samples along each side of a pixel; 1 is fast, 2 or 3 is smooth.
    wireframe_faces : (F, 4) int, optional
        The quads that ``triangles`` were made from (:func:`backend.geometry.mesh.triangulate`): their
        edges are drawn over the surface, diagonals are not.
    wire_width : float
        Pixels of the picture.
    cull : str
        ``back`` leaves out faces that look away.

    Returns
    -------
    (H, W, 4) uint8
        sRGB with straight alpha (the colour is not multiplied by it); (0, 0, 0, 0) where nothing is.
    """
    if supersample < 1:
        raise ValueError(f"supersample must be at least 1, not {supersample}")
    if texture is not None and (uv is None or triangles_uv is None):
        raise ValueError("a texture needs uv and triangles_uv")
    with torch.no_grad():
        view = _look(vertices, triangles, camera, supersample, cull, backend)
        picture = _lit(view, _albedo(view, colors, texture, uv, triangles_uv), light)
        if wireframe_faces is not None:
            distance = wire_distance(view.fragments, view.vertices_image, view.triangles, wireframe_faces)
            lines = (wire_width * supersample / 2 + 0.5 - distance[view.fragments.mask]).clamp(0.0, 1.0)[:, None]
            wire = torch.from_numpy(tone.srgb_to_linear(np.array(WIRE_COLOR, np.float32)))
            picture = picture + lines * (wire - picture)
    return _developed(picture, view.fragments.mask[0], supersample)


def over(front: np.ndarray, back: np.ndarray, opacity: float = 1.0) -> np.ndarray:
    """Lay a render over a photo: (H, W, 4) and (H, W, 3) uint8 -> (H, W, 3) uint8, mixed in linear light."""
    alpha = front[..., 3:].astype(np.float32) * (opacity / 255.0)
    mixed = alpha * tone.srgb_to_linear(front[..., :3]) + (1.0 - alpha) * tone.srgb_to_linear(back)
    return np.where(alpha > 0, tone.linear_to_srgb8(mixed), back)


def wire_distance(
    fragments: Fragments, vertices_image: torch.Tensor, triangles: torch.Tensor, faces: np.ndarray
) -> torch.Tensor:
    """(B, H, W) distance in pixels from each pixel centre to the nearest drawn edge of the face in view.

    Background is infinitely far. Hidden lines need no care: a pixel only knows the face that it sees.
    """
    drawn = torch.from_numpy(drawn_edges(faces)).to(triangles.device)
    if len(drawn) != len(triangles):
        raise ValueError("wireframe_faces are not the faces that the triangles were made from")
    item, row, column = fragments.mask.nonzero(as_tuple=True)
    found = fragments.triangle[item, row, column].long()
    points = vertices_image[item[:, None], triangles[found]][..., :2]
    pixel = torch.stack([column, row], dim=1).to(points.dtype) + 0.5
    nearest = torch.full_like(pixel[:, 0], torch.inf)
    for corner in range(3):
        start, direction = points[:, corner], points[:, (corner + 1) % 3] - points[:, corner]
        squared = (direction**2).sum(dim=1).clamp(min=1e-12)
        along = (((pixel - start) * direction).sum(dim=1) / squared).clamp(0.0, 1.0)
        distance = (pixel - start - along[:, None] * direction).norm(dim=1)
        nearest = torch.where(drawn[found, corner], torch.minimum(nearest, distance), nearest)
    result = torch.full(fragments.triangle.shape, torch.inf, dtype=nearest.dtype, device=nearest.device)
    return result.index_put((item, row, column), nearest)


def drawn_edges(faces: np.ndarray) -> np.ndarray:
    """(F, 4) quads or (F, 3) triangles -> (T, 3) bool: the edge from corner k to k + 1 is an edge of the face.

    In the order of :func:`backend.geometry.mesh.triangulate`, which splits quads along corners 0 and 2.
    """
    first = np.ones((len(faces), 3), bool)
    if faces.shape[1] == 3:
        return first
    is_quad = faces[:, 3] != NO_CORNER
    first[is_quad, 2] = False
    second = np.ones((int(is_quad.sum()), 3), bool)
    second[:, 0] = False
    return np.concatenate([first, second])


def _look(
    vertices: np.ndarray, triangles: np.ndarray, camera: Camera, supersample: int, cull: str, backend: str
) -> _View:
    camera = camera.resized(camera.width * supersample, camera.height * supersample)
    points = torch.from_numpy(np.array(vertices, np.float32))[None]
    K, R, t = (torch.from_numpy(np.array(part, np.float32)) for part in (camera.K, camera.R, camera.t))
    vertices_image = project_to_image(points, K, R, t)
    indices = torch.from_numpy(np.array(triangles, np.int64))
    fragments = rasterize(vertices_image, indices, camera.height, camera.width, backend, cull)
    return _View(points, vertices_image, indices, fragments, camera)


def _spread(view: _View, values: torch.Tensor, triangles: torch.Tensor) -> torch.Tensor:
    """(V, C) per-vertex values -> (N, C) at the N covered samples; most of a picture is often background."""
    return interpolate(values[None], view.fragments, triangles)[view.fragments.mask]


def _albedo(
    view: _View,
    colors: np.ndarray | None,
    texture: np.ndarray | None,
    uv: np.ndarray | None,
    triangles_uv: np.ndarray | None,
) -> torch.Tensor | None:
    """(N, 3) linear, None for bare clay."""
    if texture is not None and uv is not None and triangles_uv is not None:
        linear = torch.from_numpy(tone.srgb_to_linear(texture))
        places, corners = torch.from_numpy(np.array(uv, np.float32)), torch.from_numpy(np.array(triangles_uv, np.int64))
        level = texel_level(
            view.fragments, view.vertices_image, view.triangles, places, corners, linear[..., 0].numel()
        )
        level = level[view.fragments.mask][None, None]
        return sample_mipmapped(linear, _spread(view, places, corners)[None, None], level)[0, 0]
    if colors is not None:
        return _spread(view, torch.from_numpy(np.array(colors, np.float32)), view.triangles)
    return None


def _lit(view: _View, albedo: torch.Tensor | None, light: str | np.ndarray) -> torch.Tensor:
    """(N, 3) linear colours."""
    grey = tone.srgb_to_linear(np.array(CLAY_GREY, np.float32)).item()
    if isinstance(light, str) and light not in ("clay", "studio", "flat"):
        raise ValueError(f"light must be clay, studio, flat or a (3, 9) array, not {light!r}")
    if isinstance(light, str) and light == "flat":
        return torch.full((int(view.fragments.mask.sum()), 3), grey) if albedo is None else albedo
    normals = _spread(view, vertex_normals(view.vertices, view.triangles)[0], view.triangles)
    normals = torch.nn.functional.normalize(normals, dim=-1)
    if not isinstance(light, str):
        arriving = shade(normals, torch.from_numpy(np.array(light, np.float32))).clamp(min=0.0)
        return arriving * (grey if albedo is None else albedo)
    lamps = np.array(CLAY_LIGHTS)
    if light == "studio":
        # Turned with the camera: in its own axes (x right, y down, z forward) the lamps stand before the head.
        lamps = (lamps * np.array([1.0, -1.0, -1.0])) @ view.camera.R
    arriving = clay_light(_spread(view, view.vertices[0], view.triangles), normals, torch.from_numpy(lamps).float())
    if albedo is None:
        return tone.srgb_to_linear_torch((CLAY_GREY * arriving).clamp(0.0, 1.0)).expand(-1, 3)
    return arriving * albedo


def clay_light(points: torch.Tensor, normals: torch.Tensor, lamps: torch.Tensor) -> torch.Tensor:
    """Phong's diffuse term: (N, 3) points and unit normals, (L, 3) lamps, all model space -> (N, 1)."""
    total = torch.zeros_like(points[:, :1])
    for lamp in lamps:
        direction = torch.nn.functional.normalize(lamp - points, dim=-1)
        total = total + CLAY_INTENSITY * (direction * normals).sum(dim=-1, keepdim=True).clamp(min=0.0)
    return total


def _developed(colors: torch.Tensor, mask: torch.Tensor, supersample: int) -> np.ndarray:
    """Average samples in linear light: (N, 3) covered samples of (sH, sW) mask -> (H, W, 4) uint8."""
    samples = torch.zeros((*mask.shape, 4))
    samples[mask] = torch.cat([colors.clamp(0.0, 1.0), torch.ones_like(colors[:, :1])], dim=1)
    mean = torch.nn.functional.avg_pool2d(samples.permute(2, 0, 1)[None], supersample)[0].permute(1, 2, 0).numpy()
    alpha = mean[..., 3:]
    color = np.divide(mean[..., :3], alpha, out=np.zeros_like(mean[..., :3]), where=alpha > 0)
    color8 = np.where(alpha > 0, tone.linear_to_srgb8(color), 0).astype(np.uint8)
    return np.concatenate([color8, (alpha * 255.0 + 0.5).astype(np.uint8)], axis=2)
