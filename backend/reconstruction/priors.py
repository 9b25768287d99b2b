"""What the fit believes before it sees a photo.

Expressions: few shapes are active at a time and left and right mostly agree. Cameras: how far people
stand from faces, and which lenses they use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.face_model.model import FaceModel

# Most shapes rest in most photos: an exponential prior with a mean of 0.05 per coefficient, chosen on
# invented people. Smiles, open mouths, lids and gaze move in every other photo and pay less. A weak
# quadratic keeps the problem convex where shapes trade against each other.
EXPRESSION_RATE = 20.0
COMMON_RATE = 6.0
COMMON = ("eyeBlink", "eyeLook", "jawOpen", "mouthSmile")
EXPRESSION_CURVATURE = 6.0

# Left and right of one shape seldom differ by more than this (standard deviation of the difference).
ASYMMETRY_SIGMA = 0.15

# Shapes whose sides are opposite movements and so must not be tied: looking left turns one eye in and
# the other out.
UNPAIRED = ("eyeLookIn", "eyeLookOut", "jaw", "mouthLeft", "mouthRight")
GAZE_PAIRS = (("eyeLookInLeft", "eyeLookOutRight"), ("eyeLookOutLeft", "eyeLookInRight"))

# Camera distance: log-normal about 0.9 m; one sigma spans 0.45 to 1.8 m, two the selfie at arm's
# length and the portrait across a room.
DISTANCE_M = 0.9
DISTANCE_LOG_SIGMA = 0.7

# Lens: log-normal about 45 mm (35 mm equivalent), between phone and portrait lenses; photos are often
# cropped, which lengthens the apparent lens, hence the width.
LENS_MM = 45.0
LENS_LOG_SIGMA = 0.6
FULL_FRAME_LONG_SIDE_MM = 36.0

# EXIF is right but for rounding and focus breathing.
EXIF_LOG_SIGMA = 0.05


@dataclass(frozen=True)
class ExpressionPrior:
    """Quadratic plus linear cost of the E expression coefficients.

    ``cost = rate . delta + delta^T precision delta / 2``; ``lower`` and ``upper`` bound each one.
    """

    rate: np.ndarray
    precision: np.ndarray
    lower: float
    upper: float


def expression_prior(model: FaceModel) -> ExpressionPrior:
    """The prior that fits the model's kind of expressions."""
    count = len(model.expression_names)
    if model.expression_limits == "sigma":
        return ExpressionPrior(np.zeros(count), np.eye(count), -np.inf, np.inf)
    precision = np.eye(count) * EXPRESSION_CURVATURE
    for left, right in symmetric_pairs(model.expression_names):
        tie = np.zeros(count)
        tie[left], tie[right] = 1.0, -1.0
        precision += np.outer(tie, tie) / ASYMMETRY_SIGMA**2
    rate = [COMMON_RATE if name.startswith(COMMON) else EXPRESSION_RATE for name in model.expression_names]
    return ExpressionPrior(np.array(rate), precision, 0.0, 1.0)


def symmetric_pairs(names: tuple[str, ...]) -> list[tuple[int, int]]:
    """Indices of expressions that move together on both sides, gaze included."""
    index = {name: position for position, name in enumerate(names)}
    pairs = [
        (index[name], index[name[:-4] + "Right"])
        for name in names
        if name.endswith("Left") and name[:-4] + "Right" in index and not name.startswith(UNPAIRED)
    ]
    pairs += [(index[a], index[b]) for a, b in GAZE_PAIRS if a in index and b in index]
    return pairs


def focal_prior(width: int, height: int, exif_focal_px: float | None) -> tuple[float, float]:
    """Mean and standard deviation of the logarithm of the focal length in pixels."""
    if exif_focal_px is not None:
        return float(np.log(exif_focal_px)), EXIF_LOG_SIGMA
    return float(np.log(LENS_MM / FULL_FRAME_LONG_SIDE_MM * max(width, height))), LENS_LOG_SIGMA
