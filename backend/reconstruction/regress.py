"""Landmarks to identity in one step, learned on invented people.

Dense landmarks carry more about a face than a likelihood with simple noise gets out of them: a
detector's errors depend on view, expression and identity together. A regression that saw thousands of
people with their true coefficients knows all of that at once. The fit takes its answer as the prior of
the identity and solves pose, camera, expression and the rest around it.

The regression is linear in the landmarks, with weights that are a quadratic in how far the head is
turned: what a profile says of a nose and what a frontal view says of it are different landmarks.

A landmark that is wrong in a way no face explains is found first, by its distance from the space of
landmark shapes, and replaced by what the others imply.

Symbols: B batch, L landmarks, K components of landmark shapes, I identity modes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from backend.reconstruction.learned_arrays import LearnedArrays

# Rounds of finding wrong landmarks; the residual in standard deviations at which one loses most of its
# say in finding the others; and the one past which it is wrong.
ROUNDS = 6
HALF_TRUST_SIGMAS = 6.0
WILD_SIGMAS = 12.0

# Identities farther from the mean than this, as a norm over all modes, are nobody's: invented people lie at 7.6 +- 0.6,
# and answers for a thousand of them that nothing was learned from reached 4.5. Landmarks completed from too few can
# imply one.
FARTHEST = 10.0

# Turns past this many standard deviations are treated as if they were this large.
LARGEST_TURN = 3.0


@dataclass(frozen=True)
class Regressor(LearnedArrays):
    """Map from upright, normalised landmarks to identity coefficients: :func:`lift`, then linear.

    Attributes
    ----------
    shape : (2 L,) float32
        Mean landmarks, centred, of unit root-mean-square radius. Landmarks whose weights are all zero
        have no say, not in the alignment either.
    components : (K, 2 L) float32
        Orthonormal directions in which landmark shapes vary.
    residual : (L,) float32
        What the components leave of a landmark, root mean square, in radii.
    turn : (2 L,) float32
        Direction in which turning the head moves landmarks, in standard deviations per radius.
    weights : (I, 6 L) float32
    intercept : (I,) float32
    covariance : (I, I) float32
        Of the error on people not learned from. A few mixtures of coefficients are known well, most hardly.
    """

    made_by = "mgcface measure-detector"

    shape: np.ndarray
    components: np.ndarray
    residual: np.ndarray
    turn: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    covariance: np.ndarray


class RegressStage:
    """A :class:`Regressor` on a device, in the precision of the fit."""

    def __init__(self, regressor: Regressor, device: torch.device, dtype: torch.dtype) -> None:
        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array, dtype=dtype, device=device)

        self.shape = tensor(regressor.shape).reshape(-1, 2)
        self.residual = tensor(regressor.residual)
        # Alignment on some of the landmarks differs a little from alignment on all, so completion may also
        # move, turn and scale the mean shape.
        x, y = self.shape.unbind(1)
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        moves = [torch.stack(pair, dim=1).flatten() for pair in ((x, y), (-y, x), (one, zero), (zero, one))]
        spanned = torch.cat([torch.stack(moves), tensor(regressor.components)])
        self.components = torch.linalg.qr(spanned.mT)[0].mT
        self.weights, self.intercept = tensor(regressor.weights), tensor(regressor.intercept)
        self.turn = tensor(regressor.turn)
        self.used = (self.weights.abs().sum(dim=0).reshape(3, -1, 2).sum(dim=(0, 2)) > 0).to(dtype)
        self.covariance = tensor(regressor.covariance)
        self.sigma = torch.diagonal(self.covariance).sqrt()

    def identity(self, landmarks: torch.Tensor, trust: torch.Tensor) -> torch.Tensor:
        """(B, L, 2) pixels and (B, L) trust in [0, 1] -> (B, I) standard deviations."""
        trust = trust * self.used
        believed = self.believed(landmarks, trust)
        normal = align(landmarks, self.shape, believed.to(trust.dtype))
        normal = torch.where(believed[..., None], normal, self.shape)
        for _ in range(ROUNDS):
            normal = torch.where(believed[..., None], normal, self.complete(normal))
        found, unguarded = self.read(normal), self.read(landmarks)
        # Rather believe a landmark that looks wrong than an answer that is.
        seen = ((trust > 0) | (self.used == 0)).all(dim=1)
        nobody = found.norm(dim=1) > unguarded.norm(dim=1).clamp_min(FARTHEST)
        found = torch.where((nobody & seen)[:, None], unguarded, found)
        return found * (FARTHEST / found.norm(dim=1, keepdim=True).clamp_min(FARTHEST))

    def apart(self, landmarks: torch.Tensor) -> torch.Tensor:
        """(B, L, 2) -> (B, 2 L): aligned, less the mean shape; 0 for landmarks that have no say."""
        normal = align(landmarks, self.shape, self.used.expand(len(landmarks), -1))
        return ((normal - self.shape) * self.used[:, None]).flatten(1)

    def read(self, landmarks: torch.Tensor) -> torch.Tensor:
        """(B, L, 2) -> (B, I): the map itself, every landmark taken as it is."""
        return lift(self.apart(landmarks), self.turn) @ self.weights.mT + self.intercept

    def believed(self, landmarks: torch.Tensor, trust: torch.Tensor) -> torch.Tensor:
        """(B, L) bool: landmarks that are trusted and that some face could have."""
        weight = trust
        completed = torch.where((trust > 0)[..., None], align(landmarks, self.shape, trust), self.shape)
        away = torch.zeros_like(trust)
        for _ in range(ROUNDS):
            normal = align(landmarks, self.shape, weight)
            completed = weight[..., None] * normal + (1.0 - weight[..., None]) * self.complete(completed)
            away = (normal - self.complete(completed)).norm(dim=2) / self.residual
            # Gross points drag all others along at first; judged against the typical point they still stand out.
            typical = torch.where(trust > 0, away, torch.nan).nanmedian(dim=1, keepdim=True).values
            away = away / typical.clamp_min(1.0)
            weight = trust / (1.0 + (away / HALF_TRUST_SIGMAS) ** 2) ** 2
        return (trust >= 0.5) & (away < WILD_SIGMAS)

    def complete(self, shapes: torch.Tensor) -> torch.Tensor:
        """(B, L, 2) -> the nearest landmark shape that faces take."""
        apart = (shapes - self.shape).flatten(1)
        return self.shape + ((apart @ self.components.mT) @ self.components).unflatten(1, (-1, 2))


def lift(apart: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """(B, 2 L) from the mean, (2 L,) turn -> (B, 6 L): as they are, and times a line and a parabola in the turn."""
    turned = (apart @ turn).clamp(-LARGEST_TURN, LARGEST_TURN)[:, None]
    # The second Hermite polynomial over its norm: of unit size and uncorrelated with the line for a normal turn.
    return torch.cat([apart, turned * apart, (turned**2 - 1.0) / 2**0.5 * apart], dim=1)


def align(landmarks: torch.Tensor, shape: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted similarity of (B, L, 2) landmarks onto a mean shape (L, 2), closed form in the plane."""
    weight = weight / weight.sum(dim=1, keepdim=True).clamp_min(1e-9)
    centred = landmarks - (weight[:, None] @ landmarks)
    middle = weight @ shape
    target = shape - middle[:, None]
    # The plane as complex numbers: the similarity is one complex factor, sum(conj(a) b) / sum(|a|^2).
    (x, y), (to_x, to_y) = centred.unbind(2), target.unbind(2)
    along = (weight * (x * to_x + y * to_y)).sum(dim=1)
    across = (weight * (x * to_y - y * to_x)).sum(dim=1)
    size = (weight * (x * x + y * y)).sum(dim=1).clamp_min(1e-12)
    cos, sin = (along / size)[:, None], (across / size)[:, None]
    return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=2) + middle[:, None]
