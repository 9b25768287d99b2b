"""What a decoded photo and a face found in it are to the rest of the project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Photo:
    """A photo, ready to work on.

    Attributes
    ----------
    pixels : (H, W, 3) uint8
        sRGB, EXIF orientation applied, alpha composited away.
    path : Path or None
        Where it came from, for messages and reports.
    focal_px : float or None
        Focal length in pixels of ``pixels``, from EXIF; None when the file does not say.
    plain : bool
        A program that knows nothing of orientation, and only the commonest formats, shows the file as it is here.
    """

    pixels: np.ndarray
    path: Path | None = None
    focal_px: float | None = None
    plain: bool = True

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        return self.pixels.shape[0]


@dataclass(frozen=True)
class DetectedFace:
    """One face in a photo. Pixel coordinates have the centre of the top-left pixel at (0.5, 0.5).

    Attributes
    ----------
    box : (4,) float32
        Left, top, right, bottom in pixels, as tight as the landmarks; may reach beyond the border.
    score : float
        Detector confidence in [0, 1].
    landmarks : dict of str to (L, 2) float32
        Pixels; ``mediapipe478`` and ``ibug68`` from the default detector, ``ibug68`` alone from ``fan``.
    depth_mediapipe478 : (478,) float32 or None
        MediaPipe's relative depth in pixels, smaller is nearer; a hint, not a measurement.
    noise_px : dict of str to (L,) float32
        Repeatability of each landmark in pixels (standard deviation over jittered passes), where the
        detector measured it.
    cropped : bool
        The face reaches beyond the photo's border.
    as_detected : (478, 2) float32 or None
        Where the detector had ``mediapipe478``, if the landmarks have been put right since.
    moved : float
        How much of what puts them right was done, 0 to 1.
    """

    box: np.ndarray
    score: float
    landmarks: dict[str, np.ndarray]
    depth_mediapipe478: np.ndarray | None
    noise_px: dict[str, np.ndarray]
    cropped: bool
    as_detected: np.ndarray | None = None
    moved: float = 0.0
