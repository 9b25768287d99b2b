"""``mgcface train-data``: samples for ``mgcface train`` on disk. The work is the package ``trainer``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Reading:
    """What photos and videos have in common: where triplets go, at most how many, for which training."""

    out: Path
    triplets: int | None
    config: Path | None
    side: int | None
    device: str
    quiet: bool


def run_photos(
    folders: Sequence[Path], person: str | None, one_moment: bool, reading: Reading, interrupt: Interrupt
) -> int:
    from trainer.data import photo_shards

    people = photo_shards.people_in(folders, person)
    return read_with(
        reading,
        interrupt,
        lambda reader, show: photo_shards.read_photos(people, reader, one_moment, show, interrupt.heard),
    )


def run_video(files: Sequence[Path], per_second: float, reading: Reading, interrupt: Interrupt) -> int:
    from trainer.data import photo_shards

    photo_shards.check_videos(files)
    return read_with(
        reading,
        interrupt,
        lambda reader, show: photo_shards.read_videos(files, reader, per_second, show, interrupt.heard),
    )


def read_with(reading: Reading, interrupt: Interrupt, read: Callable[[Any, Any], Any]) -> int:
    """Fit what ``read(reader, progress)`` goes through, write its triplets and say what became of it."""
    reader, chosen = reader_for(reading.config, reading.side, reading.device)
    interrupt.answer_with(lambda: None)
    with fraction_bar("fitting", reading.quiet) as show:
        found = read(reader, show)
    return finish(found, reader, reading.out, chosen.data.seed, reading.triplets, reading.quiet)


def reader_for(config: Path | None, side: int | None, device: str) -> Any:
    """What fits photos for the face model and the network of a configuration, and the configuration."""
    import torch

    from backend.network.backbone import SIZES
    from trainer.data.photo_views import PhotoReader
    from trainer.train import start

    chosen = start.chosen_config(config, None)
    head = start.chosen_head(chosen.data.model, torch.device("cpu"))
    return PhotoReader(head, side or SIZES[chosen.network.size].side, device), chosen


def finish(read: Any, reader: Any, out: Path, seed: int, triplets: int | None, quiet: bool) -> int:
    """Write the triplets and say what became of the photos."""
    from trainer.data.photo_shards import REFUSED_FILE, save_photos

    made, flags = save_photos(read, reader.head, reader.side, out, seed, triplets, {"views": read.views})
    if not quiet:
        size = sum(shard.bytes for shard in made.shards) / 1e6
        console.say(f"{out}: {made.samples} triplets of {made.side} pixels from {read.views} faces, {size:.1f} MB")
        kinds = {0: "with nothing to compare", 1: "of one person", 2: "of one moment"}
        console.say("triplets: " + ", ".join(f"{count} {kinds[flag]}" for flag, count in flags.items()))
        if read.refused:
            console.say(f"{len(read.refused)} photos were refused; {out / REFUSED_FILE} says why")
    return console.EXIT_SOME_FAILED if read.refused else console.EXIT_DONE
