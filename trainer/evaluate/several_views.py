"""What further photos of a person bring: error by the number of views, and photos predicted from the others.

``several_views`` renders people of known shape up to nine times: invented ones with other expressions, cameras,
lenses and light each time, and the faces of ``meshmonk``, whose surface cannot smile, with other cameras, lenses and
light. The joint head of the first 1, 2, 3, 5 and 9 photos is scored with the NoW protocol: as landmarks have it, and
refined by what the photos show of the skin. Beside it stands the average of the heads that landmarks give photo by
photo, which is what sharing nothing would bring.

The series ``zoom`` and ``lisa``: each photo is left out in turn, and the head of the others (and of each other photo
by itself) is held against it: with its identity and the places of its landmarks fixed, how far do the landmarks stay
off? The head of all photos is held against all of them in the same way.

Symbols: I identity modes, L landmarks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import MgcFaceError
from backend.face_model.model import FaceModel
from backend.face_model.registry import get_model
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.reconstruction.joint import JointFit, fit_together, predicted
from backend.reconstruction.landmark_cost import Observation
from backend.reconstruction.observation import observe
from backend.reconstruction.person import off_landmarks
from backend.reconstruction.photometric import refine_photos
from backend.reconstruction.pipeline import Pipeline
from backend.reconstruction.result import with_offset
from backend.vision.decode import load_photo
from backend.vision.photo import Photo
from trainer.evaluate import now_protocol, view_curve
from trainer.evaluate.markdown import percent, table
from trainer.evaluate.now_protocol import Prediction, Scan
from trainer.evaluate.truth_render import Surface, photograph
from trainer.evaluate.truth_sets import SetError, meshmonk_people

COUNTS = (1, 2, 3, 5, 9)
# Seeds of the invented people, met by nothing else.
FIRST_SEED, INVENTED, INVENTED_SIZE = 9_200_000, 40, 480
MESHMONK, MESHMONK_SIZE = 45, 700
# Views of the meshmonk faces, degrees of yaw and pitch, as somebody takes them who was told to walk round: each is
# off by a few degrees. Distances in metres; the face fills the same part of every photo, so lenses differ alike.
WALK = ((0, 0), (30, 0), (-30, 0), (15, 10), (-15, -10), (45, 0), (-45, 0), (0, 15), (0, -15))
OFF_DEG, DISTANCES_M, FACE_PART = 5.0, (0.35, 1.6), 0.6
SERIES = ("zoom", "lisa")
TIMED_RUNS, TIMED_PHOTOS = 9, 3


@dataclass(frozen=True)
class Task:
    """One person to photograph, or one series to predict. ``photos`` renders or reads when called."""

    kind: str
    name: str
    photos: Callable[[], list[Photo]]
    scan: Scan | None = None


@dataclass(frozen=True)
class Result:
    """``refined_mm``, ``joint_mm``, ``average_mm``: number of photos -> median distance.

    ``left_out`` are rows of a series, ``over_all`` its heads over all photos.
    """

    kind: str
    name: str
    error: str | None = None
    missed: int = 0
    refined_mm: dict[int, float] = field(default_factory=dict)
    joint_mm: dict[int, float] = field(default_factory=dict)
    average_mm: dict[int, float] = field(default_factory=dict)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    over_all: dict[str, Any] = field(default_factory=dict)
    fit_ms: float | None = None


@lru_cache(maxsize=1)
def bench() -> Pipeline:
    return Pipeline(texture_size=None, stages=("detect", "fit"))


def load(data: Path) -> list[Task]:
    """People and series; raises SetError without ``scans/meshmonk``."""
    model = get_model("open-head")
    tasks = [invented(model, FIRST_SEED + number) for number in range(INVENTED)]
    surfaces, scans = meshmonk_people(data)
    for number in range(min(MESHMONK, len(scans))):
        tasks.append(Task("meshmonk", f"{number + 1:02d}", lambda n=number: walk_round(surfaces(n), n), scans[number]))
    for name in SERIES:
        paths = sorted((data / "photos" / name).glob("*.jpg"))
        if len(paths) < 3:
            raise SetError(f"The series {name} is not in {data}; say with --data where the photos are.")
        tasks.append(Task("series", name, lambda paths=paths: [load_photo(path) for path in paths]))
    return tasks


def invented(model: FaceModel, seed: int) -> Task:
    from trainer.data.painter import Painter
    from trainer.data.several_views import draw_series

    series = draw_series(model, seed, max(COUNTS), INVENTED_SIZE)
    neutral = model.vertices(series[0].identity).astype(np.float64)
    seen = np.unique(model.triangles[model.triangle_material == 0])

    def photos() -> list[Photo]:
        painter = Painter(model)
        return [Photo(painter.paint(person, seed, moment)) for moment, person in enumerate(series)]

    return Task("invented", str(seed), photos, Scan(neutral[seen], model.landmark_points(neutral, "now7")))


def walk_round(surface: Surface, number: int) -> list[Photo]:
    """Nine photos of a face."""
    photos = []
    for view, (yaw, pitch) in enumerate(WALK):
        rng = np.random.default_rng([45, number, 2, view])
        rotation = rotation_from_head_euler(*(rng.normal((yaw, pitch, 0.0), OFF_DEG)))
        distance = float(np.exp(rng.uniform(*np.log(DISTANCES_M))))
        focal = MESHMONK_SIZE * FACE_PART * distance / 0.2
        translation = np.array([0.0, 0.0, distance]) - rotation @ surface.vertices.mean(axis=0)
        lens = intrinsics(focal, MESHMONK_SIZE, MESHMONK_SIZE)
        camera = Camera(lens, rotation, translation, MESHMONK_SIZE, MESHMONK_SIZE)
        photos.append(Photo(photograph(surface, camera, rng)))
    return photos


def measure(task: Task, reconstruct: object = None) -> Result:
    """One person or series, with the project's own joint fit (``reconstruct`` knows single photos and is not asked)."""
    pipeline = bench()
    observations, shown = [], []
    for photo in task.photos():
        try:
            faces = pipeline.faces(photo)
        except MgcFaceError:
            faces = []
        if faces:
            observations.append(observe(photo, faces[0], pipeline.fitter.lm.name))
            shown.append(photo)
    missed = max(COUNTS) - len(observations)
    if task.scan is None:
        alone = [fit_together(pipeline.fitter, [observation]) for observation in observations]
        left_out, every = leave_one_out(pipeline, observations, alone), over_all(pipeline, observations, alone)
        return Result(task.kind, task.name, left_out=left_out, over_all=every, fit_ms=timed(observations))
    if len(observations) < 5:
        return Result(task.kind, task.name, f"Only {len(observations)} photos show a face.", missed)
    alone = pipeline.fitter.fit(observations)
    refined, joint, average = {}, {}, {}
    for count in COUNTS:
        chosen = observations[:count]
        fit = fit_together(pipeline.fitter, chosen)
        joint[count] = score(pipeline.model, fit.identity, task.scan)
        better = refine_photos(pipeline.fitter, chosen, fit, lambda place: shown[place])
        refined[count] = score(pipeline.model, better.identity, task.scan, better.offset)
        mean = np.mean([fit.identity for fit in alone[:count]], axis=0)
        average[count] = joint[count] if count == 1 else score(pipeline.model, mean, task.scan)
    return Result(task.kind, task.name, None, missed, refined, joint, average)


