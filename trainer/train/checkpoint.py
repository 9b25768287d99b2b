"""Checkpoints: one safetensors file that holds all that a run needs to go on as if it had never stopped.

Tensors are ``network.*`` (the weights), ``average.*`` (their moving average), ``first.*`` and ``second.*`` (what
AdamW remembers of each weight's gradients). JSON in the metadata says the step, the configuration, the face model
and the figures so far. Data needs no state: a batch is a function of its number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from backend.errors import TrainingError
from backend.face_model.file_format import METADATA_KEY, write_atomically
from trainer.train.config import Config, first_difference, parse_config

FORMAT_VERSION = 1
KIND = "training_state"
PATTERN = re.compile(r"step-(\d{8})\.safetensors")

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A moment of a run.

    Attributes
    ----------
    step : int
        Steps that are done.
    config : Config
    face_model : str
        Fingerprint, see :func:`backend.network.encoder_weights.fingerprint`.
    processes : int
        That share the work.
    network, average, first, second : dict of str to tensor
        By name of the weight; the last two lack what is not trained.
    figures : dict of str to dict
        Validation by step.
    data : str
        Fingerprint of stored samples, see :func:`trainer.train.sources.data_fingerprint`.
    """

    step: int
    config: Config
    face_model: str
    processes: int
    network: State
    average: State
    first: State
    second: State
    figures: dict[str, dict[str, float]]
    data: str = ""


PARTS = ("network", "average", "first", "second")


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.safetensors"


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint, whole or not at all, and remove all but the newest ``keep``."""
    tensors = {
        f"{part}.{name}": tensor.detach().to("cpu").contiguous()
        for part in PARTS
        for name, tensor in getattr(checkpoint, part).items()
    }
    about = {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "step": checkpoint.step,
        "config": checkpoint.config.as_dict(),
        "face_model": checkpoint.face_model,
        "processes": checkpoint.processes,
        "figures": checkpoint.figures,
        "data": checkpoint.data,
    }
    path = checkpoint_path(folder, checkpoint.step)
    write_atomically(path, save(tensors, {METADATA_KEY: json.dumps(about, sort_keys=True)}))
    for old in checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*.safetensors") if PATTERN.fullmatch(path.name))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; :class:`TrainingError` for what is none."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[METADATA_KEY])
            if about["kind"] != KIND or about["format_version"] > FORMAT_VERSION:
                raise ValueError(about["kind"], about["format_version"])
            parts: dict[str, State] = {part: {} for part in PARTS}
            for name in file.keys():
                part, _, rest = name.partition(".")
                parts[part][rest] = file.get_tensor(name)
            return Checkpoint(
                step=int(about["step"]),
                config=parse_config(about["config"], str(path)),
                face_model=about["face_model"],
                processes=int(about["processes"]),
                figures=about["figures"],
                data=about.get("data", ""),
                **parts,
            )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{path} is no checkpoint of this version or is damaged ({error}); name another or start anew."
        ) from error


def check_resumable(checkpoint: Checkpoint, config: Config, face_model: str, processes: int, path: Path) -> None:
    """Refuse to go on with something that would not give what the run would have given."""
    changed = first_difference(checkpoint.config, config)
    if changed:
        raise TrainingError(
            f"{path} cannot be resumed with this configuration: {changed}; change it back or start in another folder."
        )
    if checkpoint.face_model != face_model:
        raise TrainingError(
            f"{path} was trained on another state of the face model {config.data.model}; install that one again or "
            "start in another folder."
        )
    if checkpoint.processes != processes:
        raise TrainingError(
            f"{path} was trained by {checkpoint.processes} processes and this run has {processes}; start as many."
        )
    if checkpoint.step >= config.run.steps:
        raise TrainingError(
            f"{path} has done all {config.run.steps} steps; raise run.steps or start in another folder."
        )


def as_tensors(named: Mapping[str, torch.Tensor]) -> State:
    """A copy that later steps do not change."""
    return {name: tensor.detach().clone() for name, tensor in named.items()}
