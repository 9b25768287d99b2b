"""The default detector: MediaPipe's networks, searched for, verified and averaged.

One photo goes through: candidates (:mod:`face_search`) -> landmark network on an upright crop -> again on a crop
aligned by its own result -> checks -> ``passes`` slightly different crops, averaged.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue

import cv2
import numpy as np

from backend.vision import face_search
from backend.vision.crop import Reduced, Window
from backend.vision.face_search import BOX_TO_WINDOW, Candidate, same_face
from backend.vision.landmark_sets import FACE_OVAL, LEFT_EYE, MIRROR, RIGHT_EYE, ibug68_from_mediapipe
from backend.vision.mediapipe_graph import MESH_INPUT_PX, DetectionGraph, MeshGraph
from backend.vision.photo import DetectedFace, Photo

# Crops averaged by default.
DEFAULT_PASSES = 4
# More threads at once bring little: the rest of the work holds Python's lock, and each has its own networks.
MAX_THREADS = 8
# Candidates below this are not looked at; the landmark network has the last word, so it is lower than the 0.5
# that MediaPipe uses where nothing verifies.
MIN_DETECTION_SCORE = 0.3
# P(face) of the landmark network, as in MediaPipe.
MIN_MESH_SCORE = 0.5
# Other sizes to try when the landmark network sees no face in a candidate's window.
RETRY_SIZES = (1.0, 1.3, 0.8)
# Crops that align a face; every second one is mirrored. A candidate below SURE_DETECTION_SCORE gets more.
ALIGNING_PASSES, DOUBTFUL_PASSES = 3, 5
# A face's landmarks stay where they are when its crop is aligned once more and mirrored; those of a cat, a saucer or
# noise jump. Median movement over the long side of the landmarks' box, measured on 210 faces and 330 chance hits of
# the detectors (textures, noise, objects): at most 0.016 in all but a few faces below 30 pixels, more in all but two
# chance hits.
STEADY_DRIFT = 0.016
# Most faces stay below this; above, the face may stand on its head.
CALM_DRIFT = 0.008
# A face that stands on its head is believed against an upright one at its place when it is steadier and the detector
# is surer of it by this much. It was surer by 0.08 at least in 64 photos that were turned; over masks, where a forehead
# is taken for a chin, by 0.01 at most.
SURER_ON_ITS_HEAD = 0.05
# A face behind a camera or a hand moves more; that is believed when both networks are sure.
OCCLUDED_DRIFT, SURE_DETECTION_SCORE, SURE_MESH_SCORE = 0.045, 0.65, 0.9
# The box of the landmarks over the crop's side is 1 / 1.5 on an aligned crop; a face that is none drifts.
FILL_RANGE = (0.45, 0.9)
# Brings faces in deep shadow into the range that the networks know.
LIFT_EXPONENT = 0.45
_LIFT = np.round(255.0 * (np.arange(256) / 255.0) ** LIFT_EXPONENT).astype(np.uint8)


class MediaPipeDetector:
    """478 landmarks and iBUG 68 from MediaPipe 0.10.21, whose models lie in its wheel.

    Parameters
    ----------
    passes : int
        Crops whose landmarks are averaged, at least 1; every second one is mirrored. From 2 on the spread over
        the crops is reported as ``noise_px``.
    threads : int, optional
        Photos that :meth:`detect_many` works on at once; the number of processor cores, up to 8, when left out.
        MediaPipe works outside of Python's global lock.

    Any number of threads may call :meth:`detect` of one object: each call borrows a set of networks, and more sets
    are made when all are in use.

    Raises
    ------
    DependencyError
        MediaPipe is not installed or cannot be loaded.
    """

    def __init__(self, passes: int = DEFAULT_PASSES, threads: int | None = None) -> None:
        if passes < 1:
            raise ValueError(f"passes is {passes}; at least one is needed.")
        self.passes = passes
        self.threads = threads or min(os.cpu_count() or 1, MAX_THREADS)
        self._idle: SimpleQueue[_Networks] = SimpleQueue()
        self._idle.put(_Networks())

    def detect(self, photo: Photo, all_faces: bool = False) -> list[DetectedFace]:
        """The faces of one photo.

        Parameters
        ----------
        photo : Photo
        all_faces : bool
            Every face, small ones included, which costs tenths of a second; otherwise the largest.

        Returns
        -------
        list of DetectedFace
            Largest first; empty when no face is found.
        """
        networks = self._borrow()
        try:
            found = _find_faces(photo.pixels, networks, all_faces)
            return [_measure(photo, face, networks, self.passes) for face in found]
        finally:
            self._idle.put(networks)

    def detect_many(self, photos: Iterable[Photo], all_faces: bool = False) -> Iterator[list[DetectedFace]]:
        """:meth:`detect` for each photo, in order, several at once; at most ``threads`` + 1 photos are held."""
        waiting: deque[Future[list[DetectedFace]]] = deque()
        with ThreadPoolExecutor(self.threads, thread_name_prefix="faces") as pool:
            try:
                for photo in photos:
                    waiting.append(pool.submit(self.detect, photo, all_faces))
                    if len(waiting) > self.threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def close(self) -> None:
        """Give the networks back; the next call of :meth:`detect` loads them again."""
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return

    def __enter__(self) -> MediaPipeDetector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _borrow(self) -> _Networks:
        try:
            return self._idle.get_nowait()
        except Empty:
            return _Networks()


class _Networks:
    """One set of running graphs, used by one thread at a time."""

    def __init__(self) -> None:
        self._detectors = [
            DetectionGraph("FaceDetectionFullRangeCpu", MIN_DETECTION_SCORE),
            DetectionGraph("FaceDetectionShortRangeCpu", MIN_DETECTION_SCORE),
        ]
        self._mesh = MeshGraph()

    def detect(self, view: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What both detectors find: full range sees small faces, short range those that fill the picture."""
        scores, points, boxes = zip(*(detector(view) for detector in self._detectors))
        return np.concatenate(scores), np.concatenate(points), np.concatenate(boxes)

    def landmarks(self, reduced: Reduced, window: Window, mirrored: bool) -> tuple[np.ndarray, float]:
        """(478, 3) landmarks in pixels of the photo, seen through ``window``, and P(face)."""
        points, score = self._mesh(reduced.crop(window, mirrored))
        if mirrored:
            points = points[MIRROR]
        place = window.to_photo(points[:, :2], MESH_INPUT_PX, mirrored)
        return np.column_stack([place, points[:, 2] * (window.size / MESH_INPUT_PX)]), score

    def close(self) -> None:
        for graph in (*self._detectors, self._mesh):
            graph.close()


