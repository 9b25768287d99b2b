"""Several photos of one person become one texture.

Each photo is judged and delit as in :mod:`backend.reconstruction.texture`. Then, from coarse to fine:

1. **Exposure**: one factor per photo and channel brings the photos to the colours that they share.
2. **Low band**, on vertices: colours are averaged with weights that change over centimetres, so that what is
   left of different light fades from one photo into the next.
3. **High band**, on texels: detail is taken where a photo is seen best, with weights that change over
   millimetres, so that pores and lashes of photos that differ by a pixel are not averaged away.

Bands on vertices run across the seams of the charts, which a pyramid of pictures would not (after Burt and
Adelson 1983; on the surface instead of in the plane).

How good a photo is at a point: how surely it shows skin, how straight on, how finely, how sharply, and how well
its colour agrees with the other photos there.

Symbols: N photos, V vertices, S texture size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from backend.errors import PhotoError
from backend.face_model.model import FaceModel
from backend.reconstruction.result import Reconstruction, Texture
from backend.reconstruction.texture import complete, log_of_root, prepare_layers, vertex_colors
from backend.reconstruction.texture_atlas import Surface, atlas_of
from backend.reconstruction.texture_cavity import darkened
from backend.reconstruction.texture_fill import solve_membrane
from backend.reconstruction.texture_kernel import Layers
from backend.reconstruction.texture_mosaic import Layer, mosaic
from backend.reconstruction.texture_skin import fit_skin
from backend.reconstruction.texture_view import View, look
from backend.vision.photo import Photo

# Photos that a texture is made of, at most: beyond these another one shows nothing that none showed better.
MOST_LAYERS = 12

# The better photo wins clearly: weights are this power of quality.
CHOICE_POWER = 4.0
# Smoothness of the weights on the surface; they change over about sqrt(smoothness) edges (2 mm each).
NARROW, WIDE = 2.0, 40.0
# Logarithm of light by which a photo may differ from the others' median before it is doubted.
AGREEMENT = 0.25
# Rounds of reweighting against outliers (absolute deviations) for the exposures, and the smallest deviation counted.
EXPOSURE_ROUNDS, SMALLEST_DEVIATION = 8, 0.02
# Bounds of what the low band may do to a photo's colours.
LEAST_RATIO, MOST_RATIO = 0.5, 2.0


@dataclass(frozen=True)
class PersonTexture:
    """The texture of all photos.

    Attributes
    ----------
    texture : Texture
    sources : (S, S) uint8
        One more than the place of the photo that most of a texel came from; 0 where it was completed.
    lights : list of (9, 3) float32 or None
        Of each photo, as in :class:`Texture`.
    """

    texture: Texture
    sources: np.ndarray
    lights: list[np.ndarray | None]


@dataclass
class Seen:
    """One photo on the vertices: ``colors`` (V, 3) delit, square root of light; ``quality`` (V,) in [0, 1]."""

    place: int
    view: View
    layers: Layers
    light: np.ndarray | None
    colors: np.ndarray
    seen: np.ndarray
    quality: np.ndarray


def bake_views(
    heads: Sequence[Reconstruction],
    photos: Callable[[int], Photo],
    size: int,
    report: Callable[[int, float], None] | None = None,
) -> PersonTexture:
    """One texture from the photos of one person.

    Parameters
    ----------
    heads : sequence of N Reconstruction
        One identity; each with its photo's camera, expression and landmarks.
    photos : callable int -> Photo
        Decodes the photo of a head; asked for once each, so that not all need to be in memory.
    size : int
        Texels along a side.
    report : callable (place, fraction), optional
        Hears of progress and may raise to stop.
    """
    model = heads[0].model
    atlas = atlas_of(model, size)
    best = chosen(heads)
    found: list[Seen] = []
    for count, place in enumerate(best):
        if report:
            report(place, 0.6 * count / len(best))
        try:
            found.append(see(place, heads[place], photos(place), atlas.surface))
        except PhotoError:
            continue
    if not found:
        raise PhotoError("The head lies outside all photos: choose photos that show the whole face.")
    alive = (lambda: report(best[-1], 0.6)) if report else (lambda: None)
    alive()
    gains = exposures(found, atlas.surface)
    alive()
    for one, gain in zip(found, gains):
        one.colors = one.colors * gain
    doubt_outliers(found)
    narrow = weights(found, atlas.surface, NARROW)
    alive()
    wide = weights(found, atlas.surface, WIDE)
    alive()
    low, seen = low_band(found, wide)
    alive()
    base, grain = completed(found, low, seen, model, heads[0].neutral_vertices, atlas.surface)
    alive()
    layers = [
        Layer(
            one.place + 1,
            one.view,
            (one.layers.gain * gain * ratio(low, one)).astype(np.float32),
            one.layers.weight,
            weight.astype(np.float32),
        )
        for one, gain, weight in zip(found, gains, narrow)
    ]
    color, confidence, sources = mosaic(
        atlas, layers, base, grain, lambda part: report(0, 0.6 + 0.4 * part) if report else None
    )
    lights: list[np.ndarray | None] = [None] * len(heads)
    for one, gain in zip(found, gains):
        # Of the texture that all share: what brought the photo to the common exposure belongs to its light.
        lights[one.place] = None if one.light is None else (one.light / gain**2).astype(np.float32)
    return PersonTexture(Texture(color, confidence), sources, lights)


def chosen(heads: Sequence[Reconstruction]) -> list[int]:
    """The photos to use: all, or where there are many, the ones that add most to what the others show."""
    toward = np.array([-head.camera.R[2] for head in heads])
    fine = np.array([head.camera.focal_px / head.camera.t[2] for head in heads])
    return most_telling(toward, fine, MOST_LAYERS)


def most_telling(toward: np.ndarray, fine: np.ndarray, most: int) -> list[int]:
    """At most so many of N photos, in order: those that add most to what the others show.

    A direction on the head is shown as well as its cosine with the photo's view, ``toward`` (N, 3), times the photo's
    resolution, ``fine`` (N,).
    """
    if len(toward) <= most:
        return list(range(len(toward)))
    angles = np.radians(np.arange(-90, 91, 15))
    around = np.stack([np.sin(angles), np.zeros_like(angles), np.cos(angles)], axis=1)
    worth = np.maximum(toward @ around.T, 0.0) ** 2 * np.minimum(fine / np.median(fine), 1.5)[:, None]
    picked: list[int] = []
    shown = np.zeros(len(angles))
    while len(picked) < most:
        gain = np.maximum(worth - shown, 0.0).sum(axis=1) + 1e-3 * worth.sum(axis=1)
        gain[picked] = -1.0
        picked.append(int(gain.argmax()))
        shown = np.maximum(shown, worth[picked[-1]])
    return sorted(picked)


def see(place: int, head: Reconstruction, photo: Photo, surface: Surface) -> Seen:
    """Judge and delight one photo."""
    view = look(photo.pixels, head.camera, head.model, surface, head.vertices, head.landmarks)
    layers, light = prepare_layers(view, head.camera, head.model, surface)
    colors, seen = vertex_colors(view, layers.weight)
    pixels_per_mm = head.camera.focal_px / float(np.median(view.depth)) / 1000.0
    straight = np.clip(view.facing, 0.0, 1.0)
    quality = seen * straight * pixels_per_mm / (pixels_per_mm + FINE) * sharpness(view, layers.weight)
    return Seen(place, view, layers, light, colors * layers.gain, seen, quality)


# Pixels per millimetre at which a photo is half as good as the finest.
FINE = 2.0
# Contrast of fine structure, relative to brightness, at which a photo is half as sharp as the sharpest.
SHARP = 0.01


def sharpness(view: View, belief: np.ndarray) -> float:
    """Contrast of the finest structure of the believed skin, as a factor in (0, 1)."""
    grey = view.image.astype(np.float32).mean(axis=2)
    fine = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 1.0)) / np.maximum(cv2.GaussianBlur(grey, (0, 0), 8.0), 8.0)
    sure = belief > 0.5
    if not sure.any():
        return 0.5
    contrast = float(fine[sure].mean())
    return contrast / (contrast + SHARP)


def exposures(found: Sequence[Seen], surface: Surface) -> np.ndarray:
    """(N, 3) factors on square roots of light that make the photos agree where they overlap; their mean is kept.

    Least absolute deviations of log colours over all pairs, by reweighting.
    """
    count = len(found)
    logs = np.array([log_of_root(one.colors) for one in found])
    sure = np.array([one.quality for one in found]) * (surface.take * (1.0 - surface.feature))
    total = sure.sum(axis=1) + 1e-6
    result = np.zeros((count, 3))
    for channel in range(3):
        for _ in range(EXPOSURE_ROUNDS):
            system, right = np.zeros((count, count)), np.zeros(count)
            for i in range(count):
                for j in range(i):
                    apart = logs[i, :, channel] - logs[j, :, channel]
                    left = np.abs(apart + result[i, channel] - result[j, channel])
                    weight = sure[i] * sure[j] / np.maximum(left, SMALLEST_DEVIATION)
                    tie, pull = weight.sum(), (weight * apart).sum()
                    system[[i, j], [i, j]] += tie
                    system[[i, j], [j, i]] -= tie
                    right[i] -= pull
                    right[j] += pull
            # The brightness that all share stays as it is; a photo without overlap keeps its own.
            system += np.outer(total, total) / total.sum() + 1e-6 * np.eye(count)
            result[:, channel] = np.linalg.solve(system, right)
    return np.exp(0.5 * result)


def doubt_outliers(found: Sequence[Seen]) -> None:
    """Lower the quality where a photo's colour differs from the weighted median of at least three photos."""
    if len(found) < 3:
        return
    logs = np.array([log_of_root(one.colors).mean(axis=1) for one in found])
    quality = np.array([one.quality for one in found])
    order = np.argsort(logs, axis=0)
    ranked = np.take_along_axis(quality, order, axis=0).cumsum(axis=0)
    row = (ranked < 0.5 * ranked[-1]).sum(axis=0)
    median = np.take_along_axis(np.take_along_axis(logs, order, axis=0), row[None], axis=0)[0]
    many = (quality > 0.05).sum(axis=0) >= 3
    for one, log in zip(found, logs):
        agrees = np.exp(-(((log - median) / AGREEMENT) ** 2))
        one.quality = one.quality * np.where(many, np.maximum(agrees, 0.02), 1.0)


