"""``mgcface build-model``: the default head from its sources. The work is the package ``trainer``."""

from __future__ import annotations

from pathlib import Path

from backend.commands import console
from backend.commands.progress import fraction_bar
from backend.errors import DependencyError


def run(source: Path, out: Path, report: Path | None, quiet: bool) -> int:
    try:
        from trainer.build_model import build
    except ModuleNotFoundError as error:
        raise DependencyError(
            f'Building a model needs {error.name}; install it with: pip install -e ".[train]".'
        ) from error

    with fraction_bar("building", quiet) as show:
        model = build.run(source, out, report, (lambda stage, share: show(share, stage)) if show else None)
    if not quiet:
        console.say(
            f"{out}: {model.vertex_count} vertices, {len(model.faces)} faces, {len(model.identity)} identity modes, "
            f"{len(model.expression_names)} expressions"
        )
    return console.EXIT_DONE
