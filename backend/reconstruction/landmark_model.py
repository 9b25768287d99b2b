"""The face model as a landmark detector sees it.

A fit compares projected model points with detected ones. Detectors err in ways that repeat: they
shrink unusual faces towards the average, they pull a turned face's far side, whole groups of points
move together. :class:`DetectorError` holds what was measured of that on rendered people with known
shape (``trainer.measure_detector``); the fit then solves for the face behind the error.

    detected = projected + scale * Rot(roll) (bias(view) + coupling . (alpha, delta)
                                              + spread(view) (modes . eta + eps))

Symbols: L landmarks, C contour landmarks, K strip points, I identity modes, E expressions, Q = I + E,
M error modes, G view features, B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from backend.errors import ModelError
from backend.face_model.model import SKIN, FaceModel
from backend.reconstruction.contour import CONTOURS, build_strips
from backend.reconstruction.regress import Regressor, RegressStage

DATA = Path(__file__).parent / "data"

ERROR_FIELDS = ("bias", "coupling", "modes", "whitening", "spread")

# Independent error of a landmark when nothing was measured: 1.5 mm, the repeatability of dense face
# landmarks on portrait photos; contour points are three times as loose along the contour.
DEFAULT_SIGMA = 1.5e-3
CONTOUR_TANGENT_FACTOR = 3.0

# Powers of the viewing direction that bias and spread may follow, see view_features, spread_features.
VIEW_FEATURES = 10
SPREAD_FEATURES = 5

# The random error never counts as more than e^2, seven times, that of a frontal face.
MAX_LOG_SPREAD = 2.0


@dataclass(frozen=True)
class DetectorError:
    """What a detector does to landmarks, in metres on the face, in an image frame upright with the head.

    Attributes
    ----------
    bias : (G, L, 2) float32
        Mean error as a function of :func:`view_features`.
    coupling : (L, 2, Q) float32
        Mean error per unit of identity and expression coefficient.
    modes : (L, 2, M) float32
        Joint error modes, one standard deviation each.
    whitening : (L, 2, 2) float32
        Inverse Cholesky factor of each landmark's own covariance: ``|whitening . eps|`` is 1 sigma.
    spread : (S,) float32
        Coefficients of :func:`error_spread`: how the random part grows as the head turns away.
    regressor : Regressor or None
        The map from landmarks to identity learned from the same people.
    """

    bias: np.ndarray
    coupling: np.ndarray
    modes: np.ndarray
    whitening: np.ndarray
    spread: np.ndarray
    regressor: Regressor | None = None

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        """Write one safetensors file."""
        tensors = {name: np.ascontiguousarray(getattr(self, name), np.float32) for name in ERROR_FIELDS}
        if self.regressor is not None:
            tensors.update(self.regressor.tensors())
        save_file(tensors, path, metadata=metadata)

    @classmethod
    def load(cls, path: Path) -> DetectorError:
        """Read what :meth:`save` wrote; raises :class:`ModelError` when it is not that."""
        try:
            tensors = load_file(path)
            return cls(**{name: tensors[name] for name in ERROR_FIELDS}, regressor=Regressor.from_tensors(tensors))
        except (OSError, KeyError, SafetensorError) as error:
            raise ModelError(
                f"The detector calibration {path.name} cannot be read; reinstall mgcface or measure it again."
            ) from error

    @classmethod
    def assumed(cls, model: FaceModel, name: str) -> DetectorError:
        """No measurement: unbiased, independent, contours loose along their tangent."""
        count = len(model.landmarks[name].corners)
        coefficients = len(model.identity) + len(model.expression)
        whitening = np.tile(np.eye(2) / DEFAULT_SIGMA, (count, 1, 1))
        points = model.landmark_points(model.mean, name)[:, :2] * [1.0, -1.0]
        contour = np.array(CONTOURS[name])
        tangent = np.gradient(points[contour], axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        loosen = np.eye(2) - (1.0 - 1.0 / CONTOUR_TANGENT_FACTOR) * tangent[:, :, None] * tangent[:, None, :]
        whitening[contour] = loosen / DEFAULT_SIGMA
        return cls(
            np.zeros((VIEW_FEATURES, count, 2), np.float32),
            np.zeros((count, 2, coefficients), np.float32),
            np.zeros((count, 2, 0), np.float32),
            whitening.astype(np.float32),
            np.zeros(SPREAD_FEATURES, np.float32),
        )


def spread_features(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Even monomials of the camera's place in the head's frame, (B,) and (B,) -> (B, S)."""
    return torch.stack([x * x, y * y, x**4, y**4, x * x * y * y], dim=1)


