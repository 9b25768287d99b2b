"""Where on its triangle does a pixel look? Differentiable, and shared by all backends.

The rasterizer only has to find *which* triangle a pixel sees; barycentric weights and depth follow from
the vertices in closed form, and so do their gradients.

Symbols: B batch, V vertices, T triangles, H, W image size, N covered pixels.
"""

from __future__ import annotations

import torch

# Squared pixels. Below this a triangle has no inside to speak of and its centre is taken.
SMALLEST_AREA = 1e-12


def surface_at_pixels(
    triangle: torch.Tensor, vertices_image: torch.Tensor, triangles: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Barycentric weights and depth of pixels whose triangle is known.

    Parameters
    ----------
    triangle : (B, H, W) int
        Triangle ids, -1 for background.
    vertices_image : (B, V, 3) float
        x, y in pixels and depth in metres; gradients flow to it.
    triangles : (T, 3) int64

    Returns
    -------
    barycentric : (B, H, W, 3), depth : (B, H, W)
        In the type of ``vertices_image``; 0 for background.
    """
    item, row, column = (triangle >= 0).nonzero(as_tuple=True)
    corners = triangles[triangle[item, row, column].long()]
    points = vertices_image[item[:, None], corners].to(work_dtype(vertices_image.device))
    weights, depth = screen_to_surface(points, column.to(points.dtype) + 0.5, row.to(points.dtype) + 0.5)
    barycentric_image = vertices_image.new_zeros((*triangle.shape, 3))
    depth_image = vertices_image.new_zeros(triangle.shape)
    barycentric_image = barycentric_image.index_put((item, row, column), weights.to(vertices_image.dtype))
    depth_image = depth_image.index_put((item, row, column), depth.to(vertices_image.dtype))
    return barycentric_image, depth_image


def screen_to_surface(
    points: torch.Tensor, pixel_x: torch.Tensor, pixel_y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Perspective-correct weights (N, 3) and depth (N,) of N pixel centres on N triangles ``points`` (N, 3, 3).

    1 / depth and weight / depth are linear in the image (Heckbert and Moreton 1991). A pixel centre may
    lie outside its triangle by as much as vertices were snapped; its weights are clamped.
    """
    (ax, bx, cx), (ay, by, cy) = points[..., 0].unbind(-1), points[..., 1].unbind(-1)
    bx, by, cx, cy, px, py = bx - ax, by - ay, cx - ax, cy - ay, pixel_x - ax, pixel_y - ay
    area = bx * cy - by * cx
    sliver = area.abs() < SMALLEST_AREA
    area = torch.where(sliver, torch.ones_like(area), area)
    weight_b, weight_c = (px * cy - py * cx) / area, (bx * py - by * px) / area
    weights = torch.stack([1.0 - weight_b - weight_c, weight_b, weight_c], dim=-1)
    weights = torch.where(sliver[:, None], torch.full_like(weights, 1.0 / 3.0), weights.clamp(min=0.0))
    over_depth = weights / points[..., 2]
    inverse_depth = over_depth.sum(dim=-1)
    return over_depth / inverse_depth[:, None], weights.sum(dim=-1) / inverse_depth


def work_dtype(device: torch.device) -> torch.dtype:
    """Double precision where the device has it (Apple's does not)."""
    return torch.float32 if device.type == "mps" else torch.float64
