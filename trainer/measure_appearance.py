"""Measure how alike what the skin shows is in photos of one person, and in photos of different people.

Invented people are painted several times, with other expressions, cameras and light, and detected; real photos, one of
each person, say what real faces have in common. The answer is the file that `backend/reconstruction/appearance.py`
reads.

    python -m trainer.measure_appearance --people 200 --skins FOLDER --faces FOLDER --others FOLDER --out FILE

``--faces`` give the middle of real faces. Photos of one studio share more than others do, so how alike different real
people look is measured on ``--others``, taken anywhere.

Symbols: P people, N photos of each, K bands.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from backend.errors import MgcFaceError
from backend.face_model.model import FaceModel
from backend.face_model.registry import get_model
from backend.reconstruction.appearance import (
    ANGLE_DEG,
    Appearance,
    AppearanceStatistics,
    beyond,
    correlations,
    expected,
)
from backend.reconstruction.fit import Fitter, Problem
from backend.reconstruction.landmark_model import LandmarkModel
from backend.reconstruction.observation import observe
from backend.reconstruction.person import appearance_in
from backend.vision.decode import load_photo
from backend.vision.mediapipe_detector import MediaPipeDetector
from backend.vision.photo import Photo
from trainer.data.painter import Painter
from trainer.data.several_views import draw_series
from trainer.data.skins import unwrap_skins
from trainer.measure_detector import GUESSED, LANDMARKS, landmark_error

FIRST_SEED, PHOTOS, SIZE = 7_600_000, 4, 480
# Spread that a point has at least, logarithm of brightness.
LEAST_SPREAD = 0.02
# Pairs and triples of photos of different people.
PAIRS = 4000

# An appearance with the view (3,) that it was seen from.
Seen = tuple[Appearance, np.ndarray]


def seen_in(fitter: Fitter, detector: MediaPipeDetector, photo: Photo) -> tuple[Seen, np.ndarray] | None:
    """What a photo shows, and its landmarks (L, 2); None without a face that is large enough."""
    try:
        faces = detector.detect(photo)
    except MgcFaceError:
        return None
    if not faces:
        return None
    observation = observe(photo, faces[0], LANDMARKS)
    appearance = appearance_in(fitter, photo, observation)
    view = Problem(fitter, [observation]).start().rotation[0, 2].numpy()
    return None if appearance is None else ((appearance, view), observation.landmarks)


def paint_people(
    model: FaceModel, fitter: Fitter, detector: MediaPipeDetector, people: int, skins: np.ndarray | None
) -> list[list[Seen]]:
    """Photos of each person in which the face was found where it is."""
    painter, every = Painter(model, skins), []
    for seed in range(FIRST_SEED, FIRST_SEED + people):
        row = []
        for moment, person in enumerate(draw_series(model, seed, PHOTOS, SIZE)):
            one = seen_in(fitter, detector, Photo(painter.paint(person, seed, moment)))
            if one is not None and landmark_error(model, person, one[1]) < GUESSED:
                row.append(one[0])
        if len(row) > 1:
            every.append(row)
    return every


def spread_of(photos: Sequence[Appearance]) -> tuple[np.ndarray, np.ndarray]:
    """(K, P) mean and standard deviation of patterns, by how surely points are seen."""
    total = np.zeros(photos[0].weight.shape)
    first, second = np.zeros(photos[0].pattern.shape), np.zeros(photos[0].pattern.shape)
    for photo in photos:
        total += photo.weight
        first += photo.weight * photo.pattern
        second += photo.weight * photo.pattern.astype(np.float64) ** 2
    total = np.maximum(total, 1e-6)
    mean = first / total
    return mean, np.sqrt(np.maximum(second / total - mean**2, 0.0)) + LEAST_SPREAD


def angle_deg(a: Seen, b: Seen) -> float:
    return float(np.degrees(np.arccos(np.clip(a[1] @ b[1], -1.0, 1.0))))


def learn(
    people: Sequence[Sequence[Seen]], real: Sequence[Seen], others: Sequence[Seen], rng: np.random.Generator
) -> AppearanceStatistics:
    """The statistics; correlations of invented people in their own units, of real ones in theirs."""
    middles, spreads = zip(*(spread_of([s[0] for s in group]) for group in (real, [s for row in people for s in row])))
    draft = AppearanceStatistics(
        np.array(middles), np.array(spreads), np.zeros(2), np.zeros(2), np.ones(2), np.zeros(2)
    )
    angles, found = [], []
    for row in people:
        table = correlations(draft, [one for one, _ in row])[1]
        for a in range(len(row)):
            for b in range(a):
                angles.append(angle_deg(row[a], row[b]))
                found.append(table[a, b])
    pairs = strangers_of(people, draft, rng)
    real_pairs = correlations(draft, [one for one, _ in others])[0][np.tril_indices(len(others), -1)]
    unlike = np.array([np.nanmean(real_pairs), pairs.mean()])
    angle, value = np.array(angles), beyond(np.array(found), unlike[1])
    known = ~np.isnan(value)
    design = np.column_stack([np.ones(len(angle)), np.exp(-((angle / ANGLE_DEG) ** 2))])
    alike = np.linalg.lstsq(design[known], value[known], rcond=None)[0]
    left = value - design @ alike
    same_deviation, same_share = np.nanstd(left), shared_of_one(people, replace(draft, alike=alike), unlike[1])
    different, other_share = beyond(pairs, unlike[1]).std(), np.corrcoef(pairs.T)[0, 1]
    real_deviation = np.nanstd(beyond(real_pairs, unlike[0]))
    for name, number in (
        ("one person's photos, views the same", alike.sum()),
        ("far apart", alike[0]),
        ("standard deviation", same_deviation),
        ("different real people", unlike[0]),
        ("different invented people", unlike[1]),
        ("different invented people, standard deviation", different),
        ("different real people, standard deviation", real_deviation),
    ):
        sys.stdout.write(f"correlation of {name}: {number:.2f}\n")
    return AppearanceStatistics(
        draft.middles,
        draft.spreads,
        alike,
        unlike,
        np.array([same_deviation, max(different, real_deviation)]),
        np.clip([same_share, other_share], 0.0, 1.0),
    )


def shared_of_one(people: Sequence[Sequence[Seen]], draft: AppearanceStatistics, unlike: float) -> float:
    """Correlation of what is left of (i, j) and (i, k), photos of one person."""
    products, squares = [], []
    for row in people:
        table = correlations(draft, [one for one, _ in row])[1]
        angles = np.array([[angle_deg(a, b) for b in row] for a in row])
        left = beyond(table, unlike) - expected(draft, angles)
        for i in range(len(row)):
            mine = left[i][~np.isnan(left[i])]
            squares += list(mine**2)
            products += [mine[j] * mine[k] for j in range(len(mine)) for k in range(j)]
    return float(np.mean(products) / np.mean(squares))


def strangers_of(people: Sequence[Sequence[Seen]], draft: AppearanceStatistics, rng: np.random.Generator) -> np.ndarray:
    """(N, 2) correlations of one photo with two of another person."""
    pairs = []
    for _ in range(PAIRS):
        a, b = rng.choice(len(people), 2, replace=False)
        one = people[a][rng.integers(len(people[a]))]
        two, three = (people[b][place] for place in rng.choice(len(people[b]), 2, replace=False))
        table = correlations(draft, [one[0], two[0], three[0]])[1]
        pairs.append((table[0, 1], table[0, 2]))
    values = np.array(pairs)
    return values[~np.isnan(values).any(axis=1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--skins", type=Path, action="append", default=[], help="folder of photos that lend skins")
    parser.add_argument("--faces", type=Path, required=True, help="folder of real photos, one of each person")
    parser.add_argument("--others", type=Path, required=True, help="folder of real photos taken anywhere")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = get_model("open-head")
    fitter, detector = Fitter(LandmarkModel(model, LANDMARKS)), MediaPipeDetector(passes=2, threads=1)
    real, others = (
        [one[0] for one in (seen_in(fitter, detector, load_photo(path)) for path in paths) if one is not None]
        for paths in (sorted(options.faces.glob("*.jpg")), sorted(options.others.glob("*.jpg")))
    )
    photos = [path for folder in options.skins for path in sorted(folder.glob("*.jpg"))]
    skins = unwrap_skins(model, photos) if photos else None
    people = paint_people(model, fitter, detector, options.people, skins)
    metadata = {
        "model": model.info.name,
        "people": str(len(people)),
        "faces": str(len(real)),
        "others": str(len(others)),
    }
    learn(people, real, others, np.random.default_rng(0)).save(options.out, metadata)


if __name__ == "__main__":
    main()
