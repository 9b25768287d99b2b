"""Landmark loss: projected landmarks of the head against those found in the photo.

Shang et al. 2020, section on the 2D feature loss; weights as in the published code:

    L_lm = sum_k w_k |p^_k - p_k|^2 / sum_k w_k.

Differences from the published code: it divides by the number of landmarks, so that changing a weight
also changes how much the loss counts against all others (divide our value by ``68 / sum w`` to have
theirs); and every landmark counts, found or not, where a visibility of 0 takes ours out.

Symbols: B batch, L landmarks.
"""

from __future__ import annotations

import torch

# Published: nose bridge and nose tip (27 to 35) and the inner lips (60 to 67) count five times.
PUBLISHED_DETAIL_WEIGHT = 5.0


def ibug68_weights(detail: float = PUBLISHED_DETAIL_WEIGHT) -> torch.Tensor:
    """(68,) weights in the order of iBUG 68: ``detail`` for nose and inner lips, 1 for the rest."""
    weights = torch.ones(68)
    weights[27:36] = detail
    weights[60:68] = detail
    return weights


def landmark_loss(
    projected: torch.Tensor, found: torch.Tensor, weights: torch.Tensor, visible: torch.Tensor | None = None
) -> torch.Tensor:
    """Weighted mean of squared distances.

    Parameters
    ----------
    projected, found : (B, L, 2) float
        Pixels.
    weights : (L,) or (B, L) float
    visible : (B, L) float or bool, optional
        How far to trust each landmark that was found, 0 to 1.

    Returns
    -------
    (B,) float
        Squared pixels; 0 for a sample whose landmarks are all invisible.
    """
    weights = weights.to(projected).expand(projected.shape[:2])
    if visible is not None:
        weights = weights * visible.to(projected)
    squared = ((projected - found) ** 2).sum(dim=-1)
    return (weights * squared).sum(dim=1) / weights.sum(dim=1).clamp(min=torch.finfo(weights.dtype).tiny)
