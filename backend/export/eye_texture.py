"""A procedural eye: iris, pupil, limbus and sclera as one square picture.

The picture is the Lambert azimuthal equal-area map of the eyeball around its optical axis: a point at the
angle ``a`` from the axis lies at the distance ``0.5 sin(a / 2)`` from the middle of the square, the back
pole on the circle of radius 0.5. Both eyes use the whole square. Symbols: S side of the picture, R and A
samples along the radius and around the axis.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from backend.rendering.tone import linear_to_srgb8, srgb_to_linear

# Iris radius 5.9 mm (white-to-white 11.8 mm, Ruefer 2005) on an eyeball of 12 mm: an angle of 29.4
# degrees, so 0.5 sin(14.7 degrees) of the square.
IRIS_RADIUS_UV = 0.127
# Pupil over iris radius: 4.2 mm of 11.8 mm, indoor light.
PUPIL_FRACTION = 0.36
# A medium brown, the most frequent eye colour.
BROWN = (112, 72, 44)
EYE_TEXTURE_SIZE = 1024

# Sclera near the iris and towards the back, linear RGB; never pure white, or the eyes glow.
SCLERA_FRONT = np.array([0.76, 0.73, 0.69], np.float32)
SCLERA_BACK = np.array([0.58, 0.36, 0.31], np.float32)
VEIN = np.array([0.50, 0.10, 0.08], np.float32)
# Distance in the square at which the white has become pink: 116 degrees off the axis, behind any lid.
PINK_RADIUS = 0.424
# Iris of radius 1: the dark ring at its edge, the frill round the pupil, both as seen in photos.
LIMBUS_WIDTH = 0.12
COLLARETTE = 0.56
FIBRE_SAMPLES = 768
RADIUS_SAMPLES = 128
SEED = 7


@lru_cache(maxsize=8)
def eye_texture(
    size: int = EYE_TEXTURE_SIZE,
    iris_color: tuple[int, int, int] = BROWN,
    iris_radius: float = IRIS_RADIUS_UV,
    pupil_fraction: float = PUPIL_FRACTION,
) -> np.ndarray:
    """The picture; the same arguments always give the same pixels.

    Parameters
    ----------
    size : int
        S, pixels.
    iris_color : three int
        sRGB of the iris in the middle between pupil and edge.
    iris_radius : float
        Radius of the iris over the side of the square.
    pupil_fraction : float
        Radius of the pupil over that of the iris.

    Returns
    -------
    (S, S, 3) uint8, sRGB, read-only
    """
    # The white is smooth: half the size is enough for it, and four times as fast.
    white = Image.fromarray(linear_to_srgb8(_sclera(max(size // 2, 1), iris_radius)))
    picture = np.array(white.resize((size, size), Image.Resampling.BICUBIC))
    # The iris and the soft edge around it touch the middle of the picture only.
    border = max(0, int((0.5 - iris_radius * (1.0 + LIMBUS_WIDTH)) * size) - 1)
    window = (slice(border, size - border),) * 2
    x, y = np.meshgrid(*[pixel_centres(size)[border : size - border]] * 2)
    r = np.hypot(x, y) / np.float32(iris_radius)
    polar = iris_polar(np.asarray(iris_color, np.float64), pupil_fraction)
    iris = _from_polar(polar, r, np.arctan2(-y, x))
    # The cornea fades into the sclera over a tenth of a radius; one pixel at least, against stairs.
    edge = max(LIMBUS_WIDTH, 1.5 / (iris_radius * size))
    cover = smoothstep(1.0 + 0.4 * edge, 1.0 - 0.6 * edge, r)[..., None]
    around = srgb_to_linear(picture[window])
    picture[window] = linear_to_srgb8(around * (1.0 - cover) + iris * cover)
    picture.setflags(write=False)
    return picture


def pixel_centres(size: int) -> np.ndarray:
    """(S,) float32 offsets of the pixel centres from the middle of a square of side 1."""
    return (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5


def iris_polar(iris_color: np.ndarray, pupil_fraction: float) -> np.ndarray:
    """(R, A, 3) linear RGB of the iris: rows from the pupil's centre to its edge, columns around.

    Fibres are noise that varies fast around and slowly outward; between the pupil and the collarette they
    are finer and warmer, outside coarser with dark crypts, as in macro photos of real irises.
    """
    base = srgb_to_linear(iris_color / 255.0)
    r = np.linspace(0.0, 1.0, RADIUS_SAMPLES, dtype=np.float32)[:, None]
    around = np.linspace(0.0, 1.0, FIBRE_SAMPLES, endpoint=False, dtype=np.float32)[None, :]
    rng = np.random.default_rng(SEED)
    wobble = 0.05 * (periodic_noise(rng, (1, 9), r, around) - 0.5)
    inner = smoothstep(COLLARETTE + 0.05, COLLARETTE - 0.05, r + wobble)
    fine = periodic_noise(rng, (4, 170), r, around + 0.012 * periodic_noise(rng, (6, 24), r, around))
    coarse = periodic_noise(rng, (3, 64), r, around + 0.02 * periodic_noise(rng, (4, 12), r, around))
    fibres = inner * fine + (1.0 - inner) * (0.45 * fine + 0.55 * coarse)
    crypts = smoothstep(0.66, 0.86, periodic_noise(rng, (7, 26), r, around)) * (1.0 - inner)
    light = 0.45 + 1.15 * fibres**1.3
    light *= 1.0 - 0.55 * crypts
    light *= 1.0 + 0.25 * np.exp(-(((r + wobble - COLLARETTE) / 0.05) ** 2))
    light *= 1.0 - 0.75 * smoothstep(1.0 - 2.2 * LIMBUS_WIDTH, 1.0, r + 0.5 * wobble)
    # Round the pupil the stroma is thin and the warm pigment behind it shows.
    warm = base * np.array([1.15, 0.97, 0.68])
    tint = base + (warm - base) * (0.7 * inner)[..., None]
    color = tint * light[..., None]
    ruff = pupil_fraction * (1.0 + 0.03 * (periodic_noise(rng, (1, 90), r, around) - 0.5))
    open_ = smoothstep(ruff - 0.015, ruff + 0.045, r)[..., None]
    return np.clip(color * open_ + 0.004 * (1.0 - open_), 0.0, 1.0)


def _sclera(size: int, iris_radius: float) -> np.ndarray:
    """(S, S, 3) float32 linear: off-white, pinker backward, with veins that grow toward the iris and fade."""
    x, y = np.meshgrid(pixel_centres(size), pixel_centres(size))
    radius = np.hypot(x, y)
    depth = smoothstep(1.5 * iris_radius, PINK_RADIUS, radius)[..., None]
    result = SCLERA_FRONT + (SCLERA_BACK - SCLERA_FRONT) * depth
    # The limbus throws a faint grey shade on the white beside it.
    result *= 1.0 - 0.22 * smoothstep(iris_radius * 1.25, iris_radius, radius)[..., None]
    return result + (VEIN - result) * _veins(size, iris_radius)[..., None]


def _veins(size: int, iris_radius: float, count: int = 46) -> np.ndarray:
    """(S, S) float32 in [0, 1]: how much a vein covers each pixel."""
    rng = np.random.default_rng(SEED + 1)
    cover = np.zeros((size, size), np.float32)
    for _ in range(count):
        steps = 420
        outward = np.linspace(0.48, rng.uniform(1.35, 2.4) * iris_radius, steps)
        wander = np.cumsum(np.cumsum(rng.normal(0.0, 1.0, steps)))
        angle = rng.uniform(0.0, 2.0 * np.pi) + 0.25 * wander / np.abs(wander).max()
        angle += 0.012 * np.cumsum(rng.normal(0.0, 1.0, steps)) / np.sqrt(steps) * 4.0
        column, row = ((0.5 + outward * direction(angle)) * size for direction in (np.cos, np.sin))
        strength = rng.uniform(0.2, 0.45) * np.linspace(1.0, 0.0, steps) ** 0.7
        rows, columns = row.astype(int).clip(0, size - 1), column.astype(int).clip(0, size - 1)
        np.maximum.at(cover, (rows, columns), strength.astype(np.float32))
    # One pixel wide so far; a small blur at the picture's scale makes threads of them.
    return gaussian_filter(cover, size / 1000.0)


def _from_polar(polar: np.ndarray, r: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """(R, A, 3) -> (H, W, 3): linear look-up at the radius ``r`` in [0, 1] and ``angle`` in radians."""
    rows = np.clip(r, 0.0, 1.0) * (len(polar) - 1)
    columns = (angle / (2.0 * np.pi)) % 1.0 * polar.shape[1]
    wrapped = np.concatenate([polar, polar[:, :1]], axis=1)
    where = np.stack([rows, columns])
    return np.stack([map_coordinates(wrapped[..., band], where, order=1) for band in range(3)], axis=-1)


def periodic_noise(rng: np.random.Generator, cells: tuple[int, int], r: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Value noise in [0, 1] on a ring: ``cells`` along the radius and around, seamless around.

    ``r`` (R, 1) in [0, 1], ``around`` (1, A) or (R, A) in turns.
    """
    values = rng.random((cells[0] + 1, cells[1]), np.float32)
    row, column = np.broadcast_arrays(r * cells[0] * 0.999999, around % 1.0 * cells[1])
    i, j = np.floor(row).astype(int), np.floor(column).astype(int)
    s, t = smoothstep(0.0, 1.0, row - i), smoothstep(0.0, 1.0, column - j)
    next_j = (j + 1) % cells[1]
    near = values[i, j % cells[1]] * (1.0 - t) + values[i, next_j] * t
    far = values[i + 1, j % cells[1]] * (1.0 - t) + values[i + 1, next_j] * t
    return near * (1.0 - s) + far * s


def smoothstep(start: float | np.ndarray, end: float | np.ndarray, value: np.ndarray) -> np.ndarray:
    """0 at ``start``, 1 at ``end``, level at both (``3 t^2 - 2 t^3``); ``start`` may lie above ``end``."""
    t = np.clip((value - start) / (end - start), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)
