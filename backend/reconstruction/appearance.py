"""What the skin of a face shows, to tell people apart: brows, creases, moles, the line of a beard.

The brightness of a photo, in logarithms and between two blurs measured in millimetres on the face, is read at the
vertices of the skin. Between the blurs broad light is gone, and what a head is like there is a pattern that expression,
view and light change and that people do not share. Patterns are put in units of how they spread among people, and two
of them compared by their correlation over the points that both photos show. How large that is for one person's photos,
by the angle between the views, and for different people's was measured (`trainer/measure_appearance.py`); the logarithm
of how much likelier a photo's correlation with the others is for the same person than for another joins the score of
`same_person.py`, whose answers know the shape and nothing of the skin.

Symbols: B photos, P points, K bands, M middles, S photos that stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from backend.face_model.model import FaceModel
from backend.geometry.camera import Camera
from backend.geometry.mesh import vertex_normals
from backend.reconstruction.learned_arrays import LearnedArrays
from backend.reconstruction.skin_statistics import LUMINANCE, read
from backend.reconstruction.texture_atlas import surface_of
from backend.rendering.tone import srgb_to_linear

DATA = Path(__file__).parent / "data"

# Each band is what one blur (standard deviation, millimetres on the face) leaves and another takes away.
BANDS_MM = ((1.5, 6.0), (3.0, 12.0))
# Photos are read at this many millimetres a pixel, with the skin's surroundings as far as the broadest blur reaches.
PIXEL_MM, MARGIN_MM = 1.0, 36.0
# Linear brightness added before logarithms: noise of dark pixels.
DARK = 0.01
# A point counts from this cosine between its normal and the view, and fully from the other on.
FACING_FROM, FACING_TO = 0.3, 0.7
# A face narrower than this in the photo shows no pattern.
LEAST_PIXELS = 40
# Patterns past so many standard deviations count as these: glasses, hands, masks.
LARGEST_SIGMAS = 2.5
# Two photos that share fewer points say nothing of each other.
LEAST_COMMON = 300.0
# Angle over which patterns of one person become less alike, degrees.
ANGLE_DEG = 35.0
# So much the skin says at most, for or against.
LARGEST_SCORE = 4.0
TINY = 1e-12


@dataclass(frozen=True)
class Appearance:
    """What one photo shows: ``pattern`` (K, P) float32 and how surely each point is seen, ``weight`` (P,) in [0, 1]."""

    pattern: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class AppearanceStatistics(LearnedArrays):
    """How patterns spread, and how much those of one person correlate.

    Attributes
    ----------
    middles, spreads : (M, K, P) float32
        Mean and standard deviation, of real photos and of invented people; as in ``PersonStatistics`` the middle that
        says the least counts.
    alike : (2,) float32
        Correlation of one person's photos, far apart, and what is added where the views are the same.
    unlike : (M,) float32
        Correlation of different people's photos of that kind: what all of them share that the middle has not, such as
        the light of a room. The other figures are of what is beyond it, see :func:`beyond`.
    deviations : (2,) float32
        Standard deviation of the correlation: of one person's photos, of different people's.
    shares : (2,) float32
        The part of its variance that a photo's correlations with several others have in common.
    """

    made_by = "python -m trainer.measure_appearance"

    middles: np.ndarray
    spreads: np.ndarray
    alike: np.ndarray
    unlike: np.ndarray
    deviations: np.ndarray
    shares: np.ndarray


def statistics_path(model_name: str) -> Path:
    return DATA / f"appearance_{model_name}.safetensors"


def shipped_appearance(model: FaceModel) -> AppearanceStatistics | None:
    """What comes with the project for this model; None for others."""
    path = statistics_path(model.info.name)
    if not path.exists():
        return None
    statistics = AppearanceStatistics.load(path)
    return statistics if statistics.middles.shape[2] == len(points_of(model)) else None


def points_of(model: FaceModel) -> np.ndarray:
    """(P,) vertices of the face's skin."""
    return np.flatnonzero(model.regions["face"] & surface_of(model).skin)


def appearance_of(model: FaceModel, pixels: np.ndarray, camera: Camera, vertices: np.ndarray) -> Appearance | None:
    """The pattern that a photo (H, W, 3) uint8 shows of a head with vertices (V, 3) as photographed.

    None where the face is too small to show one.
    """
    chosen = points_of(model)
    vertices = vertices.astype(np.float64)
    points = vertices[chosen] @ camera.R.T + camera.t
    normals = vertex_normals(vertices, model.triangles)[chosen] @ camera.R.T
    facing = -(normals * points).sum(axis=1) / np.linalg.norm(points, axis=1)
    places = camera.project(vertices[chosen])
    pixel_mm = 1e3 * float(np.median(points[:, 2])) / camera.focal_px
    margin = MARGIN_MM / pixel_mm
    left, top = np.clip(np.floor(places.min(axis=0) - margin), 0, [camera.width, camera.height]).astype(int)
    right, bottom = np.clip(np.ceil(places.max(axis=0) + margin), 0, [camera.width, camera.height]).astype(int)
    if min(right - left, bottom - top) < LEAST_PIXELS or np.ptp(places, axis=0).min() < LEAST_PIXELS:
        return None
    crop = pixels[top:bottom, left:right]
    scale = pixel_mm / PIXEL_MM
    size = [max(1, round(side * scale)) for side in crop.shape[1::-1]]
    small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR)
    log = np.log(srgb_to_linear(small.astype(np.float32) / 255.0) @ LUMINANCE.astype(np.float32) + DARK)
    places = (places - [left, top]) * (np.array(size) / crop.shape[1::-1]) - 0.5
    inside = ((places >= 0.0) & (places <= np.array(size) - 1.0)).all(axis=1)
    blurs = {sigma: cv2.GaussianBlur(log, (0, 0), sigma / PIXEL_MM) for sigma in {s for band in BANDS_MM for s in band}}
    pattern = np.stack([read(blurs[fine] - blurs[broad], places) for fine, broad in BANDS_MM])
    sure = np.clip((facing - FACING_FROM) / (FACING_TO - FACING_FROM), 0.0, 1.0)
    return Appearance(pattern.astype(np.float32), np.where(inside, sure, 0.0).astype(np.float32))


