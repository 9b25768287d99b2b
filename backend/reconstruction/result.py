"""What a reconstruction is: the contract between the pipeline, the exporters and the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from backend.face_model.model import FaceModel
from backend.geometry.camera import Camera
from backend.geometry.rotation import head_euler_degrees


@dataclass(frozen=True)
class FitReport:
    """How well the model explains the photo.

    Attributes
    ----------
    rms_px : float
        Root mean square of the distance between projected and detected landmarks, pixels.
    rms_relative : float
        The same over the height of the face in the photo (landmark box), so that photos compare.
    median_relative : float
        Median distance over the face height: the robust figure.
    sigma_identity : (I,) float32
        Posterior standard deviation of each identity coefficient, in units of its prior: 1 means the
        photo said nothing about it, 0 that it is certain.
    iterations : int
    converged : bool
    """

    rms_px: float
    rms_relative: float
    median_relative: float
    sigma_identity: np.ndarray
    iterations: int
    converged: bool


@dataclass(frozen=True)
class Texture:
    """The photo unwrapped.

    Attributes
    ----------
    color : (S, S, 3) uint8
        sRGB; row 0 is v = 1.
    confidence : (S, S) uint8
        255 where the photo showed the skin straight on, 0 where it was completed.
    light : (9, 3) float32 or None
        The light that was taken out, as spherical harmonics of normals in model space (`rendering/shade.py`):
        it times the texture gives back the photo. None where too little skin was seen to tell.
    """

    color: np.ndarray
    confidence: np.ndarray
    light: np.ndarray | None = None


@dataclass(frozen=True)
class Reconstruction:
    """One head from one face of one photo.

    ``identity`` (I,) standard deviations; ``expression`` (E,) in the order of
    ``model.expression_names``; ``landmarks`` as detected, pixels of the photo; ``timings_ms`` by stage; ``offset``
    (V, 3) metres, what the head has beyond the model's identities, None where that is nothing.
    """

    model: FaceModel
    photo_path: Path | None
    photo_width: int
    photo_height: int
    camera: Camera
    identity: np.ndarray
    expression: np.ndarray
    landmarks: dict[str, np.ndarray]
    fit: FitReport
    texture: Texture | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    offset: np.ndarray | None = None

    @cached_property
    def neutral_vertices(self) -> np.ndarray:
        """(V, 3) metres, identity without expression."""
        return with_offset(self.model.vertices(self.identity), self.offset)

    @cached_property
    def vertices(self) -> np.ndarray:
        """(V, 3) metres, as photographed, in model space."""
        return with_offset(self.model.vertices(self.identity, self.expression), self.offset)

    @property
    def expression_by_name(self) -> dict[str, float]:
        return {name: float(value) for name, value in zip(self.model.expression_names, self.expression)}

    @property
    def pose_euler_degrees(self) -> dict[str, float]:
        return head_euler_degrees(self.camera.R)


def with_offset(vertices: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
    """(V, 3) of a model, and what lies beyond it."""
    return vertices if offset is None else (vertices + offset).astype(np.float32)
