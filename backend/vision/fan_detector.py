"""The second detector: FAN (Bulat and Tzimiropoulos 2017) through the ``face-alignment`` package.

The package loads its weights from its author's site and keeps them in torch's cache. Here every weight file is
fetched with its checksum where its name carries one, and read as plain tensors, never as pickled code.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np

from backend.errors import DependencyError
from backend.vision.crop import shrink
from backend.vision.face_search import reduce_to
from backend.vision.photo import DetectedFace, Photo

FaceFinder = Literal["sfd", "blazeface"]

# Long side of the picture in which faces are looked for; the package's detectors take the whole picture.
SEARCH_PX = 1280
# FAN reads 256 x 256 pixels of a box that it enlarges by 200 / 195; larger faces are reduced first.
BOX_PX = 256
# The argument under which each face finder takes its files, and the key of the package's list of addresses.
_FINDER_FILES: dict[str, dict[str, str]] = {
    "sfd": {"path_to_detector": "s3fd"},
    "blazeface": {"path_to_detector": "blazeface_weights", "path_to_anchor": "blazeface_anchors"},
}
_LANDMARK_WEIGHTS = "2DFAN-4"
LANDMARK_COUNT = 68


class FanDetector:
    """68 landmarks in iBUG order from ``face-alignment`` 1.5 (extra ``fan``).

    FAN places a point within a quarter of a cell of a 64 x 64 heat map, so to about 1/250 of the face's box.

    Parameters
    ----------
    device : str
        ``cpu``, ``cuda``, ``mps``, or ``auto`` for CUDA where there is one.
    face_detector : "sfd" or "blazeface"
        ``sfd`` finds more, ``blazeface`` is faster.

    Raises
    ------
    DependencyError
        The package is not installed, or its weights are not there and cannot be fetched.
    """

    def __init__(self, device: str = "auto", face_detector: FaceFinder = "sfd") -> None:
        if face_detector not in _FINDER_FILES:
            raise ValueError(f"There is no face detector {face_detector!r}; choose sfd or blazeface.")
        package = _package()
        self._fan: Any = _load(package, _device(device), face_detector)

    def detect(self, photo: Photo, all_faces: bool = False) -> list[DetectedFace]:
        """The faces of one photo, the largest first; at most one unless ``all_faces``; empty when there is none."""
        if self._fan is None:
            raise RuntimeError("This detector is closed.")
        boxes = self._boxes(photo)
        found = [self._measure(photo, box) for box in (boxes if all_faces else boxes[:1])]
        return sorted(found, key=lambda face: -_area(face.box))

    def detect_many(self, photos: Iterable[Photo], all_faces: bool = False) -> Iterator[list[DetectedFace]]:
        """:meth:`detect` for each photo, in order; torch uses all cores for one photo already."""
        for photo in photos:
            yield self.detect(photo, all_faces)

    def close(self) -> None:
        """Give the networks back."""
        self._fan = None

    def __enter__(self) -> FanDetector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _boxes(self, photo: Photo) -> np.ndarray:
        """(N, 5) left, top, right, bottom in pixels of the photo and score, largest first."""
        view = reduce_to(photo.pixels, SEARCH_PX)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The package warns where there is no face; an empty list says it.
            found = self._fan.face_detector.detect_from_image(view.copy())
        rows = [np.asarray(row, np.float64).ravel() for row in found]
        boxes = np.array([[*row[:4], row[4] if len(row) > 4 else 1.0] for row in rows]).reshape(-1, 5)
        boxes[:, :4] *= np.tile([photo.width / view.shape[1], photo.height / view.shape[0]], 2)
        return boxes[np.argsort([-_area(box) for box in boxes], kind="stable")]

    def _measure(self, photo: Photo, box: np.ndarray) -> DetectedFace:
        factor = int(np.clip(max(box[2] - box[0], box[3] - box[1]) // BOX_PX, 1, min(photo.pixels.shape[:2])))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            points = self._fan.get_landmarks_from_image(
                shrink(photo.pixels, factor), detected_faces=[np.array([*box[:4] / factor, box[4]])]
            )
        # The package cuts its points off to whole pixels; half a pixel undoes that on average.
        landmarks = ((np.asarray(points[0], np.float64)[:, :2] + 0.5) * factor).astype(np.float32)
        outside = (landmarks < 0.0).any() or (landmarks > [photo.width, photo.height]).any()
        return DetectedFace(
            box=np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)]),
            score=float(np.clip(box[4], 0.0, 1.0)),
            landmarks={"ibug68": landmarks},
            depth_mediapipe478=None,
            noise_px={},
            cropped=bool(outside),
        )


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


# --- loading ----------------------------------------------------------------------------------------------


def _package() -> Any:
    try:
        return importlib.import_module("face_alignment")
    except (ImportError, OSError) as error:
        missing = getattr(error, "name", None)
        what = "face-alignment" if missing in (None, "face_alignment") else f"face-alignment (it misses {missing})"
        raise DependencyError(
            f"The detector fan needs the package {what}; run pip install 'mgcface[fan]' or use the detector mediapipe."
        ) from None


def _device(device: str) -> str:
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _load(package: Any, device: str, face_detector: str) -> Any:
    """The package's ``FaceAlignment`` with every weight file fetched by :func:`_fetch`."""
    api = importlib.import_module("face_alignment.api")
    finder = importlib.import_module(f"face_alignment.detection.{face_detector}.{face_detector}_detector")
    fetch = importlib.import_module("face_alignment.utils").load_file_from_url
    _fetch(fetch, api.models_urls[_LANDMARK_WEIGHTS])
    files = {argument: _fetch(fetch, finder.models_urls[key]) for argument, key in _FINDER_FILES[face_detector].items()}
    try:
        return package.FaceAlignment(
            package.LandmarksType.TWO_D,
            device=device,
            face_detector=face_detector,
            face_detector_kwargs=files,
            compile=False,  # Compiling takes minutes the first time and saves milliseconds afterwards.
        )
    except Exception as error:  # Whatever torch raises on a damaged file or a missing device.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DependencyError(
            f"The weights of the detector fan cannot be loaded on {device} ({reason}); "
            f"delete {files['path_to_detector']} and its neighbours and try again."
        ) from None


def _fetch(load_file_from_url: Any, url: str) -> str:
    """Path of a weight file, downloaded where it is not in torch's cache yet; the checksum in its name is checked."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # The package prints an address and a bar.
            return load_file_from_url(url, check_hash=True)
    except Exception as error:  # URLError, HTTPError, OSError, and RuntimeError where the checksum is wrong.
        reason = " ".join(str(getattr(error, "reason", error)).split())[:120]
        raise DependencyError(
            f"The weights of the detector fan are not here and {url} could not be fetched ({reason}); "
            "go online once or use the detector mediapipe."
        ) from None
