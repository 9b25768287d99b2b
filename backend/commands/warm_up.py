"""``mgcface warm-up``: compile now what is otherwise compiled at the first photo.

The mean head is reconstructed from its own projection, through the same pipeline and exporters as a photo, so
that every kernel is compiled for the types that it will meet. Numba keeps the code beside the source, or in the
user's cache folder where the source may not be written: then every user of an installation warms up once.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from backend.commands import console

# A small picture and the smallest texture: compiling takes the time, not drawing.
SIDE, TEXTURE = 256, 1024
# How far the head stands off, metres, and the focal length in sides of the picture: the face fills half of it.
DISTANCE, FOCAL = 1.0, 2.0


def run(quiet: bool) -> int:
    started = time.perf_counter()
    warm_up()
    if not quiet:
        console.say(f"Ready; compiling and loading took {time.perf_counter() - started:.1f} s.")
    return console.EXIT_DONE


def warm_up() -> None:
    """Run one reconstruction of no one; its files are thrown away. Raises what went wrong."""
    from backend.export.folder import write_head
    from backend.reconstruction.pipeline import Pipeline

    pipeline = Pipeline(device="cpu", texture_size=TEXTURE)
    pipeline.detector.close()
    photo, face = mean_face(pipeline.model)
    pipeline.detector = FoundFace(face)
    (outcome,) = pipeline.reconstruct_many([photo])
    if outcome.error is not None:
        raise outcome.error
    with tempfile.TemporaryDirectory(prefix="mgcface-warm-up-") as folder:
        write_head(outcome.reconstructions[0], photo, Path(folder))


def mean_face(model: Any) -> tuple[Any, Any]:
    """A grey photo and the landmarks that the mean head has in it."""
    import numpy as np

    from backend.geometry.camera import Camera, intrinsics
    from backend.geometry.rotation import FRONTAL
    from backend.vision.photo import DetectedFace, Photo

    camera = Camera(intrinsics(FOCAL * SIDE, SIDE, SIDE), FRONTAL, np.array([0.0, 0.0, DISTANCE]), SIDE, SIDE)
    points = model.landmarks["mediapipe478"].points(model.mean.astype(np.float64))
    landmarks = camera.project(points).astype(np.float32)
    box = np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)])
    # Noise instead of a flat grey: the texture looks for skin in what it sees.
    pixels = np.random.default_rng(0).integers(100, 180, (SIDE, SIDE, 3), dtype=np.uint8)
    face = DetectedFace(box, 1.0, {"mediapipe478": landmarks}, None, {}, cropped=False)
    return Photo(pixels), face


class FoundFace:
    """A detector that has found its face already."""

    def __init__(self, face: Any) -> None:
        self.face = face

    def detect(self, photo: Any, all_faces: bool = False) -> list[Any]:
        return [self.face]

    def detect_many(self, photos: Any, all_faces: bool = False) -> Any:
        return ([self.face] for _ in photos)

    def close(self) -> None:
        """Nothing to give back."""