def correlations(statistics: AppearanceStatistics, shown: Sequence[Appearance | None]) -> np.ndarray:
    """(M, B, B) correlation of the patterns of each two photos, mean over bands; NaN where they share too little.

    All pairs at once; what one pair comes to is :func:`correlation`.
    """
    blank = Appearance(statistics.middles[0], np.zeros(statistics.middles.shape[2], np.float32))
    photos = [one or blank for one in shown]
    weight = np.array([one.weight for one in photos], np.float64)  # (B, P)
    total = weight @ weight.T
    result = np.zeros((len(statistics.middles), *total.shape))
    for middle, (mean, spread) in enumerate(zip(statistics.middles, statistics.spreads)):
        for band in range(len(mean)):
            pattern = np.array([one.pattern[band] for one in photos], np.float64)
            white = np.clip((pattern - mean[band]) / spread[band], -LARGEST_SIGMAS, LARGEST_SIGMAS)
            once, twice = weight * white, weight * white**2
            with np.errstate(invalid="ignore", divide="ignore"):
                # Of photo a over the points that it shares with b: mean, and mean square less its square.
                average = (once @ weight.T) / total
                variance = (twice @ weight.T) / total - average**2
                covariance = (once @ once.T) / total - average * average.T
                result[middle] += covariance / np.sqrt(variance * variance.T + TINY) / len(mean)
    result[:, (total < LEAST_COMMON) | np.eye(len(photos), dtype=bool)] = np.nan
    return result


def correlation(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> float:
    """Weighted (P,) correlation of two patterns (K, P), mean over the bands."""
    weight = weight / weight.sum()
    a, b = (x - (x @ weight)[:, None] for x in (a, b))
    product, norms = (a * b) @ weight, ((a * a) @ weight) * ((b * b) @ weight)
    return float(np.mean(product / np.sqrt(norms + TINY)))


def beyond(found: np.ndarray, unlike: float) -> np.ndarray:
    """Correlations as they are where different people's have a mean of 0."""
    return (found - unlike) / (1.0 - unlike)


def expected(statistics: AppearanceStatistics, angles_deg: np.ndarray) -> np.ndarray:
    """Correlation of one person's photos whose views differ by so much."""
    far, near = statistics.alike
    return far + near * np.exp(-((angles_deg / ANGLE_DEG) ** 2))


@dataclass(frozen=True)
class Likeness:
    """Patterns of B photos held against each other: ``found`` (M, B, B) and, of one person, ``wanted`` (B, B)."""

    statistics: AppearanceStatistics
    found: np.ndarray
    wanted: np.ndarray

    @classmethod
    def of(cls, statistics: AppearanceStatistics, shown: Sequence[Appearance | None], views: np.ndarray) -> Likeness:
        """``views`` (B, 3) unit vectors from the camera towards the face, in the frame of the head."""
        angles = np.degrees(np.arccos(np.clip(views @ views.T, -1.0, 1.0)))
        return cls(statistics, correlations(statistics, shown), expected(statistics, angles))

    def scores(self, stay: Sequence[int]) -> np.ndarray:
        """(S,) log of how much likelier each photo's likeness to the other ones is for one person than for two."""
        chosen = np.ix_(stay, stay)
        return np.min(
            [
                self._scores(beyond(found[chosen], float(unlike)), self.wanted[chosen])
                for found, unlike in zip(self.found, self.statistics.unlike)
            ],
            axis=0,
        )

    def _scores(self, found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        known = ~np.isnan(found)
        count = np.maximum(known.sum(axis=1), 1)
        mean = np.where(known, found, 0.0).sum(axis=1) / count
        same = np.where(known, wanted, 0.0).sum(axis=1) / count
        # Correlations with several photos have a part in common, which their mean keeps.
        variances = [
            deviation**2 * (share + (1.0 - share) / count)
            for deviation, share in zip(self.statistics.deviations, self.statistics.shares)
        ]
        ratio = -0.5 * ((mean - same) ** 2 / variances[0] + np.log(variances[0]))
        ratio = ratio + 0.5 * (mean**2 / variances[1] + np.log(variances[1]))
        return np.where(known.any(axis=1), np.clip(ratio, -LARGEST_SCORE, LARGEST_SCORE), 0.0)
