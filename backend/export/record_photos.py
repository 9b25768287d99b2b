"""The photos of a reconstruction.json, one or several, read back the same way.

Symbols: L landmarks, E expression shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.export.record import Record, RecordError
from backend.geometry.camera import Camera

LANDMARKS = ("mediapipe478", "ibug68")


@dataclass(frozen=True)
class Sight:
    """What one photo showed of the head.

    Attributes
    ----------
    camera : Camera
    expression : dict of str to float
        Coefficient by shape name.
    pose : dict of str to float
        ``yaw``, ``pitch``, ``roll`` in degrees.
    light : (9, 3) float32 or None
        As in :class:`~backend.reconstruction.result.Texture`.
    landmarks : dict of str to (L, 2) float64
        As detected, pixels of the photo; of :data:`LANDMARKS` those that the detector gave.
    rms_px, rms_relative : float
        Distance of projected and detected landmarks, in pixels and over the height of the face.
    """

    camera: Camera
    expression: dict[str, float]
    pose: dict[str, float]
    light: np.ndarray | None
    landmarks: dict[str, np.ndarray]
    rms_px: float
    rms_relative: float


@dataclass(frozen=True)
class RecordedPhoto:
    """One photo of a record: ``sight`` is None where it was not used, and ``reason`` says why."""

    path: str | None
    sight: Sight | None
    reason: str | None = None


def recorded_photos(record: Record, place: Path) -> list[RecordedPhoto]:
    """All photos of a record, in the order of the command line; one for a head from one photo.

    Raises
    ------
    RecordError
        The part about the photos is damaged; the sentence names the file, ``place``.
    """
    fields = record.fields
    try:
        if "photos" not in fields:
            return [RecordedPhoto(record.photo_path, _sight(fields | {"light": None}, fields["photo"]))]
        return [
            RecordedPhoto(
                None if photo["path"] is None else str(photo["path"]),
                _sight(photo, photo) if photo["used"] else None,
                None if photo["reason"] is None else str(photo["reason"]),
            )
            for photo in fields["photos"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(f"{place} is damaged ({error}): reconstruct the photos again.") from error


def main_photo(record: Record, photos: list[RecordedPhoto]) -> RecordedPhoto:
    """The photo that the record's head is shown as in; the first that was used where the record does not say."""
    place = record.fields.get("main_photo", 0)
    if isinstance(place, int) and 0 <= place < len(photos) and photos[place].sight is not None:
        return photos[place]
    return next((photo for photo in photos if photo.sight is not None), photos[0])


def _sight(fields: dict[str, Any], size: dict[str, Any]) -> Sight:
    camera, fit, light = fields["camera"], fields["fit"], fields["light"]
    shapes = {"K": (3, 3), "R": (3, 3), "t": (3,)}
    K, R, t = (np.array(camera[name], np.float64).reshape(shape) for name, shape in shapes.items())
    points = {name: fields[f"landmarks_2d_{name}"] for name in LANDMARKS}
    return Sight(
        camera=Camera(K, R, t, int(size["width"]), int(size["height"])),
        expression={str(name): float(value) for name, value in fields["expression"].items()},
        pose={name: float(fields["pose_euler_degrees"][name]) for name in ("yaw", "pitch", "roll")},
        light=None if light is None else np.array(light, np.float32).reshape(9, 3),
        landmarks={
            name: np.array(values, np.float64).reshape(-1, 2) for name, values in points.items() if values is not None
        },
        rms_px=float(fit["rms_px"]),
        rms_relative=float(fit["rms_relative"]),
    )
