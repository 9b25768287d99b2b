# SPDX-License-Identifier: GPL-3.0-or-later
"""The map of confidence as a picture: which photo each texel came from, and how sure it is. No bpy in here.

Symbols: S side of the texture, P side of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# The picture's side; a texel of it is half a millimetre of skin.
SIDE = 512
# A colour for each photo by its place, then from the beginning; those of `sources.png` (backend/export), most of them
# from Okabe and Ito's palette, which colour-blind people can tell apart.
PALETTE = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0)),
    *((204, 121, 167), (153, 153, 153), (110, 60, 20), (170, 220, 120), (120, 80, 200), (255, 255, 255)),
)
# What no photo showed.
COMPLETED = (40, 40, 40)


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a texture came from.

    Attributes
    ----------
    pixels : (P, P, 3) uint8
        sRGB; row 0 is v = 1. The photo's colour where it was sure, darker where it was less so.
    shares : dict of int to float
        Place of each photo that anything came from, and its part of what the photos showed.
    """

    pixels: np.ndarray
    shares: dict[int, float]


def photo_color(place: int) -> tuple[int, int, int]:
    return PALETTE[place % len(PALETTE)]


def origin(confidence: np.ndarray, sources: np.ndarray | None, main: int) -> Origin:
    """The picture of (S, S) uint8 confidence, where 255 is sure.

    ``sources`` (S', S') uint8 has one more than the place of the photo that a texel came from, 0 where none did;
    without it all that was seen came from the photo at the place ``main``.
    """
    sure = sampled(confidence, SIDE)
    numbers = np.where(sure > 0, main + 1, 0) if sources is None else sampled(sources, SIDE).astype(int)
    colors = np.array([COMPLETED, *(photo_color(place) for place in range(256))], np.float32)[numbers]
    dark = np.array(COMPLETED, np.float32)
    pixels = dark + (colors - dark) * (sure[..., None] / np.float32(255.0))
    count = np.bincount(numbers[numbers > 0] - 1)
    shares = {int(place): float(count[place]) / float(count.sum()) for place in np.flatnonzero(count)}
    return Origin(np.ascontiguousarray(np.round(pixels).astype(np.uint8)), shares)


def sampled(picture: np.ndarray, side: int) -> np.ndarray:
    """(P, P): the middles of P by P parts of a square picture."""
    place = ((np.arange(side) + 0.5) * len(picture) / side).astype(int)
    return picture[np.ix_(place, place)]
