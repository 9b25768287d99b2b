"""``mgcface train``: our own encoder, from invented people. The work is the package ``trainer``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from backend.commands import console
from backend.commands.console import Interrupt, UsageError
from backend.commands.progress import fraction_bar
from backend.errors import DependencyError


@dataclass(frozen=True)
class Request:
    """What was typed; see ``mgcface train --help``."""

    config: Path | None
    out: Path
    resume: bool
    checkpoint: Path | None
    smoke: bool
    ablation: bool
    pack: Path | None
    device: str
    minutes: float | None
    tensorboard: bool
    json_output: bool
    quiet: bool


def run(request: Request, interrupt: Interrupt) -> int:
    try:
        from trainer.train import loop, start
        from trainer.train.config import SMOKE
        from trainer.train.processes import joined
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"Training needs {error.name}; install it with: python -m pip install {error.name}"
        ) from error

    check(request)
    if request.pack is not None:
        config = start.chosen_config(request.config, None)
        from trainer.train.pack import pack

        size = pack(config, request.pack)
        say(request, f"{request.pack}: {size / 1e6:.1f} MB; its README.md says how to train there")
        return console.EXIT_DONE
    if request.ablation:
        return ablate(request, interrupt)
    checkpoint = start.chosen_checkpoint(request.out, request.resume, request.checkpoint)
    config = SMOKE if request.smoke else start.chosen_config(request.config, checkpoint)
    # A signal ends the step that is being done and writes a checkpoint.
    interrupt.answer_with(lambda: None)
    quiet = request.quiet or int(os.environ.get("RANK", "0")) > 0
    with joined(request.device) as processes, fraction_bar("training", quiet) as show:
        options = loop.Options(
            resume=checkpoint,
            minutes=request.minutes,
            tensorboard=request.tensorboard,
            progress=show,
            cancel=interrupt.heard,
        )
        model = start.chosen_model(config.data.model)
        ended = loop.train(config, model, request.out, processes, options)
        first = processes.first
    if request.smoke and first:
        from trainer.train.smoke import check as check_learned

        check_learned(ended, model)
    if first:
        tell(request, ended)
    return console.EXIT_DONE


def ablate(request: Request, interrupt: Interrupt) -> int:
    """The same training with and without each loss between views."""
    from trainer.train import ablation, loop, start
    from trainer.train.processes import joined

    config = start.chosen_config(request.config, None)
    interrupt.answer_with(lambda: None)
    quiet = request.quiet or int(os.environ.get("RANK", "0")) > 0
    with joined(request.device) as processes, fraction_bar("ablation", quiet) as show:
        options = loop.Options(
            minutes=request.minutes, tensorboard=request.tensorboard, progress=show, cancel=interrupt.heard
        )
        rows = ablation.run(config, start.chosen_model(config.data.model), request.out, processes, options)
        first = processes.first
    if first:
        report = request.out / ablation.REPORT_FILE
        whole = len(rows) == config.ablation.seeds * (1 + len(ablation.VARIANTS))
        if request.json_output:
            console.print_json({"finished": whole, "rows": len(rows), "report": str(report) if rows else None})
        elif rows:
            say(request, report.read_text("utf-8"))
        if not whole:
            say(request, "Time was up; the same command goes on.")
    return console.EXIT_DONE


def check(request: Request) -> None:
    """Refuse options that contradict each other."""
    others = {"--config": request.config, "--resume": request.resume, "--checkpoint": request.checkpoint}
    others["--minutes"] = request.minutes
    for name, value in others.items():
        if value and request.smoke:
            raise UsageError(f"--smoke has a configuration and a length of its own; leave out {name}.")
        if value and request.pack is not None and name != "--config":
            raise UsageError(f"--pack trains nothing; leave out {name}.")
    if request.ablation:
        clash = {"--checkpoint": request.checkpoint, "--smoke": request.smoke, "--pack": request.pack}
        for name, value in clash.items():
            if value:
                raise UsageError(f"--ablation does runs of its own and goes on by itself; leave out {name}.")
    if request.smoke and request.pack is not None:
        raise UsageError("--smoke and --pack are two different things; leave one out.")
    if request.resume and request.checkpoint is not None:
        raise UsageError("--resume takes the newest checkpoint and --checkpoint another; leave one out.")


def tell(request: Request, ended) -> None:
    """What came out, for people or as JSON."""
    first, last = (ended.figures[key] for key in (min(ended.figures, key=int), max(ended.figures, key=int)))
    if request.json_output:
        console.print_json(
            {
                "steps": ended.step,
                "steps_in_all": ended.steps,
                "weights": str(ended.weights),
                "seconds_per_step": ended.seconds_per_step,
                "pictures_per_second": ended.pictures_per_second,
                "validation": ended.figures,
            }
        )
        return
    more = "" if ended.step == ended.steps else "; go on with --resume"
    say(request, f"{ended.weights}: {ended.step} of {ended.steps} steps{more}")
    say(request, f"{ended.seconds_per_step:.2f} s a step, {ended.pictures_per_second:.0f} pictures a second")
    for name, value in last.items():
        say(request, f"{name:20s} {first[name]:8.3f} -> {value:8.3f}")


def say(request: Request, text: str) -> None:
    if not request.quiet and not request.json_output:
        console.say(text)
