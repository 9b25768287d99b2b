"""Two cameras that look at one head: their relative pose, and the lines on which points must lie.

PyTorch, batched and differentiable, so that training and the joint solve over photos share them.

Symbols: B batch, L points. ``X_cam = R X_model + t`` for every camera; pixel centres at +0.5.
"""

from __future__ import annotations

import torch

# Metres. Two photos from (nearly) one place have no epipolar lines: with a shorter baseline than this the
# distance to them fades out instead of turning into noise with a large gradient.
SHORTEST_BASELINE = 5e-3


def relative_pose(
    R_target: torch.Tensor, t_target: torch.Tensor, R_source: torch.Tensor, t_source: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The motion from the target's camera frame to the source's: ``X_source = R X_target + t``.

    Both cameras hold the same model in place, so ``R = R_s R_t^T`` and ``t = t_s - R t_t`` (the closed
    inverse of a rigid motion).

    Parameters
    ----------
    R_target, R_source : (B, 3, 3) float
    t_target, t_source : (B, 3) float
        Metres.

    Returns
    -------
    R : (B, 3, 3), t : (B, 3)
    """
    R = R_source @ R_target.transpose(-1, -2)
    return R, t_source - (R @ t_target[..., None])[..., 0]


def cross_matrix(vector: torch.Tensor) -> torch.Tensor:
    """(..., 3) -> (..., 3, 3) with ``cross_matrix(a) @ b == cross(a, b)``."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def essential_matrix(R: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """``E = [t]x R`` (Longuet-Higgins 1981; Hartley and Zisserman 2004, equation 9.12).

    For the motion ``X_source = R X_target + t`` every pair of rays to one point satisfies
    ``x_source^T E x_target = 0``. (B, 3, 3), (B, 3) -> (B, 3, 3), metres.
    """
    return cross_matrix(t) @ R


def rays(pixels: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    """(B, ..., 2) pixels, (B, 3, 3) intrinsics -> (B, ..., 3) rays of depth 1 in the camera frame."""
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
    return torch.einsum("bij,b...j->b...i", inverse_intrinsics(K), homogeneous)


def inverse_intrinsics(K: torch.Tensor) -> torch.Tensor:
    """(B, 3, 3) -> (B, 3, 3), written out for matrices whose lower left is 0 and whose last row is (0, 0, 1).

    Not by LU, see :mod:`backend.reconstruction.one_thread`.
    """
    across, skew, right = K[:, 0].unbind(-1)
    down, below = K[:, 1, 1], K[:, 1, 2]
    zero, one = torch.zeros_like(across), torch.ones_like(across)
    rows = [
        [1.0 / across, -skew / (across * down), (skew * below - right * down) / (across * down)],
        [zero, 1.0 / down, -below / down],
        [zero, zero, one],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def epipolar_distance(
    points_target: torch.Tensor,
    points_source: torch.Tensor,
    K_target: torch.Tensor,
    K_source: torch.Tensor,
    R: torch.Tensor,
    t: torch.Tensor,
) -> torch.Tensor:
    """How far matching points lie from each other's epipolar lines, the mean of both pictures.

    A rooted form of the symmetric epipolar distance (Hartley and Zisserman 2004, equation 11.10), so that
    the answer is in pixels. Zero for every match when the relative pose is right. The length of ``t``
    drops out, its direction counts.

    Parameters
    ----------
    points_target, points_source : (B, L, 2) float
        The same points of the head in both pictures, pixels.
    K_target, K_source : (B, 3, 3) float
    R : (B, 3, 3) float
    t : (B, 3) float
        :func:`relative_pose`, metres.

    Returns
    -------
    (B, L) float
        Pixels, not negative.
    """
    E = essential_matrix(R, t)
    ray_target, ray_source = rays(points_target, K_target), rays(points_source, K_source)
    line_source = ray_target @ E.transpose(-1, -2)
    line_target = ray_source @ E
    mismatch = (ray_source * line_source).sum(dim=-1).abs()

    def length(line: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
        # Of the line's normal in pixels: lines move with the inverse transpose of what moves points.
        in_pixels = line @ inverse_intrinsics(K)
        softening = SHORTEST_BASELINE / K[:, 0, 0, None]
        return (in_pixels[..., 0] ** 2 + in_pixels[..., 1] ** 2 + softening**2).sqrt()

    return 0.5 * mismatch * (1.0 / length(line_source, K_source) + 1.0 / length(line_target, K_target))
