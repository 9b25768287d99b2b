"""What becomes of one photo on its way through the pipeline, and who hears of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from backend.errors import Cancelled, MgcFaceError
from backend.reconstruction.fit import FitResult
from backend.reconstruction.landmark_cost import Observation
from backend.reconstruction.opinion import Opinion
from backend.reconstruction.result import Reconstruction
from backend.vision.decode import PhotoFile, read_photo
from backend.vision.photo import DetectedFace, Photo

Progress = Callable[[int, str, float], None]
Source = str | Path | Photo | PhotoFile


@dataclass
class PhotoOutcome:
    """What became of one photo: heads, or the error that says why not.

    ``index`` is the photo's place in the call; ``photo`` is dropped (None) when decoding failed. ``fits`` belong to
    ``faces``; ``stage`` is what is being done.
    """

    index: int
    path: Path | None
    photo: Photo | None = None
    reconstructions: list[Reconstruction] = field(default_factory=list)
    error: MgcFaceError | None = None
    faces: list[DetectedFace] = field(default_factory=list, repr=False)
    opinions: list[Opinion | None] = field(default_factory=list, repr=False)
    fits: list[tuple[Observation, FitResult]] = field(default_factory=list, repr=False)
    timings_ms: dict[str, float] = field(default_factory=dict)
    stage: str = "decode"


class Steps:
    """Progress out, cancel in: asked before each piece of work."""

    def __init__(self, progress: Progress | None, cancel: Callable[[], bool] | None) -> None:
        self.progress, self.cancel = progress, cancel

    def report(self, index: int, stage: str, fraction: float) -> None:
        if self.cancel is not None and self.cancel():
            raise Cancelled("Cancelled; photos that were already written stay, the others were left out.")
        if self.progress is not None:
            self.progress(index, stage, fraction)

    def run(self, work: Callable[[], PhotoOutcome]) -> PhotoOutcome:
        outcome = work()
        self.report(outcome.index, "decode", 0.05)
        return outcome


def decode(index: int, source: Source) -> PhotoOutcome:
    """A photo or the reason why not."""
    if isinstance(source, Photo):
        return PhotoOutcome(index, source.path, source)
    path = Path(source.name if isinstance(source, PhotoFile) else source)
    started = time.perf_counter()
    outcome = PhotoOutcome(index, path)
    try:
        outcome.photo = read_photo(source)
    except MgcFaceError as error:
        outcome.error = error
    outcome.timings_ms["decode"] = elapsed_ms(started)
    return outcome


def faces_of(group: list[PhotoOutcome]) -> list[tuple[PhotoOutcome, Photo, DetectedFace, Opinion | None]]:
    """The faces of a group of photos, each with what the network says of it, if it was asked."""
    return [
        (outcome, outcome.photo, face, said)
        for outcome in group
        if outcome.error is None and outcome.photo is not None
        for face, said in zip(outcome.faces, outcome.opinions or [None] * len(outcome.faces))
    ]


def named(path: Path | None) -> str:
    return "the photo" if path is None else path.name


def elapsed_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1e3
