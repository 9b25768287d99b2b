"""What of the photo's light is taken out of the texture.

Symbols: V vertices.
"""

from __future__ import annotations

import numpy as np
import torch

from backend.reconstruction.skin_statistics import LUMINANCE, SkinStatistics
from backend.reconstruction.texture_atlas import Surface
from backend.reconstruction.texture_fill import solve_membrane
from backend.reconstruction.texture_lamps import lamp_light
from backend.reconstruction.texture_skin import SkinModel, lit_level
from backend.rendering.shade import estimate_light

# Part of the smooth light (spherical harmonics to order 2) that is divided out: all of its sideways
# part, which no face has of its own, and this much of the rest, which the fit cannot tell from the
# darker skin of cheeks and chin.
REMOVED = 0.75

# Left and right are balanced where both were seen, over about sqrt(1 / 0.01) = 10 edges (4 cm).
BALANCE_SMOOTHNESS = 1.0
BALANCE_ANCHOR = 0.01

# Log red over green and green over blue of linear light up to which skin keeps its colour, read off 66 test photos:
# evenly lit white-balanced faces reach 0.64 and 0.45, most others stay below these bounds, and beyond lie pink studio
# light (up to 1.35), warm lamps and filters (up to 1.7). Of what is beyond this part is kept.
MOST_RED, MOST_YELLOW, KEPT_BEYOND = 1.0, 0.50, 0.35

# Vertices of which more than this was seen say what the light was, if there are enough of them.
LIT_SEEN, LEAST_LIT = 0.3, 200
# Half of a head at best is seen, so the light from behind is a guess: it is held towards even light.
LIGHT_RIDGE = 0.02

# The gain on linear light stays within these bounds: more would lift noise out of the dark. The half of a face that one
# lamp leaves to the light of a room has a quarter of the other's.
LEAST_GAIN, MOST_GAIN = 0.5, 4.0


def light_gain(
    colors: np.ndarray,
    seen: np.ndarray,
    normals: np.ndarray,
    skin: SkinModel,
    surface: Surface,
    skins: SkinStatistics | None = None,
) -> np.ndarray:
    """Factors, on square roots of light, that take the light away.

    Where statistics of skin tell what is light (:mod:`backend.reconstruction.texture_lamps`), all of it goes.

    Parameters
    ----------
    colors : (V, 3) float
        Square root of linear light.
    seen : (V,) float in [0, 1]
    normals : (V, 3) float
        Unit, model space.
    skin : SkinModel
    surface : Surface
    skins : SkinStatistics, optional

    Returns
    -------
    (V, 3) float
    """
    brightness = np.log(np.maximum(colors**2 @ LUMINANCE, 1e-6))
    lamps = None if skins is None else lamp_light(brightness, seen, normals, skins, surface)
    mirrored = skin.shading if surface.mirror[0] < 0 else skin.shading[surface.mirror]
    if lamps is not None:
        tint = skin.shading - skin.shading.mean(axis=1, keepdims=True)
        log_gain = lit_level(lamps.log_light, lamps.trust) - (lamps.log_light + lamps.shade)[:, None] - tint
    else:
        odd, even = (skin.shading - mirrored) / 2.0, (skin.shading + mirrored) / 2.0
        log_gain = -odd - REMOVED * even
    if surface.mirror[0] < 0:
        return _bounded(log_gain)
    # What is left between the sides is light too (a cast shadow, a lamp close by) as far as it is smooth.
    light = 2.0 * np.log(np.maximum(colors, 1e-3)) + log_gain
    difference = light - light[surface.mirror]
    both = seen * seen[surface.mirror] * (1.0 - surface.feature)
    bias = solve_membrane(
        surface, difference, both * 0.2, BALANCE_SMOOTHNESS, np.zeros(3), BALANCE_ANCHOR, tolerance=2e-3
    )
    bias = (bias - bias[surface.mirror]) / 2.0
    # The darker side is lifted more than the lit one is lowered: shadows are what is wrong with a photo.
    return _bounded(log_gain - 0.5 * bias)


def _bounded(log_gain: np.ndarray) -> np.ndarray:
    return np.exp(0.5 * np.clip(log_gain, np.log(LEAST_GAIN), np.log(MOST_GAIN)))


def saturation_gain(tone: np.ndarray) -> np.ndarray:
    """(3,) factors on linear light that take a part of an extreme cast away and keep the brightness.

    ``tone`` (3,) is the log of the linear colour of this photo's skin.
    """
    red, yellow = tone[0] - tone[1], tone[1] - tone[2]
    less_red = (1.0 - KEPT_BEYOND) * max(0.0, red - MOST_RED)
    less_yellow = (1.0 - KEPT_BEYOND) * max(0.0, yellow - MOST_YELLOW)
    shift = np.array([-less_red, 0.0, less_yellow])
    light = np.exp(tone)
    return np.exp(shift) * light.sum() / (light * np.exp(shift)).sum()


def photo_light(colors: np.ndarray, base: np.ndarray, seen: np.ndarray, normals: np.ndarray) -> np.ndarray | None:
    """The light between a texture and its photo.

    Parameters
    ----------
    colors, base : (V, 3) float
        Square roots of linear light, of the photo and of the texture.
    seen : (V,) float in [0, 1]
    normals : (V, 3) float
        Unit, model space.

    Returns
    -------
    (9, 3) float32, or None when too little was seen
    """
    lit = seen > LIT_SEEN
    if lit.sum() < LEAST_LIT:
        return None
    pixels, albedo, facing, trust = (torch.as_tensor(each[lit]) for each in (colors**2, base**2, normals, seen))
    return estimate_light(pixels, facing, albedo, trust, ridge=LIGHT_RIDGE).T.contiguous().numpy()
