"""Measure what a landmark detector does to faces of known shape, and learn from it.

Invented people are painted, detected, and compared with the truth. From the differences come the
:class:`~backend.reconstruction.landmark_model.DetectorError` that the fit reckons with and the
:class:`~backend.reconstruction.regress.Regressor` that gives it its start.

    mgcface measure-detector --people 16000 --out FILE

Symbols: N people, L landmarks, G view features, Q = I + E coefficients, M error modes, K components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from backend.errors import MgcFaceError
from backend.face_model.model import SKIN, FaceModel
from backend.face_model.registry import get_model
from backend.reconstruction.contour import CONTOURS, Strips, build_strips, outward_normals, slide
from backend.reconstruction.landmark_model import (
    MAX_LOG_SPREAD,
    DetectorError,
    spread_features,
    upright_frame,
    view_features,
)
from backend.reconstruction.regress import Regressor, align
from backend.vision.mediapipe_detector import MediaPipeDetector
from backend.vision.photo import Photo
from trainer.data.people import Painter, Person, draw_person

LANDMARKS = "mediapipe478"

# Seeds of the people measured here start at this number; evaluations use others.
FIRST_SEED = 1_000_000
BLOCK = 100

# Ridge on the regression of errors on coefficients, as a number of pseudo-people at rest.
ERROR_RIDGE = 30.0

# Joint modes kept: with 10 the fit costs half of what it costs with 40, and is as good. The floor is
# MediaPipe's repeatability on a still picture, about 0.3 mm on a face.
MODES = 10
FLOOR = 3e-4

# A person whose median error is past this was not detected but guessed; left out. And one whose error,
# after everything known is taken off, is past this many typical ones.
GUESSED = 12e-3
MISDETECTED = 3.0

# The regression sees landmark shapes through this many components; more fit noise, fewer lose identity.
# The last part of the people is held out to measure its error.
REGRESSION_COMPONENTS = 500
REGRESSION_RIDGE = 300.0
COMPLETION_COMPONENTS = 100
HELD_OUT = 0.05


@dataclass
class Measurements:
    """What was seen of N people.

    Attributes
    ----------
    landmarks : (N, L, 2) float
        As detected, pixels.
    error : (N, L, 2) float
        Detected minus true position, metres, upright.
    view : (N, G) float
        View features.
    coefficients : (N, Q) float
        True identity and expression.
    missed : int
        People whom the detector did not find, or guessed.
    """

    landmarks: np.ndarray
    error: np.ndarray
    view: np.ndarray
    coefficients: np.ndarray
    missed: int


def measure(
    model_name: str,
    people: int,
    workers: int,
    first_seed: int = FIRST_SEED,
    progress: Callable[[float], None] | None = None,
) -> Measurements:
    """Paint and detect ``people`` invented people in ``workers`` processes."""
    model = get_model(model_name)
    skin = model.triangles[model.triangle_material == model.materials.index(SKIN)]
    strips = build_strips(LANDMARKS, model.mean, skin, model.landmarks[LANDMARKS])
    rows, missed = [], 0
    for done, (seed, landmarks) in enumerate(detections(model_name, people, workers, first_seed)):
        if progress is not None:
            progress((done + 1) / people)
        person = draw_person(model, seed)
        error = None if landmarks is None else landmark_error(model, strips, person, landmarks)
        if error is None or np.median(np.linalg.norm(error, axis=1)) > GUESSED:
            missed += 1
            continue
        view = view_features(torch.as_tensor(person.camera.R)[None])[0].numpy()
        rows.append((landmarks, error, view, np.concatenate([person.identity, person.expression])))
    return Measurements(*(np.array(column) for column in zip(*rows)), missed=missed)


def detections(model_name: str, people: int, workers: int, first_seed: int) -> Iterator[tuple[int, np.ndarray | None]]:
    """(seed, landmarks (L, 2) or None where the detector saw no face), in the order of the seeds."""
    starts = range(first_seed, first_seed + people, BLOCK)
    blocks = [(model_name, start, min(start + BLOCK, first_seed + people)) for start in starts]
    with ProcessPoolExecutor(workers) as pool:
        for (_, start, _), found in zip(blocks, pool.map(detect_block, blocks)):
            yield from enumerate(found, start)


_WARM: dict[str, tuple[FaceModel, Painter, MediaPipeDetector]] = {}


def detect_block(block: tuple[str, int, int]) -> list[np.ndarray | None]:
    """One worker's share; model, painter and detector stay warm in its process."""
    name, start, stop = block
    if name not in _WARM:
        torch.set_num_threads(1)
        model = get_model(name)
        _WARM[name] = (model, Painter(model), MediaPipeDetector(passes=2, threads=1))
    model, painter, detector = _WARM[name]
    found: list[np.ndarray | None] = []
    for seed in range(start, stop):
        try:
            faces = detector.detect(Photo(painter.paint(draw_person(model, seed), seed)))
        except MgcFaceError:
            faces = []
        found.append(faces[0].landmarks[LANDMARKS].astype(np.float64) if faces else None)
    return found


