"""Rigid and similarity alignment of corresponding points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Similarity:
    """``y = scale * R x + t``; ``rotation`` (3, 3) is proper (determinant +1), ``translation`` (3,)."""

    scale: float
    rotation: np.ndarray
    translation: np.ndarray

    def apply(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) -> (..., 3)."""
        return self.scale * points @ self.rotation.T + self.translation

    def inverse(self) -> Similarity:
        rotation = self.rotation.T
        return Similarity(1.0 / self.scale, rotation, -(rotation @ self.translation) / self.scale)


def fit_similarity(
    source: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None, with_scale: bool = True
) -> Similarity:
    """Least-squares similarity that carries ``source`` onto ``target`` (Umeyama 1991, eqs. 39-43).

    Parameters
    ----------
    source, target : (N, 3) float
        Corresponding points, N >= 3.
    weights : (N,) float, optional
        Non-negative weights; all equal when left out.
    with_scale : bool
        Solve the scale too; otherwise it is 1.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    given = np.ones(len(source)) if weights is None else np.asarray(weights, np.float64)
    share = given / given.sum()
    source_mean, target_mean = share @ source, share @ target
    source_centred, target_centred = source - source_mean, target - target_mean
    covariance = (target_centred * share[:, None]).T @ source_centred
    u, singular, vt = np.linalg.svd(covariance)
    # Umeyama's S matrix: forbids a mirror image, which plain Procrustes would happily return.
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * signs) @ vt
    variance = share @ (source_centred**2).sum(axis=1)
    scale = float((singular * signs).sum() / variance) if with_scale else 1.0
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)


def small_similarities(points: np.ndarray) -> np.ndarray:
    """How (N, 3) points move under similarities that hardly move them.

    Returns
    -------
    (3 N, 7) float64
        Columns: a shift along each axis, a turn about each axis and a growth, about the middle of the points; to first
        order.
    """
    apart = points - points.mean(axis=0)
    shifts = [np.tile(axis, len(points)) for axis in np.eye(3)]
    turns = [np.cross(axis, apart).ravel() for axis in np.eye(3)]
    return np.stack([*shifts, *turns, apart.ravel()], axis=1)
