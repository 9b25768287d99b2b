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
        for name, error in errors(said, truth).items():
            squares.setdefault(name, []).append(error * SCALES[name] ** 2)
            said_squares.setdefault(name, []).append(said.log_variance[name].exp())
        for name in BY_NUMBER:
            if getattr(truth, name).shape[1]:
                by_number.setdefault(name, []).append((getattr(said, name) - getattr(truth, name)) ** 2)
        for name in USUAL:
            truths.setdefault(name, []).append(getattr(truth, name))
        truths.setdefault("log_distance", []).append(truth.distance.log()[:, None])
    factor = {
        name: max(float((torch.cat(squares[name]).mean() / torch.cat(said_squares[name]).mean()).sqrt()), LEAST_FACTOR)
        for name in squares
    }
    return Calibration(
        factor,
        {name: _share(torch.cat(values)) for name, values in by_number.items()},
        {name: _usual(torch.cat(values)) for name, values in truths.items()},
    )


def _share(squares: torch.Tensor) -> np.ndarray:
    """(P, N) squared errors -> (N,) root mean squares in units of that of all."""
    mean = squares.double().mean(dim=0)
    share = (mean / mean.mean().clamp_min(TINY)).sqrt().cpu().numpy()
    return np.maximum(share, LEAST_SHARE)


def _usual(values: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(P, N) -> mean and standard deviation, (N,) each."""
    values = values.double()
    spread = values.std(dim=0, correction=0).cpu().numpy()
    return values.mean(dim=0).cpu().numpy(), np.maximum(spread, LEAST_SHARE * spread.max() + 1e-6)
