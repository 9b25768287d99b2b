"""Skin and light: which pixels of the photo are this person's skin, and how the light lies on it.

Colours are compared as logarithms of linear light, where a lamp's strength and colour are sums.

Symbols: V vertices, H, W size of the analysis window.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from backend.reconstruction.texture_atlas import Surface, ramp
from backend.reconstruction.texture_likeness import distance_from_colors, distance_from_skin, log_light
from backend.reconstruction.texture_raster import NO_TRIANGLE, interpolate
from backend.reconstruction.texture_view import View
from backend.rendering.shade import A0, sh_basis

# Ridge on the light's coefficients, per trusted vertex: the brightness may follow all nine harmonics,
# the hue only the first four, and both give way where the photo shows only a part of the directions.
LIGHT_RIDGE = 0.01
HUE_RIDGE = 0.05
# Most that light changes the hue of skin, per channel in log light: on evenly lit test photos the fit stays below
# it; a fit to a quarter of a face went up to 0.9 from one side to the other and painted the rest orange or green.
MOST_HUE_SHIFT = 0.12
LIGHT_ROUNDS = 6

# Log red over green of the palest skin under daylight; the part of the trusted skin that must be so
# before colder colours are doubted; and what then remains of their weight.
WARM, WARM_SHARE, COLD_WEIGHT = 0.06, 0.2, 0.05

# Part of the trusted skin that is darker than the brightness at which its tone is read.
LIT_SHARE = 0.7

# And at most this much brighter than the average (log): half a stop.
MOST_LIT = 0.35

# Least spread of skin in log light: brightness below and above the expected, and hue. Pores, stubble
# and highlights lie within it on an evenly coloured face.
LEAST_DARK, LEAST_BRIGHT, LEAST_HUE = 0.26, 0.45, 0.085
MOST_DARK, MOST_BRIGHT, MOST_HUE = 0.45, 0.60, 0.20

# Squared distances, in spreads, at which a pixel stops being skin for sure and is surely none.
SKIN_RAMP = (14.0, 6.0)

# Hair and background are summed up in this many colours each; a pixel much nearer to one of them than
# to skin counts as this much farther from skin, and one that is like none of them as this much nearer:
# a cast shadow is as dark as hair, but no hair is like it.
CLUSTERS, CLUSTER_SAMPLES, CLUSTER_ROUNDS = 6, 1000, 6
OTHER_FACTOR, LONE_FACTOR = 6.0, 0.6

# How far round a brow, an eye or a beard its skin is looked at (metres, standard deviation).
FEATURE_CONTEXT, BEARD_CONTEXT = 0.012, 0.035

# Part of the chin that is far darker than skin: without a beard, with one.
BEARDED = (0.02, 0.12)
# There every channel is darker than skin by this much (log); a red straw's red is not.
BEARD_DARK = -0.25

# A rejected spot smaller than this (metres across) inside skin is a mole, a freckle or a nostril.
SMALLEST_OCCLUDER = 7e-3

# A strip of skin narrower than this (metres) between things that are not skin is lit hair.
NARROWEST_SKIN = 6e-3

# Skin this close to what was rejected is left out too (metres).
RIM, FEATURE_RIM = 4.0e-3, 1.5e-3

# Standard deviation of the blend between what is taken and what is completed (metres).
BLEND = 1.4e-3


@dataclass(frozen=True)
class SkinModel:
    """What skin looks like in this photo.

    Attributes
    ----------
    shading : (V, 3) float64
        Log of the light that falls on each vertex per channel, zero where the tone is read.
    tone : (3,) float64
        Log of the linear colour of skin under that light.
    spread : (3,) float64
        Spreads of darker, brighter and hue, see :data:`LEAST_DARK`.
    """

    shading: np.ndarray
    tone: np.ndarray
    spread: np.ndarray


def harmonics(normals: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals -> (V, 9) spherical harmonics of order 2; the first is 1."""
    basis = sh_basis(torch.from_numpy(np.ascontiguousarray(normals, np.float64))).numpy()
    return basis / A0