def landmark_error(model: FaceModel, strips: Strips, person: Person, detected: np.ndarray) -> np.ndarray:
    """(L, 2) metres: detected minus true position, contours slid, in the frame upright with the head."""
    camera, vertices = person.camera, person.vertices.astype(np.float64)
    true = camera.project(model.landmark_points(vertices, LANDMARKS))
    contour = np.array(CONTOURS[LANDMARKS])
    samples = camera.project(strips.embedding.points(vertices)).reshape(1, len(contour), -1, 2)
    normals = outward_normals(torch.as_tensor(detected[None, contour]), strips.closed)
    chosen = slide(torch.as_tensor(samples), normals)[0].numpy()
    true[contour] = samples[0, np.arange(len(contour)), chosen]
    frame = upright_frame(torch.as_tensor(camera.R)[None])[0].numpy()
    return (detected - true) @ frame * camera.t[2] / camera.focal_px


def learn_error(measurements: Measurements, modes: int = MODES) -> DetectorError:
    """Ridge regression of the errors on view and coefficients, then factors of what remains."""
    count, landmarks = measurements.error.shape[:2]
    target = measurements.error.reshape(count, -1)
    inputs = np.concatenate([measurements.view, measurements.coefficients], axis=1)
    split = measurements.view.shape[1]
    penalty = np.full(inputs.shape[1], ERROR_RIDGE)
    penalty[:split] = 1e-3
    spread = np.ones(count)
    slopes, solution, rest = np.zeros(0), np.zeros(0), target
    # Twice: the first regression says how loud each person is, the second listens accordingly.
    for _ in range(2):
        loud = inputs / spread[:, None]
        solution = np.linalg.solve(loud.T @ loud + np.diag(penalty), loud.T @ (target / spread[:, None]))
        rest = target - inputs @ solution
        slopes, spread = learn_spread(measurements.view, np.sqrt((rest**2).mean(axis=1)))
    rest = rest / spread[:, None]
    # People whom the regression cannot explain are misdetections; they would dominate a covariance.
    size = np.sqrt((rest**2).mean(axis=1))
    rest = rest[size < MISDETECTED * np.median(size)]
    _, singular, vt = np.linalg.svd(rest - rest.mean(axis=0), full_matrices=False)
    factors = vt[:modes] * (singular[:modes] / np.sqrt(len(rest)))[:, None]
    own = rest - (rest @ vt[:modes].T) @ vt[:modes]
    own = own.reshape(len(rest), landmarks, 2)
    covariance = np.einsum("nli,nlj->lij", own, own) / len(own) + np.eye(2) * FLOOR**2
    return DetectorError(
        bias=solution[:split].reshape(split, landmarks, 2),
        coupling=solution[split:].reshape(-1, landmarks, 2).transpose(1, 2, 0),
        modes=factors.reshape(modes, landmarks, 2).transpose(1, 2, 0),
        whitening=np.linalg.inv(np.linalg.cholesky(covariance)),
        spread=slopes,
    )


