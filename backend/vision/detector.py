"""What a face detector is to the rest of the project, and how to get one by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, Protocol

from backend.vision.photo import DetectedFace, Photo

DetectorName = Literal["mediapipe", "fan"]
DETECTOR_NAMES: tuple[DetectorName, ...] = ("mediapipe", "fan")


class Detector(Protocol):
    """Finds faces and their landmarks. Making one loads networks; keep it for the next photo."""

    def detect(self, photo: Photo, all_faces: bool = False) -> list[DetectedFace]:
        """The faces of one photo, the largest first; at most one unless ``all_faces``; empty when there is none."""
        ...

    def detect_many(self, photos: Iterable[Photo], all_faces: bool = False) -> Iterator[list[DetectedFace]]:
        """:meth:`detect` for each photo, in order; photos are drawn as they are needed."""
        ...

    def close(self) -> None:
        """Give the networks back."""
        ...


def make_detector(name: DetectorName = "mediapipe", **options: Any) -> Detector:
    """The detector of that name.

    Parameters
    ----------
    name : "mediapipe" or "fan"
        ``mediapipe``: 478 points, offline, CPU. ``fan``: 68 points from the ``face-alignment`` package.
    **options
        Passed on: ``passes``, ``threads`` for ``mediapipe``; ``device``, ``face_detector`` for ``fan``.

    Raises
    ------
    DependencyError
        A package or a weight file of that detector is missing.
    ValueError
        There is no detector of that name.
    """
    if name == "mediapipe":
        from backend.vision.mediapipe_detector import MediaPipeDetector

        return MediaPipeDetector(**options)
    if name == "fan":
        from backend.vision.fan_detector import FanDetector

        return FanDetector(**options)
    raise ValueError(f"There is no detector {name!r}; choose one of {', '.join(DETECTOR_NAMES)}.")
