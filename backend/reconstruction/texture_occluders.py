"""Things that no skin colour gives away: background that the fitted head reaches into, and dark glasses.

Colours are logarithms of linear light. Symbols: V vertices, H, W size of the analysis window.
"""

from __future__ import annotations

import cv2
import numpy as np

from backend.reconstruction.texture_atlas import Surface, ramp, smoothed
from backend.reconstruction.texture_likeness import log_light
from backend.reconstruction.texture_raster import NO_TRIANGLE
from backend.reconstruction.texture_skin import SkinModel
from backend.reconstruction.texture_view import View

# How far the outline of a fitted head may reach into the background (metres): a nose in profile misses by this much.
LEAK_DEPTH = 25e-3
# Skin is trusted from the first to the second distance (metres) from it: less far than from the fitted outline,
# because this line is the photo's own.
LEAK_RAMP = (0.8e-3, 4e-3)
# What lies beyond the outline is averaged over about this far (metres, standard deviation).
LEAK_CONTEXT = 10e-3
# A pixel belongs to that background when each channel is within this of its mean (log light): a base, and
# so many of the background's own standard deviations, which say nothing beyond the last.
LEAK_BASE, LEAK_SPREADS, LEAK_MOST_SPREAD = 0.08, 1.2, 0.25
# The person's own skin beyond the outline is no background: within this of the skin inside in log red over green
# and green over blue, and in brightness. Hair of the hue of skin is darker than that.
OWN_HUE, OWN_BRIGHTNESS = 0.15, 0.9
# The blurs are this much coarser than the window: they are wider than that.
LEAK_SHRINK = 4

# Round an eye, skin that is this many spreads too dark, or this many spreads off in hue, with less than this part
# of the skin's warmth, is behind dark glass. Shade and hair are warmer than lit skin, not colder.
GLASS_DARK, GLASS_HUE, GLASS_WARMTH = 2.5, 3.0, 0.7
# Part of the skin round an eye that must be so; round one eye less suffices when the other is clearly covered.
GLASS_SHARE, GLASS_CLEAR, GLASS_SECOND = 0.40, 0.50, 0.15
# A grey photo has only the darkness to go by, and shade is dark too.
GREY_GLASS_SHARE = 0.70
# A brow beside dark glass is a brow while it keeps this part of the skin's warmth; a blue or a metal rim does not.
BROW_WARMTH = 0.35
# Log red over blue of skin below which a photo is grey and has no warmth to compare.
GREY = 0.10
# Squared distance from skin, in spreads, that one vertex brings at most into the comparison of the sides; rounds of
# averaging, about 8 mm; and the difference of the averages from which on a side is doubted.
MOST_DISTANCE, LOPSIDED_ROUNDS, LOPSIDED_RAMP = 30.0, 20, (7.0, 12.0)
# Fewest seen vertices round an eye that say anything.
GLASS_LEAST = 15


