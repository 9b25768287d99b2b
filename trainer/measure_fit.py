"""How wrong the fit is beside how wrong it takes itself to be, and what a network of given accuracy would change.

The landmarks of one face err together, which the fit does not know: its own Hessian makes it far too sure of poses.
Here invented people of ``open-head`` are painted, half of them with something before the face, detected and fitted, and
the error is compared with what the Hessian allows (chi-squared for each degree of freedom). The answers are the
constants of ``backend/reconstruction/opinion.py`` that end in ``_TOGETHER``. Then every fit is done again with
a network that is made up: the truth with errors of the size that it says.

    python -m trainer.measure_fit 120

The seeds are those of ``synthetic_dev``'s range; evaluations use others.

Symbols: L landmarks, I identity modes, E expressions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from backend.face_model.model import FaceModel
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import matrix_from_rotation_vector, rotation_from_head_euler
from backend.network.calibration import Calibration
from backend.reconstruction.fit import FitResult, Fitter, Problem
from backend.reconstruction.landmark_cost import POSE, Observation, State
from backend.reconstruction.observation import observe
from backend.reconstruction.opinion import Opinion
from backend.reconstruction.turning import rotation_vector
from backend.vision.detector import Detector
from backend.vision.photo import Photo
from trainer.data.painter import Painter
from trainer.data.people import IDENTITY_SIGMA, Person, draw_expression
from trainer.evaluate.markdown import table
from trainer.evaluate.occluded import OCCLUDERS, occlude

FIRST_SEED, SIZE = 5_100_000, 640
LARGEST_YAW, OCCLUDED_YAW = 85.0, 50.0

# What the made-up network's errors are: coefficients, of rotation radians, of the distance its logarithm.
SAID = {"identity": 0.6, "expression": 0.07, "rotation": 0.07, "translation": 0.35}

# A face that was found upside down is another fault, and would outweigh all others.
UPSIDE_DOWN = 90.0


@dataclass(frozen=True)
class Known:
    """An invented person before a camera: ``occluder`` is empty or what stands before the face."""

    identity: np.ndarray
    expression: np.ndarray
    camera: Camera
    yaw: float
    occluder: str


@dataclass(frozen=True)
class Measured:
    """Chi-squared of the fit's errors, and errors without and with the made-up network (degrees, millimetres)."""

    yaw: float
    occluder: str
    chi: dict[str, float]
    rotation_degrees: tuple[float, float]
    shape_mm: tuple[float, float]


class SelfAware(Problem):
    """A fit that also tells its covariance (P, P) of the unknowns that no bound holds."""

    covariance: np.ndarray
    free: np.ndarray

    def results(self, state: State, iterations: torch.Tensor, converged: torch.Tensor) -> list[FitResult]:
        _, hessian, free = self.normal_equations(state, self.residual(state))
        keep = free[0].to(hessian.dtype)
        held = hessian[0] * keep[:, None] * keep + torch.diag(1.0 - keep)
        self.covariance, self.free = torch.linalg.inv(held).cpu().numpy(), free[0].cpu().numpy()
        return super().results(state, iterations, converged)


