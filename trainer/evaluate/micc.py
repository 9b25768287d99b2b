"""MICC Florence: the files, the videos, and the table.

``DIR/MICC`` (or ``DIR``) holds a folder for each of the 53 subjects with a number in its name (``subject_01``). In it:

* one neutral frontal scan: the first ``.obj`` whose path has ``frontal`` in it, or else the first, in millimetres;
* five landmarks on it, which the benchmark does not bring: beside the scan, ``.pp`` as MeshLab's point picking saves
  them or ``.txt`` with a point in a line, in the order of :data:`trainer.evaluate.micc_protocol.LANDMARKS`;
* videos, or folders of their frames, whose path says the condition: ``cooperative``, ``indoor``, ``outdoor`` (looked
  for in this order, since one is called *Indoor-Cooperative*).

A video is reconstructed frame by frame, :data:`FRAMES` of it, and the neutral shapes are averaged: one mesh for each
video. The frame in the middle of those with a face stands for a single image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pstdev
from xml.etree import ElementTree

import cv2
import numpy as np

from backend.errors import MgcFaceError
from backend.face_model.model import MOUTH, FaceModel
from backend.vision.decode import load_photo
from backend.vision.photo import Photo
from trainer.evaluate import published
from trainer.evaluate.markdown import table
from trainer.evaluate.micc_protocol import IBUG68, LANDMARKS, VARIANTS, FaceScan, Mesh, score
from trainer.evaluate.photo_sets import Reconstruct
from trainer.evaluate.truth_sets import SetError

SUBJECTS = 53
CONDITIONS = ("cooperative", "indoor", "outdoor")
VIDEOS = (".avi", ".mp4", ".mov", ".mkv", ".mpg", ".mpeg", ".mjpg", ".mjpeg", ".m4v")
PICTURES = (".jpg", ".jpeg", ".png")

# Frames of a video, evenly spread over it.
FRAMES = 20

# What is measured of each video; the first is the headline.
SHAPES = {"video": "mean shape of the video", "image": "one frame"}
MILLIMETRES = 1000.0


@dataclass(frozen=True)
class Video:
    """One video of one subject: ``source`` a video file or a folder of frames; ``scan`` an OBJ file."""

    subject: int
    condition: str
    source: Path
    scan: Path

    @property
    def name(self) -> str:
        return f"subject {self.subject:02d}, {self.condition}"


@dataclass(frozen=True)
class VideoResult:
    """``rmse_mm`` by :func:`key`; empty where ``error`` says why. ``frames`` were looked at, ``found`` have a face."""

    name: str
    subject: int
    condition: str
    frames: int = 0
    found: int = 0
    rmse_mm: dict[str, float] = field(default_factory=dict)
    error: str | None = None


# --- files ------------------------------------------------------------------------------------------------


def load(data: Path) -> list[Video]:
    """All videos in order of subject and condition; raises :class:`SetError` for what is missing."""
    root = data / "MICC" if (data / "MICC").is_dir() else data
    videos = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        number = re.search(r"(\d+)", folder.name)
        if not folder.is_dir() or number is None:
            continue
        scan = _scan_of(folder)
        for condition, source in _videos_of(folder):
            videos.append(Video(int(number[1]), condition, source, scan))
    if not videos:
        raise SetError(
            f"There are no folders of MICC's subjects with videos in {root}; say with --data where they are."
        )
    return sorted(videos, key=lambda item: (item.subject, CONDITIONS.index(item.condition), item.source))


def _scan_of(folder: Path) -> Path:
    scans = sorted(folder.rglob("*.obj"))
    frontal = [path for path in scans if "frontal" in str(path.relative_to(folder)).lower()]
    if not scans:
        raise SetError(f"There is no scan (.obj) below {folder}; unpack MICC's models again.")
    return (frontal or scans)[0]


def _videos_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Condition and place of every video; frames in one folder are one video."""
    seen = set()
    for path in sorted(folder.rglob("*")):
        words = str(path.relative_to(folder)).lower()
        condition = next((name for name in CONDITIONS if name in words), None)
        if condition is None or not path.is_file():
            continue
        source = path if path.suffix.lower() in VIDEOS else path.parent if path.suffix.lower() in PICTURES else None
        if source is not None and source not in seen:
            seen.add(source)
            yield condition, source


