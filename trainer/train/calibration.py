"""Measure, on people that training never draws, how wrong the weights are that are written; see the backend's page.

Symbols: P pictures, N numbers of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from backend.network.calibration import Calibration
from backend.network.outputs import SCALES, Predicted
from trainer.data.synthetic import Triplets
from trainer.train.objective import errors

# Triplets that are looked at, at most: enough to tell an error within a tenth, few enough for every checkpoint.
TRIPLETS = 64

# Groups whose numbers have errors of their own; and those told apart by a spread of their own.
BY_NUMBER = ("identity", "expression", "albedo")
USUAL = ("identity", "expression")

# Nothing is said to be known better than this part of what its group, or the network, says.
LEAST_SHARE, LEAST_FACTOR = 0.05, 0.02
TINY = 1e-12


@torch.no_grad()
def calibrate(network: Callable[[torch.Tensor], Predicted], batches: Sequence[Triplets]) -> Calibration:
    """What a network's errors are.

    Parameters
    ----------
    network : callable
        (P, S, S, 3) uint8 -> Predicted; in evaluation mode.
    batches : sequence of Triplets
        The first :data:`TRIPLETS` count.
    """
    squares: dict[str, list[torch.Tensor]] = {}
    said_squares: dict[str, list[torch.Tensor]] = {}
    by_number: dict[str, list[torch.Tensor]] = {}
    truths: dict[str, list[torch.Tensor]] = {}
    left = TRIPLETS
    for batch in batches:
        if left <= 0:
            break
        left -= len(batch.photos)
        truth, said = batch.truth, network(batch.photos.flatten(0, 1))
        everybody = torch.ones(len(truth.R), device=truth.R.device)
        for name, error in errors(said, truth).items():
            known = batch.trust.get(name, everybody) > 0
            squares.setdefault(name, []).append(error[known] * SCALES[name] ** 2)
            said_squares.setdefault(name, []).append(said.log_variance[name].exp()[known])
        for name in BY_NUMBER:
            if getattr(truth, name).shape[1]:
                known = batch.trust.get(name, everybody) > 0
                by_number.setdefault(name, []).append((getattr(said, name) - getattr(truth, name))[known] ** 2)
        for name in USUAL:
            truths.setdefault(name, []).append(getattr(truth, name))
        truths.setdefault("log_distance", []).append(truth.distance.log()[:, None])
    factor = {name: _factor(torch.cat(squares[name]), torch.cat(said_squares[name])) for name in squares}
    return Calibration(
        factor,
        {name: _share(torch.cat(values)) for name, values in by_number.items()},
        {name: _usual(torch.cat(values)) for name, values in truths.items()},
    )


def _factor(squares: torch.Tensor, said: torch.Tensor) -> float:
    """(P,) squared errors and variances that were said -> by how much errors are larger; 1 where nothing is known."""
    return max(float((squares.mean() / said.mean()).sqrt()), LEAST_FACTOR) if len(squares) else 1.0


def _share(squares: torch.Tensor) -> np.ndarray:
    """(P, N) squared errors -> (N,) root mean squares in units of that of all."""
    if not len(squares):
        return np.ones(squares.shape[1])
    mean = squares.double().mean(dim=0)
    share = (mean / mean.mean().clamp_min(TINY)).sqrt().cpu().numpy()
    return np.maximum(share, LEAST_SHARE)


def _usual(values: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(P, N) -> mean and standard deviation, (N,) each."""
    values = values.double()
    spread = values.std(dim=0, correction=0).cpu().numpy()
    return values.mean(dim=0).cpu().numpy(), np.maximum(spread, LEAST_SHARE * spread.max() + 1e-6)
