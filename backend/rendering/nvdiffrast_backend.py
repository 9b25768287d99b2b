"""Adapter to nvdiffrast, for those who may use it.

nvdiffrast's licence allows research and evaluation only, no commercial use; it is never installed with
this project and never chosen by ``auto``. Interface: its documentation, sections "Coordinate systems"
and "Rasterization" (https://nvlabs.github.io/nvdiffrast/).

What differs from ours, and is converted here: positions are homogeneous clip coordinates; row 0 of its
images is NDC y = -1 (so y down in the image is y up in its clip space, and no flip is needed); triangle
ids are shifted by one with 0 for background; two barycentric weights are returned, those of the first
and second corner. It clips triangles at the near plane where our rule leaves them out.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

import torch

from backend.errors import DependencyError
from backend.rendering.fragments import BACKGROUND, FAR_LIMIT, IMAGE_LIMIT, NEAR_PLANE, Fragments

# The depth range handed to clip space is a little wider than the mesh, so that nothing touches its ends.
DEPTH_MARGIN = 1.01


def load() -> ModuleType:
    """``nvdiffrast.torch``, or a DependencyError that says what to do."""
    try:
        import nvdiffrast.torch as module  # type: ignore[import-not-found]
    except ImportError as error:
        raise DependencyError(
            "The nvdiffrast rasterizer was asked for and is not installed; "
            "install it (its licence allows research and evaluation only) or use the default rasterizer."
        ) from error
    return module


@lru_cache(maxsize=8)
def _context(device: str) -> object:
    return load().RasterizeCudaContext(device=device)


def to_clip_space(vertices_image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, V, 3) pixels and metres -> (B, V, 4) float32 clip coordinates with w = depth."""
    x, y, depth = vertices_image.to(torch.float32).unbind(-1)
    known = depth.detach()[usable_vertices(vertices_image)]
    near = float(known.min()) / DEPTH_MARGIN if len(known) else NEAR_PLANE
    far = float(known.max()) * DEPTH_MARGIN if len(known) else 1.0
    clip_z = (far + near) / (far - near) * depth - 2.0 * far * near / (far - near)
    return torch.stack([(2.0 * x / width - 1.0) * depth, (2.0 * y / height - 1.0) * depth, clip_z, depth], dim=-1)


def usable_vertices(vertices_image: torch.Tensor) -> torch.Tensor:
    """(B, V, 3) -> (B, V) bool: inside the limits of ``fragments.py``."""
    depth = vertices_image[..., 2]
    inside = (vertices_image[..., :2].abs() <= IMAGE_LIMIT).all(dim=-1)
    return inside & (depth >= NEAR_PLANE) & (depth <= FAR_LIMIT)


def drawable_triangles(vertices_image: torch.Tensor, triangles: torch.Tensor, cull_back: bool) -> torch.Tensor:
    """(B, T) bool: what our rule would draw."""
    keep = usable_vertices(vertices_image)[:, triangles].all(dim=-1)
    if cull_back:
        (ax, bx, cx), (ay, by, cy) = (vertices_image[..., axis][:, triangles].unbind(-1) for axis in (0, 1))
        keep &= (bx - ax) * (cy - ay) - (by - ay) * (cx - ax) < 0
    return keep


def rasterize(
    vertices_image: torch.Tensor, triangles: torch.Tensor, height: int, width: int, cull_back: bool
) -> Fragments:
    """Our :func:`backend.rendering.rasterize.rasterize` on nvdiffrast."""
    module = load()
    keep = drawable_triangles(vertices_image.detach(), triangles, cull_back)
    clip = to_clip_space(vertices_image, height, width).contiguous()
    context = _context(str(vertices_image.device))
    groups = [(clip, keep[0])] if bool((keep == keep[:1]).all()) else list(zip(clip.split(1), keep))
    pieces = []
    for positions, drawn in groups:
        ids = drawn.nonzero().squeeze(1)
        if len(ids) == 0:
            pieces.append(clip.new_zeros((len(positions), height, width, 4)))
            continue
        subset = triangles[ids].to(torch.int32).contiguous()
        raster, _ = module.rasterize(context, positions.contiguous(), subset, resolution=[height, width], grad_db=False)
        found = raster[..., 3].detach().long()
        original = torch.where(found > 0, ids[(found - 1).clamp(min=0)] + 1, torch.zeros_like(found))
        pieces.append(torch.cat([raster[..., :3], original[..., None].to(raster.dtype)], dim=-1))
    raster = torch.cat(pieces)
    triangle = raster[..., 3].detach().round().to(torch.int32) - 1
    covered = (triangle != BACKGROUND)[..., None]
    first, second = raster[..., 0:1], raster[..., 1:2]
    barycentric = torch.cat([first, second, 1.0 - first - second], dim=-1)
    barycentric = torch.where(covered, barycentric, torch.zeros_like(barycentric))
    # Depth is linear over the triangle in perspective-correct weights; z / w has lost too many digits.
    corners = triangles[triangle.clamp(min=0).long()]
    item = torch.arange(len(clip), device=clip.device)[:, None, None, None]
    depth = (vertices_image[..., 2].to(torch.float32)[item, corners] * barycentric).sum(dim=-1)
    return Fragments(triangle, barycentric, depth, "nvdiffrast")


def to_raster(fragments: Fragments) -> torch.Tensor:
    """Back to nvdiffrast's (B, H, W, 4): u, v, z / w (which only the depth test uses), id + 1."""
    found = (fragments.triangle + 1).to(torch.float32)[..., None]
    return torch.cat([fragments.barycentric[..., :2], torch.zeros_like(found), found], dim=-1).contiguous()


def interpolate(attributes: torch.Tensor, fragments: Fragments, triangles: torch.Tensor) -> torch.Tensor:
    """(B or 1, V, C) -> (B, H, W, C); nvdiffrast already gives 0 for background."""
    subset = triangles.to(torch.int32).contiguous()
    values, _ = load().interpolate(attributes.to(torch.float32).contiguous(), to_raster(fragments), subset)
    return values


def antialias(
    image: torch.Tensor, fragments: Fragments, vertices_image: torch.Tensor, triangles: torch.Tensor
) -> torch.Tensor:
    """Silhouette blending by nvdiffrast. It reads z / w of its raster to order surfaces, so it is rebuilt."""
    height, width = image.shape[1:3]
    clip = to_clip_space(vertices_image, height, width).contiguous()
    raster = to_raster(fragments)
    weight = clip.detach()[..., 2:].clone()
    corners = triangles[fragments.triangle.clamp(min=0).long()]
    item = torch.arange(len(clip), device=clip.device)[:, None, None, None]
    z, w = ((weight[..., axis][item, corners] * fragments.barycentric.detach()).sum(dim=-1) for axis in (0, 1))
    z_over_w = torch.where(fragments.mask, z / torch.where(fragments.mask, w, torch.ones_like(w)), torch.zeros_like(w))
    raster = torch.cat([raster[..., :2], z_over_w[..., None], raster[..., 3:]], dim=-1).contiguous()
    return load().antialias(image.contiguous(), raster, clip, triangles.to(torch.int32).contiguous())
