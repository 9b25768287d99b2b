"""``mgcface bench``: how fast it is here, and on what."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from backend import __version__
from backend.commands import console
from backend.commands.console import Interrupt, UsageError
from backend.commands.doctor import cpu_name, usable_cores
from backend.commands.reconstruct import check_stages
from backend.errors import MgcFaceError

# Fresh processes for the cold start; the first may still compile kernels and fill caches.
COLD_RUNS = 3

# Versions that decide about speed.
VERSIONS = ("torch", "numpy", "numba", "mediapipe")

EXAMPLE = Path(__file__).parents[2] / "examples" / "astronaut.jpg"


@dataclass(frozen=True)
class Request:
    """``photo`` None takes the example photo; ``repeats`` warm runs, ``many`` photos in the large call.

    ``weights`` name a network, whose stage is then measured too, but not in the server, which only has its own;
    ``stages`` None takes the usual ones, and the server always does.
    """

    photo: Path | None = None
    model: str = "open-head"
    texture: str = "1024"
    device: str = "auto"
    repeats: int = 7
    many: int = 64
    weights: Path | None = None
    stages: tuple[str, ...] | None = None
    json_output: bool = False


def run(request: Request, interrupt: Interrupt) -> int:
    photo = chosen_photo(request)
    check_stages(request.stages, request.weights)
    with tempfile.TemporaryDirectory(prefix="mgcface-bench-") as folder:
        cold = measure_cold(request, photo, Path(folder))
        pipeline = load_pipeline(request)
        one = measure_one(pipeline, photo, request.repeats, Path(folder), interrupt)
        many = measure_many(pipeline, photo, request.many, interrupt)
    many["share_of_single_calls"] = round(many["total"] / (many["photos"] * one["total"]), 3)
    document = {
        "header": header(request, photo, pipeline.device),
        "cold_start_ms": cold,
        "one_photo_ms": one,
        "many_photos_ms": many,
        "server_ms": measure_served(request, photo),
        "peak_memory_mb": {"cold_start": cold.pop("peak_memory_mb"), "bench": own_peak_memory_mb()},
    }
    if request.json_output:
        console.print_json(document)
    else:
        show(document)
    return console.EXIT_DONE


def chosen_photo(request: Request) -> Path:
    photo = request.photo or EXAMPLE
    if not photo.is_file():
        raise UsageError(f"There is no photo at {photo}; name one with --photo FILE.")
    return photo


def load_pipeline(request: Request) -> Any:
    from backend.reconstruction.pipeline import Pipeline

    size = None if request.texture == "none" else int(request.texture)
    return Pipeline(request.model, request.device, texture_size=size, stages=request.stages, weights=request.weights)


# -- measuring -------------------------------------------------------------------------------------


def measure_cold(request: Request, photo: Path, folder: Path) -> dict[str, Any]:
    """Milliseconds from starting the command to its end, in processes of their own."""
    reconstruct = ["reconstruct", str(photo.resolve()), "--out", str(folder / "cold"), "--quiet"]
    reconstruct += ["--model", request.model, "--texture", request.texture, "--device", request.device]
    if request.weights is not None:
        reconstruct += ["--weights", str(request.weights.resolve())]
    if request.stages is not None:
        reconstruct += ["--stages", ",".join(request.stages)]
    runs = [run_fresh(reconstruct) for _ in range(COLD_RUNS)]
    helps = [run_fresh(["--help"]) for _ in range(COLD_RUNS)]
    memory = [peak for _, peak in runs if peak is not None]
    return {
        "help": round(statistics.median(spent for spent, _ in helps), 1),
        "reconstruct_first": round(runs[0][0], 1),
        "reconstruct": round(statistics.median(spent for spent, _ in runs[1:]), 1),
        "peak_memory_mb": round(max(memory), 1) if memory else None,
    }


def run_fresh(arguments: list[str]) -> tuple[float, float | None]:
    """Run ``mgcface`` in a fresh process: milliseconds, and peak memory in MB where the system tells."""
    command = [sys.executable, "-m", "backend.cli", *arguments]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    complaint = process.stderr.read().decode(errors="replace").strip()
    peak = None
    if hasattr(os, "wait4"):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss * ru_maxrss_unit() / 1e6
    else:
        process.wait()
    spent = (time.perf_counter() - started) * 1e3
    if process.returncode != 0:
        raise MgcFaceError(complaint.removeprefix("mgcface: ") or "The measured command failed; run it by hand.")
    return spent, peak


def measure_one(pipeline: Any, photo: Path, repeats: int, folder: Path, interrupt: Interrupt) -> dict[str, float]:
    """Median milliseconds of each stage of one photo, warm, with ``write`` for all files."""
    from backend.export.folder import write_head

    rows: list[dict[str, float]] = []
    for number in range(repeats + 1):
        started = time.perf_counter()
        outcome = only_outcome(pipeline, photo, interrupt)
        row = {**outcome.timings_ms, "total": (time.perf_counter() - started) * 1e3}
        started = time.perf_counter()
        write_head(outcome.reconstructions[0], outcome.photo, folder / "warm")
        row["write"] = (time.perf_counter() - started) * 1e3
        if number > 0:  # the first one warms up
            rows.append(row)
    return {stage: round(statistics.median(row[stage] for row in rows), 2) for stage in rows[0]}


def only_outcome(pipeline: Any, photo: Path, interrupt: Interrupt) -> Any:
    (outcome,) = pipeline.reconstruct_many([photo], cancel=interrupt.heard)
    if outcome.error is not None:
        raise outcome.error
    return outcome


def measure_many(pipeline: Any, photo: Path, count: int, interrupt: Interrupt) -> dict[str, Any]:
    """Milliseconds of ``count`` photos in one call, by stage and in total; nothing is written."""
    stages: dict[str, float] = {}
    started = time.perf_counter()
    for outcome in pipeline.reconstruct_many([photo] * count, cancel=interrupt.heard):
        if outcome.error is not None:
            raise outcome.error
        for stage, spent in outcome.timings_ms.items():
            stages[stage] = stages.get(stage, 0.0) + spent
    total = (time.perf_counter() - started) * 1e3
    rounded = {stage: round(spent, 1) for stage, spent in stages.items()}
    return {"photos": count, **rounded, "total": round(total, 1), "per_photo": round(total / count, 2)}


def measure_served(request: Request, photo: Path) -> dict[str, float]:
    """Milliseconds that a client of `mgcface serve`, such as Blender, waits for beyond the computing."""
    from backend.server.measure import measure_server, measure_transport

    size = 0 if request.texture == "none" else int(request.texture)
    options = {"model": request.model, "texture_size": size}
    measured = measure_server(photo, options, request.device, request.repeats)
    return {**measured, "transport": round(measure_transport(size), 1)}


def own_peak_memory_mb() -> float | None:
    """Peak resident memory of this process; None on Windows, which does not tell."""
    try:
        import resource
    except ImportError:
        return None
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * ru_maxrss_unit() / 1e6, 1)


def ru_maxrss_unit() -> int:
    """Bytes: macOS counts bytes, Linux kibibytes (getrusage(2) of each)."""
    return 1 if sys.platform == "darwin" else 1024


# -- saying ----------------------------------------------------------------------------------------


def header(request: Request, photo: Path, device: str) -> dict[str, Any]:
    from PIL import Image

    with Image.open(photo) as image:
        width, height = image.size
    return {
        "mgcface": __version__,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "device": device_name(device),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in VERSIONS},
        "model": request.model,
        "texture": request.texture,
        "network": None if request.weights is None else request.weights.name,
        "stages": "the usual" if request.stages is None else ",".join(request.stages),
        "photo": f"{photo.name} {width}x{height}",
        "repeats": request.repeats,
    }


def device_name(device: str) -> str:
    import torch

    if not str(device).startswith("cuda"):
        return f"cpu, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(0)


def commit() -> str | None:
    """The checkout's commit, marked where files were changed since; None outside a checkout."""
    git = shutil.which("git")
    if git is None or not (EXAMPLE.parents[1] / ".git").exists():
        return None
    command = [git, "-C", str(EXAMPLE.parents[1]), "describe", "--always", "--dirty", "--exclude", "*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def show(document: dict[str, Any]) -> None:
    for name, value in document["header"].items():
        console.say(f"{name:>10}  {value}")
    one, many = document["one_photo_ms"], document["many_photos_ms"]
    table = console.make_table("ms", "one photo", f"{many['photos']} photos", "per photo of these")
    for stage, spent in one.items():
        if stage in many:
            table.add_row(stage, f"{spent:.1f}", f"{many[stage]:.1f}", f"{many[stage] / many['photos']:.1f}")
        else:
            table.add_row(stage, f"{spent:.1f}", "", "")
    console.show(table)
    cold, memory = document["cold_start_ms"], document["peak_memory_mb"]
    console.say(
        f"One call with {many['photos']} photos takes {many['share_of_single_calls']:.2f} of single warm calls."
    )
    console.say(
        f"Cold start: --help {cold['help']:.0f} ms, reconstruct {cold['reconstruct']:.0f} ms "
        f"(first run {cold['reconstruct_first']:.0f} ms)."
    )
    served = document["server_ms"]
    console.say(
        f"Server: listens after {served['listening']:.0f} ms, is warm after {served['ready']:.0f} ms; a job takes its "
        f"client {served['over_engine']:.0f} ms more than the engine, {served['transport']:.1f} ms of them transport."
    )
    if memory["cold_start"] is not None:
        console.say(
            f"Peak memory: {memory['cold_start']:.0f} MB for one photo, {memory['bench']:.0f} MB for this bench."
        )
