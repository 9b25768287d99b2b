"""The benchmarks whose files a user may have: one row each, and nothing else knows them by name.

Their data is gated or for research only, so none of it is here, and none of these sets runs unless it is asked for
by name with ``--data`` naming the folder. Sets of several photos of one person, which need nothing gated, are asked
for by name too, because they take long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.evaluate import aflw2000, consistency, expression_probe, part_overlap, realy, several_views, stranger_draws


@dataclass(frozen=True)
class Benchmark:
    """What a set needs to run.

    Attributes
    ----------
    load : callable Path -> list
        The set's items below the data folder; raises SetError.
    measure : callable (item, reconstruct) -> result
        One item's result, with ``name`` and ``error`` (None, or the sentence that says why there is no figure).
    figures : callable list of results -> dict
        What ``accuracy.json`` holds.
    page : callable dict -> str
        The same as Markdown.
    drawing : callable dict -> str or None, optional
        SVG, written beside the page under the set's name.
    """

    load: Callable[[Path], list]
    measure: Callable[..., Any]
    figures: Callable[[list], dict]
    page: Callable[[dict], str]
    drawing: Callable[[dict], str | None] | None = None


BENCHMARKS = {
    "aflw2000": Benchmark(aflw2000.load, aflw2000.measure, aflw2000.figures, aflw2000.page),
    "realy": Benchmark(realy.load, realy.measure, realy.figures, realy.page),
    "affectnet": Benchmark(
        expression_probe.load, expression_probe.measure, expression_probe.figures, expression_probe.page
    ),
    "parts": Benchmark(part_overlap.load, part_overlap.measure, part_overlap.figures, part_overlap.page),
    "several_views": Benchmark(
        several_views.load, several_views.measure, several_views.figures, several_views.page, several_views.drawing
    ),
    "strangers": Benchmark(stranger_draws.load, stranger_draws.measure, stranger_draws.figures, stranger_draws.page),
    "multiview": Benchmark(consistency.load, consistency.measure, consistency.figures, consistency.page),
}
