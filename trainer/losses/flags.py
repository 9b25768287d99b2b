"""Which samples a multi-view loss may use.

A sample is a triplet of pictures. Its flag says what holds them together (Shang et al. 2020 train on all
three kinds at once; the numbers are those of the published data files):

0  pictures of anybody: single-view losses only;
1  one person, seen by different cameras or at different times: also pixel and depth consistency;
2  one person in one moment: also the epipolar loss, for which every landmark must have kept still.

Symbols: B batch.
"""

from __future__ import annotations

import torch

ANYBODY, ONE_PERSON, ONE_MOMENT = 0, 1, 2


def mean_over(losses: torch.Tensor, flags: torch.Tensor, least: int = ANYBODY) -> torch.Tensor:
    """Mean of the samples that a loss may use.

    Parameters
    ----------
    losses : (B,) float
        One value for each sample.
    flags : (B,) int
    least : int
        The lowest flag that counts.

    Returns
    -------
    () float
        0 when no sample counts; then, as for every sample that does not, no gradient, even where the
        sample's loss is not a number.
    """
    counts = flags >= least
    chosen = torch.where(counts, losses, torch.zeros_like(losses))
    return chosen.sum() / counts.sum().clamp(min=1)


def published_mean_of_pixels(losses: torch.Tensor, flags: torch.Tensor, least: int = ONE_PERSON) -> torch.Tensor:
    """As published for the pixel and SSIM losses: (B,) losses, (B,) flags -> ().

    The losses (B,) are multiplied by the weights as a column (B, 1), which makes a B x B table of every
    loss with every weight, and the table is averaged. A pair of strangers thus enters with full weight
    whenever another sample of the batch is of one person.
    """
    table = losses[None, :] * _published_weights(flags, least, losses)[:, None]
    return table.mean()


def published_mean_of_depth(losses: torch.Tensor, flags: torch.Tensor, least: int = ONE_PERSON) -> torch.Tensor:
    """As published for the depth and epipolar losses: (B,) losses, (B,) flags -> ().

    The same table, divided by the sum of the weights: a *sum* over all samples, strangers included.
    """
    weights = _published_weights(flags, least, losses)
    return (losses[None, :] * weights[:, None]).sum() / (weights.sum() + 1e-6)


def _published_weights(flags: torch.Tensor, least: int, like: torch.Tensor) -> torch.Tensor:
    return (flags - least + 1).clamp(0, 1).to(like)
