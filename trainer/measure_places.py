"""What the photos of a person share of the errors of landmarks, and what a joint fit has from knowing it.

Invented people are photographed several times and detected. How far the detector's landmarks lie from the true ones, on
the face and in the frame of the head, falls into what a person's photos have in common and what each has of its own:
the constant of `backend/reconstruction/landmark_places.py`. Then each person is solved from two, three and five photos,
without places of the landmarks and with them.

    python -m trainer.measure_places 30

Seeds from 9,700,000 on; evaluations use others.

Symbols: P people, B photos of one, L landmarks, E expressions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from backend.errors import MgcFaceError
from backend.face_model.model import FaceModel
from backend.face_model.registry import get_model
from backend.reconstruction.fit import Fitter
from backend.reconstruction.joint import JointFit, JointProblem, fit_together
from backend.reconstruction.landmark_cost import Observation
from backend.reconstruction.landmark_model import LandmarkModel
from backend.reconstruction.observation import observe
from backend.vision.landmark_sets import IRISES
from backend.vision.mediapipe_detector import MediaPipeDetector
from backend.vision.photo import Photo
from trainer.data.painter import Painter
from trainer.data.people import Person
from trainer.data.several_views import draw_series
from trainer.evaluate.markdown import table
from trainer.measure_detector import GUESSED, LANDMARKS, landmark_error

FIRST_SEED, PHOTOS, SIZE, COUNTS = 9_700_000, 6, 480, (2, 3, 5)


@dataclass(frozen=True)
class Seen:
    """One person's photos in which a face was found where it is: B of each."""

    people: list[Person]
    observations: list[Observation]


def photograph(model: FaceModel, people: int) -> list[Seen]:
    painter, detector = Painter(model), MediaPipeDetector(passes=2, threads=1)
    every = []
    for seed in range(FIRST_SEED, FIRST_SEED + people):
        seen = Seen([], [])
        for moment, person in enumerate(draw_series(model, seed, PHOTOS, SIZE)):
            photo = Photo(painter.paint(person, seed, moment))
            try:
                faces = detector.detect(photo)
            except MgcFaceError:
                continue
            if faces and landmark_error(model, person, faces[0].landmarks[LANDMARKS].astype(float)) < GUESSED:
                seen.people.append(person)
                seen.observations.append(observe(photo, faces[0], LANDMARKS))
        every.append(seen)
    return every


def errors(model: FaceModel, seen: Seen) -> np.ndarray:
    """(B, L, 2) how far the landmarks of each photo lie from the true ones, metres along the head's x and y."""
    rows = []
    for person, observation in zip(seen.people, seen.observations):
        camera = person.camera
        points = model.landmark_points(person.vertices.astype(np.float64), LANDMARKS)
        depth = (points @ camera.R.T + camera.t)[:, 2:]
        rows.append((observation.landmarks - camera.project(points)) * depth / camera.focal_px @ camera.R[:2, :2])
    return np.array(rows)


def split(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors (B, L, 2) of one person -> variances (L,) an axis: what the photos share, and what each has of its own."""
    mean = rows.mean(axis=0)
    own = ((rows - mean) ** 2).sum(axis=(0, 2)) / (2 * (len(rows) - 1))
    return (mean**2).sum(axis=1) / 2 - own / len(rows), own


def off(fit: JointFit, people: Sequence[Person]) -> tuple[float, float, float]:
    """Means over photos: rotation in degrees, expression coefficients, logarithm of the distance."""
    turned = [np.trace(photo.R @ person.camera.R.T) for photo, person in zip(fit.photos, people)]
    rotation = np.degrees(np.arccos(np.clip((np.array(turned) - 1.0) / 2.0, -1.0, 1.0)))
    expression = [np.abs(photo.expression - person.expression).mean() for photo, person in zip(fit.photos, people)]
    distance = [abs(np.log(photo.t[2] / person.camera.t[2])) for photo, person in zip(fit.photos, people)]
    return float(rotation.mean()), float(np.mean(expression)), float(np.mean(distance))


def compared(fitter: Fitter, every: Sequence[Seen]) -> str:
    rows = []
    for count in COUNTS:
        without, having = [], []
        for seen in every:
            if len(seen.people) < count:
                continue
            problem = JointProblem(fitter, seen.observations[:count])
            without.append(off(problem.joint_result(*problem.descend_from(problem.believe())), seen.people))
            having.append(off(fit_together(fitter, seen.observations[:count]), seen.people))
        for name, errors_of in (("without", without), ("with", having)):
            rotation, expression, distance = np.mean(errors_of, axis=0)
            rows.append([f"{count}, {name} places", len(errors_of), f"{rotation:.2f}"])
            rows[-1] += [f"{expression:.4f}", f"{100 * distance:.1f} %"]
    return table(["photos", "people", "rotation, degrees", "expression", "distance"], rows)


def main() -> None:
    torch.set_num_threads(1)
    model = get_model("open-head")
    every = photograph(model, int(sys.argv[1]) if len(sys.argv) > 1 else 30)
    fitter = Fitter(LandmarkModel(model, LANDMARKS))
    parts = [split(errors(model, seen)) for seen in every if len(seen.people) > 2]
    shared, own = np.mean([part[0] for part in parts], axis=0), np.median([part[1] for part in parts], axis=0)
    contour = np.isin(np.arange(len(own)), fitter.lm.contour.numpy())
    iris = np.isin(np.arange(len(own)), IRISES)
    rows = []
    for name, mask in (("within the face", ~contour & ~iris), ("along its contour", contour)):
        values = (1e3 * np.sqrt(max(part[mask].mean(), 0.0)) for part in (shared, own))
        rows.append([name, *(f"{value:.2f}" for value in values)])
    sys.stdout.write(table(["landmarks", "shared, mm an axis", "each photo's own (median person)"], rows) + "\n")
    sys.stdout.write("\n" + compared(fitter, every) + "\n")


if __name__ == "__main__":
    main()
