"""Priors: heads stay near those the model was learned from, light near white.

Shang et al. 2020, section on the 2D feature loss (regularisation), for coefficients in standard deviations:

    L_shape = sum_i alpha_i^2 + 0.8 sum_j delta_j^2,    L_albedo = 0.0017 sum_k beta_k^2.

The paper has no prior on light, and its code has none. Ours is the one of Deng et al. 2019 ("Accurate 3D
Face Reconstruction with Weakly-Supervised Learning", released code): light differs little between the
colour channels, or skin takes its colour from the lamp.

Difference from the published code: it *sums* over the batch, so that the priors of a batch of 16 are eight
times as strong as those of a batch of 2. Ours are per sample.

Symbols: B batch, I identity modes, E expressions, A albedo modes.
"""

from __future__ import annotations

import torch

# Published weights of expression beside identity, and of albedo.
EXPRESSION_WEIGHT, ALBEDO_WEIGHT = 0.8, 0.0017


def shape_prior(identity: torch.Tensor, expression: torch.Tensor) -> torch.Tensor:
    """(B, I) and (B, E) -> (B,)."""
    return (identity**2).sum(dim=1) + EXPRESSION_WEIGHT * (expression**2).sum(dim=1)


def albedo_prior(albedo: torch.Tensor) -> torch.Tensor:
    """(B, A) -> (B,)."""
    return ALBEDO_WEIGHT * (albedo**2).sum(dim=1)


def light_prior(gamma: torch.Tensor) -> torch.Tensor:
    """(B, 3, 9) harmonics for each channel -> (B,) mean square of what is not common to the channels."""
    return ((gamma - gamma.mean(dim=1, keepdim=True)) ** 2).mean(dim=(1, 2))


def published_shape_prior(identity: torch.Tensor, expression: torch.Tensor) -> torch.Tensor:
    """As published, summed over the batch: (B, I) and (B, E) -> ()."""
    return shape_prior(identity, expression).sum()


def published_albedo_prior(albedo: torch.Tensor) -> torch.Tensor:
    """As published, summed over the batch: (B, A) -> ()."""
    return albedo_prior(albedo).sum()
