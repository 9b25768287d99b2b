"""Sets with figures and a page of their own: one row each, and nothing else knows them by name.

Most are benchmarks whose files a user may have. Their data is gated or for research only, so none of it is here. None
of these sets runs unless it is asked for by name: sets that need nothing gated take long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.evaluate import (
    aflw2000,
    consistency,
    expression_probe,
    five_lights,
    held_out,
    held_out_identity,
    likeness,
    micc,
    part_overlap,
    realy,
    several_views,
    stranger_draws,
)


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
    compares : bool
        ``measure`` takes the methods by name in place of the one under test.
    drawing : callable dict -> str or None, optional
        SVG, written beside the page under the set's name.
    """

    load: Callable[[Path], list]
    measure: Callable[..., Any]
    figures: Callable[[list], dict]
    page: Callable[[dict], str]
    compares: bool = False
    drawing: Callable[[dict], str | None] | None = None


BENCHMARKS = {
    "aflw2000": Benchmark(aflw2000.load, aflw2000.measure, aflw2000.figures, aflw2000.page),
    "realy": Benchmark(realy.load, realy.measure, realy.figures, realy.page),
    "micc": Benchmark(micc.load, micc.measure, micc.figures, micc.page),
    "affectnet": Benchmark(
        expression_probe.load, expression_probe.measure, expression_probe.figures, expression_probe.page
    ),
    "parts": Benchmark(part_overlap.load, part_overlap.measure, part_overlap.figures, part_overlap.page),
    "several_views": Benchmark(
        several_views.load,
        several_views.measure,
        several_views.figures,
        several_views.page,
        drawing=several_views.drawing,
    ),
    "five_lights": Benchmark(five_lights.load, five_lights.measure, five_lights.figures, five_lights.page),
    "strangers": Benchmark(stranger_draws.load, stranger_draws.measure, stranger_draws.figures, stranger_draws.page),
    "likeness": Benchmark(likeness.load, likeness.measure, likeness.figures, likeness.page, compares=True),
    "multiview": Benchmark(consistency.load, consistency.measure, consistency.figures, consistency.page),
    "held-out": Benchmark(held_out.load, held_out.measure, held_out.figures, held_out.page, compares=True),
    "held-out-identity": Benchmark(
        held_out_identity.load,
        held_out_identity.measure,
        held_out_identity.figures,
        held_out_identity.page,
        compares=True,
    ),
}
