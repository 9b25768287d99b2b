"""Where in a photo a face may be: detectors on the whole photo, then on turned, padded and tiled views of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from backend.vision.crop import Window, shrink

# A detector: (H, W, 3) uint8 -> scores (N,), key points (N, 6, 2), boxes (N, 4) as left, top, width, height.
Detect = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]

# Long side of the view that the detectors get; their own inputs are 192 and 128 pixels.
VIEW_PX = 384
# MediaPipe's landmark network is trained on crops 1.5 times as large as the face's box (its own
# face_detection_front_detection_to_roi and face_landmark_landmarks_to_roi graphs use the same number).
BOX_TO_WINDOW = 1.5
# Two windows show one face when their faces' boxes share more than this of the smaller one. Cheek to cheek it is 0.2.
SAME_FACE_OVERLAP = 0.5
# Tiles overlap by half, so that every face up to half a tile lies whole in one of them.
TILE_STRIDE = 0.5
# Turns of the photo, degrees, for faces that lie or stand on their heads; the detectors see up to about 45 by
# themselves.
TURNS = (90.0, 270.0, 180.0, 45.0, 315.0)


@dataclass(frozen=True)
class Candidate:
    """A place worth looking at: ``window`` is the crop for the landmark network, ``score`` in [0, 1]."""

    window: Window
    score: float


def whole(pixels: np.ndarray, detect: Detect) -> list[Candidate]:
    """Candidates in the photo as it is."""
    view = reduce_to(pixels, VIEW_PX)
    return _candidates(view, _view_to_photo(view, pixels), detect)


def turned(pixels: np.ndarray, detect: Detect, degrees: float) -> list[Candidate]:
    """Candidates in the photo turned by that angle."""
    view = reduce_to(pixels, VIEW_PX)
    height, width = view.shape[:2]
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    side = int(np.ceil((abs(cos) + abs(sin)) * max(width, height)))
    rotation = np.array([[cos, -sin], [sin, cos]])
    offset = np.array([width, height]) / 2.0 - rotation @ np.array([side, side]) / 2.0
    matrix = np.column_stack([rotation, offset + rotation @ np.array([0.5, 0.5]) - 0.5])
    canvas = cv2.warpAffine(view, matrix, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    to_view = np.vstack([np.column_stack([rotation, offset]), [0.0, 0.0, 1.0]])
    return _candidates(canvas, _view_to_photo(view, pixels) @ to_view, detect)


def padded(pixels: np.ndarray, detect: Detect) -> list[Candidate]:
    """Candidates in the photo with a wide border around: faces that fill or cross its edge."""
    view = reduce_to(pixels, VIEW_PX // 2)
    border = max(view.shape[:2]) // 2
    canvas = cv2.copyMakeBorder(view, border, border, border, border, cv2.BORDER_REPLICATE)
    shift = np.array([[1.0, 0.0, -border], [0.0, 1.0, -border], [0.0, 0.0, 1.0]])
    return _candidates(canvas, _view_to_photo(view, pixels) @ shift, detect)


def tiled(pixels: np.ndarray, detect: Detect, tiles: int) -> list[Candidate]:
    """Candidates in half-overlapping tiles, ``tiles`` of them side by side along the long side without overlap."""
    level = reduce_to(pixels, VIEW_PX * tiles)
    to_photo = _view_to_photo(level, pixels)
    found = []
    side = -(-max(level.shape[:2]) // tiles)
    for top in _starts(level.shape[0], side):
        for left in _starts(level.shape[1], side):
            tile = level[top : top + side, left : left + side]
            shift = np.array([[1.0, 0.0, left], [0.0, 1.0, top], [0.0, 0.0, 1.0]])
            found += _candidates(tile, to_photo @ shift, detect)
    return found


def same_face(a: Window, b: Window) -> bool:
    """Whether two windows look at one face."""
    small = min(a.size, b.size) / BOX_TO_WINDOW
    reach = (a.size + b.size) / BOX_TO_WINDOW / 2.0
    across, down = (np.clip(reach - abs(offset), 0.0, small) for offset in (a.x - b.x, a.y - b.y))
    return bool(across * down > SAME_FACE_OVERLAP * small**2)


def reduce_to(pixels: np.ndarray, long_side: int) -> np.ndarray:
    """The picture with that long side at most, area-averaged; smaller pictures stay as they are."""
    height, width = pixels.shape[:2]
    factor = long_side / max(height, width)
    if factor >= 1.0:
        return pixels
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    # Whole steps first: they are several times faster than one step by a broken factor, and as free of aliasing.
    coarse = shrink(pixels, max(min(int(1.0 / factor), height, width), 1))
    return cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)


def _view_to_photo(view: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    return np.diag([pixels.shape[1] / view.shape[1], pixels.shape[0] / view.shape[0], 1.0])


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    steps = int(np.ceil((length - side) / (side * TILE_STRIDE)))
    return [round(i * (length - side) / steps) for i in range(steps + 1)]


def _candidates(view: np.ndarray, to_photo: np.ndarray, detect: Detect) -> list[Candidate]:
    """Run the detectors on a view; ``to_photo`` (>= 2, 3) carries its pixels to the photo's."""
    linear, offset = to_photo[:2, :2], to_photo[:2, 2]
    scale = np.sqrt(abs(np.linalg.det(linear)))
    scores, points, boxes = detect(view)
    found = []
    for score, six, (left, top, width, height) in zip(scores, points, boxes):
        right_eye, left_eye = linear @ six[0] + offset, linear @ six[1] + offset
        angle = np.arctan2(left_eye[1] - right_eye[1], left_eye[0] - right_eye[0])
        centre = linear @ np.array([left + width / 2.0, top + height / 2.0]) + offset
        size = max(width, height) * scale * BOX_TO_WINDOW
        found.append(Candidate(Window(float(centre[0]), float(centre[1]), float(size), float(angle)), float(score)))
    return found