@dataclass(frozen=True)
class _Found:
    """A verified face: the window aligned to its landmarks, how sure the detector was, and the pixels looked at.

    ``drift`` is how far its landmarks moved from crop to crop, over the face's size.
    """

    window: Window
    score: float
    pixels: np.ndarray
    drift: float


# --- finding ----------------------------------------------------------------------------------------------


def _find_faces(pixels: np.ndarray, networks: _Networks, all_faces: bool) -> list[_Found]:
    """Look in ever more costly ways until a face is verified; with ``all_faces`` in the tiles too."""
    found: list[_Found] = []
    for view, candidates, last_resort in _search(pixels, networks, all_faces):
        if found and last_resort:
            break
        # Largest first: unless all are wanted, the first that holds is the answer.
        for candidate in _largest_first(candidates()):
            if any(same_face(candidate.window, face.window) for face in found):
                continue
            face = _verify(view, candidate, networks)
            if face is None:
                continue
            if face.drift > CALM_DRIFT:
                face = _right_way_up(face, networks)
            if any(same_face(face.window, other.window) for other in found):
                continue
            found.append(face)
            if not all_faces:
                return found
    return sorted(found, key=lambda face: -face.window.size)


def _largest_first(candidates: list[Candidate]) -> list[Candidate]:
    """By falling size; of those that mean one face, the surest first and the others as its substitutes."""

    def key(candidate: Candidate) -> tuple[float, float]:
        group = [other.window.size for other in candidates if same_face(candidate.window, other.window)]
        return -max(group), -candidate.score

    return sorted(candidates, key=key)


