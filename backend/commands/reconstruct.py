"""``mgcface reconstruct``: photos in, one folder per face out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.commands import console
from backend.commands.console import Interrupt, UsageError
from backend.commands.progress import photo_bar
from backend.errors import MgcFaceError

if TYPE_CHECKING:
    from backend.vision.detector import DetectorName

# Version of the document that --json prints.
REPORT_VERSION = 1

STAGES = ("detect", "regress", "fit", "refine", "texture")


@dataclass(frozen=True)
class Request:
    """What the user asked for. ``texture_size`` None leaves the texture out; ``stages`` None takes the usual ones."""

    photos: tuple[Path, ...]
    out: Path
    model: str = "open-head"
    texture_size: int | None = 1024
    device: str = "auto"
    detector: DetectorName = "mediapipe"
    all_faces: bool = False
    same_person: bool = False
    keep_all: bool = False
    formats: tuple[str, ...] = ()
    stages: tuple[str, ...] | None = None
    weights: Path | None = None
    json_output: bool = False
    quiet: bool = False


def run(request: Request, interrupt: Interrupt) -> int:
    """Reconstruct every photo; 0 when all went well, 3 when some photos failed."""
    from backend.export.folder import prepare_out_dir

    check_stages(request.stages, request.weights)
    if request.same_person:
        from backend.commands.reconstruct_person import run_person

        return run_person(request, interrupt)
    if request.keep_all:
        raise UsageError("--keep-all is about photos of one person; add --same-person.")
    formats = chosen_formats(request.formats)
    prepare_out_dir(request.out)
    folders = FolderNames(request.photos)
    results: list[dict[str, Any]] = []
    with photo_bar([photo.name for photo in request.photos], request.quiet) as display:
        pipeline = load_pipeline(request)
        outcomes = pipeline.reconstruct_many(
            request.photos, all_faces=request.all_faces, progress=display, cancel=interrupt.heard
        )
        for outcome in outcomes:
            if display:  # also fills the part of a photo that failed
                display(outcome.index, "write", 1.0)
            result = finish(outcome, request, folders, formats)
            results.append(result)
            tell(result, request)
    if request.json_output:
        console.print_json(summary(request, results))
    return console.EXIT_SOME_FAILED if any(result["error"] for result in results) else console.EXIT_DONE


def load_pipeline(request: Request) -> Any:
    """The warm pipeline; PyTorch is imported here and not before."""
    from backend.reconstruction.pipeline import Pipeline

    return Pipeline(
        model=request.model,
        device=request.device,
        detector=request.detector,
        texture_size=request.texture_size,
        stages=request.stages,
        weights=request.weights,
    )


def finish(outcome: Any, request: Request, folders: FolderNames, formats: tuple[str, ...]) -> dict[str, Any]:
    """Write the heads of one photo; its entry in the report."""
    from backend.export.folder import write_head

    path = request.photos[outcome.index]
    result: dict[str, Any] = {"photo": str(path), "error": None, "heads": []}
    try:
        if outcome.error is not None:
            raise outcome.error
        names = folders.of_faces(outcome.index, len(outcome.reconstructions))
        for name, head in zip(names, outcome.reconstructions):
            files = write_head(head, outcome.photo, request.out, formats, name)
            result["heads"].append(head_entry(head, request.out / name, files))
    except MgcFaceError as error:
        result["error"] = {"code": error.code, "message": str(error)}
    return result


def head_entry(head: Any, folder: Path, files: Iterable[Path]) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "files": [str(file) for file in files],
        "rms_px": float(head.fit.rms_px),
        "rms_relative": float(head.fit.rms_relative),
        "converged": bool(head.fit.converged),
        "warnings": list(head.warnings),
        "timings_ms": {stage: round(float(spent), 3) for stage, spent in head.timings_ms.items()},
    }


def tell(result: dict[str, Any], request: Request) -> None:
    """One line per failed photo on stderr; one line per head on stdout unless told not to."""
    if result["error"]:
        console.complain(with_path(result["error"]["message"], result["photo"]))
    if request.quiet:
        return
    for head in result["heads"]:
        for warning in head["warnings"]:
            console.complain(f"{result['photo']}: {warning}")
        if not request.json_output:
            console.say(f"{head['folder']}  landmarks fit to {100 * head['rms_relative']:.2f} % of the face height")


def with_path(sentence: str, photo: str) -> str:
    """The sentence with the photo's whole path: in place of its name where it begins with that."""
    name = Path(photo).name
    if name and sentence.startswith(name):
        return photo + sentence[len(name) :]
    return f"{photo}: {sentence}"


def summary(request: Request, results: list[dict[str, Any]]) -> dict[str, Any]:
    from backend import __version__

    return {
        "format_version": REPORT_VERSION,
        "mgcface": __version__,
        "model": request.model,
        "out": str(request.out),
        "photos": len(results),
        "failed": sum(1 for result in results if result["error"]),
        "results": results,
    }


# -- before the work -------------------------------------------------------------------------------


def check_stages(stages: tuple[str, ...] | None, weights: Path | None = None) -> None:
    if stages is None:
        return
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise UsageError(f"There is no stage {unknown[0]!r}; choose from {', '.join(STAGES)}.")
    if "detect" not in stages:
        raise UsageError("Nothing can be done without the stage detect; add it to --stages.")
    if "refine" in stages and "fit" not in stages:
        raise UsageError("The stage refine starts from the stage fit; add it to --stages or leave out refine.")
    if weights is not None and "regress" not in stages:
        raise UsageError("--weights is for the stage regress; add it to --stages or leave out --weights.")


def chosen_formats(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The file formats to write; all of them when none is named."""
    from backend.export.folder import FORMATS

    unknown = [name for name in wanted if name not in FORMATS]
    if unknown:
        raise UsageError(f"There is no format {unknown[0]!r}; choose from {', '.join(FORMATS)}.")
    return wanted or tuple(FORMATS)


class FolderNames:
    """One folder name per face: the photo's name, numbered where two photos share one.

    All photos are named before the work starts, so a name depends on the command line and never on
    which photos succeed. ``taken`` ignores case because Windows and macOS do.
    """

    def __init__(self, photos: Iterable[Path]) -> None:
        from backend.export.folder import folder_names

        self.of_photo = [names[0] for names in folder_names([(photo, 1) for photo in photos])]
        self.taken = {name.casefold() for name in self.of_photo}

    def of_faces(self, photo_index: int, count: int) -> list[str]:
        """``["crew"]``, or ``["crew_face1", "crew_face2"]``; ask once per photo."""
        base = self.of_photo[photo_index]
        return [base] if count == 1 else [self.take(f"{base}_face{face + 1}") for face in range(count)]

    def take(self, wanted: str) -> str:
        name, number = wanted, 1
        while name.casefold() in self.taken:
            number += 1
            name = f"{wanted}_{number}"
        self.taken.add(name.casefold())
        return name
