"""Faces and landmarks on the photos that lie beside the project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backend.vision.decode import load_photo
from backend.vision.landmark_sets import LEFT_IRIS, RIGHT_IRIS
from backend.vision.mediapipe_detector import MediaPipeDetector
from backend.vision.photo import DetectedFace

PHOTOS = Path(__file__).parents[2].parent / "shared" / "photos"
pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason="../shared with its photos is not there")

# A cap hides all but the chin; there is no face to find.
HIDDEN = {"interfaces/024.jpg"}
# Of the 189 manual points of a .tem file: what they mark, and MediaPipe's point for it.
MANUAL = {
    "right pupil": (0, RIGHT_IRIS[0]),
    "left pupil": (1, LEFT_IRIS[0]),
    "right eye, outer corner": (18, 33),
    "right eye, inner corner": (22, 133),
    "left eye, inner corner": (23, 362),
    "left eye, outer corner": (27, 263),
    "mouth, right corner": (87, 61),
    "mouth, left corner": (93, 291),
    "upper lip, middle of the edge": (90, 0),
    "between the lips": (96, 14),
}


@pytest.fixture(scope="module")
def detector() -> Iterator[MediaPipeDetector]:
    with MediaPipeDetector(threads=2) as made:
        yield made


def _found(detector: MediaPipeDetector, paths: list[Path]) -> list[tuple[Path, list[DetectedFace]]]:
    return list(zip(paths, detector.detect_many(load_photo(path) for path in paths), strict=True))


@pytest.mark.parametrize(
    ("folder", "count"), [("composite", 10), ("lisa", 4), ("zoom", 4), ("interfaces", 40), ("london/neutral", 50)]
)
def test_every_face_is_found(detector, folder, count):
    paths = sorted((PHOTOS / folder).glob("*.jpg"))[:count]
    assert len(paths) == count
    missed = {f"{folder}/{path.name}" for path, faces in _found(detector, paths) if not faces}
    assert missed == {name for name in HIDDEN if name.startswith(folder)}


def _manual(path: Path) -> np.ndarray:
    """(189, 2) pixels of a .tem file: a first line with the count, then x and y."""
    lines = path.read_text().splitlines()
    return np.array([[float(value) for value in line.split()[:2]] for line in lines[1 : int(lines[0]) + 1]])


@pytest.mark.parametrize(("folder", "count"), [("composite", 10), ("london/neutral", 20)])
def test_landmarks_meet_the_manual_ones(detector, folder, count):
    paths = sorted((PHOTOS / folder).glob("*.jpg"))[:count]
    errors = []
    for path, (face,) in _found(detector, paths):
        points, manual = face.landmarks["mediapipe478"], _manual(path.with_suffix(".tem"))
        height = np.ptp(points[:, 1])
        errors.append([(points[dense] - manual[hand]) / height for hand, dense in MANUAL.values()])
    errors = np.array(errors)
    distance = np.linalg.norm(errors, axis=2)
    # Of the height of the face, about 535 pixels: the pupils within 3 pixels, the rest within 6.
    for name, mean in zip(MANUAL, distance.mean(axis=0)):
        assert mean < (0.006 if "pupil" in name else 0.012), name
    # No common shift: half a crop pixel would be 0.004.
    assert np.abs(errors.mean(axis=(0, 1))).max() < 0.0025