def score(model: FaceModel, identity: np.ndarray, scan: Scan, offset: np.ndarray | None = None) -> float:
    """Median distance by the NoW protocol, millimetres."""
    from trainer.evaluate.accuracy import prediction

    guess: Prediction = prediction(model, with_offset(model.vertices(identity), offset))
    return now_protocol.score(scan, guess).median_mm


def leave_one_out(
    pipeline: Pipeline, observations: Sequence[Observation], alone: Sequence[JointFit]
) -> list[dict[str, Any]]:
    """For each photo the relative error of the head from the others together, and from each other one ``alone``."""
    rows = []
    for out, observation in enumerate(observations):
        others = [place for place in range(len(observations)) if place != out]
        together = fit_together(pipeline.fitter, [observations[place] for place in others])
        rows.append(
            {
                "joint": off(pipeline, observation, together),
                "single": [off(pipeline, observation, alone[place]) for place in others],
                "own": off(pipeline, observation, alone[out]),
            }
        )
    return rows


def over_all(
    pipeline: Pipeline, observations: Sequence[Observation], alone: Sequence[JointFit]
) -> dict[str, float | list[float]]:
    """Relative error, mean over all photos, of the head from all together and of each photo's own."""
    means = [
        float(np.mean([off(pipeline, observation, head) for observation in observations]))
        for head in (fit_together(pipeline.fitter, observations), *alone)
    ]
    return {"joint": means[0], "single": means[1:]}


