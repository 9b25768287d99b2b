"""Progress bars on stderr, where a person is there to see them.

Both kinds are context managers that give a callable, or None where nobody looks, so that commands hand
the value straight on as the ``progress`` of the work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

FractionDisplay = Callable[[float, str], None]
PhotoDisplay = Callable[[int, str, float], None]


@contextmanager
def fraction_bar(title: str, quiet: bool = False) -> Iterator[FractionDisplay | None]:
    """Gives ``show(fraction done in [0, 1], what is being done)``."""
    if quiet or not somebody_looks():
        yield None
        return
    with bar() as progress:
        task = progress.add_task(title, total=1.0)

        def show(fraction: float, doing: str) -> None:
            progress.update(task, completed=fraction, description=plain(doing))

        yield show


@contextmanager
def photo_bar(names: Sequence[str], quiet: bool = False) -> Iterator[PhotoDisplay | None]:
    """Gives ``show(photo index, stage, fraction of this photo)``: one bar over all photos."""
    if quiet or not somebody_looks():
        yield None
        return
    done = [0.0] * len(names)
    with bar() as progress:
        task = progress.add_task("loading", total=float(len(names)))

        def show(index: int, stage: str, fraction: float) -> None:
            done[index] = max(done[index], fraction)
            count = f"{index + 1}/{len(names)}"
            progress.update(task, completed=sum(done), description=plain(f"{count} {names[index]}: {stage}"))

        yield show


def somebody_looks() -> bool:
    return sys.stderr.isatty()


def bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    # Rich may take over stdout only where that is the same terminal; a pipe must get its lines.
    return Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())


def plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
