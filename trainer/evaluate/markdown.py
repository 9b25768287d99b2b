"""Tables and cells of the pages that the evaluator writes, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    """One line for each row, cells turned to text."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def percent(share: float | None) -> str:
    """``0.0123`` -> ``1.23 %``; ``none`` where there is no figure."""
    return "none" if share is None else f"{100.0 * share:.2f} %"
