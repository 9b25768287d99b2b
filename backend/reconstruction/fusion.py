"""What several regressed identities of one person say together.

The regression (:mod:`backend.reconstruction.regress`) answers for each photo with the mean of what its
landmarks leave possible. Of a person's coefficient ``a`` with prior variance ``s^2`` the answer is

    m_i = k a + e_i,    k = 1 - sigma^2 / s^2,    var e_i = k (1 - k) s^2,

shrunk towards the mean face by as much as one photo leaves open. Photos of one person err alike (the same
brows, the same model, much the same view), more so the nearer their views are, so neither the average of the
answers is right (it stays as shrunk as each) nor their sum (it counts the common error as news). With
``r_ij`` the correlation of the errors, answers correlate by ``R_ij = k + (1 - k) r_ij``, and the least
squares estimate of the coefficient is

    sum_i w_i m_i,    w = R^-1 1,    of variance  s^2 - k s^2 1' R^-1 1.

For one photo that is the photo's own answer; for alike photos their average; for photos that err on their
own it undoes the shrinking as evidence adds up.

Symbols: B photos, L landmarks, I identity modes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Prior standard deviation of identity coefficients among the people that the regression was learned from.
PRIOR_SIGMA = 0.8
# A coefficient about which one photo says less than this part of its variance counts as saying this much.
LEAST_SHARE = 0.01

# Correlation of the errors of two photos: for one view, for views far apart, and the angle between views
# (degrees) over which one becomes the other. Measured on invented people, `trainer/measure_views.py`.
ALIKE, APART, ANGLE_DEG = 0.65, 0.32, 30.0
# A head turned this far is read worse than the regression says of itself: from the first angle on, the error
# variance grows by the second's worth of itself per angle.
TURNED_FROM_DEG, TURNED_SCALE_DEG = 30.0, 20.0
# Answers are this many times as large as they ought to be at most; a larger one comes from a view that the
# regression does not know, and its excess counts as error.
LARGEST_ANSWER = 5.0


@dataclass(frozen=True)
class IdentityPrior:
    """Gaussian belief about the identity before the fit, and what error it has.

    Attributes
    ----------
    mean : (I,) float
    precision : (I, I) float
        How firmly the fit holds to the mean.
    covariance : (I, I) float
        Of the mean's error.
    """

    mean: torch.Tensor
    precision: torch.Tensor
    covariance: torch.Tensor


def fuse(answers: torch.Tensor, sigma: torch.Tensor, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Best estimate of an identity from the answers of several photos.

    Parameters
    ----------
    answers : (B, I) float
        Regressed identities, standard deviations of the model.
    sigma : (I,) float
        Error of the regression on one photo.
    views : (B, 3) float
        Unit vectors from the camera towards the face, in the frame of the head.

    Returns
    -------
    mean, sigma : (I,) float
    """
    share = (1.0 - (sigma / PRIOR_SIGMA) ** 2).clamp(LEAST_SHARE, 1.0)
    excess = doubt(answers, sigma, views)
    correlation = answer_correlation(share, views, excess - excess.min())
    ones = torch.ones_like(answers.mT)[..., None]
    weights = torch.cholesky_solve(ones, torch.linalg.cholesky(correlation))[..., 0]  # (I, B)
    # What further photos take off the error of one.
    news = PRIOR_SIGMA**2 * share * (weights.sum(dim=1) - 1.0)
    left = (sigma**2 - news).clamp_min(LEAST_SHARE * PRIOR_SIGMA**2)
    return (weights * answers.mT).sum(dim=1), left.sqrt()


def doubt(answers: torch.Tensor, sigma: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
    """(B,) error variance of each answer beyond what the regression says of itself, in variances of an answer."""
    turned = torch.rad2deg(torch.acos((-views[:, 2]).clamp(-1.0, 1.0)))
    share = (1.0 - (sigma / PRIOR_SIGMA) ** 2).clamp(LEAST_SHARE, 1.0)
    size = answers.pow(2).mean(dim=1) / (PRIOR_SIGMA**2 * share).mean()
    wild = torch.where(size > LARGEST_ANSWER, size, 0.0)
    return ((turned - TURNED_FROM_DEG) / TURNED_SCALE_DEG).clamp_min(0.0) + wild


def answer_correlation(share: torch.Tensor, views: torch.Tensor, excess: torch.Tensor) -> torch.Tensor:
    """(I,) shares, (B, 3) views, (B,) excess of variance -> (I, B, B): the ``R`` of the module's page."""
    angles = torch.rad2deg(torch.acos((views @ views.mT).clamp(-1.0, 1.0)))
    errors = APART + (ALIKE - APART) * torch.exp(-((angles / ANGLE_DEG) ** 2))
    answers = share[:, None, None] + (1.0 - share[:, None, None]) * errors
    # The diagonal: the variance of an answer, one for the photo that is read best.
    return answers - torch.diag_embed(torch.diagonal(answers, dim1=1, dim2=2)) + torch.diag(1.0 + excess)


def fused(
    answers: torch.Tensor, covariance: torch.Tensor, views: torch.Tensor, precision: torch.Tensor
) -> IdentityPrior:
    """Belief from the answers of B photos of one person.

    ``covariance`` (I, I) is of the error on one photo, ``precision`` (I, I) how firmly one photo's fit holds.
    """
    sigma = torch.diagonal(covariance).sqrt()
    mean, left = fuse(answers, sigma, views)
    # Further photos make errors smaller; how those of the coefficients go together stays that of one photo.
    smaller = left / sigma
    # The landmarks of B photos pull like B photos; a prior B times as firm keeps the balance of one.
    return IdentityPrior(mean, precision * len(answers), smaller[:, None] * covariance * smaller)
