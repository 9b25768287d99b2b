"""Pores and freckles for skin that no photo showed, in the manner of the skin that was seen.

Symbols: G side of the tile.
"""

from __future__ import annotations

import cv2
import numpy as np

from backend.reconstruction.texture_atlas import Surface
from backend.reconstruction.texture_view import View

# A power of two that divides every texture size, so that the tile has no border.
TILE = 256

# Structures wider than this part of the tile belong to the shape of the face, not to its skin.
WIDEST = 1 / 24

# Strongest grain, as a standard deviation of the square root of light: beyond it is noise of the camera.
STRONGEST = 0.018


def grain_tile(view: View, belief: np.ndarray, surface: Surface) -> np.ndarray:
    """(G, G) float32 factors around 1 with the spectrum of the visible skin's fine structure, random in phase.

    Random phase keeps how coarse and how strong the structure is and forgets where it was (Galerne,
    Gousseau, Morel 2011); the tile repeats without a seam because a discrete spectrum does.
    """
    patch = _best_patch(view, belief, surface)
    strength = 0.0
    fine = np.zeros((TILE, TILE), np.float32)
    if patch is not None:
        grey = np.sqrt(np.maximum(patch.mean(axis=2), 1.0))
        grey = cv2.resize(grey.astype(np.float32), (TILE, TILE), interpolation=cv2.INTER_CUBIC)
        fine = grey / cv2.GaussianBlur(grey, (0, 0), TILE * WIDEST) - 1.0
        strength = min(float(np.median(np.abs(fine))) * 1.48, STRONGEST)
    if strength < 1e-4:
        return np.ones((TILE, TILE), np.float32)
    window = np.hanning(TILE)[:, None] * np.hanning(TILE)[None]
    amplitude = _round(np.abs(np.fft.fft2(fine * window)))
    # A real noise image lends its phases: they are random and already of the symmetry that real images have.
    phases = np.fft.fft2(np.random.default_rng(0).standard_normal((TILE, TILE)))
    noise = np.real(np.fft.ifft2(amplitude * phases / np.maximum(np.abs(phases), 1e-9)))
    noise = np.clip(noise / noise.std(), -2.5, 2.5)
    return (1.0 + strength * noise).astype(np.float32)


def _round(spectrum: np.ndarray) -> np.ndarray:
    """The mean over all directions: lines of the forehead or a beard must not run over the scalp."""
    frequency = np.fft.fftfreq(TILE, 1.0 / TILE)
    ring = np.rint(np.hypot(frequency[:, None], frequency[None])).astype(int)
    mean = np.bincount(ring.ravel(), weights=spectrum.ravel()) / np.bincount(ring.ravel())
    return mean[ring]


def _best_patch(view: View, belief: np.ndarray, surface: Surface) -> np.ndarray | None:
    """The square of the photo, about 2.5 cm wide, with the most trusted skin; None when little of it was seen."""
    side = max(8, round(belief.shape[0] / 10))
    trust = np.zeros_like(belief)
    inside = (view.points >= 0).all(axis=1) & (view.points < [belief.shape[1], belief.shape[0]]).all(axis=1)
    column, row = np.floor(view.points[inside]).astype(int).T
    trust[row, column] = surface.trust[inside]
    trust = np.multiply(cv2.dilate(trust, np.ones((5, 5), np.uint8)), belief)
    score = cv2.boxFilter(trust, -1, (side, side), borderType=cv2.BORDER_CONSTANT)
    row, column = np.unravel_index(int(score.argmax()), score.shape)
    if score[row, column] < 0.5:
        return None
    half = max(4, round(side / 2 / view.scale))
    centre = round((row + 0.5) / view.scale), round((column + 0.5) / view.scale)
    top, left = (max(0, min(c - half, n - 2 * half)) for c, n in zip(centre, view.pixels.shape))
    return view.pixels[top : top + 2 * half, left : left + 2 * half].astype(np.float32)