def read_scan(path: Path) -> FaceScan:
    """The scan with its five landmarks, metres.

    Raises
    ------
    SetError
        There are no landmarks beside it, or a file is not what it should be.
    """
    try:
        vertices = _vertices_of(path) / MILLIMETRES
        landmarks = _landmarks_of(path) / MILLIMETRES
    except (OSError, ValueError, IndexError, KeyError, ElementTree.ParseError) as error:
        raise SetError(
            f"The scan {path} or its landmarks cannot be read ({error}); unpack or pick them again."
        ) from error
    if landmarks.shape != (len(LANDMARKS), 3) or not np.isfinite(landmarks).all():
        raise SetError(f"The landmarks of {path} are not five points; pick {', '.join(LANDMARKS)} in this order.")
    return FaceScan(vertices, landmarks)


def _vertices_of(path: Path) -> np.ndarray:
    """(N, 3) in the file's unit; colours behind the coordinates are left out, polygons may have any form."""
    rows = re.findall(r"^v (.+)$", path.read_text(errors="replace"), re.MULTILINE)
    if not rows:
        raise ValueError("it has no vertices")
    return np.array(" ".join(rows).split(), np.float64).reshape(len(rows), -1)[:, :3]


def _landmarks_of(path: Path) -> np.ndarray:
    picked, listed = path.with_suffix(".pp"), path.with_suffix(".txt")
    if picked.is_file():
        points = ElementTree.parse(picked).getroot().iter("point")
        return np.array([[float(point.attrib[axis]) for axis in "xyz"] for point in points])
    if listed.is_file():
        return np.array(
            [[float(word) for word in line.split()] for line in listed.read_text().splitlines() if line.strip()]
        )
    raise SetError(f"There are no landmarks beside {path}; pick {', '.join(LANDMARKS)} and save them as {picked.name}.")


def frames(source: Path) -> Iterator[Photo]:
    """:data:`FRAMES` of a video or of a folder of frames, evenly spread; all of them where there are fewer."""
    if source.is_dir():
        paths = sorted(path for path in source.iterdir() if path.suffix.lower() in PICTURES)
        for index in _spread(len(paths)):
            yield load_photo(paths[index])
        return
    video = cv2.VideoCapture(str(source))
    try:
        wanted = set(_spread(int(video.get(cv2.CAP_PROP_FRAME_COUNT))))
        if not video.isOpened() or not wanted:
            raise SetError(f"The video {source} cannot be read; convert it or give a folder of its frames.")
        for index in range(max(wanted) + 1):
            if not video.grab():
                return
            if index in wanted:
                pixels = video.retrieve()[1]
                yield Photo(np.ascontiguousarray(pixels[:, :, ::-1]), source)
    finally:
        video.release()


def _spread(count: int) -> list[int]:
    return sorted({int(index) for index in (np.arange(FRAMES) + 0.5) * count / FRAMES}) if count > 0 else []


# --- one video --------------------------------------------------------------------------------------------


