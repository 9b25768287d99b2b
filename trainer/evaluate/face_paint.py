"""A skin, lips, brows and eyes for scans that came without a texture.

The picture is painted in millimetres on the frontal projection of the mean face of the set, so that
each person of one topology wears the same contours on the same vertices, in colours of their own.
It has to look like a face to a landmark detector, no more.

Symbols: H, W texture size, K contour points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

# Texture resolution: a 12 mm iris is 60 texels wide.
TEXELS_PER_MM = 5.0

# Six skin tones (sRGB), light to dark, spaced as on the Fitzpatrick scale.
SKIN_TONES = np.array(
    [[236, 200, 178], [222, 178, 150], [198, 149, 116], [163, 113, 81], [122, 80, 56], [83, 54, 40]], np.float64
)
# Brow colour of each tone, and iris colours to draw from.
HAIR = np.array([[120, 88, 58], [84, 58, 40], [52, 37, 28], [38, 28, 24], [30, 23, 21], [26, 21, 20]], np.float64)
IRIS = np.array([[92, 60, 36], [70, 46, 30], [96, 110, 118], [104, 106, 70], [52, 36, 28]], np.float64)

# Adult iris and pupil radii in daylight, millimetres.
IRIS_RADIUS_MM, PUPIL_RADIUS_MM = 5.9, 1.9


@dataclass(frozen=True)
class Contours:
    """Outlines on the frontal projection, millimetres, x to the subject's left, y up.

    ``upper_lid`` and ``lower_lid`` (K, 2) run from the outer to the inner corner of the right eye;
    ``brow`` (K, 2) is the middle line of the right brow from the outer end; ``upper_lip``,
    ``lip_line``, ``lower_lip`` (K, 2) from the right corner to the mid-line; ``nostril`` (K, 2) a
    closed outline of the right one. The left half mirrors the right one.
    """

    upper_lid: np.ndarray
    lower_lid: np.ndarray
    brow: np.ndarray
    upper_lip: np.ndarray
    lip_line: np.ndarray
    lower_lip: np.ndarray
    nostril: np.ndarray


class Canvas:
    """A texture over a rectangle of the frontal plane.

    ``low`` and ``high`` (2,) are its corners in millimetres; row 0 is the top.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray):
        self.low, self.high = low, high
        self.width, self.height = (int(np.ceil(side * TEXELS_PER_MM)) for side in high - low)

    def texels(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) millimetres -> (..., 2) texel coordinates, centres at +0.5."""
        across = (points[..., 0] - self.low[0]) * TEXELS_PER_MM
        down = (self.high[1] - points[..., 1]) * TEXELS_PER_MM
        return np.stack([across, down], axis=-1)

    def polygon(self, points: np.ndarray, softness_mm: float) -> np.ndarray:
        """(H, W) coverage of a closed outline with a soft edge."""
        image = Image.new("L", (self.width, self.height))
        ImageDraw.Draw(image).polygon([tuple(point) for point in self.texels(points)], fill=255)
        return gaussian_filter(np.asarray(image, np.float64) / 255.0, softness_mm * TEXELS_PER_MM)

    def line(self, points: np.ndarray, width_mm: float, softness_mm: float) -> np.ndarray:
        """(H, W) coverage of a polyline."""
        image = Image.new("L", (self.width, self.height))
        width = max(1, round(width_mm * TEXELS_PER_MM))
        ImageDraw.Draw(image).line([tuple(point) for point in self.texels(points)], 255, width, joint="curve")
        return gaussian_filter(np.asarray(image, np.float64) / 255.0, softness_mm * TEXELS_PER_MM)

    def noise(self, rng: np.random.Generator, scale_mm: float) -> np.ndarray:
        """(H, W) smooth noise of unit variance."""
        field = gaussian_filter(rng.standard_normal((self.height, self.width)), scale_mm * TEXELS_PER_MM)
        return field / field.std()

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y in millimetres of every texel, each (H, W)."""
        x = self.low[0] + (np.arange(self.width) + 0.5) / TEXELS_PER_MM
        y = self.high[1] - (np.arange(self.height) + 0.5) / TEXELS_PER_MM
        across, down = np.meshgrid(x, y)
        return across, down


