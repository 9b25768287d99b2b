"""Pixel consistency: the source photo, carried into the target view, must look like the target photo.

Shang et al. 2020, section on the pixel consistency loss, over the covisible map m:

    L_pix = sum_p m(p) |I_{s->t}(p) - I_t(p)| / sum_p m(p).

Differences from the published code:

* it treats whole numbers as pixel centres when it warps and reads, while its renderer has them at one half;
  the errors cancel only where both views are alike. Here all share one convention, so the loss at the
  truth is what bilinear reading leaves;
* its map lets background and hidden skin in (``covisible.py``);
* the root's floor is taken off, so that equal pictures give 0;
* a weight for each pixel (skin) is possible; the code has none here.

Symbols: B batch, H, W image size, C channels.
"""

from __future__ import annotations

import torch

from backend.rendering.synthesis import View, Warp, pixel_centres, sample
from backend.rendering.two_views import rays, relative_pose

# Published: added under the root, in squared units of a picture that goes from 0 to 1.
ROOT_FLOOR = 1e-6

# Published: keeps the division finite where no pixel counts.
EMPTY = 1e-6


def colour_distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(B, H, W, C), (B, H, W, C) -> (B, H, W): smooth distance of colours, 0 where they are equal."""
    return (((first - second) ** 2).sum(dim=-1) + ROOT_FLOOR).sqrt() - ROOT_FLOOR**0.5


def weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(B, H, W), (B, H, W) -> (B,); 0, without gradient, where all weights are."""
    values = torch.where(weights > 0, values, torch.zeros_like(values))
    return (values * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2)).clamp(min=EMPTY)


def pixel_consistency(
    photo_target: torch.Tensor, photo_source: torch.Tensor, warp: Warp, weights: torch.Tensor
) -> torch.Tensor:
    """Compare two photos over one head.

    Parameters
    ----------
    photo_target : (B, H, W, C) float
        From 0 to 1.
    photo_source : (B, H', W', C) float
    warp : Warp
        From the target to the source; carries the gradient to shape and poses.
    weights : (B, H, W) float or bool
        The covisible map, or that times a skin mask; no gradient.

    Returns
    -------
    (B,) float
    """
    carried = sample(photo_source, warp.pixels)
    return weighted_mean(colour_distance(carried, photo_target), weights.detach().to(photo_target))


def published_warp(target: View, source: View) -> Warp:
    """As published: the depth of the pixel whose centre is at +0.5 is carried along the ray through its corner.

    Reading at the result with whole numbers as centres is left to :func:`published_pixel_consistency`.
    """
    height, width = target.size
    corner = pixel_centres(height, width, target.K) - 0.5
    points = rays(corner, target.K) * target.fragments.depth[..., None]
    R, t = relative_pose(target.R, target.t, source.R, source.t)
    points = torch.einsum("bij,b...j->b...i", R, points) + t[:, None, None]
    homogeneous = torch.einsum("bij,b...j->b...i", source.K, points)
    return Warp(homogeneous[..., :2] / (points[..., 2:] + 1e-10), points[..., 2])


def published_sample(picture: torch.Tensor, warp: Warp) -> torch.Tensor:
    """As published: (B, H', W', C) read with whole numbers as pixel centres -> (B, H, W, C)."""
    return sample(picture, warp.pixels + 0.5)


def published_inside(picture: torch.Tensor, warp: Warp) -> torch.Tensor:
    """As published: (B, H, W) bool, 0 <= x < W' - 1 and the same for y."""
    height, width = picture.shape[1:3]
    x, y = warp.pixels.detach().unbind(-1)
    return (x >= 0) & (x < width - 1) & (y >= 0) & (y < height - 1)


def published_pixel_consistency(
    photo_target: torch.Tensor, photo_source: torch.Tensor, target: View, source: View, mask: torch.Tensor
) -> torch.Tensor:
    """As published, half a pixel off: arguments as :func:`pixel_consistency`, mask (B, H, W) -> (B,)."""
    warp = published_warp(target, source)
    usable = (mask & published_inside(photo_source, warp)).to(photo_target)
    difference = usable[..., None] * published_sample(photo_source, warp) - photo_target
    error = ((difference**2).sum(dim=-1) + ROOT_FLOOR).sqrt() * usable * target.fragments.mask
    return error.sum(dim=(1, 2)) / ((usable * target.fragments.mask).sum(dim=(1, 2)) + EMPTY)
