"""AFLW2000-3D: how far 68 projected landmarks lie from the labelled ones, by yaw.

The protocol is that of 3DDFA's ``benchmark_aflw2000.py`` (Zhu et al., CVPR 2016; cleardusk/3DDFA), written from its
description. The error of an image is the mean distance of the 68 points over the square root of the area of the box
round the *labelled landmarks*. The headline is the mean of the three bins' means, so each bin counts the same however
many images it has (balanced); the plain mean over all images is given beside it.

It measures pose above all: the mean face with the right pose scores as well as the right shape. No word about
identity may rest on it.

Files, in ``DIR/AFLW2000`` as the benchmark's archive unpacks, or in ``DIR`` itself: 2000 ``.jpg``, each with a
``.mat`` (``pt3d_68``, ``Pose_Para``). Beside them, where the user has them from 3DDFA's ``test.configs``:
``AFLW2000-3D-Reannotated.pts68.npy`` (other landmarks for the same images) and ``AFLW2000-3D-new.pose.npy`` (yaw from
the labels of AFLW). Both list the images in order of name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from backend.errors import MgcFaceError
from backend.reconstruction.result import Reconstruction
from backend.vision.decode import load_photo
from trainer.evaluate import published
from trainer.evaluate.markdown import percent, table
from trainer.evaluate.now_protocol import ProtocolError
from trainer.evaluate.photo_sets import Reconstruct
from trainer.evaluate.truth_sets import SetError

IMAGES = 2000
POINTS = 68

# Degrees of |yaw| where the first and the second bin end; a limit belongs to the bin below it.
BIN_LIMITS = (30.0, 60.0)
BIN_NAMES = ("0-30", "30-60", "60-90")

# The labels count pixels as MATLAB does: the centre of the top-left pixel is at (1, 1). Here it is at (0.5, 0.5).
FROM_MATLAB = -0.5

REANNOTATED = "AFLW2000-3D-Reannotated.pts68.npy"
LABELLED_YAW = "AFLW2000-3D-new.pose.npy"

# What is told apart on the page: whose landmarks, and whose yaw. With Pose_Para the bins hold 1312, 383 and 305
# images, with the labels of AFLW 1306, 462 and 232.
TRUTHS = ("original", "reannotated")
YAWS = ("Pose_Para", "AFLW labels")


@dataclass(frozen=True)
class LabelledFace:
    """One image: ``truths`` maps :data:`TRUTHS` to (68, 2) pixels, ``yaws`` maps :data:`YAWS` to degrees."""

    path: Path
    truths: dict[str, np.ndarray]
    yaws: dict[str, float]

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True)
class FaceResult:
    """``errors`` maps :data:`TRUTHS` to the NME (a share, not percent); empty where ``error`` says why."""

    name: str
    yaws: dict[str, float]
    errors: dict[str, float]
    error: str | None = None


def load(data: Path) -> list[LabelledFace]:
    """The labelled images in order of name.

    Raises
    ------
    SetError
        When there are none, or a label file is missing or not in the benchmark's form.
    """
    folder = data / "AFLW2000" if (data / "AFLW2000").is_dir() else data
    photos = sorted(folder.glob("image*.jpg"))
    if not photos:
        raise SetError(f"There are no images of AFLW2000-3D in {folder}; say with --data where it was unpacked.")
    others = _array(data, folder, REANNOTATED, (IMAGES, 2, POINTS))
    yaws = _array(data, folder, LABELLED_YAW, (IMAGES,))
    if (others is not None or yaws is not None) and len(photos) != IMAGES:
        raise SetError(
            f"{REANNOTATED} and {LABELLED_YAW} list {IMAGES} images by their order, but {folder} holds {len(photos)}; "
            "complete the images or take those files away."
        )
    faces = []
    for index, path in enumerate(photos):
        points, yaw = _labels(path.with_suffix(".mat"))
        truths, angles = {TRUTHS[0]: points}, {YAWS[0]: yaw}
        if others is not None:
            truths[TRUTHS[1]] = others[index].T.astype(np.float64) + FROM_MATLAB
        if yaws is not None:
            angles[YAWS[1]] = float(yaws[index])
        faces.append(LabelledFace(path, truths, angles))
    return faces


def _array(data: Path, folder: Path, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    for place in (data, folder):
        if (place / name).is_file():
            try:
                found = np.load(place / name, allow_pickle=False)
            except (ValueError, OSError) as error:
                raise SetError(f"{place / name} is not an array of numbers; fetch the file again.") from error
            if found.shape != shape:
                raise SetError(f"{place / name} has shape {found.shape}, not {shape}; fetch the file again.")
            return found
    return None


def _labels(path: Path) -> tuple[np.ndarray, float]:
    """(68, 2) pixels in our convention and the yaw in degrees."""
    try:
        labels = loadmat(str(path), variable_names=("pt3d_68", "Pose_Para"))
        points = np.asarray(labels["pt3d_68"], np.float64)
        pose = np.asarray(labels["Pose_Para"], np.float64).ravel()
        if points.shape != (3, POINTS) or len(pose) < 3 or not (np.isfinite(points).all() and np.isfinite(pose).all()):
            raise ValueError(points.shape)
    except Exception as error:  # a file of any other kind: SciPy's reader raises errors of many kinds
        raise SetError(f"{path} is missing or is no label of AFLW2000-3D; unpack the benchmark again.") from error
    return points[:2].T + FROM_MATLAB, float(np.degrees(pose[1]))


def nme(points: np.ndarray, truth: np.ndarray) -> float:
    """``mean_k |p_k - g_k| / sqrt((max gx - min gx) (max gy - min gy))``, a share.

    Parameters
    ----------
    points, truth : (68, 2) float
        Pixels of the original image.

    Raises
    ------
    ProtocolError
        When the points are not 68 finite pairs, or the labelled ones have no box.
    """
    if points.shape != (POINTS, 2) or truth.shape != (POINTS, 2) or not np.isfinite(points).all():
        raise ProtocolError(f"The protocol needs {POINTS} finite points in the image, not {points.shape}.")
    area = float(np.prod(np.ptp(truth, axis=0)))
    if not area > 0.0:
        raise ProtocolError("The labelled landmarks lie on one line, so there is no box to measure against.")
    return float(np.linalg.norm(points - truth, axis=1).mean() / np.sqrt(area))


def measure(face: LabelledFace, reconstruct: Reconstruct) -> FaceResult:
    """Reconstruct the photo, take the head on the labelled face, project its landmarks."""
    try:
        heads = reconstruct(load_photo(face.path))
        points = labelled_one([projected(head) for head in heads], face.truths[TRUTHS[0]])
        errors = {name: nme(points, truth) for name, truth in face.truths.items()}
    except MgcFaceError as error:
        return FaceResult(face.name, face.yaws, {}, str(error))
    return FaceResult(face.name, face.yaws, errors)


def projected(head: Reconstruction) -> np.ndarray:
    """(68, 2) pixels: fixed points of the surface with its expression, those on the far side too, as labelled."""
    points = head.model.landmark_points(np.asarray(head.vertices, np.float64), "ibug68")
    return np.asarray(head.camera.project(points), np.float64)


def labelled_one(found: Sequence[np.ndarray], truth: np.ndarray) -> np.ndarray:
    """The (68, 2) points whose box overlaps the labelled one's most. The benchmark itself hands out the true box.

    Raises
    ------
    ProtocolError
        When none overlaps.
    """
    overlaps = [_overlap(points, truth) for points in found]
    if not overlaps or max(overlaps) <= 0.0:
        raise ProtocolError(f"None of the {len(overlaps)} faces found in the image is the labelled one.")
    return found[int(np.argmax(overlaps))]


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of the boxes round two sets of points."""
    sides = np.minimum(a.max(axis=0), b.max(axis=0)) - np.maximum(a.min(axis=0), b.min(axis=0))
    common = float(np.prod(np.maximum(sides, 0.0)))
    return common / float(np.prod(np.ptp(a, axis=0)) + np.prod(np.ptp(b, axis=0)) - common)