def learn_spread(view: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How error sizes (N,) grow with the view (N, G): coefficients (S,) and each person's spread (N,)."""
    features = spread_features(torch.as_tensor(view[:, 1]), torch.as_tensor(view[:, 2])).numpy()
    inputs = np.concatenate([np.ones((len(size), 1)), features], axis=1)
    penalty = np.eye(inputs.shape[1])
    penalty[0, 0] = 0.0
    slopes = np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ np.log(size))[1:]
    return slopes, np.exp((features @ slopes).clip(0.0, MAX_LOG_SPREAD))


def learn_regressor(measurements: Measurements, identity_count: int) -> Regressor:
    """Ridge regression of identity on the leading components of landmark shapes."""
    landmarks = torch.as_tensor(measurements.landmarks)
    shape = mean_shape(landmarks)
    shapes = align(landmarks, shape, torch.ones(landmarks.shape[:2], dtype=landmarks.dtype)).flatten(1).numpy()
    identity = measurements.coefficients[:, :identity_count]
    learned = len(shapes) - int(HELD_OUT * len(shapes))
    middle = shape.numpy().ravel()
    offset = shapes[:learned].mean(axis=0)
    _, singular, vt = np.linalg.svd(shapes[:learned] - offset, full_matrices=False)
    count = min(REGRESSION_COMPONENTS, learned // 4)
    scaled = vt[:count] / (singular[:count, None] / np.sqrt(learned))
    inputs = (shapes[:learned] - offset) @ scaled.T
    gram = inputs.T @ inputs + REGRESSION_RIDGE * np.eye(count)
    slopes = np.linalg.solve(gram, inputs.T @ (identity[:learned] - identity[:learned].mean(axis=0)))
    weights = slopes.T @ scaled
    intercept = identity[:learned].mean(axis=0) + weights @ (middle - offset)
    found = (shapes[learned:] - middle) @ weights.T + intercept
    components = vt[:COMPLETION_COMPONENTS]
    apart = shapes[:learned] - middle
    left = (apart - (apart @ components.T) @ components).reshape(learned, -1, 2)
    return Regressor(
        shape=middle,
        components=components,
        residual=np.sqrt((left**2).sum(axis=2).mean(axis=0)),
        weights=weights,
        intercept=intercept,
        sigma=(found - identity[learned:]).std(axis=0),
    )


def mean_shape(landmarks: torch.Tensor) -> torch.Tensor:
    """Mean of (N, L, 2) landmark shapes after alignment onto each other: (L, 2), unit radius, upright."""
    weight = torch.ones(landmarks.shape[:2], dtype=landmarks.dtype)
    shape = landmarks[0]
    for _ in range(5):
        shape = align(landmarks, shape, weight).mean(dim=0)
        shape = shape - shape.mean(dim=0)
        shape = shape / shape.pow(2).sum(dim=1).mean().sqrt()
    return shape


def learn(measurements: Measurements, identity_count: int) -> DetectorError:
    """Everything the calibration file holds."""
    return replace(learn_error(measurements), regressor=learn_regressor(measurements, identity_count))


def run(
    model_name: str, people: int, workers: int, output: Path, progress: Callable[[float], None] | None = None
) -> tuple[int, int]:
    """Measure, learn, write the calibration; returns how many people were found and missed."""
    measurements = measure(model_name, people, workers, progress=progress)
    model = get_model(model_name)
    error = learn(measurements, len(model.identity))
    found = len(measurements.error)
    metadata = {
        "model": model.info.name,
        "model_version": model.info.version,
        "landmarks": LANDMARKS,
        "people": str(found),
        "missed": str(measurements.missed),
    }
    error.save(output, metadata)
    return found, measurements.missed
