"""``mgcface convert``: weights that others published become a file of ours."""

from __future__ import annotations

from pathlib import Path

from backend.commands import console
from backend.commands.console import Interrupt
from backend.commands.progress import fraction_bar


def run_mgcnet(checkpoint: Path, out: Path, quiet: bool, interrupt: Interrupt) -> int:
    """Convert and say what the weights allow, before anybody builds on them."""
    from backend.network.convert import convert_mgcnet

    with fraction_bar("converting", quiet) as show:
        about = convert_mgcnet(checkpoint, out, progress=show, cancel=interrupt.heard)
    if not quiet:
        trained = about.info.extra.get("training_steps")
        after = f", after {trained} steps of training" if trained else ""
        console.say(f"{out}: {about.info.name}, for the face model {about.face_model}{after}")
        console.say(f"Licence {about.info.licence}: {about.info.terms}")
    return console.EXIT_DONE
