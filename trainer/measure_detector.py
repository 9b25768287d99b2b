"""Learn what landmarks say about identity, from people whose identity is known.

Invented people are painted and detected; a ridge regression of their true coefficients on the detected
landmarks becomes the :class:`~backend.reconstruction.regress.Regressor` that the fit starts from.

    mgcface measure-detector --people 20000 --skins FOLDER --out FILE

Symbols: N people, L landmarks, I identity modes, K components.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import eigh

from backend.errors import MgcFaceError
from backend.face_model.model import FaceModel
from backend.face_model.registry import get_model
from backend.reconstruction.regress import Regressor, align, lift
from backend.vision.landmark_sets import MIRROR
from backend.vision.mediapipe_detector import MediaPipeDetector
from backend.vision.photo import Photo
from trainer.data.painter import Painter
from trainer.data.people import Person, draw_person
from trainer.data.skins import unwrap_skins

LANDMARKS = "mediapipe478"
# Points 468 to 477 are the irises.
FACE_LANDMARKS = 468

# Seeds of the people measured here start at this number; evaluations use others.
FIRST_SEED = 1_000_000
BLOCK = 100

# A person whose median error is past this was not detected but guessed; left out.
GUESSED = 12e-3

# How finely the regression may read a landmark, as the noise that it reckons with, in radii of the face
# (about 60 mm): a fiftieth of a millimetre. People who all look alike must not be read so finely: a map
# learned on plainly painted ones fell behind the mean face on faces painted another way.
READING_NOISE = 3e-4
LIFTED_AT_ONCE = 2000
RESIDUAL_FLOOR = 2e-3
# No mixture of coefficients is known better than this part of its variance among people.
LEAST_LEFT = 0.01
# Components that complete wrong landmarks, and in how many parts the people are told apart to measure errors on those
# that were not learned from.
COMPLETION_COMPONENTS = 100
FOLDS = 5


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
    skins: Path | None = None,
) -> Measurements:
    """Paint and detect ``people`` invented people in ``workers`` processes; ``skins`` is a .npy of (S, V, 3)."""
    model = get_model(model_name)
    rows, missed = [], 0
    for done, (seed, landmarks) in enumerate(detections(model_name, people, workers, first_seed, skins)):
        if progress is not None:
            progress((done + 1) / people)
        person = draw_person(model, seed)
        if landmarks is None or landmark_error(model, person, landmarks) > GUESSED:
            missed += 1
            continue
        rows.append((landmarks, person.identity))
    return Measurements(*(np.array(column) for column in zip(*rows)), missed=missed)


# A picture (H, W, 3) uint8 of the person of a seed.
Draw = Callable[[FaceModel, Painter, int], np.ndarray]


def painted(model: FaceModel, painter: Painter, seed: int) -> np.ndarray:
    return painter.paint(draw_person(model, seed), seed)


def detections(
    model_name: str, people: int, workers: int, first_seed: int, skins: Path | None = None, draw: Draw = painted
) -> Iterator[tuple[int, np.ndarray | None]]:
    """(seed, landmarks (L, 2) or None where the detector saw no face), in the order of the seeds.

    ``draw`` is a function of a module, so that the workers find it.
    """
    starts = range(first_seed, first_seed + people, BLOCK)
    blocks = [Block(model_name, start, min(start + BLOCK, first_seed + people), skins, draw) for start in starts]
    # Fresh processes: a fork would copy the threads of PyTorch and MediaPipe in whatever state they are.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for block, found in zip(blocks, pool.map(detect_block, blocks)):
            yield from enumerate(found, block.start)


@dataclass(frozen=True)
class Block:
    """The people with seeds from ``start`` up to ``stop``, of one model, in skins from one file."""

    model_name: str
    start: int
    stop: int
    skins: Path | None
    draw: Draw


_WARM: dict[tuple[str, Path | None], tuple[FaceModel, Painter, MediaPipeDetector]] = {}


def detect_block(block: Block) -> list[np.ndarray | None]:
    """One worker's share; model, painter and detector stay warm in its process."""
    key = (block.model_name, block.skins)
    if key not in _WARM:
        torch.set_num_threads(1)
        model = get_model(block.model_name)
        skins = None if block.skins is None else np.load(block.skins, allow_pickle=False)
        _WARM[key] = (model, Painter(model, skins), MediaPipeDetector(passes=2, threads=1))
    model, painter, detector = _WARM[key]
    found: list[np.ndarray | None] = []
    for seed in range(block.start, block.stop):
        try:
            faces = detector.detect(Photo(block.draw(model, painter, seed)))
        except MgcFaceError:
            faces = []
        found.append(faces[0].landmarks[LANDMARKS].astype(np.float64) if faces else None)
    return found


