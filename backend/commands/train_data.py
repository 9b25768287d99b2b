"""``mgcface train-data``: samples for ``mgcface train`` on disk. The work is the package ``trainer``."""

from __future__ import annotations

import time
from pathlib import Path

from backend.commands import console
from backend.commands.console import Interrupt
from backend.commands.progress import fraction_bar
from backend.errors import DependencyError


def run_draw(
    config: Path | None,
    out: Path,
    triplets: int,
    side: int | None,
    device: str,
    workers: int,
    quiet: bool,
    interrupt: Interrupt,
) -> int:
    try:
        from backend.network.backbone import SIZES
        from trainer.data.draw_shards import draw_shards
        from trainer.train import sources, start
        from trainer.train.processes import joined
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"Training needs {error.name}; install it with: python -m pip install {error.name}"
        ) from error

    chosen = start.chosen_config(config, None)
    drawing = sources.drawing(chosen.data, side or SIZES[chosen.network.size].side)
    # A signal ends the few triplets that are being drawn.
    interrupt.answer_with(lambda: None)
    began = time.monotonic()
    with joined(device) as processes, fraction_bar("drawing", quiet) as show:
        head = start.chosen_head(chosen.data.model, processes.device)
        made = draw_shards(drawing, head, out, triplets, workers, show, interrupt.heard)
    if not quiet:
        size = sum(shard.bytes for shard in made.shards) / 1e6
        console.say(
            f"{out}: {made.samples} triplets of {drawing.side} pixels in {len(made.shards)} shards, {size:.0f} MB"
        )
        console.say(f"{time.monotonic() - began:.0f} s")
    return console.EXIT_DONE
