"""One person has one identity and one albedo, however many photos there are.

Neither the paper nor its code ties the coefficients of a person's photos: three pictures give three people,
and the multi-view losses send nothing to albedo. Here there are two ways, and a trainer may use both:

* :func:`shared` replaces the coefficients of every view by the person's weighted mean, so that every
  single-view loss of one photo also teaches the others (late fusion; the weights are the inverse
  variances that the network predicts, the best linear estimate of independent normal measurements);
* :func:`agreement_loss` leaves each view its own and penalises their spread,
  ``L = mean_v |a_v - mean_u a_u|^2``, which is what a network needs that sees one photo at test time.

Symbols: B batch, N views of a sample, C coefficients.
"""

from __future__ import annotations

import torch

from trainer.losses.flags import ONE_PERSON


def person_mean(coefficients: torch.Tensor, confidence: torch.Tensor | None = None) -> torch.Tensor:
    """(B, N, C) of N views -> (B, C); ``confidence`` (B, N, 1 or C), inverse variances, weighs the views."""
    if confidence is None:
        return coefficients.mean(dim=1)
    weights = confidence.expand_as(coefficients)
    return (weights * coefficients).sum(dim=1) / weights.sum(dim=1).clamp(min=torch.finfo(weights.dtype).tiny)


def shared(coefficients: torch.Tensor, flags: torch.Tensor, confidence: torch.Tensor | None = None) -> torch.Tensor:
    """Give all views of one person that person's coefficients.

    Parameters
    ----------
    coefficients : (B, N, C) float
        Identity or albedo, in standard deviations.
    flags : (B,) int
        See ``flags.py``; the views of :data:`~trainer.losses.flags.ANYBODY` keep their own.
    confidence : (B, N, 1 or C) float, optional
        Inverse variances, positive.

    Returns
    -------
    (B, N, C) float
    """
    mean = person_mean(coefficients, confidence)[:, None].expand_as(coefficients)
    return torch.where((flags >= ONE_PERSON)[:, None, None], mean, coefficients)


def agreement_loss(coefficients: torch.Tensor) -> torch.Tensor:
    """(B, N, C) -> (B,) mean over the views of the squared distance to their mean."""
    away = coefficients - person_mean(coefficients)[:, None]
    return (away**2).sum(dim=-1).mean(dim=1)