def error_spread(rotation: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    """(B, 3, 3) camera rotations -> (B,): standard deviation of the error relative to a frontal face."""
    features = spread_features(-rotation[:, 2, 0], -rotation[:, 2, 1])
    return torch.exp((features @ coefficients).clamp(0.0, MAX_LOG_SPREAD))


def view_features(rotation: torch.Tensor) -> torch.Tensor:
    """(B, 3, 3) camera rotations -> (B, G): monomials to third order of where the camera stands.

    The direction to the camera in the head's frame is minus the third row of ``R``; its x and y are
    small for a frontal face, so the polynomial is one around the frontal view.
    """
    x, y = -rotation[:, 2, 0], -rotation[:, 2, 1]
    one = torch.ones_like(x)
    return torch.stack([one, x, y, x * x, x * y, y * y, x**3, x * x * y, x * y * y, y**3], dim=1)


def view_feature_slopes(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Derivatives of :func:`view_features` by the camera's x and y: (B, G) -> two of (B, G)."""
    one, x, y, xx, xy, yy = features[:, :6].unbind(1)
    zero = torch.zeros_like(one)
    by_x = torch.stack([zero, one, zero, 2 * x, y, zero, 3 * xx, 2 * xy, yy, zero], dim=1)
    by_y = torch.stack([zero, zero, one, zero, x, 2 * y, zero, xx, 2 * xy, 3 * yy], dim=1)
    return by_x, by_y


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
    error : DetectorError, optional
        The calibration to use; by default the one shipped for this model and set, else the assumed one.
    """

    def __init__(
        self,
        model: FaceModel,
        name: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
        error: DetectorError | None = None,
    ) -> None:
        if name not in model.landmarks:
            raise ModelError(
                f"The face model {model.info.name} has no {name} landmarks, so photos cannot be fitted with it; "
                "choose another model or another detector."
            )
        self.model, self.name = model, name
        self.error = error or shipped_error(model, name)

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(np.ascontiguousarray(array), dtype=dtype, device=device)

        embedding = model.landmarks[name]
        skin = model.triangles[model.triangle_material == model.materials.index(SKIN)]
        strips = build_strips(name, model.mean, skin, embedding)
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
        self.bias = tensor(self.error.bias)
        self.coupling = tensor(self.error.coupling)
        self.modes = tensor(self.error.modes)
        self.whitening = tensor(self.error.whitening)
        self.spread = tensor(self.error.spread)
        self.white_coupling = self.whitening @ self.coupling
        self.white_modes = self.whitening @ self.modes
        self.device, self.dtype = self.mean.device, dtype
        regressor = self.error.regressor
        self.regress = RegressStage(regressor, self.device, dtype) if regressor is not None else None

    @property
    def count(self) -> int:
        return len(self.mean)


def shipped_error(model: FaceModel, name: str) -> DetectorError:
    """The calibration that comes with the project, or the assumed one for models it was not measured on."""
    path = DATA / f"detector_error_{model.info.name}_{name}.safetensors"
    if not path.exists():
        return DetectorError.assumed(model, name)
    error = DetectorError.load(path)
    if error.coupling.shape[2] != len(model.identity) + len(model.expression):
        return DetectorError.assumed(model, name)
    return error
