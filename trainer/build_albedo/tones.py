"""Skin tones: measured, and moved so that they are covered evenly from very light to very dark.

A tone is the log of the linear colour of bare skin. Melanin and blood let it vary along one bent line and a little
beside it. Tones are ordered by their individual typology angle (Chardon, Cretois, Hourseau 1991), as in dermatology:
``ITA = atan((L* - 50) / b*)`` in degrees.

Symbols: P people, T tones, N anything, S side of the texture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# IEC 61966-2-1: linear sRGB to CIE XYZ, and the white point D65 that CIELAB is told against.
XYZ_OF_RGB = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = XYZ_OF_RGB.sum(axis=1)
# CIE 15: where the cube root of CIELAB becomes a line, and its slope.
LAB_TOE, LAB_SLOPE = 216.0 / 24389.0, 24389.0 / 27.0

# Bounds of the classes, degrees, and their names (Del Bino and Bernerd 2013).
ITA_CLASSES = {"very dark": -30.0, "brown": 10.0, "tan": 28.0, "intermediate": 41.0, "light": 55.0, "very light": 90.0}

# Tones to cover, degrees: the darkest and the lightest skin of the London photos lie at -68 and 74.
DARKEST_ITA, LIGHTEST_ITA, TONES = -65.0, 70.0, 28

# How far people are taken from their own tone, as the standard deviation of a soft limit, degrees.
REACH_ITA = 25.0
SINKHORN_ROUNDS = 500

# Black hair returns this much light, whatever skin it grows on. What is darker than skin by more than this (log)
# is partly hair; it keeps its own colour in proportion.
HAIR_LIGHT, HAIR_BELOW = 0.012, 0.7
# Bounds of that: drawing out more would show the noise of dark photos.
LEAST_DRAWN, MOST_DRAWN = 0.25, 2.0

# Skin that is lighter than its tone is a highlight: no skin on a healthy face is lighter by more than this (log).
MOST_LIGHTER = 0.25

# Log brightness over which the line of tones is tabulated: from 0.02 to 0.9 of the light.
BRIGHTNESS = np.linspace(np.log(0.02), np.log(0.9), 400)


def lab_of_linear(rgb: np.ndarray) -> np.ndarray:
    """(..., 3) linear sRGB -> CIELAB under D65 (CIE 15:2004, 8.2.1)."""
    ratio = np.asarray(rgb, np.float64) @ XYZ_OF_RGB.T / WHITE
    curve = np.where(ratio > LAB_TOE, np.cbrt(ratio), (LAB_SLOPE * ratio + 16.0) / 116.0)
    x, y, z = curve[..., 0], curve[..., 1], curve[..., 2]
    return np.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)], axis=-1)


def ita_of(tone: np.ndarray) -> np.ndarray:
    """(..., 3) log linear colour -> (...) degrees."""
    lab = lab_of_linear(np.exp(tone))
    return np.degrees(np.arctan2(lab[..., 0] - 50.0, lab[..., 2]))


def ita_class(ita: np.ndarray) -> np.ndarray:
    """(...) degrees -> index into :data:`ITA_CLASSES`."""
    return np.searchsorted(list(ITA_CLASSES.values())[:-1], ita)


def tone_of(log: np.ndarray, seen: np.ndarray, trust: np.ndarray) -> np.ndarray:
    """(3,): the median over bare skin that was seen; log (S, S, 3), seen and trust (S, S) in [0, 1]."""
    bare = trust * seen
    # What was seen best, however little; all of it where nothing was.
    bare = bare if bare.any() else trust
    return np.median(log[bare > 0.5 * bare.max()], axis=0).astype(np.float64)


@dataclass(frozen=True)
class SkinLine:
    """Mean hue of skin by its brightness.

    ``red`` and ``yellow`` (3,) are quadratics of log brightness (the mean over channels) for log red over green and
    log green over blue; over 102 people a line leaves 0.074 and 0.092 of them, a quadratic 0.048 and 0.079.
    ``darkest`` and ``lightest`` bound the brightness at which they were learned; beyond, hue stays.
    """

    red: np.ndarray
    yellow: np.ndarray
    darkest: float
    lightest: float

    @classmethod
    def fitted(cls, tones: np.ndarray) -> SkinLine:
        """From (P, 3) tones."""
        bright = tones.mean(axis=1)
        red, yellow = (np.polyfit(bright, tones[:, c] - tones[:, c + 1], 2) for c in (0, 1))
        return cls(red, yellow, float(bright.min()), float(bright.max()))

    def at(self, brightness: np.ndarray) -> np.ndarray:
        """(N,) log brightness -> (N, 3) tone."""
        known = np.clip(brightness, self.darkest, self.lightest)
        red, yellow = np.polyval(self.red, known), np.polyval(self.yellow, known)
        # Red, green and blue with these differences and mean 0.
        green = (yellow - red) / 3.0
        return np.asarray(brightness)[:, None] + np.stack([green + red, green, green - yellow], axis=1)

    def nearest(self, tones: np.ndarray) -> np.ndarray:
        """(P, 3) -> (P, 3) on the line, as bright, for photos whose white nobody knows."""
        return self.at(np.clip(tones.mean(axis=1), self.darkest, self.lightest))

    def moved(self, tone: np.ndarray, ita: np.ndarray) -> np.ndarray:
        """(3,) tone, (T,) degrees -> (T, 3): the same way beside the line, as light or dark as asked for."""
        beside = tone - self.at(tone.mean(keepdims=True))[0]
        table = self.at(BRIGHTNESS) + beside
        # Made to rise strictly, for the search: a kink of the line could let it fall by a hair.
        angles = np.maximum.accumulate(ita_of(table)) + 1e-9 * np.arange(len(table))
        place = np.interp(ita, angles, np.arange(len(table)))
        return np.stack([np.interp(place, np.arange(len(table)), table[:, c]) for c in range(3)], axis=1)


def even_cover(own: np.ndarray, targets: np.ndarray, people: np.ndarray) -> np.ndarray:
    """(P,), (T,) degrees -> (P, T) weights: every tone counts alike, every person as ``people`` (P,) says, sum 1.

    Sinkhorn's algorithm on a Gaussian of the distance between a person's own tone and the one to lend: the plan of
    least entropy relative to it with these margins (Cuturi 2013, eq. 2).
    """
    plan = np.exp(-0.5 * ((own[:, None] - targets[None]) / REACH_ITA) ** 2) + 1e-12
    for _ in range(SINKHORN_ROUNDS):
        plan /= plan.sum(axis=0) * len(targets)
        plan *= (people / plan.sum(axis=1))[:, None]
    return plan


def without_highlights(log: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """(..., 3): what is lighter than the tone (3,) is pressed below :data:`MOST_LIGHTER`, its hue kept."""
    above = np.maximum((log - tone).mean(axis=-1, keepdims=True), 0.0)
    return log - above + MOST_LIGHTER * np.tanh(above / MOST_LIGHTER)


def hair_part(detail: np.ndarray) -> np.ndarray:
    """(..., 3) log contrast with the tone -> (..., 1): the part of it, negative, that is dark as only hair is."""
    return np.minimum(detail.mean(axis=-1, keepdims=True) + HAIR_BELOW, 0.0)


def contrast_ratio(tone: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(..., 3) tones -> (...): how much larger the contrast of hair is on skin of the wanted tone.

    What is as dark as black hair stays that.
    """
    black = np.log(HAIR_LIGHT) + HAIR_BELOW
    return np.clip((wanted.mean(axis=-1) - black) / (tone.mean(axis=-1) - black), LEAST_DRAWN, MOST_DRAWN)


def toned(detail: np.ndarray, tone: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(..., 3) log contrast of a skin of one tone (3,) -> log albedo of that skin in another (3,).

    Skin moves as a whole. Hair does not: brows that are dark on light skin would turn to soot on dark skin, and
    those of dark skin to grey on light skin. So the part of the contrast that is hair is drawn out or pressed
    together.
    """
    return wanted + detail + (contrast_ratio(tone, wanted) - 1.0) * hair_part(detail)
