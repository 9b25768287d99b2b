"""What the expression coefficients know of emotion: a linear probe on label files of AffectNet's form.

A multinomial logistic regression for the eight emotions and two ridge regressions for valence and arousal are fitted
to the coefficients of the training photos and measured on the validation photos. Nothing but a linear map is fitted,
so the figures say what the coefficients hold, not what a network could make of them.

Files (Mollahosseini et al., AffectNet, IEEE TAC 2019): ``DIR/training.csv`` and ``DIR/validation.csv`` with the columns
of :data:`COLUMNS`, with or without a line of names; the photos below ``DIR/Manually_Annotated_Images`` or ``DIR``.

Symbols: N photos, E coefficients, C emotions.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from backend.errors import MgcFaceError
from backend.vision.decode import load_photo
from trainer.evaluate.markdown import percent, table
from trainer.evaluate.photo_sets import Reconstruct
from trainer.evaluate.truth_sets import SetError

COLUMNS = ("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression",
           "valence", "arousal")  # fmt: skip
# Labels 0 to 7; 8 to 10 (none, uncertain, no face) are no emotions and are left out.
EMOTIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")

# The first so many training photos of each emotion: 4000 photos for some 50 coefficients. All 280000 would take days
# to reconstruct and move a linear map no further.
TRAINING_PER_EMOTION = 500
# Weight of the squared coefficients against the mean loss, on standardised features.
RIDGE = 1e-3

PARTS = ("training", "validation")


@dataclass(frozen=True)
class LabelledPhoto:
    """``part`` of :data:`PARTS`, ``emotion`` index of :data:`EMOTIONS`, ``valence`` and ``arousal`` in [-1, 1]."""

    name: str
    path: Path
    part: str
    emotion: int
    valence: float
    arousal: float


@dataclass(frozen=True)
class ProbeResult:
    """``expression`` (E,); empty where ``error`` says why."""

    name: str
    label: LabelledPhoto
    expression: np.ndarray = field(default_factory=lambda: np.zeros(0))
    error: str | None = None


def load(data: Path) -> list[LabelledPhoto]:
    """The training photos that count and all validation photos, in the order of the files.

    Raises
    ------
    SetError
        When a file is missing or is not in AffectNet's form.
    """
    images = data / "Manually_Annotated_Images"
    images = images if images.is_dir() else data
    chosen = []
    for part in PARTS:
        seen: Counter[int] = Counter()
        for label in _read(data / f"{part}.csv", images, part):
            seen[label.emotion] += 1
            if part == "validation" or seen[label.emotion] <= TRAINING_PER_EMOTION:
                chosen.append(label)
        if len(seen) < 2:
            raise SetError(f"{data / part}.csv has photos of fewer than two emotions; there is nothing to tell apart.")
    return chosen


def _read(path: Path, images: Path, part: str) -> list[LabelledPhoto]:
    if not path.is_file():
        raise SetError(f"There is no {path}; say with --data where AffectNet's label files are.")
    labels = []
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if not row or (number == 1 and row[0] == COLUMNS[0]):
                continue
            try:
                emotion, valence, arousal = int(row[6]), float(row[7]), float(row[8])
            except (IndexError, ValueError) as error:
                raise SetError(f"Line {number} of {path} does not have AffectNet's {len(COLUMNS)} columns.") from error
            # Valence and arousal are -2 where the annotators did not say.
            if 0 <= emotion < len(EMOTIONS) and -1.0 <= valence <= 1.0 and -1.0 <= arousal <= 1.0:
                labels.append(LabelledPhoto(f"{part}/{row[0]}", images / row[0], part, emotion, valence, arousal))
    return labels


def measure(label: LabelledPhoto, reconstruct: Reconstruct) -> ProbeResult:
    """The expression of the largest face."""
    try:
        head = reconstruct(load_photo(label.path))[0]
    except MgcFaceError as error:
        return ProbeResult(label.name, label, error=str(error))
    return ProbeResult(label.name, label, np.asarray(head.expression, np.float64))


def standardiser(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread (E,) of the training features (N, E); a feature that never changes has spread 1."""
    spread = features.std(axis=0)
    return features.mean(axis=0), np.where(spread > 0.0, spread, 1.0)


def logistic_loss(weights: np.ndarray, features: np.ndarray, emotions: np.ndarray) -> tuple[float, np.ndarray]:
    """``-mean log softmax(W [x 1])_y + RIDGE/2 |W|^2`` and its gradient; the constants are not penalised.

    Parameters
    ----------
    weights : (C * (E + 1),) float
        W row by row, the constant last.
    features : (N, E) float
    emotions : (N,) int
    """
    inputs = np.column_stack([features, np.ones(len(features))])
    matrix = weights.reshape(-1, inputs.shape[1])
    scores = inputs @ matrix.T
    scores -= scores.max(axis=1, keepdims=True)
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    rows = np.arange(len(emotions))
    errors = np.exp(logs)
    errors[rows, emotions] -= 1.0
    penalised = matrix * np.append(np.ones(features.shape[1]), 0.0)
    loss = -float(logs[rows, emotions].mean()) + 0.5 * RIDGE * float((penalised**2).sum())
    return loss, (errors.T @ inputs / len(emotions) + RIDGE * penalised).ravel()


