"""The statistical albedo of a face model: what skins look like, in the model's texture coordinates.

``albedo = mean * exp(sum_k c_k modes_k)``, per texel and channel of linear light. Pigments absorb in proportion to how
much of them there is (Beer-Lambert), so amounts of melanin and blood add up in the logarithm of the reflected light
(Tsumura, Haneishi, Miyake 1999, eq. 1); and no combination of modes gives negative light.

Modes are stored in two layers, which together are one picture: a coarse one over the whole texture, and a fine one for
the texels of the face, where photos show detail. :mod:`backend.face_model.albedo_file` reads and writes them.

Symbols: S side of the texture, K modes, T tones, B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from backend.face_model.model import ModelInfo

# Light that comes back from a surface is not more than what fell on it.
BRIGHTEST = 1.0


@dataclass(frozen=True)
class Albedo:
    """Mean and modes of the albedo; row 0 of a texture is v = 1.

    Attributes
    ----------
    info : ModelInfo
        Its own licence and attribution: other photos than the head's went into it.
    layout : str
        :func:`~backend.face_model.albedo_file.layout_of` the face model whose texture coordinates it is painted in.
    mean : (S, S, 3) float32
        Linear RGB where all coefficients are 0.
    modes : (K, S, S, 3) float32
        Log of linear light per standard deviation, largest mode first.
    sigma : (K,) float32
        How large each mode is: the root mean square of its log light over face and channels.
    tones : (T,) float32
        Individual typology angles, degrees, rising: from the darkest skin to the lightest.
    tone_curve : (T, K) float32
        Usual (median) coefficients of skins of each of these tones.
    tone_spread : (2, K) float32
        Standard deviations of the coefficients below and above that curve: they differ, because beards and make-up
        are added to a face and nothing is taken from one that has none.
    """

    info: ModelInfo
    layout: str
    mean: np.ndarray
    modes: np.ndarray
    sigma: np.ndarray
    tones: np.ndarray
    tone_curve: np.ndarray
    tone_spread: np.ndarray

    @property
    def size(self) -> int:
        return self.mean.shape[0]

    def albedo(self, coefficients: np.ndarray) -> np.ndarray:
        """(..., <= K) standard deviations -> (..., S, S, 3) float32 linear RGB in (0, 1]."""
        coefficients = np.asarray(coefficients, np.float32)
        log = np.tensordot(coefficients, self.modes[: coefficients.shape[-1]], axes=1)
        return np.minimum(self.mean * np.exp(log), BRIGHTEST)

    def albedo_torch(self, coefficients: torch.Tensor) -> torch.Tensor:
        """(B, <= K) -> (B, S, S, 3) on the coefficients' device; the differentiable twin of :meth:`albedo`.

        Not cut off at 1, so that gradients survive.
        """
        place = (coefficients.device, coefficients.dtype)
        if place not in self._copies:
            self._copies[place] = tuple(torch.from_numpy(part).to(coefficients) for part in (self.mean, self.modes))
        mean, modes = self._copies[place]
        log = coefficients @ modes[: coefficients.shape[-1]].flatten(1)
        return mean * torch.exp(log.reshape(-1, *mean.shape))

    def draw(self, rng: np.random.Generator, count: int, tones: np.ndarray | None = None) -> np.ndarray:
        """(count, K) float32 coefficients of invented skins.

        Independent normal coefficients would mostly give skins of middle tone, and pair hues with depths of skin
        that nobody has; so a tone is drawn first, evenly from the darkest to the lightest, and the rest about the
        usual skin of that tone, from normal distributions with two sides of different width.

        Parameters
        ----------
        rng : numpy.random.Generator
        count : int
        tones : (count,) float, optional
            Individual typology angles to take instead of drawing them, degrees; clipped to the range of ``tones``.
        """
        if tones is None:
            tones = rng.uniform(self.tones[0], self.tones[-1], count)
        place = np.interp(tones, self.tones, np.arange(len(self.tones)))
        low = np.minimum(place.astype(int), len(self.tones) - 2)
        share = (place - low)[:, None]
        middle = (1.0 - share) * self.tone_curve[low] + share * self.tone_curve[low + 1]
        beside = rng.standard_normal((count, len(self.sigma)))
        return (middle + beside * np.where(beside < 0, *self.tone_spread)).astype(np.float32)

    @cached_property
    def _copies(self) -> dict[tuple[torch.device, torch.dtype], tuple[torch.Tensor, ...]]:
        """Mean and modes where a network works: made once for each device."""
        return {}
