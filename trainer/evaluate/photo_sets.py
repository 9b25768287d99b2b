"""Real photos, whose true shape nobody knows: what can be measured on them all the same.

Reprojection (does the head explain the landmarks), the ``zoom`` series (one person at four
distances) and identity (is the same person's other photo the nearest one).

Symbols: N photos, I identity modes, V vertices, P people.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from backend.face_model.model import FaceModel
from backend.geometry.alignment import fit_similarity
from backend.reconstruction.result import Reconstruction
from backend.vision.photo import Photo
from trainer.evaluate.now_protocol import Scan, crop
from trainer.evaluate.truth_sets import SetError

# The method under test: every face of a photo, the largest first.
Reconstruct = Callable[[Photo], Sequence[Reconstruction]]

# Folder below the data folder, and how many of its photos count.
PHOTO_SETS = {
    "composite": ("photos/composite", None),
    "lisa": ("photos/lisa", None),
    "zoom": ("photos/zoom", None),
    "interfaces": ("photos/interfaces", None),
    "london": ("photos/london/neutral", 50),
}
# Sets that hold more than reprojection: two folders of the same people.
IDENTITY_SET = "identity"
IDENTITY_FOLDERS = ("photos/london/neutral", "photos/london/smiling")


@dataclass(frozen=True)
class PhotoResult:
    """What became of one real photo.

    ``error`` is the sentence that says why there is no head; the figures are NaN and empty then.
    ``median_relative`` and ``rms_relative``: distance of projected and detected landmarks over the
    height of the face. ``identity`` and ``sigma_identity`` (I,). ``face`` (V', 3) the neutral face
    inside the NoW crop, moved and scaled onto the mean face, metres. ``distance`` metres from the
    camera to the middle of the eyes and mouth.
    """

    name: str
    error: str | None = None
    median_relative: float = math.nan
    rms_relative: float = math.nan
    identity: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sigma_identity: np.ndarray = field(default_factory=lambda: np.zeros(0))
    face: np.ndarray = field(default_factory=lambda: np.zeros(0))
    distance: float = math.nan


def photo_paths(set_name: str, data: Path) -> list[Path]:
    """Photos of a set in order of name; the identity set lists both its folders, neutral first.

    Raises
    ------
    SetError
        When the set is unknown or its folder is missing or empty.
    """
    if set_name == IDENTITY_SET:
        return [path for folder in IDENTITY_FOLDERS for path in jpegs(data / folder)]
    if set_name not in PHOTO_SETS:
        raise SetError(f"There is no photo set called '{set_name}'; choose from {', '.join(PHOTO_SETS)}.")
    folder, count = PHOTO_SETS[set_name]
    return jpegs(data / folder)[:count]


def jpegs(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.jpg")) if folder.is_dir() else []
    if not paths:
        raise SetError(f"There are no photos in {folder}; say with --data where the measuring material lies.")
    return paths


def measure(name: str, head: Reconstruction) -> PhotoResult:
    """The figures of one reconstructed photo."""
    landmarks = head.model.landmark_points(head.neutral_vertices, "now7")
    return PhotoResult(
        name=name,
        median_relative=float(head.fit.median_relative),
        rms_relative=float(head.fit.rms_relative),
        identity=np.asarray(head.identity, np.float64),
        sigma_identity=np.asarray(head.fit.sigma_identity, np.float64),
        face=neutral_face(head.model, head.neutral_vertices),
        distance=float(np.linalg.norm(head.camera.centre - landmarks.mean(axis=0))),
    )


def neutral_face(model: FaceModel, neutral: np.ndarray) -> np.ndarray:
    """(V', 3) metres: the vertices in the NoW crop of the mean face, on the mean face by similarity."""
    scan = Scan(model.mean, model.landmark_points(model.mean, "now7"))
    inside = crop(scan.vertices, scan.landmarks)
    return fit_similarity(neutral[inside], model.mean[inside]).apply(neutral[inside])


def summary(results: list[PhotoResult]) -> dict:
    """Faces found, reprojection and failures of a set. Percentiles are over photos."""
    found = [item for item in results if item.error is None]
    errors = np.array([item.median_relative for item in found])
    rms = np.array([item.rms_relative for item in found])
    return {
        "photos": len(results),
        "found": len(found),
        "median_relative": float(np.median(errors)) if len(found) else None,
        "p90_relative": float(np.percentile(errors, 90)) if len(found) else None,
        "worst_relative": float(errors.max()) if len(found) else None,
        "worst_photo": found[int(errors.argmax())].name if len(found) else None,
        "median_rms_relative": float(np.median(rms)) if len(found) else None,
        "failures": {item.name: item.error for item in results if item.error is not None},
    }


def zoom_figures(zoom: list[PhotoResult], others: list[PhotoResult]) -> dict:
    """Distances in order, and the person's neutral shapes against other people's.

    Parameters
    ----------
    zoom : list of PhotoResult
        Named after the true distance, such as ``15cm``.
    others : list of PhotoResult
        Other people.

    Returns
    -------
    dict
        ``true_m``, ``solved_m`` (nearest first), ``in_order``; ``within_mm`` and ``between_mm``: mean,
        least and largest root mean square distance of corresponding vertices, among the zoom shapes
        and from them to the others; ``nearest_is_self`` of ``nearest_of``: how often the shapes nearest to
        a zoom shape are the other zoom shapes.
    """
    zoom = sorted((item for item in zoom if item.error is None), key=_centimetres)
    others = [item for item in others if item.error is None]
    result = {
        "true_m": [_centimetres(item) / 100.0 for item in zoom],
        "solved_m": [item.distance for item in zoom],
        "in_order": len(zoom) > 1 and bool(np.all(np.diff([item.distance for item in zoom]) > 0)),
    }
    if len(zoom) < 2 or not others:
        return result
    faces = np.stack([item.face for item in zoom])
    own = 1000.0 * _rms_between(faces, faces)
    foreign = 1000.0 * _rms_between(faces, np.stack([item.face for item in others]))
    pairs = own[np.triu_indices(len(zoom), 1)]
    everyone = np.concatenate([np.where(np.eye(len(zoom), dtype=bool), np.inf, own), foreign], axis=1)
    nearest = np.argsort(everyone, axis=1)[:, : len(zoom) - 1]
    result["within_mm"] = _spread(pairs)
    result["between_mm"] = _spread(foreign)
    result["nearest_is_self"] = int((nearest < len(zoom)).sum())
    result["nearest_of"] = len(zoom) * (len(zoom) - 1)
    return result


def _centimetres(item: PhotoResult) -> float:
    match = re.search(r"(\d+)\s*cm", item.name)
    if match is None:
        raise SetError(f"The zoom photo {item.name} does not carry its distance in its name, such as 30cm.jpg.")
    return float(match[1])


def _rms_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, V, 3), (M, V, 3) -> (N, M) root mean square vertex distance."""
    squared = ((first[:, None] - second[None]) ** 2).sum(axis=-1)
    return np.sqrt(squared.mean(axis=-1))


def _spread(values: np.ndarray) -> dict:
    return {"mean": float(values.mean()), "least": float(values.min()), "largest": float(values.max())}


def identity_figures(results: list[PhotoResult]) -> dict:
    """Rank-1 counts over the two photos of each person, both ways.

    Names start with the person's number, and the folder says which photo it is (``neutral/001_03.jpg``).
    A person with one photo missing stays in the count as a miss. The rules:

    * ``cosine``: centred by the mean of all photos, cosine of the coefficients. The headline.
    * ``cosine_centred_by_set``: centred by the mean of the neutral and of the smiling photos separately.
    * ``cosine_whitened``: each coefficient divided by the spread that its own certainty lets it have,
      ``sqrt(1 - sigma^2)``, and then weighted by the certainty ``1 - sigma^2``.
    * ``likelihood_ratio``: log-odds of one person against two, each mode a pair of Gaussian posterior
      means of correlation ``1 - sigma^2`` (a two-covariance model with the prior as the between-person spread).
    * ``mahalanobis``: centred, distance under the pooled covariance of all coefficients, shrunk half-way
      to its diagonal.
    """
    by_folder: dict[str, dict[str, PhotoResult]] = {"neutral": {}, "smiling": {}}
    for item in results:
        folder, file = item.name.split("/")[-2:]
        by_folder[folder][file.split("_")[0]] = item
    everyone = sorted(set(by_folder["neutral"]) & set(by_folder["smiling"]))
    usable = [p for p in everyone if all(by_folder[folder][p].error is None for folder in by_folder)]
    if len(usable) < 2:
        return {"people": len(everyone), "usable": len(usable), "rank1": {}}
    neutral, smiling = (np.stack([by_folder[f][p].identity for p in usable]) for f in ("neutral", "smiling"))
    sigma = np.stack([by_folder[f][p].sigma_identity for f in ("neutral", "smiling") for p in usable])
    certainty = (1.0 - np.mean(sigma**2, axis=0)).clip(1e-4, 1.0 - 1e-4)
    rank1 = {}
    for rule, similarity in similarities(neutral, smiling, certainty).items():
        truth = np.arange(len(usable))
        rank1[rule] = {
            "neutral_to_smiling": int((similarity.argmax(axis=1) == truth).sum()),
            "smiling_to_neutral": int((similarity.argmax(axis=0) == truth).sum()),
        }
    return {"people": len(everyone), "usable": len(usable), "rank1": rank1}


def similarities(neutral: np.ndarray, smiling: np.ndarray, certainty: np.ndarray) -> dict[str, np.ndarray]:
    """Rule -> (P, P) similarity, larger is more alike; ``certainty`` (I,) is ``1 - sigma^2``."""
    both = np.concatenate([neutral, smiling])
    middle = both.mean(axis=0)
    a, b = neutral - middle, smiling - middle
    weights = np.sqrt(certainty)  # divided by sqrt(certainty), times certainty
    covariance = np.cov((both - middle).T)
    shrunk = 0.5 * covariance + 0.5 * np.diag(np.diag(covariance)) + 1e-9 * np.eye(len(covariance))
    factor = np.linalg.cholesky(np.linalg.inv(shrunk))
    gaps = (a @ factor)[:, None] - (b @ factor)[None]
    return {
        "cosine": _cosine(a, b),
        "cosine_centred_by_set": _cosine(neutral - neutral.mean(axis=0), smiling - smiling.mean(axis=0)),
        "cosine_whitened": _cosine(a * weights, b * weights),
        "likelihood_ratio": _likelihood_ratio(a / np.sqrt(certainty), b / np.sqrt(certainty), certainty),
        "mahalanobis": -(gaps**2).sum(axis=-1),
    }


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None]
    return a @ b.T / np.maximum(lengths, np.finfo(np.float64).tiny)


def _likelihood_ratio(a: np.ndarray, b: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    """(P, P) log of N(a, b; correlated) over N(a) N(b), unit variances, summed over modes (constant left out)."""
    scale = correlation / (2.0 * (1.0 - correlation**2))
    own = (a**2 @ (scale * correlation))[:, None] + (b**2 @ (scale * correlation))[None]
    return 2.0 * (a * scale) @ b.T - own