def paint_face(canvas: Canvas, contours: Contours, tone: int, rng: np.random.Generator) -> np.ndarray:
    """Paint one person.

    Parameters
    ----------
    canvas : Canvas
    contours : Contours
    tone : int
        Row of :data:`SKIN_TONES`.
    rng : numpy Generator
        Draws mottling, iris colour, lip colour and brow density.

    Returns
    -------
    (H, W, 3) float64 in [0, 1], sRGB albedo
    """
    skin = SKIN_TONES[tone] * rng.uniform(0.95, 1.05)
    picture = np.tile(skin, (canvas.height, canvas.width, 1))
    picture *= 1.0 + 0.02 * canvas.noise(rng, 4.0)[..., None] + 0.015 * canvas.noise(rng, 0.5)[..., None]
    iris = IRIS[rng.integers(len(IRIS)) if tone < 3 else rng.choice([0, 1, 4])]
    lip = skin * np.array([0.82, 0.58, 0.60]) * rng.uniform(0.92, 1.08)
    density = rng.uniform(0.65, 0.9)
    for side in (1.0, -1.0):
        mirror = np.array([side, 1.0])
        half = {name: getattr(contours, name) * mirror for name in contours.__dataclass_fields__}
        _blend(picture, lip, canvas.polygon(np.concatenate([half["upper_lip"], half["lower_lip"][::-1]]), 0.5))
        _blend(picture, skin * 0.28, 0.8 * canvas.line(half["lip_line"], 1.0, 0.35))
        _blend(picture, skin * 0.15, 0.9 * canvas.polygon(half["nostril"], 0.6))
        _paint_brow(canvas, picture, half["brow"], HAIR[tone], density, rng)
        _paint_eye(canvas, picture, half["upper_lid"], half["lower_lid"], skin, iris)
    return (picture / 255.0).clip(0.0, 1.0)


def _paint_brow(canvas, picture, middle, colour, density, rng) -> None:
    """A band of hairs, thick towards the nose and thin at the outer end."""
    widths = np.interp(np.arange(len(middle) - 1), [0, len(middle) - 3], [2.5, 7.0])
    band = np.zeros(picture.shape[:2])
    for start, width in enumerate(widths):
        band = np.maximum(band, canvas.line(middle[start : start + 2], width, 0.5))
    band = gaussian_filter(band, 1.2 * TEXELS_PER_MM)
    hairs = (1.0 + 0.25 * canvas.noise(rng, 0.3)).clip(0.3, 1.2)
    _blend(picture, colour, (density * band * hairs).clip(0.0, 1.0))


def _paint_eye(canvas, picture, upper, lower, skin, iris) -> None:
    """Sclera, iris, pupil and catchlight inside the lids, a lid shadow, a lash line and a pink rim."""
    opening = canvas.polygon(np.concatenate([upper, lower[::-1]]), 0.15)
    x, y = canvas.grid()
    top, bottom = upper[:, 1].max(), lower[:, 1].min()
    # Relaxed lids: the upper one covers the top of the iris, the lower one touches its bottom.
    centre = np.array([(upper[0, 0] + upper[-1, 0]) / 2.0, (0.55 * top + 0.45 * bottom)])
    radius = np.hypot(x - centre[0], y - centre[1])
    eye = np.tile(np.array([226.0, 220.0, 214.0]), (*opening.shape, 1))
    _blend(eye, iris, _disc(radius, IRIS_RADIUS_MM))
    _blend(eye, iris * 0.35, 0.8 * _disc(radius, IRIS_RADIUS_MM) * (1.0 - _disc(radius, IRIS_RADIUS_MM - 0.8)))
    _blend(eye, np.full(3, 12.0), _disc(radius, PUPIL_RADIUS_MM))
    _blend(eye, np.full(3, 250.0), _disc(np.hypot(x - centre[0] - 1.6, y - centre[1] - 1.8), 0.7))
    eye *= 1.0 - 0.45 * canvas.line(upper, 3.0, 0.9)[..., None]
    picture[:] = picture * (1.0 - opening[..., None]) + eye * opening[..., None]
    _blend(picture, skin * np.array([0.75, 0.5, 0.5]), 0.5 * canvas.line(lower, 0.8, 0.3))
    _blend(picture, skin * 0.12, 0.9 * canvas.line(upper, 1.3, 0.25))


def _disc(radius: np.ndarray, limit: float) -> np.ndarray:
    """1 inside, 0 outside, with an edge one fifth of a millimetre wide."""
    return ((limit - radius) / 0.2 + 0.5).clip(0.0, 1.0)


def _blend(picture: np.ndarray, colour: np.ndarray, coverage: np.ndarray) -> None:
    picture += coverage[..., None] * (colour - picture)
