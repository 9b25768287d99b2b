"""What a run starts from: its configuration, its face model, its checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from backend.errors import TrainingError
from backend.face_model.albedo import Albedo
from backend.face_model.albedo_file import get_albedo, layout_of
from backend.face_model.file_format import load_model
from backend.face_model.model import FaceModel
from trainer.data.synthetic import Head
from trainer.train.checkpoint import checkpoints, load_checkpoint
from trainer.train.config import Config, read_config


def chosen_checkpoint(out: Path, resume: bool, checkpoint: Path | None) -> Path | None:
    """The checkpoint to go on from; None to begin. Nobody's run is overwritten unasked."""
    if checkpoint is not None:
        return checkpoint
    there = checkpoints(out) if out.is_dir() else []
    if there and not resume:
        raise TrainingError(f"{out} holds a run already; add --resume to go on or name another folder with --out.")
    return there[-1] if there else None


def chosen_config(path: Path | None, checkpoint: Path | None) -> Config:
    """The configuration of the file, or else of the checkpoint, or else the defaults."""
    if path is not None:
        return read_config(path)
    return load_checkpoint(checkpoint).config if checkpoint is not None else Config()


def chosen_model(name: str) -> FaceModel:
    """A face model by name or by file. A file needs nothing that is installed."""
    if name.endswith(".safetensors"):
        return load_model(name)
    from backend.face_model.registry import get_model

    return get_model(name)


def chosen_albedo(name: str, model: FaceModel) -> Albedo | None:
    """The statistical albedo that lies beside the model of that name, if it is one for this very model."""
    if model.albedo_basis is not None:
        return None
    albedo = get_albedo(name)
    return albedo if albedo is not None and albedo.layout == layout_of(model) else None


def chosen_head(name: str, device: torch.device) -> Head:
    """A face model with its albedo on a device."""
    model = chosen_model(name)
    return Head(model, device, chosen_albedo(name, model))
