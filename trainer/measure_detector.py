"""Learn what landmarks say about identity, from people whose identity is known.

Invented people are painted and detected; a ridge regression of their true coefficients on the detected
landmarks becomes the :class:`~backend.reconstruction.regress.Regressor` that the fit starts from.

    mgcface measure-detector --people 16000 --out FILE

Symbols: N people, L landmarks, I identity modes, K components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from backend.errors import MgcFaceError
from backend.face_model.model import FaceModel
from backend.face_model.registry import get_model
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

# A person whose median error is past this was not detected but guessed; left out.
GUESSED = 12e-3

# How finely the regression may read a landmark, as the noise that it reckons with, in radii of the face
# (about 60 mm): a quarter of a millimetre. A map that reads finer knows painted people better (half of the
# error on identities) but nobody else: on faces painted another way it fell behind the mean face.
READING_NOISE = 4e-3
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
    identity : (N, I) float
        True coefficients.
    missed : int
        People whom the detector did not find, or guessed.
    """

    landmarks: np.ndarray
    identity: np.ndarray
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
    rows, missed = [], 0
    for done, (seed, landmarks) in enumerate(detections(model_name, people, workers, first_seed)):
        if progress is not None:
            progress((done + 1) / people)
        person = draw_person(model, seed)
        if landmarks is None or landmark_error(model, person, landmarks) > GUESSED:
            missed += 1
            continue
        rows.append((landmarks, person.identity))
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


def landmark_error(model: FaceModel, person: Person, detected: np.ndarray) -> float:
    """Median distance between detected and true landmarks, metres on the face."""
    true = person.camera.project(model.landmark_points(person.vertices.astype(np.float64), LANDMARKS))
    pixels = np.median(np.linalg.norm(detected - true, axis=1))
    return float(pixels * person.camera.t[2] / person.camera.focal_px)


def learn(measurements: Measurements) -> Regressor:
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
    identity = measurements.identity
    learned = len(apart) - int(HELD_OUT * len(apart))
    offset, expected = apart[:learned].mean(axis=0), identity[:learned].mean(axis=0)
    inputs = apart[:learned] - offset
    # The ridge is landmark noise.
    gram = inputs.T @ inputs + learned * READING_NOISE**2 * np.eye(inputs.shape[1])
    weights = np.linalg.solve(gram, inputs.T @ (identity[:learned] - expected)).T
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


def run(
    model_name: str, people: int, workers: int, output: Path, progress: Callable[[float], None] | None = None
) -> tuple[int, int]:
    """Measure, learn, write the weights; returns how many people were found and missed."""
    measurements = measure(model_name, people, workers, progress=progress)
    info = get_model(model_name).info
    found = len(measurements.landmarks)
    metadata = {
        "model": info.name,
        "model_version": info.version,
        "landmarks": LANDMARKS,
        "people": str(found),
        "missed": str(measurements.missed),
    }
    learn(measurements).save(output, metadata)
    return found, measurements.missed
