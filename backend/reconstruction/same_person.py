"""Do these photos show one person? Which of them does not belong?

Regressed identities of one person differ from photo to photo, those of different people differ more. Both
kinds of spread were measured (`trainer/measure_views.py`), and a linear map brings identities into
directions in which photos have variance 1 and photos of one person correlate by ``rho``, the directions in
which they do so most first (probabilistic linear discriminant analysis: Prince and Elder 2007, section 3).
A photo's score is the logarithm of how much likelier its identity is next to the others' than that of
anybody:

    log p(y_i | y_others, one person) - log p(y_i | another person).

A head that is turned away is read worse, so its answers count for less; a photo that says little has a score
near 0 and stays. What the skin shows joins the score, see ``appearance.py``.

Symbols: B photos, I identity modes, D directions, M middles.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.face_model.model import FaceModel
from backend.reconstruction.appearance import Likeness
from backend.reconstruction.learned_arrays import LearnedArrays

DATA = Path(__file__).parent / "data"

# Score below which a photo is another person's: on sets of five drawn from the statistics themselves, 97 of 100
# strangers are found and a right photo goes in 5 of 100 sets.
STRANGER = -2.0

# Correlation for one view and for views far apart, in parts of `rho`, and the angle between them (degrees).
ALIKE, APART, ANGLE_DEG = 1.1, 0.7, 40.0
LARGEST_CORRELATION = 0.97
# An answer keeps at least this part of its variance when the others are known.
LEAST_LEFT = 0.02
TIE = 1e-6


@dataclass(frozen=True)
class PersonStatistics(LearnedArrays):
    """How identities spread between people and between the photos of one.

    Attributes
    ----------
    middles : (M, I) float32
        Mean regressed identity of real photos, and of invented people. Which kind photos are is not known, and
        those of one kind all look alike from the middle of the other; the middle that says the least counts.
    directions : (I, D) float32
    correlation : (D,) float32
        ``rho`` of photos of one person.
    """

    made_by = "python -m trainer.measure_views"

    middles: np.ndarray
    directions: np.ndarray
    correlation: np.ndarray


def statistics_path(model_name: str, landmark_set: str) -> Path:
    return DATA / f"same_person_{model_name}_{landmark_set}.safetensors"


def shipped_statistics(model: FaceModel, landmark_set: str) -> PersonStatistics | None:
    """What comes with the project for this model and set; None for others, whose photos are all believed."""
    path = statistics_path(model.info.name, landmark_set)
    if not path.exists():
        return None
    statistics = PersonStatistics.load(path)
    return statistics if statistics.middles.shape[1] == len(model.identity) else None


def scores(statistics: PersonStatistics, answers: np.ndarray, views: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    """(B,) score of each photo beside all others; zeros for a photo alone.

    Parameters
    ----------
    statistics : PersonStatistics
    answers : (B, I) float
        Regressed identities.
    views : (B, 3) float
        Unit vectors from the camera towards the face, in the frame of the head.
    doubt : (B,) float
        See :func:`backend.reconstruction.fusion.doubt`.
    """
    if len(answers) < 2:
        return np.zeros(len(answers))
    alone = 1.0 + doubt
    precision = np.linalg.inv(answer_covariance(statistics.correlation, views, alone))
    each = [ratio(((answers - middle) @ statistics.directions).T, precision, alone) for middle in statistics.middles]
    return np.min(each, axis=0)


def ratio(y: np.ndarray, precision: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """(B,) log of both densities' ratio, from (D, B) answers, the inverse (D, B, B) of the covariance that one person's
    have, and the (B,) variances that anybody's have."""
    # Of a Gaussian, one variable given the others: variance 1 / P_ii, mean y_i - (P y)_i / P_ii.
    left = 1.0 / np.einsum("dii->di", precision)
    away = np.einsum("dij,dj->di", precision, y) * left
    left = np.maximum(left, LEAST_LEFT)
    together = -0.5 * (away**2 / left + np.log(left))
    apart = -0.5 * (y**2 / alone + np.log(alone))
    return (together - apart).sum(axis=0)


def answer_covariance(correlation: np.ndarray, views: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """(D, B, B) of one person's answers; ``alone`` (B,) are their variances."""
    angles = np.degrees(np.arccos(np.clip(views @ views.T, -1.0, 1.0)))
    near = APART + (ALIKE - APART) * np.exp(-((angles / ANGLE_DEG) ** 2))
    covariance = np.minimum(correlation[:, None, None] * near, LARGEST_CORRELATION)
    covariance[:, np.arange(len(views)), np.arange(len(views))] = alone
    return covariance


def strangers(
    statistics: PersonStatistics,
    answers: np.ndarray,
    views: np.ndarray,
    doubt: np.ndarray,
    likeness: Likeness | None = None,
) -> dict[int, float]:
    """Photos of somebody else than most, with their scores; ``likeness`` is what the skin of the photos shows.

    The photo that fits the others least goes first, then the rest is judged anew; at the end those who went
    are held against the ones who stayed, since a photo can look odd only because of another. Of two that
    disagree the first stays.
    """
    stay = list(range(len(answers)))
    gone: list[int] = []

    def judged(chosen: list[int]) -> np.ndarray:
        shapes = scores(statistics, answers[chosen], views[chosen], doubt[chosen])
        return shapes if likeness is None else shapes + likeness.scores(chosen)

    while len(stay) > 1:
        each = judged(stay)
        # Two photos alone score alike, up to rounding.
        worst = int(np.flatnonzero(each <= each.min() + TIE)[-1])
        if each[worst] >= STRANGER:
            break
        gone.append(stay.pop(worst))
    result = {}
    for photo in sorted(gone):
        score = float(judged([*stay, photo])[-1])
        if score >= STRANGER:
            stay.append(photo)
        else:
            result[photo] = score
    return result
