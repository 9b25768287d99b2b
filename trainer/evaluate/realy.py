"""REALY: the benchmark's own files, and its table.

Files, in ``DIR`` as the benchmark's archive and its repository's folder ``data`` hold them together:
``REALY_HIFI3D_keypoints/ID.obj`` (85 vertices), ``REALY_scan_region/ID/{nose,mouth,forehead,cheek}.obj``,
``metrical_scale.txt`` (one factor per subject, IDs count from 1), ``HIFI3D.obj`` and ``HIFI3D.txt`` (the template
and its 85 keypoints), ``REALY_image/*/`` with photos called ``ID.*`` or ``ID_VIEW.*``. A folder with ``frontal`` in
its name holds the frontal set; every other one that was not called for depth holds the side views.

Of the 85 keypoints 68 are iBUG's, which our models know. The other 17 are carried over from the template: a
thin-plate spline through the 68, then the nearest point of the skin. Carried from the template to FLAME, whose 85 the
benchmark publishes, the four that the protocol uses come out within 1.3 mm of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import RBFInterpolator

from backend.errors import MgcFaceError
from backend.face_model.model import MOUTH, Embedding, FaceModel
from backend.geometry.alignment import fit_similarity
from backend.geometry.closest_point import SurfaceTree
from backend.geometry.mesh import interpolate_on_triangles
from backend.vision.decode import load_photo
from trainer.evaluate import published
from trainer.evaluate.markdown import table
from trainer.evaluate.now_protocol import ProtocolError
from trainer.evaluate.photo_sets import Reconstruct
from trainer.evaluate.realy_protocol import KEYPOINTS, REGIONS, RegionScan, Subject, score
from trainer.evaluate.truth_sets import SetError

SUBJECTS = 100
VIEWS = ("frontal", "side")
# Smoothing of the spline, square metres: far too little to move anything, enough for models in which two of the 68
# points fall together (corners of a closed mouth), where an exact spline does not exist.
ROUNDING = 1e-9
PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Portrait:
    """One photo of one subject: ``view`` of :data:`VIEWS`, ``subject`` from 1, ``data`` the benchmark's folder."""

    path: Path
    view: str
    subject: int
    data: Path

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.stem}"


@dataclass(frozen=True)
class PortraitResult:
    """``regions`` millimetres by region; empty where ``error`` says why."""

    name: str
    view: str
    subject: int
    regions: dict[str, float] = field(default_factory=dict)
    error: str | None = None


def load(data: Path) -> list[Portrait]:
    """The photos in order of set, subject and view.

    Raises
    ------
    SetError
        When a folder is missing or a photo is not called by its subject.
    """
    for name in ("REALY_HIFI3D_keypoints", "REALY_scan_region", "REALY_image"):
        if not (data / name).is_dir():
            raise SetError(f"There is no {name} in {data}; say with --data where REALY was unpacked.")
    portraits = []
    for folder in sorted((data / "REALY_image").iterdir()):
        # The archive also has the originals with their depth, the same photos again.
        if not folder.is_dir() or "depth" in folder.name.lower():
            continue
        view = VIEWS[0] if "frontal" in folder.name.lower() else VIEWS[1]
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in PICTURES:
                continue
            number = path.stem.split("_")[0]
            if not number.isdigit() or not 1 <= int(number) <= SUBJECTS:
                raise SetError(f"{path} is not called by its subject, such as 17.jpg or 17_2.jpg; unpack REALY again.")
            portraits.append(Portrait(path, view, int(number), data))
    if not portraits:
        raise SetError(f"There are no photos in {data / 'REALY_image'}; unpack REALY again.")
    return sorted(portraits, key=lambda item: (item.view, item.subject, item.path.name))


def measure(portrait: Portrait, reconstruct: Reconstruct) -> PortraitResult:
    """Reconstruct, then score the neutral head, as the scans are: skin and eyes, not the inside of the mouth.

    Raises
    ------
    SetError
        When a file of the benchmark is missing or broken, which no other photo would survive either.
    """
    truth = read_subject(portrait.data, portrait.subject)
    template, marks = read_template(portrait.data)
    place = (portrait.name, portrait.view, portrait.subject)
    try:
        head = reconstruct(load_photo(portrait.path))[0]
        vertices = np.asarray(head.neutral_vertices, np.float64)
        inside = head.model.materials.index(MOUTH) if MOUTH in head.model.materials else -1
        triangles = head.model.triangles[head.model.triangle_material != inside]
        points = keypoints85(head.model, template, marks).points(vertices)
        return PortraitResult(*place, score(truth, vertices, triangles, points))
    except MgcFaceError as error:
        return PortraitResult(*place, error=str(error))


_known: dict[int, tuple[FaceModel, Embedding]] = {}


def keypoints85(model: FaceModel, template: np.ndarray, marks: np.ndarray) -> Embedding:
    """The 85 keypoints as fixed points of a model's skin; found once for each model.

    Parameters
    ----------
    model : FaceModel
        With landmarks ``ibug68``.
    template : (V, 3) float
        Vertices of the benchmark's template, any unit.
    marks : (85, 3) float
        Its keypoints.
    """
    if id(model) not in _known:
        if "ibug68" not in model.landmarks:
            raise ProtocolError(f"The model {model.info.name} has no iBUG landmarks, which the keypoints begin with.")
        known = model.landmarks["ibug68"]
        mean = np.asarray(model.mean, np.float64)
        ours = known.points(mean)
        onto = fit_similarity(marks[:68], ours)
        warp = RBFInterpolator(onto.apply(marks[:68]), ours, kernel="thin_plate_spline", smoothing=ROUNDING)
        skin = model.triangles[model.triangle_material == 0]
        found = SurfaceTree(mean, skin).query(warp(onto.apply(marks[68:])))
        corners = np.concatenate([known.corners, skin[found.triangles]])
        weights = np.concatenate([known.barycentric, found.barycentric])
        _known.clear()
        _known[id(model)] = model, Embedding(corners.astype(np.int32), weights.astype(np.float32))
    return _known[id(model)][1]