def weights(found: Sequence[Seen], surface: Surface, smoothness: float) -> np.ndarray:
    """(N, V): which photo counts where, adding up to 1 where any does, smooth over the surface."""
    quality = np.array([one.quality for one in found])
    power = (quality / max(float(quality.max()), 1e-6)) ** CHOICE_POWER
    total = power.sum(axis=0)
    share = power / np.maximum(total, 1e-12)
    known = (quality.max(axis=0) > 0.02).astype(np.float64)
    anchor = np.full(len(found), 1.0 / len(found))
    smooth = solve_membrane(surface, share.T, known, smoothness, anchor, 1e-4, start=share.T).T
    # A photo has no say where it sees nothing, however near that is.
    return np.clip(smooth, 0.0, 1.0) * np.array([np.minimum(one.seen * 4.0, 1.0) for one in found]) + 1e-4 * share


def low_band(found: Sequence[Seen], wide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(V, 3) colours, square root of light, and (V,) how surely any photo showed them."""
    colors = np.array([one.colors for one in found])
    total = wide.sum(axis=0)
    low = (wide[..., None] * colors).sum(axis=0) / np.maximum(total, 1e-9)[:, None]
    unseen = np.prod([1.0 - np.minimum(one.seen, 1.0) for one in found], axis=0)
    return low, 1.0 - unseen


def ratio(low: np.ndarray, one: Seen) -> np.ndarray:
    """(V, 3) factor that gives a photo the low band of all."""
    factor = np.clip(low / np.maximum(one.colors, 1e-3), LEAST_RATIO, MOST_RATIO)
    sure = np.clip(one.seen * 4.0, 0.0, 1.0)[:, None]
    return 1.0 + sure * (factor - 1.0)


def completed(
    found: Sequence[Seen], low: np.ndarray, seen: np.ndarray, model: FaceModel, neutral: np.ndarray, surface: Surface
) -> tuple[np.ndarray, np.ndarray]:
    """Smooth skin over the whole head (V, 3), and the grain of the photo that shows most."""
    best = max(found, key=lambda one: float(one.quality.sum()))
    skin = fit_skin(log_of_root(low), surface.trust * seen, best.view.normals)
    bare = complete(low, seen, skin, surface)
    return darkened(bare, seen, surface.cavity).astype(np.float32), best.layers.grain
