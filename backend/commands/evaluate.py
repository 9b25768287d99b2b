"""``mgcface evaluate``: accuracy on known faces and on photos. The work is the package ``trainer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.commands import console
from backend.commands.console import UsageError
from backend.commands.progress import fraction_bar
from backend.errors import DependencyError


def run(
    model: str,
    sets: tuple[str, ...],
    data: Path | None,
    out: Path,
    workers: int,
    weights: Path | None,
    json_output: bool,
    quiet: bool,
) -> int:
    try:
        from trainer.evaluate import accuracy
    except ModuleNotFoundError as error:
        raise DependencyError(f'Evaluating needs {error.name}; install it with: pip install -e ".[train]".') from error

    unknown = [name for name in sets if name not in accuracy.KNOWN_SETS]
    if unknown:
        raise UsageError(f"There is no set {unknown[0]!r}; choose from {', '.join(accuracy.KNOWN_SETS)}.")
    data = data or accuracy.DEFAULT_DATA
    # Sets that need it say so themselves; invented people need none.
    if not sets and not data.is_dir():
        raise UsageError(
            f"The measuring material is not at {data}; name its folder with --data, or measure on invented people with "
            "--sets synthetic."
        )
    with fraction_bar("evaluating", quiet) as show:
        figures: dict[str, Any] = accuracy.run(
            model_name=model,
            sets=sets or accuracy.ALL_SETS,
            out_dir=out,
            progress=(lambda done, total, text: show(done / max(total, 1), text)) if show else None,
            data=data,
            workers=workers,
            weights=weights,
        )
    if json_output:
        console.print_json(figures)
    elif not quiet:
        console.say((out / "accuracy.md").read_text(encoding="utf-8"))
    return console.EXIT_DONE
