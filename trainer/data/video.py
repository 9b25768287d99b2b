"""Frames of a video, cut into runs that show one person without a break.

A cut of the scene changes the colours of the whole picture or the place of the face from one frame to the next;
another person changes the identity that is fitted. Whatever breaks a run costs a few triplets, a run of two people
would teach that they are one; so breaks are found rather too often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from backend.errors import PhotoError
from backend.vision.photo import Photo
from trainer.data.photo_triplets import OTHER_PERSON, Group, identity_gap, split_where
from trainer.data.photo_views import PhotoReader, PhotoView, Refused

# Frames that are looked at, of each second; and seconds that count as one moment.
FRAMES_PER_SECOND, MOMENT = 5.0, 0.75

# Correlation of the colour histograms of two frames below which the scene was cut.
CUT = 0.7
HISTOGRAM = (8, 8, 8)

# How far a face moves between two frames, over its size, and how much its size may change (a factor).
LARGEST_JUMP, LARGEST_ZOOM = 0.6, 1.5
# A face that was not found for longer than this many seconds may be another one afterwards.
LONGEST_GAP = 1.0


@dataclass(frozen=True)
class Frame:
    """A frame: its ``second``, its picture, and whether the scene was cut before it."""

    second: float
    photo: Photo
    cut: bool


def frames(path: Path, per_second: float = FRAMES_PER_SECOND) -> Iterator[Frame]:
    """Every so many-th frame of a video.

    Raises
    ------
    PhotoError
        It cannot be read.
    """
    video = cv2.VideoCapture(str(path))
    try:
        rate = video.get(cv2.CAP_PROP_FPS)
        rate = rate if 1.0 <= rate <= 1000.0 else 25.0
        every = max(round(rate / per_second), 1)
        before: np.ndarray | None = None
        number, found = 0, False
        # Frames in between are passed over without being decoded to pixels.
        while video.grab():
            if number % every == 0:
                good, pixels = video.retrieve()
                if good and pixels is not None:
                    found = True
                    histogram = _histogram(pixels)
                    cut = before is None or cv2.compareHist(before, histogram, cv2.HISTCMP_CORREL) < CUT
                    before = histogram
                    yield Frame(number / rate, Photo(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), path), cut)
            number += 1
        if not found:
            raise PhotoError(f"{path.name} is no video that can be read, or is empty; convert it to MP4 (H.264).")
    finally:
        video.release()


def read_video(
    path: Path,
    reader: PhotoReader,
    per_second: float = FRAMES_PER_SECOND,
    cancel: Callable[[], bool] = lambda: False,
    progress: Callable[[float], None] | None = None,
) -> tuple[list[Group], list[Refused]]:
    """One group for each run of frames that show one person, and the frames that gave nothing.

    Raises
    ------
    PhotoError
        The video cannot be read.
    Cancelled
    """
    length = duration(path)
    seconds: list[float] = []
    cuts: list[float] = []

    def named() -> Iterator[tuple[str, Photo]]:
        for frame in frames(path, per_second):
            if frame.cut:
                cuts.append(frame.second)
            seconds.append(frame.second)
            yield f"{path.name} at {frame.second:.2f} s", frame.photo

    views: list[PhotoView] = []
    when: list[float] = []
    refused: list[Refused] = []
    for index, found in enumerate(reader.read(named(), cancel)):
        if progress is not None and length:
            progress(min(seconds[index] / length, 1.0))
        if isinstance(found, Refused):
            refused.append(found)
        else:
            views.append(found)
            when.append(seconds[index])
    groups = [
        Group(tuple(views[i] for i in run), True, tuple(when[i] for i in run), MOMENT)
        for run in split_where(breaks(views, when, cuts), len(views))
    ]
    return groups, refused


def breaks(views: Sequence[PhotoView], when: Sequence[float], cuts: Sequence[float]) -> list[bool]:
    """Before which of the views a run of one person ends. The first is never told from what was before it."""
    found = [False] * len(views)
    for index in range(1, len(views)):
        before, after = views[index - 1], views[index]
        cut = any(when[index - 1] < second <= when[index] for second in cuts)
        away = float(np.linalg.norm(after.place - before.place)) / before.size
        zoom = max(after.size / before.size, before.size / after.size)
        gap = when[index] - when[index - 1]
        # The time that passed allows for more of a move.
        jump = away > LARGEST_JUMP * max(gap * FRAMES_PER_SECOND, 1.0) or zoom > LARGEST_ZOOM
        found[index] = cut or jump or gap > LONGEST_GAP or identity_gap(before, after) > OTHER_PERSON
    return found


def duration(path: Path) -> float:
    """Seconds, 0 where the file does not say."""
    video = cv2.VideoCapture(str(path))
    try:
        rate, count = video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)
        return count / rate if rate > 0 and count > 0 else 0.0
    finally:
        video.release()


def _histogram(pixels: np.ndarray) -> np.ndarray:
    small = cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA)
    histogram = cv2.calcHist([small], [0, 1, 2], None, list(HISTOGRAM), [0, 256] * 3)
    return cv2.normalize(histogram, histogram).flatten()
