"""``mgcface build-albedo``: the default head's skins from photos. The work is the package ``trainer``."""

from __future__ import annotations

from pathlib import Path

from backend.commands import console
from backend.commands.progress import fraction_bar
from backend.errors import DependencyError


def run(photos: Path, out: Path, model: str, modes: int, report: Path | None, quiet: bool) -> int:
    try:
        from trainer.build_albedo import build
    except ModuleNotFoundError as error:
        raise DependencyError(
            f'Building an albedo needs {error.name}; install it with: pip install -e ".[train]".'
        ) from error

    with fraction_bar("building", quiet) as show:
        built = build.run(
            photos, out, report, model, modes, (lambda stage, share: show(share, stage)) if show else None
        )
    if not quiet:
        figures = built.figures
        console.say(
            f"{out}: {figures['modes']} modes of {figures['people']} people, {figures['file_megabytes']} MB; "
            f"nobody brings more than {figures['largest_share']['of_any_mode']:.1%} of a mode"
        )
    return console.EXIT_DONE
