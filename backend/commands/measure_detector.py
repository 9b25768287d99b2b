"""``mgcface measure-detector``: the weights that the fit starts from. The work is the package ``trainer``."""

from __future__ import annotations

from pathlib import Path

from backend.commands import console
from backend.commands.progress import fraction_bar
from backend.errors import DependencyError


def run(model: str, people: int, workers: int, out: Path, quiet: bool) -> int:
    try:
        from trainer import measure_detector
    except ModuleNotFoundError as error:
        raise DependencyError(f'Measuring needs {error.name}; install it with: pip install -e ".[train]".') from error

    with fraction_bar("painting and detecting", quiet) as show:
        progress = (lambda done: show(done, "")) if show else None
        found, missed = measure_detector.run(model, people, workers, out, progress)
    if not quiet:
        console.say(f"{out}: learned from {found} people, {missed} were not detected")
    return console.EXIT_DONE
