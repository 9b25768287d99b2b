"""``mgcface reconstruct --same-person``: photos of one person in, one folder out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.commands import console
from backend.commands.console import Interrupt, UsageError
from backend.commands.progress import photo_bar

if TYPE_CHECKING:
    from backend.commands.reconstruct import Request


def run_person(request: Request, interrupt: Interrupt) -> int:
    """One head; 0 when all photos were used, 3 when some were left out."""
    from backend.commands import reconstruct
    from backend.export.folder import prepare_out_dir

    if request.all_faces:
        raise UsageError("--all-faces and --same-person exclude each other: one person has one face in each photo.")
    if request.stages is not None and "fit" not in request.stages:
        raise UsageError("--same-person needs the stage fit; add it to --stages.")
    if request.stages is not None and "regress" in request.stages:
        raise UsageError("--same-person works from landmarks; leave out the stage regress.")
    formats = reconstruct.chosen_formats(request.formats)
    prepare_out_dir(request.out)
    with photo_bar([photo.name for photo in request.photos], request.quiet) as display:
        from backend.export.person_folder import write_person
        from backend.reconstruction.person import reconstruct_person

        pipeline = reconstruct.load_pipeline(request)
        person = reconstruct_person(pipeline, request.photos, request.keep_all, display, interrupt.heard)
        files = write_person(person, request.out, formats)
    for warning in () if request.quiet else person.warnings:
        console.complain(warning)
    if request.json_output:
        console.print_json(summary(request, person, [str(file) for file in files]))
    elif not request.quiet:
        worst = max(photo.head.fit.rms_relative for photo in person.used if photo.head is not None)
        console.say(
            f"{request.out}  one head from {len(person.used)} of {len(person.photos)} photos, landmarks fit to "
            f"{100 * worst:.2f} % of the face height or better"
        )
    return console.EXIT_DONE if len(person.used) == len(person.photos) else console.EXIT_SOME_FAILED


def summary(request: Request, person: Any, files: list[str]) -> dict[str, Any]:
    from backend import __version__
    from backend.commands.reconstruct import REPORT_VERSION

    return {
        "format_version": REPORT_VERSION,
        "mgcface": __version__,
        "model": request.model,
        "out": str(request.out),
        "photos": len(person.photos),
        "failed": len(person.photos) - len(person.used),
        "same_person": True,
        "files": files,
        "results": [
            {
                "photo": str(path),
                "used": photo.used,
                "reason": photo.reason,
                "rms_relative": None if photo.head is None else float(photo.head.fit.rms_relative),
            }
            for path, photo in zip(request.photos, person.photos)
        ],
        "warnings": list(person.warnings),
        "timings_ms": {stage: round(float(spent), 3) for stage, spent in person.timings_ms.items()},
    }