def landmark_error(model: FaceModel, person: Person, detected: np.ndarray) -> float:
    """Median distance between detected and true landmarks, metres on the face."""
    true = person.camera.project(model.landmark_points(person.vertices.astype(np.float64), LANDMARKS))
    pixels = np.median(np.linalg.norm(detected - true, axis=1))
    return float(pixels * person.camera.t[2] / person.camera.focal_px)


def learn(measurements: Measurements, mirror: Mirror | None = None) -> Regressor:
    """Ridge regression of identity on lifted, aligned landmark shapes.

    With ``mirror`` every person counts twice, as seen and as seen in a mirror.
    """
    landmarks = torch.as_tensor(measurements.landmarks, dtype=torch.float64)
    # Gaze is no part of who one is, and irises are guesses where eyes are closed.
    used = min(FACE_LANDMARKS, landmarks.shape[1])
    weight = torch.zeros(landmarks.shape[1], dtype=landmarks.dtype)
    weight[:used] = 1.0
    shape = mean_shape(landmarks, weight)
    if mirror is not None:
        shape = (shape + mirror.shapes(shape[None])[0]) / 2.0
    shapes = align(landmarks, shape, weight.expand(len(landmarks), -1))
    shapes[:, used:] = shape[used:]
    apart = (shapes - shape).flatten(1)
    pairs = [(apart, torch.as_tensor(measurements.identity, dtype=torch.float64))]
    if mirror is not None:
        pairs.append(((mirror.shapes(shapes) - shape).flatten(1), mirror.identities(pairs[0][1])))
    turn = most_varied(torch.cat([inputs for inputs, _ in pairs]))
    columns = (weight > 0).repeat_interleave(2).repeat(3)
    # A person and the mirror image are in one part.
    parts = [[(inputs[fold::FOLDS], targets[fold::FOLDS]) for inputs, targets in pairs] for fold in range(FOLDS)]
    sums = [Sums.of(part, turn, columns) for part in parts]
    total = sum(sums[1:], sums[0])
    errors = []
    for part, mine in zip(parts, sums):
        weights, intercept = (total - mine).ridge()
        errors += [targets - read(inputs, turn, columns) @ weights.mT - intercept for inputs, targets in part]
    weights, intercept = total.ridge()
    covariance = error_covariance(torch.cat(errors), torch.cat([targets for _, targets in pairs]))
    components = torch.linalg.svd(apart, full_matrices=False)[2][:COMPLETION_COMPONENTS]
    beside = (apart - (apart @ components.mT) @ components).unflatten(1, (-1, 2))
    residual = beside.pow(2).sum(dim=2).mean(dim=0).sqrt()
    every = weights.new_zeros(len(weights), len(columns))
    every[:, columns] = weights
    return Regressor(
        shape=shape.flatten().numpy(),
        components=components.numpy(),
        residual=residual.clamp_min(RESIDUAL_FLOOR).numpy(),
        turn=turn.numpy(),
        weights=every.numpy(),
        intercept=intercept.numpy(),
        covariance=covariance,
    )