def _search(
    pixels: np.ndarray, networks: _Networks, all_faces: bool
) -> Iterator[tuple[np.ndarray, Callable[[], list[Candidate]], bool]]:
    """The pixels to look at, how to get candidates in them, and whether only to do so when nothing was found."""
    detect = networks.detect
    yield pixels, partial(face_search.whole, pixels, detect), False
    long_side = max(pixels.shape[:2])
    tile_levels = [tiles for tiles in (2, 4) if long_side >= face_search.VIEW_PX * tiles / 2]
    for tiles in tile_levels if all_faces else ():
        yield pixels, partial(face_search.tiled, pixels, detect, tiles), False
    yield pixels, partial(face_search.padded, pixels, detect), True
    lifted = cv2.LUT(pixels, _LIFT)
    yield lifted, partial(face_search.whole, lifted, detect), True
    for degrees in face_search.TURNS:
        yield pixels, partial(face_search.turned, pixels, detect, degrees), True
    for tiles in tile_levels if not all_faces else ():
        yield pixels, partial(face_search.tiled, pixels, detect, tiles), True


def _right_way_up(face: _Found, networks: _Networks) -> _Found:
    """The face, or what is found at its place in the photo turned to stand it on its head.

    Over a face that is upside down the networks place an upright one, chin on the forehead; it moves more. Over a mask
    they place one that is upside down; the detector is less sure of it.
    """
    candidates = face_search.turned(face.pixels, networks.detect, float(np.degrees(face.window.angle)) + 180.0)
    rivals = [candidate for candidate in candidates if same_face(candidate.window, face.window)]
    verified = [face, *(_verify(face.pixels, rival, networks) for rival in rivals)]
    found = [each for each in verified if each is not None]
    steadiest = min(found, key=lambda each: each.drift)
    upright = [each for each in found if not _on_its_head(each)]
    if not upright or not _on_its_head(steadiest):
        return steadiest
    surest = max(each.score for each in found if _on_its_head(each))
    if surest > max(each.score for each in upright) + SURER_ON_ITS_HEAD:
        return steadiest
    return min(upright, key=lambda each: each.drift)


def _on_its_head(face: _Found) -> bool:
    """Turned by more than 120 degrees."""
    return bool(np.cos(face.window.angle) < -0.5)


def _verify(pixels: np.ndarray, candidate: Candidate, networks: _Networks) -> _Found | None:
    """Align a window to the landmarks seen in it; None when what is in there is no face."""
    sure = candidate.score >= SURE_DETECTION_SCORE
    for factor in RETRY_SIZES:
        start = candidate.window
        window = Window(start.x, start.y, start.size * factor, start.angle)
        places, scores = [], []
        for index in range(ALIGNING_PASSES if sure else DOUBTFUL_PASSES):
            mirrored = index % 2 == 1
            points, score = networks.landmarks(Reduced(pixels, window, MESH_INPUT_PX), window, mirrored)
            if score < MIN_MESH_SCORE or not _is_plausible(window.to_crop(points[:, :2], MESH_INPUT_PX)):
                break
            places.append(points[:, :2])
            scores.append(score)
            window = _aligned(points[:, :2])
        else:
            drift = _drift(np.array(places))
            if drift <= (OCCLUDED_DRIFT if sure and min(scores) >= SURE_MESH_SCORE else STEADY_DRIFT):
                return _Found(window, candidate.score, pixels, drift)
    return None


def _drift(places: np.ndarray) -> float:
    """(P, 478, 2) landmarks of successive crops -> their movement from the second crop on, over the face's size.

    The first crop comes from the detector and may be far off, so the step from it does not count.
    """
    movement = np.median(np.linalg.norm(np.diff(places[1:], axis=0), axis=2), axis=1)
    return float(movement.max() / np.ptp(places[-1], axis=0).max())