def off(pipeline: Pipeline, observation: Observation, head: JointFit) -> float:
    """Root mean square distance of landmarks over the face height with identity and places of a head given."""
    return off_landmarks(observation, predicted(pipeline.fitter, observation, head))[1]


def timed(observations: Sequence[Observation]) -> float:
    """Median milliseconds of the joint fit of three photos."""
    spent = []
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        fit_together(bench().fitter, observations[:TIMED_PHOTOS])
        spent.append(1e3 * (time.perf_counter() - started))
    return float(np.median(spent))


def figures(results: Sequence[Result]) -> dict[str, Any]:
    """Means over people by kind and number of photos; the series as they are."""
    summary: dict[str, Any] = {"curve": {}, "series": {}, "failures": {}}
    for kind in ("invented", "meshmonk"):
        good = [item for item in results if item.kind == kind and item.error is None]
        if good:
            summary["curve"][kind] = {
                "people": len(good),
                "missed_photos": sum(item.missed for item in good),
                "refined_mm": {n: float(np.mean([item.refined_mm[n] for item in good])) for n in COUNTS},
                "joint_mm": {n: float(np.mean([item.joint_mm[n] for item in good])) for n in COUNTS},
                "average_mm": {n: float(np.mean([item.average_mm[n] for item in good])) for n in COUNTS},
            }
    for item in results:
        if item.error is not None:
            summary["failures"][f"{item.kind} {item.name}"] = item.error
        elif item.kind == "series":
            summary["series"][item.name] = {
                "left_out": item.left_out,
                "over_all": item.over_all,
                "fit_ms": item.fit_ms,
            }
    return summary


def drawing(summary: dict[str, Any]) -> str | None:
    """SVG of the error by the number of photos; None where nobody was measured."""
    curves = {}
    for kind, row in summary["curve"].items():
        curves[f"{kind}, joint head, refined"] = row["refined_mm"]
        curves[f"{kind}, joint head of landmarks"] = row["joint_mm"]
        curves[f"{kind}, average of heads"] = row["average_mm"]
    return view_curve.svg(curves) if curves else None


def page(summary: dict[str, Any]) -> str:
    """The Markdown of this set."""
    parts = ["## Several photos of one person: NoW protocol, mean of medians, millimetres"]
    rows = []
    for kind, row in summary["curve"].items():
        for label, key in (
            ("joint head, refined", "refined_mm"),
            ("joint head of landmarks", "joint_mm"),
            ("average of single heads", "average_mm"),
        ):
            cells = [f"{row[key][n]:.3f}" for n in COUNTS]
            rows.append([f"{kind}, {label}", row["people"], row["missed_photos"], *cells])
    parts.append(table(["people", "number", "photos without a face", *(f"{n} photos" for n in COUNTS)], rows))
    parts.append("## A photo predicted from the others: landmarks off, root mean square over the face height")
    rows = []
    for name, series in summary["series"].items():
        for number, row in enumerate(series["left_out"], start=1):
            shares = (row["joint"], min(row["single"]), max(row["single"]), row["own"])
            rows.append([f"{name} {number}", *(percent(share) for share in shares)])
    columns = ["left out", "from the others together", "from the best other", "from the worst other", "from itself"]
    parts.append(table(columns, rows))
    rows = [
        [name, *(percent(share) for share in (row["joint"], min(row["single"]), max(row["single"])))]
        for name, row in ((name, series["over_all"]) for name, series in summary["series"].items())
    ]
    parts.append(table(["over all photos", "head of all", "best head of one", "worst head of one"], rows))
    for name, series in summary["series"].items():
        parts.append(
            f"Joint fit of {TIMED_PHOTOS} photos of {name}: {series['fit_ms']:.0f} ms (median of {TIMED_RUNS})."
        )
    parts += [f"* {name}: {reason}" for name, reason in summary["failures"].items()]
    return "\n\n".join(parts)
