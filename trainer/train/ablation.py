"""Which losses help: the same training with and without them, from one start.

The paper says that losses between the views of a person mend pose and depth, which losses of one view leave
uncertain. To show or refute it, a network is first trained with single-view losses alone. From its weights every
:data:`VARIANTS` goes on for the same number of steps, on the same pictures in the same order; only the losses between
views differ. All are then measured on the same people, whom none has seen and of whom everything is known.

Whatever the configuration trains single views with is kept in all of them. ``recipes/ablation-*.toml`` have losses
that photos allow, as the paper does: landmarks, the drawn head against the photo, priors, and a focal length that is
known. With truth about shape and pose, losses between views have less to say.

Every run has a folder of its own; the same command goes on where it was stopped, and what is finished is not done
again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from backend.errors import Cancelled, TrainingError
from backend.face_model.file_format import write_atomically
from backend.face_model.model import FaceModel
from trainer.train import ablation_report
from trainer.train.checkpoint import checkpoint_path, checkpoints, load_checkpoint
from trainer.train.config import Config, config_text, first_difference
from trainer.train.loop import CONFIG_FILE, Options, train
from trainer.train.processes import Processes

REPORT_FILE, FIGURES_FILE = "ablation.md", "ablation.json"

# Added to the seed of the people: repetitions meet other people, and what follows the start others than the start.
REPETITION_SEED, AFTER_START_SEED = 10_007, 500_009


@dataclass(frozen=True)
class Variant:
    """A name for files, one for people, which losses between views are on, and whose they are."""

    name: str
    title: str
    on: tuple[str, ...]
    variant: str = "ours"


# In the order of the paper's argument; the published code's in the same steps; and what ties a person's shapes.
BETWEEN_VIEWS = ("agreement", "pixel", "depth", "epipolar")
VARIANTS = (
    Variant("single", "single-view losses", ()),
    Variant("pixel", "+ pixel", ("pixel",)),
    Variant("depth", "+ pixel + depth", ("pixel", "depth")),
    Variant("epipolar", "+ pixel + depth + epipolar", ("pixel", "depth", "epipolar")),
    Variant("agreement", "+ all three + agreement", ("pixel", "depth", "epipolar", "agreement")),
    Variant("published-pixel", "as published: + pixel", ("pixel",), "published"),
    Variant("published-depth", "as published: + pixel + depth", ("pixel", "depth"), "published"),
    Variant("published-epipolar", "as published: + all three", ("pixel", "depth", "epipolar"), "published"),
)


@dataclass(frozen=True)
class Row:
    """Validation after one run: ``repetition``, name of the variant or ``start``, figures."""

    repetition: int
    name: str
    figures: dict[str, float]


def run(config: Config, model: FaceModel, out: Path, processes: Processes, options: Options) -> list[Row]:
    """Do, or go on with, all runs; the report is written after each.

    Parameters
    ----------
    config : Config
        ``run.steps`` are those of each variant; weights of the losses between views are taken where they are on.
    model : FaceModel
    out : Path
        Folder; ``ablation.md`` and ``ablation.json`` are the results.
    processes : Processes
    options : Options
        ``minutes`` are for all runs together.

    Returns
    -------
    list of Row
        Fewer than all when time was up.

    Raises
    ------
    Cancelled
        The user stopped; the same call goes on.
    TrainingError
        A configuration that leaves nothing to compare, the folder is of another one, or a training failed.
    """
    _check(config, out)
    if processes.first:
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG_FILE).write_text(config_text(config), "utf-8")
    rows: list[Row] = []
    began = time.monotonic()
    steps = config.ablation.start_steps + len(VARIANTS) * config.run.steps
    done = 0

    def left() -> float | None:
        return None if options.minutes is None else options.minutes - (time.monotonic() - began) / 60.0

    def shown(text: str, length: int) -> Callable[[float, str], None] | None:
        show, before, whole = options.progress, done, steps * config.ablation.seeds
        return None if show is None else lambda part, said: show((before + part * length) / whole, f"{text}: {said}")

    def finished(mine: Config, name: str, start: Path | None) -> dict[str, dict[str, float]] | None:
        """Validation by step of a run that is whole; None when time is up before."""
        folder = out / name
        last = folder_state(mine, folder)
        if last is not None and last == checkpoint_path(folder, mine.run.steps):
            return load_checkpoint(last).figures
        minutes = left()
        if minutes is not None and minutes <= 0:
            return None
        length = mine.run.steps
        mine_options = replace(options, resume=last, start=start, minutes=minutes, progress=shown(name, length))
        try:
            ended = train(mine, model, folder, processes, mine_options)
        except Cancelled as stopped:
            raise Cancelled("The ablation was stopped; the same command goes on.") from stopped
        return ended.figures if ended.step == length else None

    for repetition in range(config.ablation.seeds):
        base = repeated(config, repetition)
        if finished(start_config(base), f"start-{repetition}", None) is None:
            return rows
        done += config.ablation.start_steps
        start = checkpoint_path(out / f"start-{repetition}", config.ablation.start_steps)
        for variant in VARIANTS:
            figures = finished(variant_config(base, variant), f"{variant.name}-{repetition}", start)
            if figures is None:
                return rows
            done += config.run.steps
            if variant is VARIANTS[0]:
                rows.append(Row(repetition, "start", figures["0"]))
            rows.append(Row(repetition, variant.name, figures[str(config.run.steps)]))
            if processes.first:
                _report(config, rows, out, processes)
    return rows


def folder_state(config: Config, folder: Path) -> Path | None:
    """The newest checkpoint of a run; refuses the run of another configuration."""
    last = checkpoints(folder)[-1:] if folder.is_dir() else []
    if not last:
        return None
    stored = load_checkpoint(last[0]).config
    changed = first_difference(stored, config)
    if changed is None and stored.run.steps != config.run.steps:
        changed = f'"run.steps" was {stored.run.steps} and is now {config.run.steps}'
    if changed:
        raise TrainingError(f"{folder} holds a run of another configuration: {changed}; name another folder.")
    return last[0]


# --- configurations ---------------------------------------------------------------------------------------


def repeated(config: Config, repetition: int) -> Config:
    """The same with other people and other first weights."""
    data = replace(config.data, seed=config.data.seed + REPETITION_SEED * repetition)
    return replace(config, data=data, optimiser=replace(config.optimiser, seed=config.optimiser.seed + repetition))


def start_config(config: Config) -> Config:
    """What all variants start from: single-view losses alone."""
    single = variant_config(config, VARIANTS[0])
    steps = config.ablation.start_steps
    return replace(single, data=config.data, run=replace(config.run, steps=steps, validate_every=steps))


def variant_config(config: Config, variant: Variant) -> Config:
    """The run of one variant; validated at its start and its end."""
    off = {name: 0.0 for name in BETWEEN_VIEWS if name not in variant.on}
    losses = replace(config.losses, **off, variant=variant.variant)
    data = replace(config.data, seed=config.data.seed + AFTER_START_SEED)
    run = replace(config.run, validate_every=config.run.steps)
    return replace(config, data=data, losses=losses, run=run)


def _check(config: Config, out: Path) -> None:
    off = [name for name in BETWEEN_VIEWS if getattr(config.losses, name) <= 0]
    if off:
        raise TrainingError(f'"losses.{off[0]}" is 0, so that leaving it out changes nothing; give it a weight.')
    if out.is_dir() and checkpoints(out):
        raise TrainingError(f"{out} holds a training run; name another folder with --out.")


# --- results ----------------------------------------------------------------------------------------------


def _report(config: Config, rows: list[Row], out: Path, processes: Processes) -> None:
    titles = {"start": "the start", **{variant.name: variant.title for variant in VARIANTS}}
    figures = [{"repetition": row.repetition, "variant": row.name, "validation": row.figures} for row in rows]
    about = {"config": config.as_dict(), "device": processes.device.type, "processes": processes.count, "rows": figures}
    write_atomically(out / FIGURES_FILE, json.dumps(about, indent=1).encode())
    by_name = {name: [row.figures for row in rows if row.name == name] for name in titles}
    text = ablation_report.text(config, titles, by_name, "single", processes)
    write_atomically(out / REPORT_FILE, text.encode())