def figures(results: Sequence[FaceResult]) -> dict[str, Any]:
    """Figures for each truth and each source of yaw; ``refused`` in place of a headline where an image is missing."""
    found = [item for item in results if item.error is None]
    rows = []
    for truth in TRUTHS:
        for source in YAWS:
            if any(truth in item.errors and source in item.yaws for item in found):
                rows.append({"truth": truth, "yaw": source, **_bins(found, truth, source)})
    summary: dict[str, Any] = {
        "images": len(results),
        "found": len(found),
        "failures": {item.name: item.error for item in results if item.error is not None},
        "rows": rows,
        "errors": {item.name: {**item.errors, "yaw": item.yaws[YAWS[0]]} for item in found},
    }
    if len(results) != IMAGES:
        summary["refused"] = f"The folder holds {len(results)} of the {IMAGES} images, so there is no headline figure."
    elif len(found) < IMAGES:
        missing = IMAGES - len(found)
        summary["refused"] = f"{missing} of {IMAGES} faces were not reconstructed, so there is no headline figure."
    return summary


def bin_of(yaw: np.ndarray) -> np.ndarray:
    """Degrees (N,) -> 0, 1 or 2: ``|yaw| <= 30``, ``30 < |yaw| <= 60``, beyond."""
    return np.searchsorted(BIN_LIMITS, np.abs(yaw), side="left")


def _bins(found: Sequence[FaceResult], truth: str, source: str) -> dict[str, Any]:
    errors = np.array([item.errors[truth] for item in found])
    place = bin_of(np.array([item.yaws[source] for item in found]))
    each = [errors[place == number] for number in range(len(BIN_NAMES))]
    means = [float(part.mean()) if len(part) else None for part in each]
    known = [mean for mean in means if mean is not None]
    return {
        "bins": [
            {"yaw": name, "faces": len(part), "mean": mean, "std": float(part.std()) if len(part) else None}
            for name, part, mean in zip(BIN_NAMES, each, means)
        ],
        "balanced_mean": float(np.mean(known)) if len(known) == len(means) else None,
        "balanced_std": float(np.std(known)) if len(known) == len(means) else None,
        "plain_mean": float(errors.mean()),
    }


def page(summary: dict[str, Any]) -> str:
    """The Markdown of this set."""
    columns = ["landmarks, yaw", *(f"yaw {name} (faces)" for name in BIN_NAMES), "balanced mean", "plain mean"]
    rows = [
        [
            f"{row['truth']}, {row['yaw']}",
            *(f"{percent(part['mean'])} ({part['faces']})" for part in row["bins"]),
            "*refused*" if "refused" in summary else f"**{percent(row['balanced_mean'])}**",
            "*refused*" if "refused" in summary else percent(row["plain_mean"]),
        ]
        for row in summary["rows"]
    ]
    text = "## AFLW2000-3D: NME of 68 landmarks, percent of the box round the labelled ones\n\n" + table(columns, rows)
    if "refused" in summary:
        text += f"\n\n{summary['refused']} The bins above are over the {summary['found']} faces that were found."
    text += "\n\nThis measures pose above all and says nothing about identity. Published, original landmarks:\n\n"
    names = ["method", *BIN_NAMES, "mean of the three", "source"]
    text += table(names, [published.cells(row, 2) for row in published.AFLW2000])
    notes = [f"* {name}: {reason}" for name, reason in summary["failures"].items()]
    return text + ("\n\n" + "\n".join(notes) if notes else "")
