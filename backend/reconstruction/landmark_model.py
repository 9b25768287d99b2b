"""The face model as a landmark detector sees it.

Symbols: L landmarks, C contour landmarks, K strip points, I identity modes, E expressions, Q = I + E,
B batch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from backend.errors import ModelError
from backend.face_model.model import SKIN, FaceModel
from backend.reconstruction.contour import CONTOURS, build_strips
from backend.reconstruction.correction import Correction, CorrectStage, MovedCorrection
from backend.reconstruction.regress import Regressor, RegressStage

DATA = Path(__file__).parent / "data"

# Error of a landmark: 1.5 mm, what dense landmarks on portrait photos differ by from the surface points
# they stand for. Contour points are three times as loose along the contour.
LANDMARK_SIGMA = 1.5e-3
CONTOUR_TANGENT_FACTOR = 3.0


def landmark_whitening(model: FaceModel, name: str) -> np.ndarray:
    """(L, 2, 2) inverse standard deviations of the landmarks in the frame upright with the head, 1 / metres."""
    count = len(model.landmarks[name].corners)
    whitening = np.tile(np.eye(2) / LANDMARK_SIGMA, (count, 1, 1))
    points = model.landmark_points(model.mean, name)[:, :2] * [1.0, -1.0]
    contour = np.array(CONTOURS[name])
    tangent = np.gradient(points[contour], axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    loosen = np.eye(2) - (1.0 - 1.0 / CONTOUR_TANGENT_FACTOR) * tangent[:, :, None] * tangent[:, None, :]
    whitening[contour] = loosen / LANDMARK_SIGMA
    return whitening


def upright_frame(rotation: torch.Tensor) -> torch.Tensor:
    """(B, 3, 3) -> (B, 2, 2): image rotation ``Rot(roll)`` that takes the head's upright frame to pixels.

    Its second column is where the head's down axis points in the image.
    """
    down = -rotation[:, :2, 1]
    down = down / down.norm(dim=1, keepdim=True).clamp_min(1e-9)
    right = torch.stack([down[:, 1], -down[:, 0]], dim=1)
    return torch.stack([right, down], dim=2)


class LandmarkModel:
    """One landmark set of one face model, as tensors on a device.

    Parameters
    ----------
    model : FaceModel
    name : str
        ``mediapipe478`` or ``ibug68``.
    device, dtype
        Where and in which precision the fit runs.
    regress : bool
        Start from the regression that comes with the project, where there is one for this model and set.
    """

    def __init__(
        self,
        model: FaceModel,
        name: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
        regress: bool = True,
    ) -> None:
        if name not in model.landmarks:
            raise ModelError(
                f"The face model {model.info.name} has no {name} landmarks, so photos cannot be fitted with it; "
                "choose another model or another detector."
            )
        self.model, self.name = model, name
        regressor = shipped_regressor(model, name) if regress else None

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(np.ascontiguousarray(array), dtype=dtype, device=device)

        embedding = model.landmarks[name]
        skin = model.triangles[model.triangle_material == model.materials.index(SKIN)]
        strips = build_strips(name, model.mean, skin, embedding)
        self.embedding, self.strips = embedding, strips
        basis = np.concatenate([model.identity, model.expression])
        self.identity_count, self.expression_count = len(model.identity), len(model.expression)
        self.mean = tensor(embedding.points(model.mean))
        # (3, L, Q): the axis first, so that a rotation is three scaled additions of contiguous blocks.
        self.basis = tensor(embedding.points(basis).transpose(2, 1, 0))
        self.contour = torch.as_tensor(strips.indices, device=device)
        self.contour_closed = strips.closed
        shape = (len(strips.indices), strips.points_per_strip)
        self.strip_mean = tensor(strips.embedding.points(model.mean)).reshape(*shape, 3)
        self.strip_basis = tensor(strips.embedding.points(basis).transpose(2, 1, 0)).reshape(3, *shape, -1)
        self.whitening = tensor(landmark_whitening(model, name))
        self.device, self.dtype = self.mean.device, dtype
        self.regress = RegressStage(regressor, self.device, dtype) if regressor is not None else None
        self.correct, self.correct_moved = (
            None if regressor is None or each is None else CorrectStage(each, self.device, dtype)
            for each in (shipped_correction(model, name), shipped_correction(model, name, moved=True))
        )

    @property
    def count(self) -> int:
        return len(self.mean)


def shipped_regressor(model: FaceModel, name: str) -> Regressor | None:
    """What comes with the project for this model and set; None for models it was not learned on."""
    path = DATA / f"regressor_{model.info.name}_{name}.safetensors"
    if not path.exists():
        return None
    regressor = Regressor.load(path)
    return regressor if len(regressor.intercept) == len(model.identity) else None


def shipped_correction(model: FaceModel, name: str, moved: bool = False) -> Correction | None:
    """What goes with :func:`shipped_regressor`, or after it where landmarks were put right; None if there is none."""
    path = DATA / f"correction{'_moved' if moved else ''}_{model.info.name}_{name}.safetensors"
    return (MovedCorrection if moved else Correction).load(path) if path.exists() else None
