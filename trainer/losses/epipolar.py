"""Epipolar loss: landmarks of two photos constrain the motion between the cameras, whatever the shape.

Shang et al. 2020, section on the facial-landmark-based epipolar loss. For landmarks x_t, x_s of one moment, as
rays, and the relative pose X_s = R X_t + t:

    x_s^T E x_t = 0,    E = [t]x R,

measured as the distance in pixels of each point to the other's line, the mean of both pictures. It reaches
the poses only, so it cannot be bought with a wrong shape.

Differences from the published code: there, E is R [t]x, which belongs to another order of motion, and
is wrong by tens to hundreds of pixels at the truth; only the distance in the source picture counts; and
every landmark counts, found or not.

Symbols: B batch, L landmarks.
"""

from __future__ import annotations

import torch

from backend.rendering.synthesis import View
from backend.rendering.two_views import cross_matrix, epipolar_distance, inverse_intrinsics, relative_pose


def epipolar_loss(
    found_target: torch.Tensor,
    found_source: torch.Tensor,
    target: View,
    source: View,
    visible: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean distance to the epipolar lines.

    Parameters
    ----------
    found_target, found_source : (B, L, 2) float
        Landmarks found in the photos, pixels. Points on outlines (the jaw of iBUG 68) are not the same
        points of the head from different sides: give those a ``visible`` of 0.
    target, source : View
        Poses and intrinsics.
    visible : (B, L) float or bool, optional
        How far to trust each landmark in both photos, 0 to 1.

    Returns
    -------
    (B,) float
        Pixels.
    """
    R, t = relative_pose(target.R, target.t, source.R, source.t)
    distance = epipolar_distance(found_target, found_source, target.K, source.K, R, t)
    if visible is None:
        return distance.mean(dim=1)
    weights = visible.to(distance)
    return (weights * distance).sum(dim=1) / weights.sum(dim=1).clamp(min=torch.finfo(weights.dtype).tiny)


def published_epipolar_loss(
    found_target: torch.Tensor, found_source: torch.Tensor, target: View, source: View
) -> torch.Tensor:
    """As published, with R [t]x and one picture: (B, L, 2), (B, L, 2) -> (B,) pixels."""
    R, t = relative_pose(target.R, target.t, source.R, source.t)
    F = inverse_intrinsics(source.K).transpose(-1, -2) @ R @ cross_matrix(t) @ inverse_intrinsics(target.K)
    points_target, points_source = (
        torch.cat([found, torch.ones_like(found[..., :1])], dim=-1) for found in (found_target, found_source)
    )
    line = points_target @ F.transpose(-1, -2)
    # Published in millimetres, with 1e-6 of them added below the line.
    length = (line[..., 0] ** 2 + line[..., 1] ** 2).sqrt() + 1e-9
    return ((points_source * line).sum(dim=-1).abs() / length).mean(dim=1)