def measure(video: Video, reconstruct: Reconstruct) -> VideoResult:
    """Reconstruct a video and score its shapes; a frame without a face is left out, a video without one fails."""
    about = (video.name, video.subject, video.condition)
    shapes, model, count, reason = [], None, 0, "The video has no frames."
    try:
        scan = read_scan(video.scan)
        for photo in frames(video.source):
            count += 1
            try:
                head = reconstruct(photo)[0]
            except MgcFaceError as error:
                reason = str(error)
                continue
            shapes.append(np.asarray(head.neutral_vertices, np.float64))
            model = head.model
        if model is None:
            return VideoResult(*about, count, 0, error=reason)
        rmse = _scores(scan, model, {"video": np.mean(shapes, axis=0), "image": shapes[len(shapes) // 2]})
    except MgcFaceError as error:
        return VideoResult(*about, count, len(shapes), error=str(error))
    return VideoResult(*about, count, len(shapes), rmse)


def _scores(scan: FaceScan, model: FaceModel, shapes: dict[str, np.ndarray]) -> dict[str, float]:
    return {
        key(shape, variant, forehead): score(scan, as_mesh(model, vertices), variant, forehead)
        for shape, vertices in shapes.items()
        for variant in VARIANTS
        for forehead in (False, True)
    }


def as_mesh(model: FaceModel, vertices: np.ndarray) -> Mesh:
    """What is scored: skin and eyes, without the inside of the mouth, which no scan shows."""
    inside = model.materials.index(MOUTH) if MOUTH in model.materials else -1
    triangles = model.triangles[model.triangle_material != inside]
    return Mesh(vertices, triangles, model.landmark_points(vertices, "ibug68")[list(IBUG68)])


def key(shape: str, variant: str, forehead: bool) -> str:
    return f"{shape}, {variant}" + (", with forehead" if forehead else "")


# --- the table --------------------------------------------------------------------------------------------


def figures(results: Sequence[VideoResult]) -> dict:
    """Mean and standard deviation over meshes, by condition; refused while any of the 53 subjects is not whole."""
    rows: dict[str, dict] = {}
    for condition in (*CONDITIONS, "all"):
        mine = [item for item in results if condition in (item.condition, "all")]
        scored = [item for item in mine if item.rmse_mm]
        rows[condition] = {
            "videos": len(mine),
            "scored": len(scored),
            "rmse_mm": {
                name: _over([item.rmse_mm[name] for item in scored]) for name in (scored[0].rmse_mm if scored else ())
            },
        }
    refused = _refused(results)
    return {
        "conditions": rows,
        "subjects": len({item.subject for item in results}),
        "headline": None if refused else rows["all"]["rmse_mm"][key("video", "similarity", False)],
        "refused": refused,
        "failures": {item.name: item.error for item in results if item.error is not None},
    }


def _over(values: Sequence[float]) -> dict[str, float]:
    return {"mean": fmean(values), "std": pstdev(values)}


def _refused(results: Sequence[VideoResult]) -> str | None:
    """Why there is no headline; a mean over those that happened to work flatters the method."""
    subjects = {item.subject for item in results}
    missing = [number for number in range(1, SUBJECTS + 1) if number not in subjects]
    if missing:
        return (
            f"{len(missing)} of {SUBJECTS} subjects are missing (the first is {missing[0]}), so there is no headline."
        )
    for condition in CONDITIONS:
        without = [
            number
            for number in sorted(subjects)
            if not any(item.subject == number and item.condition == condition for item in results)
        ]
        if without:
            return (
                f"Subject {without[0]} has no video {condition}, and {len(without) - 1} more, so there is no headline."
            )
    failed = [item.name for item in results if item.error is not None]
    return (
        f"{len(failed)} videos have no figure (the first is {failed[0]}), so there is no headline." if failed else None
    )


def page(found: dict) -> str:
    """The figures as Markdown, published rows beside them."""
    parts = ["## MICC Florence: point-to-plane RMSE of each mesh, millimetres, mean and standard deviation over meshes"]
    if found["refused"]:
        parts.append(found["refused"])
    names = [key(shape, variant, forehead) for shape in SHAPES for variant in VARIANTS for forehead in (False, True)]
    rows = []
    for condition, row in found["conditions"].items():
        cells = [f"{one['mean']:.2f} ± {one['std']:.2f}" if (one := row["rmse_mm"].get(name)) else "" for name in names]
        rows.append([condition, f"{row['scored']} of {row['videos']}", *cells])
    parts.append(table(["", "videos scored", *names], rows))
    headline = found["headline"]
    ours = f"{headline['mean']:.2f} ± {headline['std']:.2f}" if headline else "*refused*"
    lines = [["ours, mean shape of the video, similarity, without forehead", ours, "this run"]]
    lines += [[row.method, f"{row.figures[0]:.2f} ± {row.figures[1]:.2f}", row.source] for row in published.MICC]
    parts.append(
        "Published, by protocols that are told in words only and differ, so these rows orient and do not rank.\n\n"
        + table(["method", "RMSE", "source"], lines)
    )
    parts += [f"* {name}: {reason}" for name, reason in found["failures"].items()]
    return "\n\n".join(parts)