def fit_skin(colors: np.ndarray, weight: np.ndarray, normals: np.ndarray) -> SkinModel:
    """Robust fit of one skin tone under a smooth light.

    ``log colour_c = tone_c + Y(n) . light_c + error``, Geman-McClure weights; brightness (the mean over
    channels) and hue (what remains) are solved apart because hue varies far less.

    Parameters
    ----------
    colors : (V, 3) float
        Log light.
    weight : (V,) float
        Trust; zero leaves a vertex out.
    normals : (V, 3) float
    """
    use = weight > 1e-3
    if use.sum() < 20:
        use = weight >= 0
        weight = np.full(len(weight), 1e-3)
    y, w0, observed = harmonics(normals[use]), weight[use], colors[use]
    # Skin of every people is redder than green and greener than blue. Where enough of the trusted part
    # is so, the rest is a hand's glove, a camera, a glass; in a grey or blue-lit photo nothing is so.
    warm = (observed[:, 0] - observed[:, 1] > WARM) & (observed[:, 0] - observed[:, 2] > 2 * WARM)
    if w0[warm].sum() > WARM_SHARE * w0.sum():
        w0 = np.where(warm, w0, COLD_WEIGHT * w0)
    brightness = observed.mean(axis=1)
    channels = np.concatenate([brightness[:, None], observed - brightness[:, None]], axis=1)
    ridge = np.r_[0.0, np.full(8, LIGHT_RIDGE)] * w0.sum()
    hue_ridge = np.r_[0.0, np.full(3, HUE_RIDGE)] * w0.sum()
    w = w0.copy()
    for _ in range(LIGHT_ROUNDS):
        light = _ridge(y, channels[:, :1], w, ridge)
        hue = _ridge(y[:, :4], channels[:, 1:], w, hue_ridge)
        error = np.concatenate([y @ light, y[:, :4] @ hue], axis=1) - channels
        dark, bright, spread_hue = _spread(error, w0)
        scaled = (error[:, 0] / np.where(error[:, 0] > 0, dark, bright)) ** 2
        scaled = scaled + (error[:, 1:] ** 2).sum(axis=1) / spread_hue**2
        w = w0 / (1.0 + scaled / 4.0) ** 2
    every = harmonics(normals)
    tint = every[:, 1:4] @ hue[1:]
    centre = np.average(tint[use], axis=0, weights=w)
    tint = centre + MOST_HUE_SHIFT * np.tanh((tint - centre) / MOST_HUE_SHIFT)
    shading = every[:, 1:] @ light[1:] + tint
    middle = np.average(shading[use], axis=0, weights=w)
    level = shading[use].mean(axis=1)
    middle = middle + lit_level(level, w) - np.average(level, weights=w)
    return SkinModel(shading - middle, light[0] + hue[0] + middle, np.array([dark, bright, spread_hue]))


def lit_level(level: np.ndarray, weight: np.ndarray) -> float:
    """Log light (V,) at which a tone is read, a little above its average: people know a face by its light half."""
    average = float(np.average(level, weights=weight))
    order = np.argsort(level)
    total = np.cumsum(weight[order])
    lit = float(level[order[np.searchsorted(total, LIT_SHARE * total[-1])]]) - average
    return average + min(max(lit, 0.0), MOST_LIT)


