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
from multiprocessing import get_context
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
# Points 468 to 477 are the irises.
FACE_LANDMARKS = 468

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

# How finely the regression may read a landmark, in radii of the face (about 60 mm), as the noise that it
# reckons with. The fine map reads what only a whole detection holds; the coarse one, a quarter of a
# millimetre, still answers well when a tenth of the landmarks is completed.
FINE_READING = 5e-5
COARSE_READING = 4e-3
RESIDUAL_FLOOR = 2e-3
# Components that complete wrong landmarks, and the part of the people held out to measure the error.
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
    # Fresh processes: a fork would copy the threads of PyTorch and MediaPipe in whatever state they are.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
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
    """Ridge regression of identity on aligned landmark shapes."""
    landmarks = torch.as_tensor(measurements.landmarks)
    # Gaze is no part of who one is, and irises are guesses where eyes are closed.
    weight = torch.ones(landmarks.shape[1], dtype=landmarks.dtype)
    weight[FACE_LANDMARKS:] = 0.0
    shape = mean_shape(landmarks, weight)
    shapes = align(landmarks, shape, weight.expand(len(landmarks), -1))
    shapes[:, FACE_LANDMARKS:] = shape[FACE_LANDMARKS:]
    middle = shape.numpy().ravel()
    apart = shapes.flatten(1).numpy() - middle
    identity = measurements.coefficients[:, :identity_count]
    learned = len(apart) - int(HELD_OUT * len(apart))
    offset, expected = apart[:learned].mean(axis=0), identity[:learned].mean(axis=0)
    inputs = apart[:learned] - offset

    def ridge(noise: float) -> np.ndarray:
        gram = inputs.T @ inputs + learned * noise**2 * np.eye(inputs.shape[1])
        return np.linalg.solve(gram, inputs.T @ (identity[:learned] - expected)).T

    weights, coarse = ridge(FINE_READING), ridge(COARSE_READING)
    intercept = expected - weights @ offset
    found = apart[learned:] @ weights.T + intercept
    _, _, vt = np.linalg.svd(inputs, full_matrices=False)
    components = vt[:COMPLETION_COMPONENTS]
    left = (apart - (apart @ components.T) @ components).reshape(len(apart), -1, 2)
    residual = np.sqrt((left**2).sum(axis=2).mean(axis=0))
    return Regressor(
        shape=middle,
        components=components,
        residual=np.maximum(residual, RESIDUAL_FLOOR),
        weights=weights,
        intercept=intercept,
        coarse_weights=coarse,
        coarse_intercept=expected - coarse @ offset,
        sigma=(found - identity[learned:]).std(axis=0),
    )


def mean_shape(landmarks: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean of (N, L, 2) landmark shapes aligned onto each other: (L, 2), unit radius, upright."""
    weight = weight / weight.sum()
    shape = landmarks[0]
    for _ in range(5):
        shape = align(landmarks, shape, weight.expand(len(landmarks), -1)).mean(dim=0)
        shape = shape - weight @ shape
        shape = shape / (weight @ shape.pow(2).sum(dim=1)).sqrt()
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
