"""The training loop.

A step draws a batch, looks at it, compares, and moves the weights. Nothing else has a memory: the batch is a function
of the step's number and of the process, the rate is one of the step. So a run that was stopped at any checkpoint and
goes on gives, on the same machine, the very weights of one that was not.

Symbols: P pictures of a batch, S side of a crop.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from backend.errors import Cancelled, TrainingError
from backend.face_model.model import FaceModel, ModelInfo
from backend.network.backbone import SIZES, Backbone
from backend.network.calibration import Calibration
from backend.network.encoder_weights import save_encoder
from backend.network.outputs import Predicted, decode
from trainer.data.synthetic import Head, Triplets
from trainer.train.board import Board
from trainer.train.calibration import calibrate
from trainer.train.checkpoint import Checkpoint, State, as_tensors, check_resumable, load_checkpoint, save_checkpoint
from trainer.train.config import Config, OptimiserConfig, RunConfig, config_text
from trainer.train.objective import terms, total
from trainer.train.processes import Processes
from trainer.train.sources import data_fingerprint, drawing, training_source
from trainer.train.start import chosen_albedo
from trainer.train.validation import validate

# Adam's memory of gradients and of their squares, for networks that learn from ever new pictures.
BETAS = (0.9, 0.99)

# Added to the seed of the people: validation never meets training.
VALIDATION_SEED, VALIDATION_LOOKS = 1_000_003, 64

# Triplets that are validated at a time.
VALIDATION_BATCH = 8

# The step's mean over the last steps is what is shown.
SHOWN_STEPS = 20

CONFIG_FILE, LOG_FILE, WEIGHTS_FILE = "config.toml", "log.jsonl", "encoder.safetensors"

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes
    ----------
    step : int
        Steps that are done, of ``steps`` in all.
    figures : dict of str to dict
        Validation by step, see ``validation.py``.
    weights : Path
        Of the averaged network, as :class:`backend.network.encoder.FaceEncoder` reads them.
    seconds_per_step, pictures_per_second : float
        Of this process, drawing included, validation not.
    """

    step: int
    steps: int
    figures: dict[str, dict[str, float]]
    weights: Path
    seconds_per_step: float
    pictures_per_second: float


@dataclass
class Options:
    """Where a run begins and when it stops, and what is seen of it.

    Attributes
    ----------
    resume : Path or None
        A checkpoint to go on from.
    start : Path or None
        A checkpoint whose averaged weights a new run begins with; the one thing here that changes the result.
    stop_at : int or None
        Stop, as if interrupted, after this many steps in all.
    minutes : float or None
        The same after this time.
    tensorboard : bool
    progress : callable, optional
    cancel : callable
        True once the user wants to stop.
    """

    resume: Path | None = None
    start: Path | None = None
    stop_at: int | None = None
    minutes: float | None = None
    tensorboard: bool = False
    progress: Progress | None = None
    cancel: Callable[[], bool] = field(default=lambda: False)


def train(config: Config, model: FaceModel, out: Path, processes: Processes, options: Options) -> Ended:
    """Train until ``config.run.steps``, or until the options say stop; either way the last checkpoint is written.

    Raises
    ------
    TrainingError
        A loss is not a number, or the checkpoint is of another run.
    Cancelled
        The user stopped; the checkpoint is written.
    """
    run = Run(config, model, out, processes, options)
    try:
        return run.go()
    finally:
        run.board.close()