def _ridge(basis: np.ndarray, values: np.ndarray, weight: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    weighted = basis * weight[:, None]
    return np.linalg.solve(weighted.T @ basis + np.diag(ridge + 1e-9), weighted.T @ values)


def _spread(error: np.ndarray, weight: np.ndarray) -> tuple[float, float, float]:
    """Spreads of predicted minus observed: darker, brighter, hue; 1.48 times the weighted median, bounded."""
    order = np.argsort(np.abs(error[:, 0]))
    total = np.cumsum(weight[order])
    brightness = 1.48 * abs(error[order[np.searchsorted(total, total[-1] / 2)], 0])
    length = np.sqrt((error[:, 1:] ** 2).sum(axis=1))
    order = np.argsort(length)
    total = np.cumsum(weight[order])
    hue = 1.2 * length[order[np.searchsorted(total, total[-1] / 2)]]
    return (
        float(np.clip(1.3 * brightness, LEAST_DARK, MOST_DARK)),
        float(np.clip(2.0 * brightness, LEAST_BRIGHT, MOST_BRIGHT)),
        float(np.clip(2.0 * hue, LEAST_HUE, MOST_HUE)),
    )


def skin_weight(
    view: View,
    surface: Surface,
    skin: SkinModel,
    triangles: np.ndarray,
    metres_per_pixel: float,
    glasses: np.ndarray,
    doubt: np.ndarray,
) -> np.ndarray:
    """(H, W) float32: how surely each pixel shows the person's own face and neither hair nor a thing before it.

    A pixel is compared with the skin that the light would show there. Eyes, brows and lips may differ
    freely in brightness and more in hue; below the nose dark hair is a beard and stays. What is far from
    skin, larger than a mole and connected is an occluder; what is skin but not connected with the
    trusted part of the face is not the face. ``glasses`` (V,) is 1 where dark glasses
    cover the skin, ``doubt`` (V,) where what looks like a feature is on one side of the face only.
    """
    expected = skin.tone + skin.shading
    # Behind dark glass nothing is taken, and a dark frame is no brow.
    free = 1.0 - glasses
    priors = (surface.take * free, surface.feature * free * (1.0 - doubt), surface.beard, surface.seed, surface.chin)
    maps = interpolate(view.coverage, triangles, np.column_stack([expected, *priors]))
    take, feature, beard, seed, chin = (maps[..., k] for k in range(3, 8))
    on_head = view.coverage.triangle != NO_TRIANGLE
    light = log_light(view.image)
    # Hair and background as they are in this photo: what surrounds the face.
    others = np.concatenate([cluster(light[on_head & (take < 0.02)]), cluster(light[~on_head])])
    nearness = distance_from_colors(view.image, others, skin.spread)
    none = np.zeros_like(feature)
    strict = distance_from_skin(view.image, maps[..., :3], skin.spread, none, none)
    company = ramp(nearness / np.maximum(strict, 0.1), 1.5, 0.28)
    company = LONE_FACTOR * (OTHER_FACTOR / LONE_FACTOR) ** company
    # Dark skin before the dark: when the surroundings would claim most of the face, they say nothing.
    central = seed * view.weight
    kept = float((ramp(strict * company, *SKIN_RAMP) * central).sum() / max(float(central.sum()), 1e-3))
    company = company ** float(ramp(np.array(kept), 0.25, 0.5))
    # A brow under a fringe or an eye behind dark glass is not free to be dark: the skin round it must show.
    bare = (on_head & (take > 0.3)) * (1.0 - np.maximum(feature, beard))
    shows = ramp(strict * company, *SKIN_RAMP) * bare
    feature = feature * _shown(shows, bare, FEATURE_CONTEXT / metres_per_pixel, 0.20)
    # Long hair beside the jaw is no beard: a beard darkens the chin too.
    dark = (strict > SKIN_RAMP[0]) & ((light - maps[..., :3]).max(axis=2) < BEARD_DARK)
    bearded = float((chin * view.weight * dark).sum() / max(float((chin * view.weight).sum()), 1e-3))
    beard = (
        beard * float(ramp(np.array(bearded), *BEARDED)) * _shown(shows, bare, BEARD_CONTEXT / metres_per_pixel, 0.10)
    )
    distance = distance_from_skin(view.image, maps[..., :3], skin.spread, feature, beard)
    likely = ramp(distance * company ** (1.0 - np.maximum(feature, beard)), *SKIN_RAMP)
    likely = np.where(on_head, likely, 0.0).astype(np.float32)
    likely = _forgive_spots(likely, metres_per_pixel)
    likely = _without_slivers(likely, feature, metres_per_pixel)
    likely = _keep_connected(likely, (seed > 0.5) & (view.weight > 0.5))
    # A little less on every side: the rim of a strand of hair is half skin, and hair shades what it touches.
    likely = np.where(
        feature > 0.2, _eroded(likely, FEATURE_RIM / metres_per_pixel), _eroded(likely, RIM / metres_per_pixel)
    )
    likely = cv2.GaussianBlur(likely, (0, 0), max(1.0, BLEND / metres_per_pixel))
    # Little prior belief asks for more likelihood, and full likelihood on the scalp is still not enough.
    return np.clip(ramp(likely, 0.35, 0.9) * ramp(take, 0.05, 0.5), 0.0, 1.0).astype(np.float32)


def cluster(colors: np.ndarray) -> np.ndarray:
    """(N, 3) -> (K, 3) mean colours by Lloyd's algorithm on an even subset, started far apart: no randomness."""
    if len(colors) == 0:
        return np.full((1, 3), 1e3)
    colors = colors[:: max(1, len(colors) // CLUSTER_SAMPLES)].astype(np.float64)
    centres = [colors.mean(axis=0)]
    distance = ((colors - centres[0]) ** 2).sum(axis=1)
    for _ in range(CLUSTERS - 1):
        centres.append(colors[int(distance.argmax())])
        distance = np.minimum(distance, ((colors - centres[-1]) ** 2).sum(axis=1))
    centres = np.array(centres)
    for _ in range(CLUSTER_ROUNDS):
        owner = ((colors[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
        count = np.bincount(owner, minlength=CLUSTERS)
        for channel in range(3):
            total = np.bincount(owner, weights=colors[:, channel], minlength=CLUSTERS)
            centres[:, channel] = np.where(count > 0, total / np.maximum(count, 1), centres[:, channel])
    return centres


def _wide_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian so wide that a quarter of the pixels tells the same."""
    height, width = image.shape
    small = cv2.resize(
        image.astype(np.float32), (max(1, width // 4), max(1, height // 4)), interpolation=cv2.INTER_AREA
    )
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), max(sigma / 4.0, 0.5)), (width, height))


def _shown(shows: np.ndarray, bare: np.ndarray, sigma: float, least: float) -> np.ndarray:
    """(H, W): 0 where less than the least part of the bare skin within sigma pixels or so is seen, 1 with 0.4 more."""
    return ramp(_wide_blur(shows, sigma) / np.maximum(_wide_blur(bare, sigma), 1e-3), least, least + 0.4)


def _forgive_spots(likely: np.ndarray, metres_per_pixel: float) -> np.ndarray:
    count, labels, stats, _ = cv2.connectedComponentsWithStats((likely < 0.5).astype(np.uint8), connectivity=8)
    extent = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) * metres_per_pixel
    small = (extent < SMALLEST_OCCLUDER) & (np.arange(count) > 0)
    return np.where(small[np.asarray(labels, np.int32)], np.float32(1.0), likely)


def _without_slivers(likely: np.ndarray, feature: np.ndarray, metres_per_pixel: float) -> np.ndarray:
    """Without what is narrower than :data:`NARROWEST_SKIN`: lit strands of hair; not between brow and glasses."""
    width = max(3, round(NARROWEST_SKIN / metres_per_pixel)) | 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    return np.where(feature > 0.2, likely, cv2.morphologyEx(likely, cv2.MORPH_OPEN, disk))


def _eroded(likely: np.ndarray, radius: float) -> np.ndarray:
    width = max(3, round(2 * radius)) | 1
    return cv2.erode(likely, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))


def _keep_connected(likely: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    # Opened first, so that a bridge of one or two pixels does not join a lit curl to the forehead.
    opened = cv2.morphologyEx((likely > 0.5).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels = cv2.connectedComponents(opened, connectivity=4)
    seeded = np.bincount(labels[seeds], minlength=count)
    seeded[0] = 0
    if seeded.max(initial=0) == 0:
        return likely
    keep = (seeded > 0.02 * seeded.max())[labels].astype(np.uint8)
    return likely * cv2.dilate(keep, np.ones((5, 5), np.uint8))
