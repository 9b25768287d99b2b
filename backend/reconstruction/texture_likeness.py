"""How much each pixel looks like skin, and how much like hair or background: two distances per pixel.

Colours are logarithms of linear light. Symbols: H, W image size, K colours of the surroundings.
"""

from __future__ import annotations

import numpy as np

from backend.geometry.kernel_cache import njit
from backend.reconstruction.texture_raster import in_bands
from backend.rendering.tone import srgb_to_linear

# sRGB to linear light for each byte.
LINEAR_OF_BYTE = srgb_to_linear(np.arange(256) / 255.0).astype(np.float32)

# Added before the logarithm: below it a pixel is noise and its hue means nothing.
DARKEST = 0.004
LOG_OF_BYTE = np.log(LINEAR_OF_BYTE + np.float32(DARKEST)).astype(np.float32)

# Where a feature or a beard is allowed fully, it may be this many times darker (in spreads), a feature
# this much brighter, and their hues this much farther off: towards red, where lips go, or elsewhere.
FREE_DARK, FREE_BRIGHT, FREE_RED, FREE_HUE_FEATURE, FREE_HUE_BEARD = 5.0, 0.5, 2.0, 0.5, 1.0


def log_light(srgb: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 -> (..., 3) float32 log of linear light."""
    return LOG_OF_BYTE[srgb]


def distance_from_skin(
    image: np.ndarray, expected: np.ndarray, spread: np.ndarray, feature: np.ndarray, beard: np.ndarray
) -> np.ndarray:
    """(H, W) float32 squared distance, in spreads, of each pixel from the skin expected there.

    Brightness counts by the spread of darker or of brighter; hue by its own, and is forgiven

    * in the dark, where a camera's hue is noise: where every channel is darker than skin, not a red straw's
      two; on painted lips and in a beard, which is brown in sunlight, where their mean is,
    * in a highlight, which adds the lamp's white to the skin: the nearer of the two hues counts.

    Parameters
    ----------
    image : (H, W, 3) uint8
    expected : (H, W, 3) float32
        Log light of skin under this light.
    spread : (3,) float
        Darker, brighter, hue.
    feature, beard : (H, W) float32 in [0, 1]
        How freely the pixel may differ from skin.
    """
    out = np.zeros(image.shape[:2], np.float32)
    arrays = (
        image,
        np.ascontiguousarray(expected, np.float32),
        np.asarray(spread, np.float32),
        np.ascontiguousarray(feature, np.float32),
        np.ascontiguousarray(beard, np.float32),
        LOG_OF_BYTE,
        LINEAR_OF_BYTE,
        out,
    )
    in_bands(len(image), lambda first, end: _distance(first, end, *arrays))
    return out


@njit(cache=True, nogil=True)
def _distance(first, end, image, expected, spread, feature, beard, log_of_byte, linear_of_byte, out):
    dark, bright, hue = spread
    third = np.float32(1.0 / 3.0)
    light = np.zeros(3, np.float32)
    shiny = np.zeros(3, np.float32)
    for row in range(first, end):
        for column in range(image.shape[1]):
            brightness = np.float32(0.0)
            added = np.float32(0.0)
            brightest = -np.float32(np.inf)
            for c in range(3):
                light[c] = log_of_byte[image[row, column, c]]
                shiny[c] = np.exp(expected[row, column, c])
                brightness += (light[c] - expected[row, column, c]) * third
                brightest = max(brightest, light[c] - expected[row, column, c])
                added += (linear_of_byte[image[row, column, c]] + np.float32(DARKEST) - shiny[c]) * third
            added = max(added, np.float32(0.0))
            mean = np.float32(0.0)
            tint = np.float32(0.0)
            for c in range(3):
                tint += (light[c] - expected[row, column, c] - brightness) ** 2
                shiny[c] = light[c] - np.log(shiny[c] + added)
                mean += shiny[c] * third
            glint = np.float32(0.0)
            for c in range(3):
                glint += (shiny[c] - mean) ** 2
            tint = min(tint, glint) / (hue * hue)
            f, b = feature[row, column], beard[row, column]
            depth = brightest + max(f, b) * (brightness - brightest)
            tint /= np.float32(1.0) + (min(depth, np.float32(0.0)) / (2 * dark)) ** 2
            if brightness < 0:
                scaled = brightness / (dark * (1 + np.float32(FREE_DARK) * max(f, b)))
            else:
                # Only what is darker than skin is a beard: a straw at the mouth is not.
                b = np.float32(0.0)
                scaled = brightness / (bright * (1 + np.float32(FREE_BRIGHT) * f))
            red = light[0] - expected[row, column, 0] > light[1] - expected[row, column, 1]
            free = 1 + np.float32(FREE_RED if red else FREE_HUE_FEATURE) * f + np.float32(FREE_HUE_BEARD) * b
            out[row, column] = scaled * scaled + tint / (free * free)


def distance_from_colors(image: np.ndarray, colors: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(H, W) float32 squared distance, in spreads of skin, to the nearest of ``colors`` (K, 3), log light."""
    out = np.zeros(image.shape[:2], np.float32)
    arrays = (image, np.ascontiguousarray(colors, np.float32), np.asarray(spread, np.float32), LOG_OF_BYTE, out)
    in_bands(len(image), lambda first, end: _nearest(first, end, *arrays))
    return out


@njit(cache=True, nogil=True)
def _nearest(first, end, image, colors, spread, log_of_byte, out):
    dark, _, hue = spread
    level = np.zeros(len(colors), np.float32)
    for k in range(len(colors)):
        level[k] = (colors[k, 0] + colors[k, 1] + colors[k, 2]) * np.float32(1.0 / 3.0)
    light = np.zeros(3, np.float32)
    for row in range(first, end):
        for column in range(image.shape[1]):
            brightness = np.float32(0.0)
            for c in range(3):
                light[c] = log_of_byte[image[row, column, c]]
                brightness += light[c] * np.float32(1.0 / 3.0)
            best = np.float32(np.inf)
            for k in range(len(colors)):
                squared = ((brightness - level[k]) / dark) ** 2
                for c in range(3):
                    squared += ((light[c] - brightness - colors[k, c] + level[k]) / hue) ** 2
                best = min(best, squared)
            out[row, column] = best
