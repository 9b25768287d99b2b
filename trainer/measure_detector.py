"""Measure what a landmark detector does to faces of known shape.

Invented people are painted, detected, and compared with the truth; the differences become the
:class:`backend.reconstruction.landmark_model.DetectorError` that ships beside the fit.

Symbols: N people, L landmarks, G view features, Q coefficients, M error modes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from backend.errors import MgcFaceError
from backend.face_model.model import FaceModel
from backend.reconstruction.contour import CONTOURS, build_strips, outward_normals, slide
from backend.reconstruction.landmark_model import DetectorError, upright_frame, view_features
from backend.vision.detector import make_detector
from backend.vision.photo import Photo
from trainer.data.people import Painter, Person, draw_person

# Seeds of the people measured here start at this number; evaluations use others.
FIRST_SEED = 1_000_000

# Ridge on the regression of errors on coefficients, as a number of pseudo-people at rest.
RIDGE = 30.0

# Joint modes kept, and the floor of a landmark's own error: MediaPipe's repeatability on a still
# picture is about 0.3 mm on a face.
MODES = 40
FLOOR = 3e-4

# A person whose median error is past this was not detected but guessed; left out.
GUESSED = 12e-3


@dataclass
class Measurements:
    """Errors of many people: ``error`` (N, L, 2) metres upright, ``view`` (N, G), ``coefficients`` (N, Q)."""

    error: np.ndarray
    view: np.ndarray
    coefficients: np.ndarray
    missed: int


def landmark_error(model: FaceModel, name: str, person: Person, detected: np.ndarray) -> np.ndarray:
    """(L, 2) metres: detected minus true position, in the image frame upright with the head."""
    embedding = model.landmarks[name]
    camera = person.camera
    true = camera.project(embedding.points(person.vertices.astype(np.float64)))
    contour = np.array(CONTOURS[name])
    strips = _strips(model, name)
    samples = camera.project(strips.embedding.points(person.vertices.astype(np.float64)))
    samples = torch.as_tensor(samples.reshape(1, len(contour), -1, 2))
    normals = outward_normals(torch.as_tensor(detected[None, contour]).double(), strips.closed)
    chosen = slide(samples, normals)[0]
    true[contour] = samples[0][torch.arange(len(contour)), chosen].numpy()
    frame = upright_frame(torch.as_tensor(camera.R)[None])[0].numpy()
    return (detected - true) @ frame * camera.t[2] / camera.focal_px


_STRIPS: dict = {}


def _strips(model: FaceModel, name: str):
    key = (id(model), name)
    if key not in _STRIPS:
        skin = model.triangles[model.triangle_material == 0]
        _STRIPS[key] = build_strips(name, model.mean, skin, model.landmarks[name])
    return _STRIPS[key]


def measure(
    model: FaceModel,
    name: str,
    seeds: range,
    progress: Callable[[float], None] | None = None,
) -> Measurements:
    """Paint and detect the people of ``seeds``; those whom the detector misses are counted, not used."""
    painter, detector = Painter(model), make_detector("mediapipe")
    errors, views, coefficients, missed = [], [], [], 0

    def painted(seed: int) -> tuple[Person, np.ndarray]:
        person = draw_person(model, seed)
        return person, painter.paint(person, seed)

    with ThreadPoolExecutor(1) as ahead:
        pending = ahead.submit(painted, seeds[0])
        for number, seed in enumerate(seeds):
            person, picture = pending.result()
            if number + 1 < len(seeds):
                pending = ahead.submit(painted, seeds[number + 1])
            try:
                faces = detector.detect(Photo(picture))
            except MgcFaceError:
                faces = []
            error = landmark_error(model, name, person, faces[0].landmarks[name].astype(np.float64)) if faces else None
            if error is None or np.median(np.linalg.norm(error, axis=1)) > GUESSED:
                missed += 1
                continue
            errors.append(error)
            views.append(view_features(torch.as_tensor(person.camera.R)[None])[0].numpy())
            coefficients.append(np.concatenate([person.identity, person.expression]))
            if progress is not None:
                progress((number + 1) / len(seeds))
    return Measurements(np.array(errors), np.array(views), np.array(coefficients), missed)


def learn(measurements: Measurements, modes: int = MODES, ridge: float = RIDGE) -> DetectorError:
    """Ridge regression of the errors on view and coefficients, then factors of what remains."""
    count, landmarks = measurements.error.shape[:2]
    target = measurements.error.reshape(count, -1)
    inputs = np.concatenate([measurements.view, measurements.coefficients], axis=1)
    penalty = np.full(inputs.shape[1], ridge)
    penalty[: measurements.view.shape[1]] = 1e-3
    solution = np.linalg.solve(inputs.T @ inputs + np.diag(penalty), inputs.T @ target)
    rest = target - inputs @ solution
    # People whom the regression cannot explain are misdetections; they would dominate a covariance.
    size = np.sqrt((rest**2).mean(axis=1))
    rest = rest[size < 3.0 * np.median(size)]
    _, singular, vt = np.linalg.svd(rest - rest.mean(axis=0), full_matrices=False)
    variance = singular**2 / len(rest)
    floor = variance[modes : 2 * modes].mean() if len(variance) > modes else 0.0
    factors = vt[:modes] * np.sqrt(np.maximum(variance[:modes] - floor, 0.0))[:, None]
    own = rest - (rest @ vt[:modes].T) @ vt[:modes]
    own = own.reshape(len(rest), landmarks, 2)
    covariance = np.einsum("nli,nlj->lij", own, own) / len(own) + np.eye(2) * FLOOR**2
    split = measurements.view.shape[1]
    return DetectorError(
        bias=solution[:split].reshape(split, landmarks, 2),
        coupling=solution[split:].reshape(-1, landmarks, 2).transpose(1, 2, 0),
        modes=factors.reshape(modes, landmarks, 2).transpose(1, 2, 0),
        whitening=np.linalg.inv(np.linalg.cholesky(covariance)),
    )


def run(
    model: FaceModel, name: str, people: int, output: Path, progress: Callable[[float], None] | None = None
) -> Measurements:
    """Measure ``people`` invented people and write the calibration file."""
    measurements = measure(model, name, range(FIRST_SEED, FIRST_SEED + people), progress)
    error = learn(measurements)
    metadata = {"model": model.info.name, "landmarks": name, "people": str(len(measurements.error))}
    error.save(output, metadata)
    return measurements
