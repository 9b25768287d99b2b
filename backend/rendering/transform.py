"""From model space or texture space to the image, in PyTorch.

Symbols: B batch, V vertices, U texture coordinates.
"""

from __future__ import annotations

import torch


def project_to_image(points_model: torch.Tensor, K: torch.Tensor, R: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Pinhole projection, ``X_cam = R X_model + t`` then ``K``.

    Parameters
    ----------
    points_model : (B, V, 3) float
        Model space, metres.
    K : (3, 3) or (B, 3, 3) float
        Intrinsics in pixels; the last row is (0, 0, 1).
    R : (3, 3) or (B, 3, 3) float
    t : (3,) or (B, 3) float
        Metres.

    Returns
    -------
    (B, V, 3) float
        x, y in pixels and camera depth in metres. Points at or behind the camera get a depth <= 0 and
        an x, y without meaning (the rasterizer leaves their triangles out).
    """
    K, R, t = (torch.as_tensor(value).to(points_model) for value in (K, R, t))
    camera = points_model @ R.transpose(-1, -2) + t.unsqueeze(-2)
    depth = camera[..., 2:]
    homogeneous = camera @ K.transpose(-1, -2)
    # Dividing by a depth that is never zero keeps NaN out of the gradients of points that are dropped.
    safe = torch.where(depth.abs() < 1e-9, torch.full_like(depth, 1e-9), depth)
    return torch.cat([homogeneous[..., :2] / safe, depth], dim=-1)


def uv_to_image(uv: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Texture coordinates as something to rasterize: (U, 2) or (B, U, 2) -> (B, U, 3), depth 1.

    Row 0 of a texture is v = 1, and the centre of texel (0, 0) is at half a texel: charts that touch
    share no texel and leave none out.
    """
    uv = uv if uv.dim() == 3 else uv[None]
    u, v = uv.unbind(-1)
    return torch.stack([u * width, (1.0 - v) * height, torch.ones_like(u)], dim=-1)