def _aligned(points: np.ndarray) -> Window:
    """The window that has the face (478, 2) upright, in the middle and 1 / 1.5 of the side."""
    # The outer corners of the eyes, as in MediaPipe's own graph, whose crops the network was trained on.
    across = points[LEFT_EYE[0]] - points[RIGHT_EYE[0]]
    roll = float(np.arctan2(across[1], across[0]))
    cos, sin = np.cos(roll), np.sin(roll)
    to_upright = np.array([[cos, sin], [-sin, cos]])
    upright = points @ to_upright.T
    low, high = upright.min(axis=0), upright.max(axis=0)
    x, y = to_upright.T @ ((low + high) / 2.0)
    return Window(float(x), float(y), float((high - low).max()) * BOX_TO_WINDOW, roll)


def _is_plausible(points: np.ndarray) -> bool:
    """Whether points of a crop make a face: of fitting size, eyes over mouth over chin, right eye left of the left."""
    extent = (points.max(axis=0) - points.min(axis=0)).max() / MESH_INPUT_PX
    right_eye, left_eye = points[list(RIGHT_EYE)].mean(axis=0), points[list(LEFT_EYE)].mean(axis=0)
    eyes, mouth, chin = (right_eye + left_eye) / 2.0, (points[13] + points[14]) / 2.0, points[152]
    down = chin - eyes
    along = (mouth - eyes) @ down / max(down @ down, 1e-9)
    across = (left_eye - right_eye) @ np.array([down[1], -down[0]]) / max(down @ down, 1e-9)
    return bool(FILL_RANGE[0] < extent < FILL_RANGE[1] and 0.3 < along < 0.9 and across > 0.02)


# --- measuring --------------------------------------------------------------------------------------------

# Golden-angle steps spread any number of jittered crops evenly (Vogel's spiral).
_GOLDEN_ANGLE = np.pi * (3.0 - 5.0**0.5)
# Radius of the jitter: centre and size in parts of the crop, turn in radians.
_JITTER_SHIFT, _JITTER_SIZE, _JITTER_TURN = 0.02, 0.03, 0.04


def _jittered(window: Window, index: int, passes: int) -> Window:
    """The ``index``-th of ``passes`` windows around ``window``; their mean is close to it."""
    if passes == 1:
        return window
    radius, angle = np.sqrt((index + 0.5) / passes), index * _GOLDEN_ANGLE
    step = (index + 0.5) / passes * 2.0 - 1.0
    turn = np.sin(angle * 2.0)
    return Window(
        window.x + radius * np.cos(angle) * _JITTER_SHIFT * window.size,
        window.y + radius * np.sin(angle) * _JITTER_SHIFT * window.size,
        window.size * (1.0 + step * _JITTER_SIZE),
        window.angle + turn * _JITTER_TURN,
    )


def _measure(photo: Photo, face: _Found, networks: _Networks, passes: int) -> DetectedFace:
    """Landmarks of a verified face, averaged over ``passes`` crops."""
    reduced = Reduced(face.pixels, face.window, MESH_INPUT_PX)
    samples = []
    for index in range(passes):
        points, _ = networks.landmarks(reduced, _jittered(face.window, index, passes), mirrored=index % 2 == 1)
        samples.append(points)
    stack = np.array(samples)[..., :2]
    mean = np.mean(samples, axis=0)
    depth, mean = mean[:, 2], mean[:, :2]
    noise = {}
    if passes > 1:
        # Standard deviation of the mean of x and y together, unbiased.
        spread = np.sqrt(stack.var(axis=0, ddof=1).sum(axis=1) / 2.0).astype(np.float32)
        noise = {"mediapipe478": spread, "ibug68": ibug68_from_mediapipe(spread[:, None])[:, 0]}
    oval = mean[list(FACE_OVAL)]
    outside = (oval < 0.0).any() or (oval > [photo.width, photo.height]).any()
    landmarks = mean.astype(np.float32)
    return DetectedFace(
        box=np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)]),
        score=face.score,
        landmarks={"mediapipe478": landmarks, "ibug68": ibug68_from_mediapipe(landmarks)},
        depth_mediapipe478=depth.astype(np.float32),
        noise_px=noise,
        cropped=bool(outside),
    )