def read(apart: torch.Tensor, turn: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(N, 2 L) from the mean -> (N, C): the ``columns`` (6 L,) of the lifted landmarks that get weights."""
    return lift(apart, turn)[:, columns]


def error_covariance(errors: torch.Tensor, identity: torch.Tensor) -> np.ndarray:
    """(I, I) from errors (N, I) and true identities (N, I).

    Nothing counts as less known than it varies among people: more is chance, in mixtures that landmarks do not tell.
    """
    people = identity - identity.mean(dim=0)
    spread = (people.mT @ people).numpy() / len(people)
    left, mixtures = eigh((errors.mT @ errors).numpy() / len(errors), spread)
    back = spread @ mixtures
    return (back * left.clip(LEAST_LEFT, 1.0)) @ back.T


@dataclass
class Sums:
    """What a ridge regression needs of N people: ``gram`` (C + 1, C + 1), ``product`` (C + 1, I), their ``count``."""

    gram: torch.Tensor
    product: torch.Tensor
    count: int

    @classmethod
    def of(cls, pairs: list[tuple[torch.Tensor, torch.Tensor]], turn: torch.Tensor, columns: torch.Tensor) -> Sums:
        """From pairs of landmarks (N, 2 L) and identities (N, I)."""
        size = int(columns.sum()) + 1
        found = cls(turn.new_zeros(size, size), turn.new_zeros(size, pairs[0][1].shape[1]), 0)
        for inputs, targets in pairs:
            # Lifted landmarks of all people at once would fill the memory.
            for part, target in zip(inputs.split(LIFTED_AT_ONCE), targets.split(LIFTED_AT_ONCE)):
                lifted = read(part, turn, columns)
                lifted = torch.cat([lifted, torch.ones_like(lifted[:, :1])], dim=1)
                found.gram += lifted.mT @ lifted
                found.product += lifted.mT @ target
                found.count += len(part)
        return found

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.gram + other.gram, self.product + other.product, self.count + other.count)

    def __sub__(self, other: Sums) -> Sums:
        return Sums(self.gram - other.gram, self.product - other.product, self.count - other.count)

    def ridge(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (I, C) and intercept (I,); the ridge is landmark noise."""
        penalty = self.gram.new_full((len(self.gram),), self.count * READING_NOISE**2)
        # The intercept is free; a trace of penalty keeps the system positive.
        penalty[-1] = 1e-9 * self.count
        solution = torch.cholesky_solve(self.product, torch.linalg.cholesky(self.gram + torch.diag(penalty)))
        return solution[:-1].mT.contiguous(), solution[-1]


def most_varied(apart: torch.Tensor) -> torch.Tensor:
    """(N, 2 L) -> (2 L,): the main direction of landmark shapes, the turning of the head, scaled to unit spread."""
    _, vectors = torch.linalg.eigh(apart.mT @ apart)
    return vectors[:, -1] / (apart @ vectors[:, -1]).std()


@dataclass(frozen=True)
class Mirror:
    """What a mirror does to landmarks and to identities.

    Attributes
    ----------
    order : (L,) int
        The landmark that each becomes.
    modes : (I, I) float
        Coefficients of a mirrored face from those of the face.
    """

    order: np.ndarray
    modes: np.ndarray

    @classmethod
    def of(cls, model: FaceModel) -> Mirror | None:
        """None for models whose vertices have no mirror twins."""
        if model.mirror is None:
            return None
        basis = model.identity.astype(np.float64)
        reflected = basis[:, model.mirror] * [-1.0, 1.0, 1.0]
        flat, reflected = basis.reshape(len(basis), -1), reflected.reshape(len(basis), -1)
        return cls(MIRROR, np.linalg.solve(flat @ flat.T, flat @ reflected.T).T)

    def shapes(self, shapes: torch.Tensor) -> torch.Tensor:
        """(N, L, 2) centred shapes as seen in a mirror."""
        return shapes[:, self.order] * shapes.new_tensor([-1.0, 1.0])

    def identities(self, identity: torch.Tensor) -> torch.Tensor:
        """(N, I) coefficients of the mirrored people."""
        return identity @ torch.as_tensor(self.modes, dtype=identity.dtype)


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
    model_name: str,
    people: int,
    workers: int,
    output: Path,
    progress: Callable[[float], None] | None = None,
    photos: list[Path] | None = None,
) -> tuple[int, int]:
    """Measure, learn, write the weights; returns how many people were found and missed.

    ``photos`` of faces lend their skins to the invented people.
    """
    model = get_model(model_name)
    with tempfile.TemporaryDirectory() as folder:
        skins = None
        if photos:
            skins = Path(folder) / "skins.npy"
            np.save(skins, unwrap_skins(model, photos), allow_pickle=False)
        measurements = measure(model_name, people, workers, progress=progress, skins=skins)
    found = len(measurements.landmarks)
    metadata = {
        "model": model.info.name,
        "model_version": model.info.version,
        "landmarks": LANDMARKS,
        "people": str(found),
        "missed": str(measurements.missed),
        "photos_lending_skins": str(len(photos or ())),
    }
    learn(measurements, Mirror.of(model)).save(output, metadata)
    return found, measurements.missed