def fit_emotions(features: np.ndarray, emotions: np.ndarray) -> np.ndarray:
    """W (C, E + 1) of the least loss; convex, so there is one."""
    start = np.zeros(len(EMOTIONS) * (features.shape[1] + 1))
    found = minimize(
        logistic_loss, start, args=(features, emotions), jac=True, method="L-BFGS-B", options={"maxiter": 1000}
    )
    return found.x.reshape(len(EMOTIONS), -1)


def fit_ridge(features: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(E + 1,) that makes ``mean (w [x 1] - y)^2 + RIDGE |w|^2`` least; the constant is not penalised."""
    inputs = np.column_stack([features, np.ones(len(features))])
    penalty = RIDGE * np.diag(np.append(np.ones(features.shape[1]), 0.0))
    return np.linalg.solve(inputs.T @ inputs / len(inputs) + penalty, inputs.T @ wanted / len(inputs))


def concordance(guess: np.ndarray, truth: np.ndarray) -> float:
    """Lin's concordance correlation (Biometrics 1989): ``2 cov / (var g + var t + (mean g - mean t)^2)``."""
    covariance = float(((guess - guess.mean()) * (truth - truth.mean())).mean())
    below = float(guess.var() + truth.var() + (guess.mean() - truth.mean()) ** 2)
    return 2.0 * covariance / below if below > 0.0 else 0.0


def figures(results: Sequence[ProbeResult]) -> dict[str, Any]:
    """Accuracy, and CCC and RMSE of valence and arousal; ``refused`` where a validation photo has no head."""
    parts = {part: [item for item in results if item.label.part == part] for part in PARTS}
    found = {part: [item for item in own if item.error is None] for part, own in parts.items()}
    summary: dict[str, Any] = {
        **{part: {"photos": len(parts[part]), "found": len(found[part])} for part in PARTS},
        "failures": {item.name: item.error for item in results if item.error is not None},
    }
    missing = len(parts["validation"]) - len(found["validation"])
    if missing:
        total = len(parts["validation"])
        summary["refused"] = f"{missing} of {total} validation faces were not reconstructed; there is no headline."
    if len({item.label.emotion for item in found["training"]}) < 2 or not found["validation"]:
        summary["refused"] = "Too few faces were reconstructed to fit and measure the probe."
        return summary
    known = np.array([item.expression for item in found["training"]])
    mean, spread = standardiser(known)
    known, asked = (known - mean) / spread, (np.array([i.expression for i in found["validation"]]) - mean) / spread
    inputs = np.column_stack([asked, np.ones(len(asked))])
    emotions = {part: np.array([item.label.emotion for item in own]) for part, own in found.items()}
    right = (inputs @ fit_emotions(known, emotions["training"]).T).argmax(axis=1) == emotions["validation"]
    summary["accuracy"] = float(right.mean())
    summary["recall"] = {
        name: float(right[emotions["validation"] == number].mean())
        for number, name in enumerate(EMOTIONS)
        if (emotions["validation"] == number).any()
    }
    summary["most_frequent"] = float(np.bincount(emotions["validation"]).max() / len(right))
    for name in ("valence", "arousal"):
        taught, truth = (np.array([getattr(item.label, name) for item in found[part]]) for part in PARTS)
        guess = inputs @ fit_ridge(known, taught)
        summary[name] = {
            "ccc": concordance(guess, truth),
            "rmse": float(np.sqrt(((guess - truth) ** 2).mean())),
        }
    return summary


def page(summary: dict[str, Any]) -> str:
    """The Markdown of this set."""
    counts = ", ".join(f"{part} {summary[part]['found']} of {summary[part]['photos']} faces" for part in PARTS)
    text = f"## Expression: linear probe on the coefficients\n\n{counts}."
    if "refused" in summary:
        text += f" {summary['refused']}"
    if "accuracy" in summary:
        strong = "{}" if "refused" in summary else "**{}**"
        rows = [["accuracy, eight emotions", strong.format(percent(summary["accuracy"]))]]
        rows += [["always the most frequent emotion", percent(summary["most_frequent"])]]
        rows += [[f"recall, {name}", percent(share)] for name, share in summary["recall"].items()]
        for name in ("valence", "arousal"):
            rows.append([f"{name}, CCC", strong.format(f"{summary[name]['ccc']:.3f}")])
            rows.append([f"{name}, RMSE", f"{summary[name]['rmse']:.3f}"])
        text += "\n\n" + table(["figure", "over the faces found"], rows)
    notes = [f"* {name}: {reason}" for name, reason in summary["failures"].items()]
    return text + ("\n\n" + "\n".join(notes) if notes else "")