def draw(model: FaceModel, number: int) -> Known:
    """The person of a number; every other one behind something."""
    rng = np.random.default_rng([FIRST_SEED, number])
    identity = rng.normal(0.0, IDENTITY_SIGMA, len(model.identity))
    expression = draw_expression(model, rng)
    occluder = OCCLUDERS[number // 2 % len(OCCLUDERS)] if number % 2 else ""
    yaw = rng.uniform(-OCCLUDED_YAW, OCCLUDED_YAW) if occluder else rng.uniform(-LARGEST_YAW, LARGEST_YAW)
    R = rotation_from_head_euler(yaw, rng.normal(0.0, 10.0), rng.normal(0.0, 8.0))
    away = float(np.exp(rng.normal(np.log(0.8), 0.5)).clip(0.25, 3.0))
    centre = model.landmark_points(model.vertices(identity, expression).astype(np.float64), "ibug68")[17:].mean(axis=0)
    focal = SIZE * 0.6 / 0.2 * away
    camera = Camera(intrinsics(focal, SIZE, SIZE), R, np.array([0.0, 0.0, away]) - R @ centre, SIZE, SIZE)
    return Known(identity, expression, camera, yaw, occluder)


def photograph(model: FaceModel, painter: Painter, known: Known, number: int) -> Photo:
    vertices = model.vertices(known.identity, known.expression)
    pixels = painter.paint(Person(known.identity, known.expression, vertices, known.camera), FIRST_SEED + number)
    if known.occluder:
        moved = vertices.astype(np.float64)
        marks = model.landmark_points(moved, "now7")
        rng = np.random.default_rng([FIRST_SEED, number, 1])
        pixels = occlude(pixels, known.camera, moved, model.triangles, marks, known.occluder, rng)
    return Photo(pixels)


def made_up(known: Known, number: int) -> Opinion:
    """What a network would say whose errors are as large as it says."""
    rng = np.random.default_rng([FIRST_SEED, number, 2])
    calibration = Calibration()
    usual = calibration.usual["identity"][1] ** 2
    # Of all that could be true given what it saw, it says the mean: errors do not go with what is said.
    share = 1.0 - SAID["identity"] ** 2 / usual
    identity = share * known.identity + rng.normal(0.0, SAID["identity"] * np.sqrt(share), len(known.identity))
    expression = (known.expression + rng.normal(0.0, SAID["expression"], len(known.expression))).clip(0.0, 1.0)
    R = matrix_from_rotation_vector(rng.normal(0.0, SAID["rotation"], 3)) @ known.camera.R
    t = known.camera.t * np.exp(rng.normal(0.0, SAID["translation"]))
    sigma = {name: np.full(1, value) for name, value in SAID.items()}
    sigma["translation"] = np.array([0.01, 0.01, SAID["translation"] * t[2]])
    return Opinion(replace(known.camera, R=R, t=t), R, identity, expression, sigma, dict(calibration.usual))


def measure(fitter: Fitter, known: Known, observation: Observation, number: int) -> Measured:
    """Fit one face without and with the made-up network."""
    model = fitter.lm.model
    problem = SelfAware(fitter, [observation])
    (alone,) = problem.solve()
    (both,) = fitter.fit([replace(observation, opinion=made_up(known, number))])
    identity = len(model.identity)
    turned = _rotation_vector(alone.R @ known.camera.R.T)
    away = np.log(alone.t[2] / known.camera.t[2])
    shown, free = alone.expression - known.expression, problem.free[POSE + identity :]
    variance = np.diagonal(problem.covariance)
    chi = {
        "rotation": float(turned @ np.linalg.solve(problem.covariance[:3, :3], turned)) / 3.0,
        "distance": float(away**2 / variance[6]),
        "expression": float((shown[free] ** 2 / variance[POSE + identity :][free]).mean()) if free.any() else 0.0,
    }
    mask = model.regions["face"]
    true = model.vertices(known.identity)[mask]

    def errors(found: FitResult) -> tuple[float, float]:
        apart = np.linalg.norm(model.vertices(found.identity)[mask] - true, axis=1).mean()
        return float(np.degrees(np.linalg.norm(_rotation_vector(found.R @ known.camera.R.T)))), 1000.0 * float(apart)

    before, after = errors(alone), errors(both)
    return Measured(known.yaw, known.occluder, chi, (before[0], after[0]), (before[1], after[1]))


def _rotation_vector(R: np.ndarray) -> np.ndarray:
    return rotation_vector(torch.as_tensor(R[None]))[0].numpy()


def run(fitter: Fitter, detector: Detector, people: int) -> list[Measured]:
    """The people of whom the detector finds a face that is the right way up for the fit."""
    model = fitter.lm.model
    painter = Painter(model)
    found = []
    for number in range(people):
        known = draw(model, number)
        photo = photograph(model, painter, known, number)
        for face in detector.detect(photo):
            one = measure(fitter, known, observe(photo, face, fitter.lm.name), number)
            if one.rotation_degrees[0] < UPSIDE_DOWN:
                found.append(one)
    return found


def report(measured: Sequence[Measured]) -> str:
    """Medians by yaw and behind things, as a table in Markdown."""
    rows = [(f"yaw {low} to {high}", "", low, high) for low, high in ((0, 30), (30, 60), (60, 90))]
    rows += [(kind, kind, 0, 90) for kind in OCCLUDERS]
    lines = []
    for name, occluder, low, high in rows:
        mine = [one for one in measured if one.occluder == occluder and low <= abs(one.yaw) < high]
        if not mine:
            continue
        chi = [f"{np.median([one.chi[key] for one in mine]):.0f}" for key in ("rotation", "distance", "expression")]
        errors = [
            f"{np.mean([getattr(one, key)[which] for one in mine]):.2f}"
            for key in ("rotation_degrees", "shape_mm")
            for which in (0, 1)
        ]
        lines.append([name, len(mine), *chi, *errors])
    columns = ["", "faces", "chi² of rotation", "of distance", "of expression", "rotation, fit alone", "with network"]
    return table([*columns, "shape mm, fit alone", "with network"], lines)


if __name__ == "__main__":
    from backend.face_model.registry import get_model
    from backend.reconstruction.landmark_model import LandmarkModel
    from backend.vision.detector import make_detector

    landmarks = LandmarkModel(get_model("open-head"), "mediapipe478")
    sys.stdout.write(report(run(Fitter(landmarks), make_detector(), int(sys.argv[1]))) + "\n")