class Run:
    """One training run in one process."""

    def __init__(self, config: Config, model: FaceModel, out: Path, processes: Processes, options: Options) -> None:
        self.config, self.out, self.processes, self.options = config, out, processes, options
        size = SIZES[config.network.size]
        self.head = Head(model, processes.device, chosen_albedo(config.data.model, model))
        self.fingerprint = self.head.fingerprint
        torch.manual_seed(config.optimiser.seed)
        self.backbone = Backbone(size, self.head.layout.outputs).to(processes.device)
        # PyTorch's types do not know the argument.
        self.backbone = self.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if options.start is not None and options.resume is None:
            self._start(load_checkpoint(options.start), options.start)
        self.average = as_tensors(self.backbone.state_dict())
        self.optimiser = make_optimiser(self.backbone, config.optimiser)
        self.faces = training_source(config.data, self.head, size.side)
        self.figures: dict[str, dict[str, float]] = {}
        self.step = 0
        if options.resume is not None:
            self._resume(load_checkpoint(options.resume), options.resume)
        self.network = processes.shared(self.backbone)
        self.held_out = held_out(config, self.head) if processes.first else []
        self.board = Board(out / "board", options.tensorboard and processes.first, self.step)
        if processes.first:
            out.mkdir(parents=True, exist_ok=True)
            (out / CONFIG_FILE).write_text(config_text(config), "utf-8")
            forget_after(out / LOG_FILE, self.step)

    # --- the loop -----------------------------------------------------------------------------------------

    def go(self) -> Ended:
        run, options, began = self.config.run, self.options, time.monotonic()
        if not self.step:
            self._validate()
        spent, saved, first = 0.0, self.step if options.resume else -1, self.step
        while self.step < run.steps:
            cancelled = self.processes.anybody(options.cancel())
            late = options.minutes is not None and time.monotonic() - began > 60.0 * options.minutes
            if cancelled or self.processes.anybody(late) or self.step == options.stop_at:
                break
            start = time.monotonic()
            found = self._one_step()
            spent += time.monotonic() - start
            self._tell(found, spent / (self.step - first))
            if self.step % run.validate_every == 0 or self.step == run.steps:
                self._validate()
            if self.step % run.checkpoint_every == 0 or self.step == run.steps:
                self._save()
                saved = self.step
        if saved != self.step:
            self._save()
        if self.processes.anybody(options.cancel()):
            raise Cancelled(f"Training stopped after {self.step} steps; go on with --resume.")
        seconds = spent / max(self.step - first, 1)
        pictures = 3 * self.config.optimiser.batch / seconds if seconds else 0.0
        return Ended(self.step, run.steps, self.figures, self.out / WEIGHTS_FILE, seconds, pictures)

    def _one_step(self) -> dict[str, float]:
        """Move the weights once; the losses by name, means over all processes."""
        config, processes = self.config, self.processes
        batch = self.faces.batch(self.step * processes.count + processes.rank, config.optimiser.batch)
        self.network.train()
        found = terms(self._look(self.network, batch.photos.flatten(0, 1)), batch, self.head, config.losses)
        loss = total(found, config.losses)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.backbone.parameters(), config.optimiser.clip)
        said = torch.stack([*(value.detach() for value in found.values()), loss.detach(), norm.detach()])
        names = [*found, "loss", "gradient"]
        values = dict(zip(names, processes.mean(said).tolist()))
        for name, value in values.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f'At step {self.step + 1} "{name}" became {value}; lower optimiser.rate or the weight of that '
                    "loss, and resume from the last checkpoint."
                )
        rate = rate_at(self.step, config.run, config.optimiser)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.step += 1
        follow(self.average, self.backbone.state_dict(), self.step, config.optimiser.average)
        return {**values, "rate": rate}

    def _look(self, network: nn.Module, photos: torch.Tensor) -> Predicted:
        """(P, S, S, 3) uint8 -> what the network says; its numbers leave half precision before they mean anything."""
        half = self.config.optimiser.precision == "bfloat16"
        with torch.autocast(self.processes.device.type, dtype=torch.bfloat16, enabled=half):
            numbers = network(photos)
        return decode(numbers.float(), self.head.layout)

    # --- what is seen of it -------------------------------------------------------------------------------

    def _tell(self, found: dict[str, float], seconds: float) -> None:
        if not self.processes.first:
            return
        write_line(self.out / LOG_FILE, {"step": self.step, **found})
        self.board.scalars("training", found, self.step)
        if self.options.progress is not None:
            text = f"step {self.step}, loss {found['loss']:.3f}, {seconds:.2f} s a step"
            self.options.progress(self.step / self.config.run.steps, text)

    def _validate(self) -> None:
        """Look at held-out people with the averaged weights; the first process does, the others wait."""
        if self.processes.first:
            network = averaged(self.config, self.head, self.average)
            figures = validate(lambda photos: self._look(network, photos), self.held_out, self.head, self.config.losses)
            self.figures[str(self.step)] = figures
            write_line(self.out / LOG_FILE, {"step": self.step, "validation": figures})
            self.board.scalars("validation", figures, self.step)
            self.board.pictures(lambda photos: self._look(network, photos), self.held_out, self.head, self.step)
        self.processes.wait()

    def _save(self) -> None:
        """Write a checkpoint, and the averaged weights as they would be used."""
        if self.processes.first:
            first, second = {}, {}
            for name, parameter in self.backbone.named_parameters():
                memory = self.optimiser.state.get(parameter)
                if memory:
                    first[name], second[name] = memory["exp_avg"], memory["exp_avg_sq"]
            state = Checkpoint(
                self.step,
                self.config,
                self.fingerprint,
                self.processes.count,
                self.backbone.state_dict(),
                self.average,
                first,
                second,
                self.figures,
                data_fingerprint(self.faces),
            )
            save_checkpoint(self.out, state, self.config.run.keep)
            network = averaged(self.config, self.head, self.average)
            measured = calibrate(lambda photos: self._look(network, photos), self.held_out)
            info = weights_info(self.config, self.head, self.step, self.figures, measured)
            size, modes = self.config.network.size, self.head.layout.albedo
            save_encoder(self.out / WEIGHTS_FILE, self.average, size, self.head.model, info, modes)
        self.processes.wait()

    def _start(self, checkpoint: Checkpoint, path: Path) -> None:
        """Take the averaged weights of a run, and nothing else of it."""
        if checkpoint.face_model != self.fingerprint:
            raise TrainingError(f"{path} was trained on another face model; start from another checkpoint.")
        self._load(checkpoint.average, path)

    def _load(self, state: State, path: Path) -> None:
        try:
            self.backbone.load_state_dict(state)
        except RuntimeError as error:
            raise TrainingError(
                f"{path} holds another network than this version trains; start in another folder."
            ) from error

    def _resume(self, checkpoint: Checkpoint, path: Path) -> None:
        check_resumable(checkpoint, self.config, self.fingerprint, self.processes.count, path)
        if checkpoint.data != data_fingerprint(self.faces):
            raise TrainingError(f"{path} was trained on other stored samples; name those, or start in another folder.")
        self._load(checkpoint.network, path)
        self.average = {name: tensor.to(self.processes.device) for name, tensor in checkpoint.average.items()}
        for name, parameter in self.backbone.named_parameters():
            if name in checkpoint.first:
                layout = {"device": parameter.device, "memory_format": torch.preserve_format}
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(checkpoint.step)),
                    "exp_avg": torch.empty_like(parameter, **layout).copy_(checkpoint.first[name]),
                    "exp_avg_sq": torch.empty_like(parameter, **layout).copy_(checkpoint.second[name]),
                }
        self.step, self.figures = checkpoint.step, dict(checkpoint.figures)


