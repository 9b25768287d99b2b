"""Multi-view consistency: how far the neutral shapes of one person lie from each other.

A person's neutral face does not depend on the photo. For each pair of photos of one person the mean distance between
corresponding vertices of the face is measured after rigid alignment, which keeps the size, and again after a
similarity, which does not. Pairs of different people stand beside it: a method that always answers with the mean face
is perfectly consistent and useless, and only the ratio of the two shows it.

Files: ``DIR/people/NAME/*``, one folder of photos per person; where there is no ``people``, the series ``lisa`` and
``zoom`` of the measuring material, which show one woman each, perhaps the same.

Symbols: V' vertices of the face, inside the NoW crop of the mean face.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import MgcFaceError
from backend.face_model.model import FaceModel
from backend.geometry.alignment import fit_similarity
from backend.vision.decode import load_photo
from trainer.evaluate.markdown import table
from trainer.evaluate.now_protocol import MM, crop
from trainer.evaluate.photo_sets import Reconstruct
from trainer.evaluate.truth_sets import SetError

PICTURES = (".jpg", ".jpeg", ".png")
SERIES = ("photos/lisa", "photos/zoom")


@dataclass(frozen=True)
class View:
    """One photo of ``person``."""

    person: str
    path: Path

    @property
    def name(self) -> str:
        return f"{self.person}/{self.path.name}"


@dataclass(frozen=True)
class ViewResult:
    """``face`` (V', 3) metres; empty where ``error`` says why."""

    name: str
    person: str
    face: np.ndarray = field(default_factory=lambda: np.zeros(0))
    error: str | None = None


def load(data: Path) -> list[View]:
    """All photos, person by person.

    Raises
    ------
    SetError
        When there is no person with at least two photos.
    """
    people = data / "people"
    folders = sorted(people.iterdir()) if people.is_dir() else [data / name for name in SERIES]
    views = []
    for folder in folders:
        own = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES) if folder.is_dir() else []
        views += [View(folder.name, path) for path in own] if len(own) > 1 else []
    if not views:
        raise SetError(f"There is no person with two photos in {people}; say with --data where the people are.")
    return views


def measure(view: View, reconstruct: Reconstruct) -> ViewResult:
    """The neutral face of the largest face in the photo, at the size the reconstruction gives it."""
    try:
        head = reconstruct(load_photo(view.path))[0]
    except MgcFaceError as error:
        return ViewResult(view.name, view.person, error=str(error))
    return ViewResult(view.name, view.person, neutral_face(head.model, head.neutral_vertices))


def neutral_face(model: FaceModel, neutral: np.ndarray) -> np.ndarray:
    """(V', 3) metres: the vertices inside the NoW crop of the mean face, not moved."""
    mean = np.asarray(model.mean, np.float64)
    return np.asarray(neutral, np.float64)[crop(mean, model.landmark_points(mean, "now7"))]


def distance_mm(a: np.ndarray, b: np.ndarray, with_scale: bool) -> float:
    """Mean distance of corresponding points (V', 3) after the best alignment of ``a`` to ``b``, millimetres.

    With scale both are brought to the mean of their two sizes, so that the order does not matter.
    """
    if with_scale:
        sizes = [float(np.sqrt(((face - face.mean(axis=0)) ** 2).sum())) for face in (a, b)]
        middle = sum(sizes) / 2.0
        a, b = (face * (middle / size) for face, size in zip((a, b), sizes))
    moved = fit_similarity(a, b, with_scale=False).apply(a)
    return MM * float(np.linalg.norm(moved - b, axis=1).mean())


def figures(results: Sequence[ViewResult]) -> dict[str, Any]:
    """Spread of each person, of all, and between people; ``refused`` where a photo has no head."""
    found = [item for item in results if item.error is None]
    people = list(dict.fromkeys(item.person for item in results))
    # The first photo of each person: filled from the back, so that the first is what stays.
    first = {item.person: item.face for item in reversed(found)}
    summary: dict[str, Any] = {
        "photos": len(results),
        "found": len(found),
        "failures": {item.name: item.error for item in results if item.error is not None},
        "people": {},
        "between": _spread(list(combinations(first.values(), 2))),
    }
    for name in people:
        faces = [item.face for item in found if item.person == name]
        summary["people"][name] = {"photos": len(faces), **_spread(list(combinations(faces, 2)))}
    spreads = [row for row in summary["people"].values() if row["rigid_mm"] is not None]
    if len(found) < len(results):
        missing = len(results) - len(found)
        summary["refused"] = f"{missing} of {len(results)} faces were not reconstructed, so there is no headline."
    elif spreads:
        # Each person counts the same, however many photos there are.
        summary["within"] = {
            key: float(np.mean([row[key] for row in spreads])) for key in ("rigid_mm", "similarity_mm")
        }
    return summary


def _spread(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float | None]:
    """Mean over pairs; None without pairs."""
    if not pairs:
        return {"rigid_mm": None, "similarity_mm": None}
    return {
        "rigid_mm": float(np.mean([distance_mm(a, b, False) for a, b in pairs])),
        "similarity_mm": float(np.mean([distance_mm(a, b, True) for a, b in pairs])),
    }


def page(summary: dict[str, Any]) -> str:
    """The Markdown of this set."""

    def cells(row: dict) -> list[str]:
        return ["none" if row[key] is None else f"{row[key]:.3f}" for key in ("rigid_mm", "similarity_mm")]

    rows = [[name, row["photos"], *cells(row)] for name, row in summary["people"].items()]
    if "within" in summary:
        rows.append(["mean over people", summary["photos"], *(f"**{cell}**" for cell in cells(summary["within"]))])
    else:
        rows.append(["mean over people", summary["found"], "*refused*", "*refused*"])
    rows.append(["between people, first photos", len(summary["people"]), *cells(summary["between"])])
    text = "## Multi-view consistency: mean distance between neutral faces of one person, millimetres\n\n"
    text += table(["person", "photos", "rigid", "size taken out"], rows)
    if "refused" in summary:
        text += f"\n\n{summary['refused']}"
    notes = [f"* {name}: {reason}" for name, reason in summary["failures"].items()]
    return text + ("\n\n" + "\n".join(notes) if notes else "")
