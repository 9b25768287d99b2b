"""A job whose photos show one person: one head, and a word on every photo."""

from __future__ import annotations

from typing import Any

from backend.reconstruction.person import ONLY_ONE, Person, PersonError, reconstruct_person
from backend.reconstruction.pipeline import Pipeline
from backend.server.face_message import person_message
from backend.server.item import Item, Report
from backend.vision.decode import PhotoFile


def compute_person(pipeline: Pipeline, items: list[Item], options: dict[str, Any], report: Report) -> None:
    """Compute all photos of a job and report each; raises what is wrong with all of them, or :class:`Cancelled`."""
    sources = [item.source if isinstance(item.source, str) else PhotoFile(item.source, item.name) for item in items]

    def progress(place: int, stage: str, fraction: float) -> None:
        # Fit and refinement take all photos together and report for the first.
        for item in items if stage in ("fit", "refine") else [items[place]]:
            report.progress(item, stage, fraction)

    try:
        person = reconstruct_person(pipeline, sources, options["keep_all"], progress, report.stopped)
    except PersonError as error:
        if len(error.errors) < len(items):
            raise
        for place, reason in error.errors.items():
            end(items[place], report, reason.code, str(reason))
        return
    deliver(person, items, options["normal_map"], report)


def deliver(person: Person, items: list[Item], with_normals: bool, report: Report) -> None:
    """The head first: a worker that dies after it has left nothing to be computed again."""
    body, arrays = person_message(person, with_normals)
    if len(person.used) == 1 and len(items) > 1:
        report.note(ONLY_ONE)
    main = items[person.main]
    report.face(main, {"photo": main.index, "face": 0, "name": main.name, **body}, arrays)
    for place, (item, photo) in enumerate(zip(items, person.photos, strict=True)):
        if photo.reason is not None:
            end(item, report, photo.code, photo.reason)
            continue
        item.ended = True
        report.photo_done(item, int(place == person.main), person.timings_ms if place == person.main else {})


def end(item: Item, report: Report, code: str, reason: str) -> None:
    item.ended = True
    report.photo_failed(item, code, reason)
