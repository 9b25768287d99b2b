"""Reading a texture at the pixels of a picture, filtered.

Symbols: B batch, T triangles, U texture coordinates, H, W image size, S texture side, C channels.
"""

from __future__ import annotations

import torch

from backend.rendering.fragments import Fragments


def mip_levels(texture: torch.Tensor) -> list[torch.Tensor]:
    """(1, C, S, S') -> the texture and its halvings (averages of 2 x 2 texels) down to one texel."""
    levels = [texture]
    while max(levels[-1].shape[-2:]) > 1:
        levels.append(torch.nn.functional.avg_pool2d(levels[-1], 2, ceil_mode=True, count_include_pad=False))
    return levels


def sample_bilinear(texture: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """(1, C, S, S') texture, (B, H, W, 2) coordinates, v upward -> (B, H, W, C); clamped at the border."""
    grid = torch.stack([uv[..., 0] * 2 - 1, 1 - uv[..., 1] * 2], dim=-1)
    image = texture.expand(len(uv), -1, -1, -1)
    sampled = torch.nn.functional.grid_sample(image, grid, "bilinear", padding_mode="border", align_corners=False)
    return sampled.permute(0, 2, 3, 1)


def texel_level(
    fragments: Fragments,
    vertices_image: torch.Tensor,
    triangles: torch.Tensor,
    uv: torch.Tensor,
    triangles_uv: torch.Tensor,
    texels: int,
) -> torch.Tensor:
    """(B, H, W) mip level: half the log2 of texels per pixel of the triangle in view, 0 for background.

    ``texels`` is how many the texture has.
    One level per triangle is enough: triangles of a head are small against the change of perspective.
    """
    in_image = _areas(vertices_image[..., :2], triangles)
    in_texture = _areas(uv[None], triangles_uv) * texels
    level = 0.5 * torch.log2((in_texture / in_image.clamp(min=1e-6)).clamp(min=1e-6))
    seen = fragments.triangle.clamp(min=0).long()
    item = torch.arange(len(seen), device=seen.device)[:, None, None]
    return torch.where(fragments.mask, level[item, seen], torch.zeros((), dtype=level.dtype, device=level.device))


def sample_mipmapped(texture: torch.Tensor, uv: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Trilinear filtering.

    Parameters
    ----------
    texture : (S, S', C) float
        Linear light; row 0 is v = 1.
    uv : (B, H, W, 2) float
    level : (B, H, W) float
        0 reads the texture as it is, 1 its half, and so on.

    Returns
    -------
    (B, H, W, C) float
    """
    levels = mip_levels(texture.permute(2, 0, 1)[None])
    level = level.clamp(0, len(levels) - 1)
    result = torch.zeros((*uv.shape[:3], texture.shape[-1]), dtype=texture.dtype, device=texture.device)
    for number in range(int(level.floor().min()), int(level.ceil().max()) + 1):
        weight = (1.0 - (level - number).abs()).clamp(min=0.0)
        if bool((weight > 0).any()):
            result = result + weight[..., None] * sample_bilinear(levels[number], uv)
    return result


def _areas(points: torch.Tensor, triangles: torch.Tensor) -> torch.Tensor:
    """(B, V, 2), (T, 3) -> (B, T) areas, positive."""
    a, b, c = (points[:, triangles[:, corner]] for corner in range(3))
    first, second = b - a, c - a
    return 0.5 * (first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]).abs()
