"""All multi-view losses of a batch at once: which pairs of views, which samples, in which proportion.

Shang et al. 2020 take one picture of a triplet as target and warp the other two into it. That sends nearly
all of the gradient to the target's shape (a source's pose gets some, its shape hardly any), so
:func:`multi_view_terms` can also run every ordered pair of views; the drawing, which costs most, is
shared.

Differences from the published code: samples are chosen one by one (``flags.py``), and the sum over pairs is
divided by their number, so that a loss does not grow with the views.

Symbols: B batch, N views, L landmarks, H, W image size, T triangles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from backend.rendering.synthesis import View, Warp, covisible, warp_over_surface, warp_rigidly
from trainer.losses.covisible import published_covisible
from trainer.losses.depth_consistency import depth_consistency, published_depth_consistency
from trainer.losses.epipolar import epipolar_loss, published_epipolar_loss
from trainer.losses.flags import (
    ANYBODY,
    ONE_MOMENT,
    ONE_PERSON,
    mean_over,
    published_mean_of_depth,
    published_mean_of_pixels,
)
from trainer.losses.pixel_consistency import pixel_consistency, published_pixel_consistency


@dataclass(frozen=True)
class LossWeights:
    """How much each loss counts.

    Defaults are the published ones (sample command of the released code; epipolar: the paper's, as its author
    states), converted to the units here. Landmarks: pixels of a 224-pixel crop; ours divides by the sum of
    weights, 136, theirs by 68. Depth: metres and a mean over the map; theirs millimetres and a mean over
    the picture, the same where the map fills it. ``light_prior`` is that of Deng et al. 2019.
    ``agreement`` is ours: ten times the shape prior, not tuned.
    """

    landmarks: float = 2e-3
    render: float = 1.9
    identity: float = 0.2
    shape_prior: float = 1e-4
    albedo_prior: float = 3e-4
    light_prior: float = 10.0
    agreement: float = 1e-3
    pixel: float = 0.15
    depth: float = 0.1
    epipolar: float = 1e-3


def weighted_sum(terms: dict[str, torch.Tensor], weights: LossWeights) -> torch.Tensor:
    """Sum of losses by name; a name that has no weight is a :class:`KeyError`."""
    known = {field.name: getattr(weights, field.name) for field in fields(weights)}
    return torch.stack([known[name] * term for name, term in terms.items()]).sum()


def star(views: int) -> list[tuple[int, int]]:
    """The paper's pairs (target, source): view 0 with every other."""
    return [(0, source) for source in range(1, views)]


def every_pair(views: int) -> list[tuple[int, int]]:
    """All ordered pairs (target, source)."""
    return [(target, source) for target in range(views) for source in range(views) if target != source]


def multi_view_terms(
    views: Sequence[View],
    photos: Sequence[torch.Tensor],
    landmarks: Sequence[torch.Tensor],
    flags: torch.Tensor,
    triangles: torch.Tensor,
    pairs: Sequence[tuple[int, int]],
    skins: Sequence[torch.Tensor] | None = None,
    visible: Sequence[torch.Tensor] | None = None,
    counted: torch.Tensor | None = None,
    moved: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Pixel, depth and epipolar consistency.

    Parameters
    ----------
    views : N of View
        As predicted; each holds the whole batch.
    photos : N of (B, H, W, C) float
        0 to 1.
    landmarks : N of (B, L, 2) float
        Found in the photos, pixels.
    flags : (B,) int
        See ``flags.py``.
    triangles : (T, 3) int
    pairs : (target, source) indices
        :func:`star` or :func:`every_pair`.
    skins : N of (B, H, W) float, optional
        Where each photo shows bare skin; weighs the pixel loss.
    visible : N of (B, L) float, optional
        How far to trust each landmark.
    counted : (T,) bool, optional
        Triangles that may count, see :func:`backend.rendering.synthesis.covisible`.
    moved : (B,) bool, optional
        Samples whose face changed between the photos. No rigid warp fits them: their pixels are compared
        over the surface, and their depths, which differ at the truth, are not.

    Returns
    -------
    dict of () float
        ``pixel`` (colour), ``depth`` (metres), ``epipolar`` (pixels); means over pairs and samples.
    """
    sums = {name: photos[0].new_zeros(()) for name in ("pixel", "depth", "epipolar")}
    rigid = flags if moved is None else torch.where(moved, torch.full_like(flags, ANYBODY), flags)
    for target, source in pairs:
        warp = _warp(views[target], views[source], triangles, moved)
        seen = covisible(views[target], views[source], triangles, warp, counted)
        weights = seen.to(photos[target]) if skins is None else seen * skins[target]
        pixel = pixel_consistency(photos[target], photos[source], warp, weights)
        depth = depth_consistency(warp, views[source], seen)
        trusted = None if visible is None else visible[target] * visible[source]
        epipolar = epipolar_loss(landmarks[target], landmarks[source], views[target], views[source], trusted)
        sums["pixel"] = sums["pixel"] + mean_over(pixel, flags, ONE_PERSON)
        sums["depth"] = sums["depth"] + mean_over(depth, rigid, ONE_PERSON)
        sums["epipolar"] = sums["epipolar"] + mean_over(epipolar, flags, ONE_MOMENT)
    return {name: value / max(len(pairs), 1) for name, value in sums.items()}


def _warp(target: View, source: View, triangles: torch.Tensor, moved: torch.Tensor | None) -> Warp:
    """The paper's warp; for samples that ``moved`` (B,) the one over the surface."""
    rigid = warp_rigidly(target, source)
    if moved is None:
        return rigid
    over = warp_over_surface(target, source, triangles)
    choice = moved[:, None, None]
    return Warp(torch.where(choice[..., None], over.pixels, rigid.pixels), torch.where(choice, over.depth, rigid.depth))


def published_multi_view_terms(
    views: Sequence[View],
    photos: Sequence[torch.Tensor],
    landmarks: Sequence[torch.Tensor],
    flags: torch.Tensor,
    triangles: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """The three losses with everything that the published code does to them; for comparison.

    Arguments as :func:`multi_view_terms`; view 0 is the target, and the sources are summed.
    """
    sums = {name: photos[0].new_zeros(()) for name in ("pixel", "depth", "epipolar")}
    for target, source in star(len(views)):
        first, second = views[target], views[source]
        mask = published_covisible(first, second, triangles)
        pixel = published_pixel_consistency(photos[target], photos[source], first, second, mask)
        depth = published_depth_consistency(first, second, mask)
        epipolar = published_epipolar_loss(landmarks[target], landmarks[source], first, second)
        sums["pixel"] = sums["pixel"] + published_mean_of_pixels(pixel, flags)
        sums["depth"] = sums["depth"] + published_mean_of_depth(depth, flags)
        sums["epipolar"] = sums["epipolar"] + published_mean_of_depth(epipolar, flags, ONE_MOMENT)
    return sums
