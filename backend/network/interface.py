"""What every network that sees a face is to the rest of the project.

A network has its own way to cut a face out of a photo, so it does the cutting; and it knows one face model, whose
coefficients it gives. Everything comes out in the project's conventions: metres, OpenCV's camera, pixel centres
at +0.5, linear light.

Symbols: B batch, S side of a crop, I identity modes, E expressions, A albedo modes of the face model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from backend.face_model.model import FaceModel, ModelInfo
from backend.geometry.camera import Camera, intrinsics
from backend.vision.crop import Window
from backend.vision.photo import DetectedFace, Photo

# The groups of numbers for which a network may say how far it trusts itself, and the unit of that: as of the
# numbers themselves, for the rotation radians about the camera's axes, for the focal length its logarithm.
GROUPS = ("identity", "expression", "albedo", "light", "rotation", "translation", "log_focal")


@dataclass(frozen=True)
class FaceCrop:
    """A face cut out for a network.

    Attributes
    ----------
    pixels : (S, S, 3) uint8
        sRGB.
    window : Window
        Where in the photo the crop lies.
    """

    pixels: np.ndarray
    window: Window


@dataclass(frozen=True)
class Regressed:
    """What a network says of B crops.

    Attributes
    ----------
    identity : (B, I) float32
        Standard deviations.
    expression : (B, E) float32
        In [0, 1] or standard deviations, as the face model's ``expression_limits`` has it.
    R : (B, 3, 3) float64
        Rotation from model to camera.
    t : (B, 3) float64
        Translation in metres.
    focal_px : (B,) float64
        In pixels of the crop, whose middle is the principal point.
    side : int
        S, pixels.
    albedo : (B, A) float32 or None
        Standard deviations.
    light : (B, 3, 9) float32 or None
        Spherical harmonics as in :mod:`backend.rendering.shade`: of normals in model space, linear.
    sigma : mapping of str to (B, N) float32
        Standard deviation of the error that the network expects, by group (:data:`GROUPS`); N is 1 or the
        group's size. Groups of which it says nothing are missing.
    usual : mapping of str to ((N,) mean, (N,) standard deviation)
        What is usual among the people that the network learned from, of identity, expression and
        ``log_distance`` (of metres to the camera); N is 1 or the group's size. A network that cannot tell answers
        with the mean and says the standard deviation. Empty where it is not known.
    """

    identity: np.ndarray
    expression: np.ndarray
    R: np.ndarray
    t: np.ndarray
    focal_px: np.ndarray
    side: int
    albedo: np.ndarray | None = None
    light: np.ndarray | None = None
    sigma: Mapping[str, np.ndarray] = field(default_factory=dict)
    usual: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.identity)

    def crop_camera(self, index: int) -> Camera:
        """The camera of one crop."""
        K = intrinsics(float(self.focal_px[index]), self.side, self.side)
        return Camera(K, self.R[index], self.t[index], self.side, self.side)

    def photo_camera(self, index: int, window: Window, photo: Photo) -> Camera:
        """The same view as a camera of the whole photo; see :func:`camera_in_photo`."""
        return camera_in_photo(self.crop_camera(index), window, photo.width, photo.height)


class Encoder(Protocol):
    """A network with its weights. Making one loads them; keep it for the next photo."""

    info: ModelInfo
    model: FaceModel

    def crop(self, photo: Photo, face: DetectedFace) -> FaceCrop:
        """Cut a face out as this network was taught to see it."""
        ...

    def regress(self, crops: Sequence[FaceCrop]) -> Regressed:
        """Look at any number of crops, none included."""
        ...


def camera_in_photo(camera: Camera, window: Window, width: int, height: int) -> Camera:
    """The camera of a crop as a camera of the photo it was cut from.

    Every point of the model lands on the same spot of the photo. With the crop's map to the photo,
    ``p = s Q c + o`` (scale s, rotation Q in the picture's plane), ``K`` of the photo has the focal length
    times s, and Q about the camera's axis goes into ``R`` and ``t``. The principal point stays in the middle of
    the crop: a camera that looks at the middle of the photo would see the head turned a little.

    Parameters
    ----------
    camera : Camera
        Of a square crop.
    window : Window
        The crop's place.
    width, height : int
        Of the photo, pixels.
    """
    scale = window.size / camera.width
    cos, sin = np.cos(window.angle), np.sin(window.angle)
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    middle = window.to_photo(camera.K[:2, 2], camera.width)
    focal = scale * camera.focal_px
    K = np.array([[focal, 0.0, middle[0]], [0.0, focal, middle[1]], [0.0, 0.0, 1.0]])
    return Camera(K, turn @ camera.R, turn @ camera.t, width, height)