def background_leak(view: View, metres_per_pixel: float, skin_light: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of the drawn head that look like what is next to it and hang together with it.

    A face in profile is fitted by few landmarks and its nose or chin may stand a centimetre beyond the real
    one. There the photo shows a wall, often lit like skin. It is told by its place: near the outline, of the
    colours just beyond, without a line in between. Hair that hangs over the outline is found the same way.
    ``skin_light`` (3,) is the log light of the skin well inside.
    """
    outside = view.coverage.triangle == NO_TRIANGLE
    if not outside.any():
        return np.zeros(outside.shape, bool)
    depth = cv2.distanceTransform((~outside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5) * metres_per_pixel
    light = log_light(view.image)
    beyond = outside.astype(np.float32)[..., None]
    mean_sum = _coarse(np.concatenate([light * beyond, beyond], axis=2), metres_per_pixel)
    square_sum = _coarse(light**2 * beyond, metres_per_pixel)
    mass = np.maximum(mean_sum[..., 3:], 1e-6)
    mean = mean_sum[..., :3] / mass
    spread = np.sqrt(np.maximum(square_sum / mass - mean**2, 0.0))
    size = outside.shape[::-1]
    mean, spread = (cv2.resize(part, size, interpolation=cv2.INTER_LINEAR) for part in (mean, spread))
    reach = LEAK_BASE + LEAK_SPREADS * np.minimum(spread, LEAK_MOST_SPREAD)
    alike = (np.abs(light - mean) < reach).all(axis=2) & (depth < LEAK_DEPTH) & ~outside
    if skin_light[0] - skin_light[2] > GREY:
        alike &= ~_like_skin(mean, skin_light)
    # Grain and sensor noise make holes in a flat wall; a median closes them without moving its border.
    alike = cv2.medianBlur((alike | outside).astype(np.uint8), 5) > 0
    _, labels = cv2.connectedComponents((alike | outside).astype(np.uint8), connectivity=4)
    reached = np.zeros(labels.max() + 1, bool)
    reached[labels[outside]] = True
    return reached[labels] & alike & ~outside


def _like_skin(light: np.ndarray, skin_light: np.ndarray) -> np.ndarray:
    """(H, W, 3), (3,) -> (H, W) bool: of the hue of this skin and not much brighter or darker."""
    error = light - skin_light
    red, yellow = error[..., 0] - error[..., 1], error[..., 1] - error[..., 2]
    bright = np.abs(error.mean(axis=2)) < OWN_BRIGHTNESS
    return (np.abs(red) < OWN_HUE) & (np.abs(yellow) < OWN_HUE) & bright


def middle_skin(view: View, surface: Surface) -> np.ndarray:
    """(3,) median log light of the pixels at vertices of cheeks and nose that face the camera; 0 where none do."""
    height, width = view.weight.shape
    inside = (view.points >= 0).all(axis=1) & (view.points < [width, height]).all(axis=1)
    use = inside & (surface.trust > 0.5) & (view.facing > 0.5)
    if not use.any():
        return np.zeros(3)
    column, row = np.floor(view.points[use]).astype(int).T
    return np.median(log_light(view.image[row, column]), axis=0)


def without_leak(view: View, surface: Surface, metres_per_pixel: float) -> np.ndarray:
    """(H, W) float32: the view's weight, 0 in the background that the head reaches into and less beside it."""
    leak = background_leak(view, metres_per_pixel, middle_skin(view, surface))
    if not leak.any():
        return view.weight
    away = cv2.distanceTransform((~leak).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5) * metres_per_pixel
    return (view.weight * ramp(away, *LEAK_RAMP)).astype(np.float32)


def _coarse(sums: np.ndarray, metres_per_pixel: float) -> np.ndarray:
    """(H, W, C) -> averaged over :data:`LEAK_CONTEXT`, at a fraction of the size; C is at most 4."""
    height, width = sums.shape[:2]
    size = max(1, width // LEAK_SHRINK), max(1, height // LEAK_SHRINK)
    small = cv2.resize(sums, size, interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (0, 0), max(0.5, LEAK_CONTEXT / metres_per_pixel / LEAK_SHRINK))


def dark_glasses(light: np.ndarray, seen: np.ndarray, skin: SkinModel, surface: Surface) -> np.ndarray:
    """(V,) float32: 1 behind dark glasses (or a camera held to the eye), 0 elsewhere.

    Lenses lie where eyes may be dark, so their own colour does not tell; the skin between the lids and the
    rim of the eye socket does. It is never both far darker than the light explains and less warm than skin.

    Parameters
    ----------
    light : (V, 3) float
        Log light round each vertex, by geometry alone.
    seen : (V,) float in [0, 1]
    skin : SkinModel
    surface : Surface
    """
    error = light - skin.tone - skin.shading
    brightness = error.mean(axis=1)
    hue = np.sqrt(((error - brightness[:, None]) ** 2).sum(axis=1))
    foreign = (brightness < -GLASS_DARK * skin.spread[0]) | (hue > GLASS_HUE * skin.spread[2])
    warmth, warm = skin.tone[0] - skin.tone[2], light[:, 0] - light[:, 2]
    grey = warmth < GREY
    if not grey:
        foreign &= warm < GLASS_WARMTH * warmth
    least = GREY_GLASS_SHARE if grey else GLASS_SHARE
    share = []
    for side in (1.0, -1.0):
        weight = seen * np.maximum(side * surface.socket, 0.0)
        enough = np.count_nonzero(weight > 0.3) >= GLASS_LEAST
        share.append(float(weight[foreign].sum() / weight.sum()) if enough else 0.0)
    covered = np.zeros(len(light))
    keeps = surface.brow * (grey | (warm > BROW_WARMTH * warmth))
    for side, own, other in ((1.0, *share), (-1.0, *share[::-1])):
        if own > least or (own > GLASS_SECOND and other > max(least, GLASS_CLEAR)):
            covered = np.maximum(covered, ramp(side * surface.lens, 0.2, 0.6) * (1.0 - keeps))
    return covered.astype(np.float32)


def lopsided(light: np.ndarray, seen: np.ndarray, skin: SkinModel, surface: Surface) -> np.ndarray:
    """(V,) float32: 1 round an eye that is much less like skin than the other one over a centimetre.

    Brows and lids may be dark, and so may hair that hangs over them; only hair hangs over one side alone.
    Parameters as for :func:`dark_glasses`; zero everywhere for a model without mirror pairs.
    """
    if surface.mirror[0] < 0:
        return np.zeros(len(light), np.float32)
    error = light - skin.tone - skin.shading
    brightness = error.mean(axis=1)
    scaled = brightness / np.where(brightness < 0, skin.spread[0], skin.spread[1])
    tint = ((error - brightness[:, None]) ** 2).sum(axis=1) / skin.spread[2] ** 2
    # A lash of one pixel may be as far from skin as it likes.
    distance = np.minimum(scaled**2 + tint, MOST_DISTANCE)
    both = seen * seen[surface.mirror]
    excess, mass = (
        smoothed(values, surface.neighbour_start, surface.neighbours, LOPSIDED_ROUNDS)
        for values in (both * (distance - distance[surface.mirror]), both)
    )
    # Lips twist and are lit from one side; hair does not hang over them.
    eyes = np.maximum(np.abs(surface.lens), surface.brow)
    return (eyes * ramp(excess / np.maximum(mass, 0.05), *LOPSIDED_RAMP)).astype(np.float32)