@lru_cache(maxsize=8)
def read_subject(data: Path, number: int) -> Subject:
    """The scan's regions, keypoints and size of one subject, from 1."""
    try:
        factors = np.loadtxt(data / "metrical_scale.txt", ndmin=1)
    except (OSError, ValueError) as error:
        raise SetError(f"There is no usable metrical_scale.txt in {data}; copy it from REALY's folder data.") from error
    if number > len(factors):
        raise SetError(f"{data / 'metrical_scale.txt'} has no size for subject {number}; copy it from REALY again.")
    folder = data / "REALY_scan_region" / str(number)
    regions = {name: RegionScan(*read_mesh(folder / f"{name}.obj")) for name in REGIONS}
    keypoints, _ = read_mesh(data / "REALY_HIFI3D_keypoints" / f"{number}.obj")
    return Subject(regions, keypoints, float(factors[number - 1]))


@lru_cache(maxsize=1)
def read_template(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of the template and its 85 keypoints; each entry of the file is a triangle and two weights."""
    vertices, triangles = read_mesh(data / "HIFI3D.obj")
    try:
        rows = np.array(json.loads((data / "HIFI3D.txt").read_text()), np.float64)
        index = rows[:, 0].astype(int)
        if rows.shape != (KEYPOINTS, 3) or index.min() < 0:
            raise ValueError(rows.shape)
        weights = np.column_stack([rows[:, 1], rows[:, 2], 1.0 - rows[:, 1] - rows[:, 2]])
        return vertices, interpolate_on_triangles(vertices, triangles[index], weights)
    except (OSError, ValueError, IndexError) as error:
        raise SetError(f"There is no usable HIFI3D.txt in {data}; copy it from REALY's folder data.") from error


def read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and triangles (T, 3) of an OBJ; polygons become fans, which is how the keypoints count them."""
    vertices, triangles = [], []
    try:
        for line in path.read_text().splitlines():
            parts = line.split()
            if parts[:1] == ["v"]:
                vertices.append([float(part) for part in parts[1:4]])
            elif parts[:1] == ["f"]:
                corners = [int(part.split("/")[0]) - 1 for part in parts[1:]]
                triangles += [[corners[0], *corners[k : k + 2]] for k in range(1, len(corners) - 1)]
    except (OSError, ValueError) as error:
        raise SetError(f"{path} is missing or is no mesh; unpack REALY again.") from error
    return np.array(vertices, np.float64).reshape(-1, 3), np.array(triangles, np.int64).reshape(-1, 3)


def figures(results: Sequence[PortraitResult]) -> dict[str, Any]:
    """Figures for the frontal and the side set; ``refused`` in place of a headline where one is not whole."""
    summary: dict[str, Any] = {"views": {}, "failures": {}}
    for view in VIEWS:
        own = [item for item in results if item.view == view]
        if not own:
            continue
        found = [item for item in own if item.error is None]
        row: dict[str, Any] = {"photos": len(own), "found": len(found), "regions": {}}
        for name in REGIONS:
            errors = np.array([item.regions[name] for item in found])
            if len(errors):
                spread = float(errors.std(ddof=1)) if len(errors) > 1 else None
                row["regions"][name] = {
                    "mean": float(errors.mean()), "median": float(np.median(errors)), "std": spread
                }  # fmt: skip
        if found:
            row["all"] = float(np.mean([row["regions"][name]["mean"] for name in REGIONS]))
        reason = why_not_whole(own)
        if reason is not None:
            row["refused"] = reason
        summary["views"][view] = row
        summary["failures"].update({item.name: item.error for item in own if item.error is not None})
    return summary


def why_not_whole(own: Sequence[PortraitResult]) -> str | None:
    """A sentence where subjects, views or reconstructions are missing from a set."""
    counts = Counter(item.subject for item in own)
    lost = sum(item.error is not None for item in own)
    if len(counts) < SUBJECTS:
        return f"There are photos of {len(counts)} of {SUBJECTS} subjects, so there is no headline figure."
    if len(set(counts.values())) > 1:
        return "The subjects do not have the same number of photos, so there is no headline figure."
    if lost:
        return f"{lost} of {len(own)} faces were not reconstructed, so there is no headline figure."
    return None


def page(summary: dict[str, Any]) -> str:
    """The Markdown of this set."""
    text = "## REALY: mean distance by region, millimetres"
    for view, row in summary["views"].items():
        cells = [f"{row['regions'][name]['mean']:.3f}" if row["regions"] else "none" for name in REGIONS]
        headline = "*refused*" if "refused" in row else f"**{row['all']:.3f}**"
        rows = [["ours", *cells, headline, "this run"], *(published.cells(item, 3) for item in published.REALY[view])]
        text += f"\n\n{view.capitalize()} set, {row['found']} of {row['photos']} photos:\n\n"
        text += table(["method", *REGIONS, "all", "source"], rows)
        if "refused" in row:
            text += f"\n\n{row['refused']}"
    notes = [f"* {name}: {reason}" for name, reason in summary["failures"].items()]
    return text + ("\n\n" + "\n".join(notes) if notes else "")