# --- parts of a run ---------------------------------------------------------------------------------------


def make_optimiser(network: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW; biases and normalisations do not decay."""
    decays = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    stays = [parameter for parameter in network.parameters() if parameter.dim() <= 1]
    groups = [{"params": decays, "weight_decay": config.weight_decay}, {"params": stays, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.rate, betas=BETAS)


def rate_at(step: int, run: RunConfig, config: OptimiserConfig) -> float:
    """The learning rate of a step: up a line, down half a cosine."""
    if step < config.warmup:
        return config.rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(run.steps - config.warmup, 1)
    return config.rate * (
        config.last_rate + (1.0 - config.last_rate) * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
    )


@torch.no_grad()
def follow(average: State, state: State, step: int, slowness: float) -> None:
    """The average follows the weights: quickly at first, when they are worth nothing yet."""
    share = min(slowness, (1.0 + step) / (10.0 + step))
    for name, tensor in state.items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, 1.0 - share)
        else:
            average[name].copy_(tensor)


def averaged(config: Config, head: Head, average: State) -> Backbone:
    """A network with the averaged weights, for looking only."""
    with torch.device("meta"):
        network = Backbone(SIZES[config.network.size], head.layout.outputs)
    network.load_state_dict(as_tensors(average), assign=True)
    return network.for_inference()


def held_out(config: Config, head: Head) -> list[Triplets]:
    """People that training never draws."""
    data, side = config.data, SIZES[config.network.size].side
    looks = min(data.looks, VALIDATION_LOOKS)
    faces = replace(drawing(data, side), seed=data.seed + VALIDATION_SEED, looks=looks).faces(head)
    starts = range(0, data.validation, VALIDATION_BATCH)
    return [faces.batch(start, min(VALIDATION_BATCH, data.validation - start)) for start in starts]


def weights_info(
    config: Config, head: Head, step: int, figures: dict[str, dict[str, float]], measured: Calibration
) -> ModelInfo:
    """What the weights say of themselves: they may be used as the face model and its albedo may."""
    model, extra = head.model, {}
    infos = [model.info]
    if head.skin_albedo is not None:
        infos.append(head.skin_albedo.source.info)
        extra["albedo"] = head.skin_albedo.fingerprint
    latest = figures[max(figures, key=int)] if figures else {}
    return ModelInfo(
        name=f"mgcface-{config.network.size}",
        version=f"step {step}",
        licence=joined(" and ", [info.licence for info in infos]),
        commercial=all(info.commercial for info in infos),
        terms=joined("; ", [info.terms for info in infos]),
        attribution=joined("\n", [info.attribution for info in infos]),
        extra={
            **extra,
            "training_steps": step,
            "training_config": config.as_dict(),
            "validation": latest,
            "calibration": measured.as_metadata(),
        },
    )


def joined(between: str, texts: list[str]) -> str:
    """What is said, each thing once."""
    return between.join(dict.fromkeys(text for text in texts if text))


def write_line(path: Path, values: dict) -> None:
    """Add one JSON object to a log."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def forget_after(path: Path, step: int) -> None:
    """Remove what a log says of steps that are done again."""
    if path.is_file():
        lines = path.read_text("utf-8").splitlines(keepends=True)
        kept = [line for line in lines if step and json.loads(line)["step"] <= step]
        path.write_text("".join(kept), "utf-8")
