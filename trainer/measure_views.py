"""Measure how regressed identities of one person differ from photo to photo.

Invented people are painted several times, with other expressions, cameras and light, and detected. From
their regressed identities come the statistics that tell people apart (`backend/reconstruction/same_person.py`)
and the correlation of errors by the angle between views (`backend/reconstruction/fusion.py`). Real photos of
different people, one of each, say where the middle of real faces lies.

    python -m trainer.measure_views --people 500 --skins FOLDER --faces FOLDER --out FILE

Symbols: P people, N photos of each, I identity modes, D directions, L landmarks.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import eigh

from backend.errors import MgcFaceError
from backend.face_model.model import FaceModel
from backend.face_model.registry import get_model
from backend.reconstruction.fit import Fitter, Problem
from backend.reconstruction.fusion import LEAST_SHARE, PRIOR_SIGMA
from backend.reconstruction.landmark_model import DATA, LandmarkModel
from backend.reconstruction.observation import observe
from backend.reconstruction.same_person import PersonStatistics
from backend.vision.decode import load_photo
from backend.vision.mediapipe_detector import MediaPipeDetector
from backend.vision.photo import Photo
from trainer.data.painter import Painter
from trainer.data.several_views import draw_series
from trainer.data.skins import unwrap_skins
from trainer.measure_detector import GUESSED, LANDMARKS, landmark_error

FIRST_SEED = 7_000_000
PHOTOS = 4
# Covariances of 91 coefficients from some hundred people: how far to shrink them towards their diagonal, and
# how many directions tell people apart.
SHRINKAGE, DIRECTIONS = 0.6, 45
LEAST_CORRELATION, LARGEST_CORRELATION = 0.02, 0.98
# Mean square of an answer past which the regression was lost.
LOST = 0.4
ANGLES_DEG = (0.0, 6.0, 12.0, 18.0, 25.0, 35.0, 45.0, 60.0, 80.0, 130.0)


@dataclass(frozen=True)
class Series:
    """Photos of P people: ``answers`` (P, N, I) regressed, ``views`` (P, N, 3) as in ``fusion.fuse``, and the true
    ``identity`` (P, I)."""

    answers: np.ndarray
    views: np.ndarray
    identity: np.ndarray


def answer(
    fitter: Fitter, detector: MediaPipeDetector, photo: Photo
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Regressed identity (I,), view (3,) and landmarks (L, 2) of the largest face; None without one."""
    try:
        faces = detector.detect(photo)
    except MgcFaceError:
        return None
    if not faces or fitter.lm.regress is None:
        return None
    problem = Problem(fitter, [observe(photo, faces[0], LANDMARKS)])
    view = problem.start().rotation[0, 2].numpy()
    identity = fitter.lm.regress.identity(problem.detected, problem.trust)[0].numpy()
    return identity, view, problem.detected[0].numpy()


def paint_series(model: FaceModel, fitter: Fitter, people: int, first_seed: int, skins: np.ndarray | None) -> Series:
    """People of whom every photo was detected."""
    painter, detector = Painter(model, skins), MediaPipeDetector(passes=2, threads=1)
    rows = []
    for seed in range(first_seed, first_seed + people):
        found = []
        for moment, person in enumerate(draw_series(model, seed, PHOTOS)):
            one = answer(fitter, detector, Photo(painter.paint(person, seed, moment)))
            if one is None or (one[0] ** 2).mean() > LOST or landmark_error(model, person, one[2]) > GUESSED:
                break
            found.append(one[:2])
        else:
            rows.append((*(np.array(column) for column in zip(*found)), person.identity))
    return Series(*(np.array(column) for column in zip(*rows)))


def learn(series: Series, middle: np.ndarray) -> PersonStatistics:
    """Simultaneous diagonalisation of the spread within people and of all."""
    answers = series.answers
    people, photos, _ = answers.shape
    apart = answers - answers.mean(axis=1, keepdims=True)
    within = np.einsum("pni,pnj->ij", apart, apart) / (people * (photos - 1))
    total = np.einsum("pni,pnj->ij", answers, answers) / (people * photos)
    own, directions = eigh(shrunk(within), shrunk(total))
    correlation = np.clip(1.0 - own, LEAST_CORRELATION, LARGEST_CORRELATION)
    best = np.argsort(-correlation)[:DIRECTIONS]
    middles = np.stack([middle, answers.mean(axis=(0, 1))])
    return PersonStatistics(middles, directions[:, best], correlation[best])


def shrunk(covariance: np.ndarray) -> np.ndarray:
    return (1.0 - SHRINKAGE) * covariance + SHRINKAGE * np.diag(np.diag(covariance))


def error_correlations(series: Series, sigma: np.ndarray) -> list[tuple[float, float, int, float]]:
    """Rows of (from degrees, to degrees, pairs, correlation of the errors of two photos of one person)."""
    share = (1.0 - (sigma / PRIOR_SIGMA) ** 2).clip(LEAST_SHARE)
    errors = series.answers - share * series.identity[:, None]
    variance = (errors**2).mean(axis=(0, 1)).sum()
    first, second = np.triu_indices(errors.shape[1], 1)
    cosine = np.einsum("pki,pki->pk", series.views[:, first], series.views[:, second])
    angle = np.degrees(np.arccos(cosine.clip(-1.0, 1.0)))
    product = (errors[:, first] * errors[:, second]).sum(axis=2)
    rows = []
    for low, high in pairwise(ANGLES_DEG):
        inside = (angle >= low) & (angle < high)
        if inside.any():
            rows.append((low, high, int(inside.sum()), float(product[inside].mean() / variance)))
    return rows


def fingerprint(model_name: str) -> str:
    """Of the regression weights that the statistics belong to."""
    return hashlib.sha256((DATA / f"regressor_{model_name}_{LANDMARKS}.safetensors").read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=500)
    parser.add_argument("--skins", type=Path, action="append", default=[], help="folder of photos that lend skins")
    parser.add_argument("--faces", type=Path, required=True, help="folder of real photos, one of each person")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = get_model("open-head")
    fitter = Fitter(LandmarkModel(model, LANDMARKS))
    photos = [path for folder in options.skins for path in sorted(folder.glob("*.jpg"))]
    skins = unwrap_skins(model, photos) if photos else None
    detector = MediaPipeDetector(passes=2, threads=1)
    real = [answer(fitter, detector, load_photo(path)) for path in sorted(options.faces.glob("*.jpg"))]
    middle = np.mean([one[0] for one in real if one is not None], axis=0)
    series = paint_series(model, fitter, options.people, FIRST_SEED, skins)
    assert fitter.lm.regress is not None
    for low, high, pairs, correlation in error_correlations(series, fitter.lm.regress.sigma.numpy()):
        sys.stdout.write(f"{low:3.0f} to {high:3.0f} degrees: {pairs} pairs, errors correlate by {correlation:.2f}\n")
    metadata = {"people": str(len(series.answers)), "faces": str(len(real)), "regressor": fingerprint(model.info.name)}
    learn(series, middle).save(options.out, metadata)


if __name__ == "__main__":
    main()
