"""How good the reconstruction is: all sets, one command, one table.

Known faces are scored with the NoW protocol, the mean face beside them as the floor to beat; real
photos by what can be measured without the truth. ``run`` is what the command ``mgcface evaluate`` calls.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import MgcFaceError, OutputError
from backend.face_model.model import MOUTH, FaceModel
from backend.face_model.registry import get_model
from backend.network.choice import default_weights
from backend.network.weights_file import read_info
from backend.reconstruction.pipeline import Pipeline
from backend.reconstruction.result import Reconstruction
from backend.vision.decode import load_photo
from backend.vision.photo import Photo
from trainer.evaluate import error_curve, now_protocol
from trainer.evaluate.accuracy_report import CURVES, curves, markdown
from trainer.evaluate.benchmarks import BENCHMARKS
from trainer.evaluate.now_protocol import FaceScore, Prediction, Scan
from trainer.evaluate.photo_sets import (
    IDENTITY_SET,
    PHOTO_SETS,
    PhotoResult,
    Reconstruct,
    identity_figures,
    measure,
    photo_paths,
    summary,
    zoom_figures,
)
from trainer.evaluate.truth_sets import DEVELOPMENT_SETS, TRUTH_SETS, SetError, TruthItem, truth_items

ALL_SETS = (*TRUTH_SETS, *PHOTO_SETS, IDENTITY_SET)
KNOWN_SETS = (*ALL_SETS, *DEVELOPMENT_SETS, *BENCHMARKS)

# Where the measuring material lies when nobody says otherwise: beside the checkout.
DEFAULT_DATA = Path(__file__).resolve().parents[2].parent / "shared"

# Packages whose version can move a figure.
VERSIONED = ("mgcface", "mediapipe", "numpy", "scipy", "torch", "numba")

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class TruthResult:
    """One photo of a known face: both scores, or the sentence that says why there are none."""

    group: str
    name: str
    error: str | None = None
    free: FaceScore | None = None
    metrical: FaceScore | None = None


@dataclass(frozen=True)
class Job:
    """One photo to work on: place ``index`` in set ``set_name``."""

    set_name: str
    index: int


class Bench:
    """What a worker keeps warm: the model, the reconstruction, the sets.

    Parameters
    ----------
    model : FaceModel
    reconstruct : callable Photo -> list of Reconstruction
        The largest face first.
    data : Path
    methods : mapping of str to callable, optional
        For sets that compare several; the one method is called ``fit`` when left out.
    """

    def __init__(
        self,
        model: FaceModel,
        reconstruct: Reconstruct,
        data: Path,
        methods: Mapping[str, Reconstruct] | None = None,
    ):
        self.model, self.reconstruct, self.data = model, reconstruct, data
        self.methods = {"fit": reconstruct} if methods is None else methods
        self._items: dict[str, list[TruthItem]] = {}
        self._paths: dict[str, list[Path]] = {}
        self._tasks: dict[str, list] = {}

    def items(self, set_name: str) -> list[TruthItem]:
        if set_name not in self._items:
            self._items[set_name] = truth_items(set_name, self.data, lambda: self.model)
        return self._items[set_name]

    def paths(self, set_name: str) -> list[Path]:
        if set_name not in self._paths:
            self._paths[set_name] = photo_paths(set_name, self.data)
        return self._paths[set_name]

    def tasks(self, set_name: str) -> list:
        """What a benchmark of :data:`BENCHMARKS` measures one by one."""
        if set_name not in self._tasks:
            self._tasks[set_name] = BENCHMARKS[set_name].load(self.data)
        return self._tasks[set_name]

    def parts(self, set_name: str) -> Sequence:
        if set_name in BENCHMARKS:
            return self.tasks(set_name)
        return self.items(set_name) if is_truth(set_name) else self.paths(set_name)

    def jobs(self, sets: Sequence[str]) -> list[Job]:
        return [Job(name, index) for name in sets for index in range(len(self.parts(name)))]

    def work(self, job: Job) -> tuple[Job, Any]:
        """The job and its result, which has a ``name``."""
        if job.set_name in BENCHMARKS:
            benchmark, task = BENCHMARKS[job.set_name], self.tasks(job.set_name)[job.index]
            return job, benchmark.measure(task, self.methods if benchmark.compares else self.reconstruct)
        if is_truth(job.set_name):
            return job, self.score(self.items(job.set_name)[job.index])
        return job, self.look(self.paths(job.set_name)[job.index])

    def score(self, item: TruthItem) -> TruthResult:
        """Reconstruct one known face from its picture and measure it."""
        try:
            head = self.reconstruct(item.photo())[0]
            guess = prediction(head.model, head.neutral_vertices)
            scores = [now_protocol.score(item.scan, guess, metrical) for metrical in (False, True)]
        except MgcFaceError as error:
            return TruthResult(item.group, item.name, str(error))
        return TruthResult(item.group, item.name, None, *scores)

    def look(self, path: Path) -> PhotoResult:
        name = f"{path.parent.name}/{path.name}"
        try:
            return measure(name, self.reconstruct(load_photo(path))[0])
        except MgcFaceError as error:
            return PhotoResult(name, str(error))

    def floor(self, set_name: str) -> dict[str, list[FaceScore]]:
        """Group -> scores of the mean face; each scan is measured once, however often it was photographed."""
        mean = prediction(self.model, self.model.mean)
        known: dict[int, FaceScore] = {}
        groups: dict[str, list[FaceScore]] = {}
        for item in self.items(set_name):
            key = _scan_key(item.scan)
            if key not in known:
                known[key] = now_protocol.score(item.scan, mean)
            groups.setdefault(item.group, []).append(known[key])
        return groups


def _scan_key(scan: Scan) -> int:
    return hash(np.ascontiguousarray(scan.vertices).tobytes())


def is_truth(set_name: str) -> bool:
    return set_name in (*TRUTH_SETS, *DEVELOPMENT_SETS)


def prediction(model: FaceModel, vertices: np.ndarray) -> Prediction:
    """What is scored: skin and eyes of the neutral head, without the inside of the mouth, which no scan shows."""
    vertices = np.asarray(vertices, np.float64)
    inside = model.materials.index(MOUTH) if MOUTH in model.materials else -1
    triangles = model.triangles[model.triangle_material != inside]
    return Prediction(vertices, triangles, model.landmark_points(vertices, "now7"))


def run(
    model_name: str = "open-head",
    sets: Sequence[str] = ALL_SETS,
    out_dir: Path | str = "evaluation",
    progress: Progress | None = None,
    data: Path | str = DEFAULT_DATA,
    workers: int = 1,
    reconstruct: Reconstruct | None = None,
    weights: Path | str | None = None,
) -> dict:
    """Measure and write ``accuracy.md``, ``accuracy.json`` and the drawing of the cumulative error curves.

    Parameters
    ----------
    model_name : str
        An installed face model, or the path of one.
    sets : sequence of str
        Any of :data:`KNOWN_SETS`.
    out_dir : path
        Made when missing.
    progress : callable (done, total, text), optional
    data : path
        The folder with ``photos/`` and ``scans/``.
    workers : int
        Processes. With more than one, ``reconstruct`` must be picklable.
    reconstruct : callable Photo -> list of Reconstruction, optional
        The method under test; the project's pipeline without texture when left out.
    weights : path, optional
        Of a network, which that pipeline then uses.

    Returns
    -------
    dict
        What ``accuracy.json`` holds.

    Raises
    ------
    SetError, ModelError, OutputError
    """
    unknown = [name for name in sets if name not in KNOWN_SETS]
    if unknown:
        raise SetError(f"There is no set called '{unknown[0]}'; choose from {', '.join(KNOWN_SETS)}.")
    sets = list(dict.fromkeys(sets))
    make = partial(make_bench, model_name, Path(data), reconstruct, weights)
    bench = make()
    jobs = bench.jobs(sets)
    results: dict[str, list] = {name: [None] * sum(job.set_name == name for job in jobs) for name in sets}
    for done, (job, result) in enumerate(_worked(jobs, bench, make, workers), start=1):
        results[job.set_name][job.index] = result
        if progress is not None:
            progress(done, len(jobs), f"{job.set_name} {result.name}")
    figures: dict[str, Any] = {"header": header(bench.model, sets, workers, weights), "truth": {}, "photos": {}}
    for name in sets:
        if name in BENCHMARKS:
            figures.setdefault("benchmarks", {})[name] = BENCHMARKS[name].figures(results[name])
        elif is_truth(name):
            figures["truth"].update(truth_figures(results[name], bench.floor(name)))
        else:
            figures["photos"][name] = summary(results[name])
    if "zoom" in results:
        strangers = [item for name in ("composite", "london") for item in results.get(name, [])]
        figures["zoom"] = zoom_figures(results["zoom"], strangers)
    if IDENTITY_SET in results:
        figures["identity"] = identity_figures(results[IDENTITY_SET])
    write(figures, Path(out_dir))
    return figures


def make_bench(
    model_name: str, data: Path, reconstruct: Reconstruct | None, weights: Path | str | None = None
) -> Bench:
    model = get_model(model_name)
    if reconstruct is not None:
        return Bench(model, reconstruct, data)
    pipeline = Pipeline(model, texture_size=None, weights=weights)
    put_right = pipeline.turned_heads

    def method(*stages: str, turned_heads: bool) -> Reconstruct:
        def reconstructed(photo: Photo) -> Sequence[Reconstruction]:
            pipeline.stages, pipeline.turned_heads = stages, put_right if turned_heads else None
            return pipeline.reconstruct_photo(photo)

        return reconstructed

    methods = {"fit": method("detect", "fit", turned_heads=False)}
    if weights is not None or default_weights(model.info.name) is not None:
        alone = method("detect", "regress", turned_heads=False)
        methods = {"regress": alone, **methods, "both": method("detect", "regress", "fit", turned_heads=False)}
    methods["turned"] = method("detect", "fit", turned_heads=True)
    usual = method(*(stage for stage in pipeline.stages if stage != "texture"), turned_heads=True)
    if "refine" in pipeline.stages:
        methods["refined"] = usual
    return Bench(model, usual, data, methods)


def _worked(jobs, bench: Bench, make: Callable[[], Bench], workers: int) -> Iterator:
    """Results in the order they come."""
    if workers <= 1:
        yield from map(bench.work, jobs)
        return
    # Spawned, not forked: the detector's threads do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(workers, _start_worker, (make,)) as pool:
        yield from pool.imap_unordered(_work, jobs, chunksize=4)


_bench: Bench | None = None


def _start_worker(make: Callable[[], Bench]) -> None:
    global _bench
    _bench = make()


def _work(job: Job):
    assert _bench is not None
    return _bench.work(job)


def truth_figures(results: Sequence[TruthResult], floor: dict[str, list[FaceScore]]) -> dict[str, dict]:
    """Group -> figures. With a face missing there is no pooled figure, and ``refused`` says why."""
    figures: dict[str, dict] = {}
    for group, floor_scores in floor.items():
        own = [item for item in results if item.group == group]
        row: dict = {
            "photos": len(own),
            "found": sum(item.free is not None for item in own),
            "failures": {item.name: item.error for item in own if item.error is not None},
            "mean_face": _pooled(floor_scores),
            "faces": {
                item.name: {
                    "median_mm": item.free.median_mm,
                    "mean_mm": item.free.mean_mm,
                    "std_mm": item.free.std_mm,
                    "mean_face_median_mm": lowest.median_mm,
                    "metrical_median_mm": item.metrical.median_mm,
                    "scale": item.free.alignment.scale,
                }
                for item, lowest in zip(own, floor_scores)
                if item.free is not None and item.metrical is not None
            },
        }
        try:
            row["non_metrical"] = _pooled([item.free for item in own])
            row["metrical"] = _pooled([item.metrical for item in own])
            row["curve"] = _curve([item.free for item in own])
            row["mean_face_curve"] = _curve(floor_scores)
        except now_protocol.ProtocolError as error:
            row["refused"] = str(error)
        figures[group] = row
    return figures


def _pooled(scores: Sequence[FaceScore | None]) -> dict:
    return dict(vars(now_protocol.pool(scores)))


def _curve(scores: Sequence[FaceScore | None]) -> list[float]:
    """Shares of all distances together at the limits of :mod:`trainer.evaluate.error_curve`."""
    together = np.concatenate([item.distances_mm for item in scores if item is not None])
    return error_curve.shares(together).round(5).tolist()


def header(model: FaceModel, sets: Sequence[str], workers: int, weights: Path | str | None = None) -> dict:
    """What a reader needs to repeat the run."""
    network = None
    if weights is not None:
        info = read_info(weights).info
        network = f"{info.name} {info.version}"
    named = "" if weights is None else f" --weights {Path(weights).name}"
    return {
        "model": model.info.name,
        "model_version": model.info.version,
        "command": f"mgcface evaluate --model {model.info.name} --sets {','.join(sets)}{named}",
        "network": network,
        "workers": workers,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONED},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def write(figures: dict, out_dir: Path) -> None:
    """``accuracy.json``, ``accuracy.md`` and, where a set of known faces is whole, ``cumulative.svg``."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        (out_dir / "accuracy.json").write_text(json.dumps(figures, indent=1) + "\n")
        (out_dir / "accuracy.md").write_text(markdown(figures))
        (out_dir / CURVES).unlink(missing_ok=True)
        if lines := curves(figures["truth"]):
            (out_dir / CURVES).write_text(error_curve.svg(lines))
        for name, row in figures.get("benchmarks", {}).items():
            drawing = BENCHMARKS[name].drawing
            if drawing is not None and (text := drawing(row)):
                (out_dir / f"{name}.svg").write_text(text)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"The report cannot be written to {out_dir} ({reason}); choose another folder.") from error
