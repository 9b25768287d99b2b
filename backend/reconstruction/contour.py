"""Contour landmarks that slide.

The face oval of a detector is not a set of material points: on the far side of a turned head the
detected oval lies on the silhouette, wherever on the cheek that happens to be. So every contour
landmark owns a *strip*, a short path over the surface from its frontal place towards the middle of
the face, and for a given camera it stands at the point of its strip that reaches farthest outward in
the image. On the near side that is the frontal place itself, on the far side the silhouette.

Symbols: C contour landmarks, K points per strip, L landmarks, B batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from backend.face_model.model import Embedding
from backend.geometry.closest_point import SurfaceTree
from backend.vision.landmark_sets import FACE_OVAL

# iBUG 68: the jaw from ear to ear; open, so its ends take the direction of their one neighbour.
IBUG_JAW = tuple(range(17))

CONTOURS = {"mediapipe478": FACE_OVAL, "ibug68": IBUG_JAW}

# Where a strip leads to: MediaPipe's point on the bridge of the nose, iBUG's nose tip.
STRIP_TARGET = {"mediapipe478": 6, "ibug68": 30}

# How far inward a strip reaches, as a part of the way to the target, and in how many points. At 60
# degrees of yaw the silhouette of the cheek lies half-way between the frontal oval and the nose.
STRIP_REACH = 0.55
STRIP_POINTS = 12


@dataclass(frozen=True)
class Strips:
    """Paths of the contour landmarks of one set.

    Attributes
    ----------
    indices : (C,) int64
        Positions of the contour landmarks within their set, in order around the face.
    embedding : Embedding
        C * K points, strip after strip; point 0 of a strip is the landmark's frontal place.
    closed : bool
        Whether the contour goes all the way round.
    """

    indices: np.ndarray
    embedding: Embedding
    closed: bool

    @property
    def points_per_strip(self) -> int:
        return len(self.embedding.corners) // len(self.indices)


def build_strips(name: str, mean: np.ndarray, triangles: np.ndarray, embedding: Embedding) -> Strips:
    """Lay the strips of one landmark set over the mean face.

    Parameters
    ----------
    name : str
        Key of :data:`CONTOURS`.
    mean : (V, 3) float
    triangles : (T, 3) int
        Skin only, so that no strip runs over eyeballs or the inside of the mouth.
    embedding : Embedding
        The set's landmarks.
    """
    indices = np.array(CONTOURS[name])
    points = embedding.points(mean.astype(np.float64))
    start, target = points[indices], points[STRIP_TARGET[name]]
    steps = np.linspace(0.0, STRIP_REACH, STRIP_POINTS)
    chords = start[:, None] + steps[None, :, None] * (target - start)[:, None]
    corners, barycentric = SurfaceTree(mean, triangles).embed(chords.reshape(-1, 3))
    # The frontal place stays exactly the landmark, whatever the surface search rounds.
    first = np.arange(len(indices)) * STRIP_POINTS
    corners[first], barycentric[first] = embedding.corners[indices], embedding.barycentric[indices]
    return Strips(indices, Embedding(corners, barycentric), closed=name == "mediapipe478")


def outward_normals(contour: torch.Tensor, closed: bool) -> torch.Tensor:
    """Unit normals of a polygon that point away from its middle: (B, C, 2) -> (B, C, 2)."""
    if closed:
        tangent = torch.roll(contour, -1, dims=1) - torch.roll(contour, 1, dims=1)
    else:
        padded = torch.cat([contour[:, :1], contour, contour[:, -1:]], dim=1)
        tangent = padded[:, 2:] - padded[:, :-2]
    normal = torch.stack([tangent[..., 1], -tangent[..., 0]], dim=-1)
    outward = contour - contour.mean(dim=1, keepdim=True)
    normal = normal * torch.sign((normal * outward).sum(dim=-1, keepdim=True))
    return normal / normal.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def slide(strip_image: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """Index of the point of each strip that reaches farthest outward.

    Parameters
    ----------
    strip_image : (B, C, K, 2) float
        Projected strips, pixels.
    normals : (B, C, 2) float
        Outward normals of the detected contour.

    Returns
    -------
    (B, C) int64
    """
    return torch.einsum("bckd,bcd->bck", strip_image, normals).argmax(dim=2)
