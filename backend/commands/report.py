"""``mgcface report``: a page of pictures and figures from a folder that ``mgcface reconstruct`` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.commands import console
from backend.commands.console import Interrupt
from backend.commands.progress import FractionDisplay, fraction_bar
from backend.errors import MgcFaceError


@dataclass(frozen=True)
class Request:
    """What the user asked for. ``out`` None puts a page into each folder; ``model`` None takes the recorded one."""

    folders: tuple[Path, ...]
    out: Path | None = None
    model: str | None = None
    quiet: bool = False


def run(request: Request, interrupt: Interrupt) -> int:
    """Write the pages; 0 when all went well, 3 when some folders could not be used and the others were."""
    from backend.export import report
    from backend.export.folder import REPORT_FILE

    if request.out is not None:
        report.check_place(request.out)
    failed: list[MgcFaceError] = []
    heads = found_heads(request.folders, failed)
    sections, pages = [], []
    with fraction_bar("reporting", request.quiet) as display:
        for place, head in enumerate(heads):
            try:
                if request.out is None:
                    report.check_place(head / REPORT_FILE)
                section = report.person_section(head, request.model, part_of(display, place, len(heads)))
                if request.out is not None:
                    sections.append(section)
                    continue
                report.write_page(head / REPORT_FILE, report.page([section]))
                pages.append(head / REPORT_FILE)
            except MgcFaceError as error:
                failed.append(error)
        if request.out is not None and sections:
            report.write_page(request.out, report.page(sections))
            pages.append(request.out)
    if not pages:
        for error in failed[:-1]:
            console.complain(str(error))
        raise failed[-1]
    for error in failed:
        console.complain(str(error))
    for page in () if request.quiet else pages:
        console.say(str(page))
    return console.EXIT_SOME_FAILED if failed else console.EXIT_DONE


def found_heads(folders: Sequence[Path], failed: list[MgcFaceError]) -> list[Path]:
    """Folders of heads, each once; what is wrong with the others goes to ``failed``."""
    from backend.export.report import person_folders

    heads: list[Path] = []
    for folder in folders:
        try:
            heads += [head for head in person_folders(folder) if head not in heads]
        except MgcFaceError as error:
            failed.append(error)
    return heads


def part_of(display: FractionDisplay | None, place: int, count: int) -> Any:
    """The progress of one head as a part of all; None where nobody looks."""
    if display is None:
        return None
    return lambda part, doing: display((place + part) / count, doing)
