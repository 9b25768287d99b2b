"""Depth consistency: two views of one head must agree on where its surface is.

Shang et al. 2020, section on the dense depth consistency loss. A target pixel at depth D_t, carried into
the source's camera, has depth z(R X_t + t) there; the source's own depth map is read at the same place:

    L_depth = sum_p m(p) |z(R X_t(p) + t) - D_s(p_s)| / sum_p m(p).

Both depths are of *one* camera frame, so the loss is zero when both views have the same head, in whatever
pose: it says nothing about poses, and pulls the two shapes together. It is in metres.

Differences from the published code: there, D_s(p_s) stays in the source's frame and is compared with D_t,
of the target's frame, after scaling by the ratio of their means. At the truth it is therefore far from zero
as soon as the head turns, and its gradient turns the head (its caller carries the comment "bug"). The ratio
also hides a head that is too far off as a whole. Pixels outside the map count there as zeros of a mean
over the whole picture, so that the loss can be made small by covisible maps that are.

Symbols: B batch, H, W image size.
"""

from __future__ import annotations

import torch

from backend.rendering.synthesis import View, Warp, depth_gap
from trainer.losses.pixel_consistency import published_inside, published_sample, published_warp, weighted_mean

# Metres. Within this the distance is squared, so that the gradient does not jump at zero: a tenth of a
# millimetre, less than any head is known to.
ROUNDED = 1e-4


def depth_consistency(warp: Warp, source: View, weights: torch.Tensor) -> torch.Tensor:
    """Mean distance of two heads along the source's view.

    Parameters
    ----------
    warp : Warp
        :func:`~backend.rendering.synthesis.warp_rigidly` from the target to the source.
    source : View
        Its depth map and pose get gradients, too.
    weights : (B, H, W) float or bool
        The covisible map made with ``warp``; no gradient.

    Returns
    -------
    (B,) float
        Metres.
    """
    distance = (depth_gap(warp, source) ** 2 + ROUNDED**2).sqrt() - ROUNDED
    return weighted_mean(distance, weights.detach().to(distance))


def published_depth_consistency(target: View, source: View, mask: torch.Tensor) -> torch.Tensor:
    """As published, in two camera frames: mask (B, H, W) bool -> (B,) metres."""
    warp = published_warp(target, source)
    read = published_sample(source.fragments.depth[..., None], warp)[..., 0]
    usable = (mask & published_inside(source.fragments.depth, warp)).to(read)

    def mean(depth: torch.Tensor) -> torch.Tensor:
        return (depth * usable).sum(dim=(1, 2)) / (usable.sum(dim=(1, 2)) + 1.0)

    # Published in millimetres, with 1e-6 of them added below the line.
    ratio = mean(target.fragments.depth) / (mean(read) + 1e-9)
    return ((ratio[:, None, None] * read - target.fragments.depth).abs() * usable**2).mean(dim=(1, 2))
