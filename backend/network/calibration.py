"""How wrong a network is, number by number, and what it knew before it saw a face.

A network says one variance for each group of its outputs. How the error is shared among the numbers of a group (what
lies in the first shapes of a head shows in every photo, what lies in the last ones hardly) and whether the
variance is right at all is measured once, on people that training never draws, and stored with the weights. So
is how those people differ: a network that cannot tell answers with what is usual, and only who knows that can tell
such an answer from a measurement.

Symbols: B batch, N numbers of a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backend.errors import WeightsError

# Of the people that are drawn for training (trainer/data/people.py, triplets.py), for weights without a
# calibration: mean and standard deviation of an identity coefficient, of an expression coefficient in [0, 1], and of
# the logarithm of the distance in metres.
USUAL = {"identity": (0.0, 0.8), "expression": (0.02, 0.1), "log_distance": (float(np.log(0.9)), 0.75)}


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Attributes
    ----------
    factor : mapping of str to float
        By group: root mean square error over the error that the network says; 1 where it is right.
    share : mapping of str to (N,) float
        By group: how large the error of each number is, root mean square, in units of the group's.
    usual : mapping of str to ((N,) or (1,) mean, the same of standard deviation)
        Identity, expression and ``log_distance`` over the people that the network was trained for.
    """

    factor: Mapping[str, float] = field(default_factory=dict)
    share: Mapping[str, np.ndarray] = field(default_factory=dict)
    usual: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(
        default_factory=lambda: {name: (np.array([mean]), np.array([sigma])) for name, (mean, sigma) in USUAL.items()}
    )

    def as_metadata(self) -> dict[str, Any]:
        """For JSON; four digits are more than the measurement has."""
        return {
            "factor": {name: _rounded(value) for name, value in self.factor.items()},
            "share": {name: _rounded(values) for name, values in self.share.items()},
            "usual": {name: [_rounded(values) for values in pair] for name, pair in self.usual.items()},
        }

    @classmethod
    def from_metadata(cls, stored: object) -> Calibration:
        """What :meth:`as_metadata` gave; the defaults for None."""
        if stored is None:
            return cls()
        try:
            assert isinstance(stored, dict)
            return cls(
                {name: float(value) for name, value in stored["factor"].items()},
                {name: _positive(values) for name, values in stored["share"].items()},
                {
                    name: (np.asarray(mean, np.float64), _positive(sigma))
                    for name, (mean, sigma) in stored["usual"].items()
                },
            )
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"What the weights say of their own errors cannot be read ({error}); train them again."
            ) from error

    def shared(self, name: str, sigma: np.ndarray, count: int) -> np.ndarray:
        """(B, 1) standard deviation of a group -> (B, N); as it is where nothing is known of its numbers."""
        share = self.share.get(name)
        return sigma if share is None or len(share) != count else sigma * share


def _rounded(values: np.ndarray | float) -> Any:
    return np.vectorize(lambda value: float(f"{value:.4g}"))(np.asarray(values, np.float64)).tolist()


def _positive(values: object) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError("a spread is not positive")
    return array
