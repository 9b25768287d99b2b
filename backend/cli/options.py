"""Options that several commands take, each written once, and how every command ends."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from backend.commands import console
from backend.commands.console import run_guarded


class Device(str, Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Detector(str, Enum):
    mediapipe = "mediapipe"
    fan = "fan"


class TextureSize(str, Enum):
    s1024 = "1024"
    s2048 = "2048"
    s4096 = "4096"
    s8192 = "8192"
    none = "none"


QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
ModelOption = Annotated[str, typer.Option("--model", help="Name of a face model, or the path of its file.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where to compute; auto takes a GPU if there is one.")]
DetectorOption = Annotated[Detector, typer.Option("--detector", help="What finds the landmarks.")]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="Weights of a network that sees faces: the stage regress.")
]
TextureOption = Annotated[TextureSize, typer.Option("--texture", help="Side of the texture in pixels, or none.")]
ShardsOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the shards.")]
TrainingOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file of a training; the defaults when left out.")
]
SideOption = Annotated[
    int | None, typer.Option("--side", min=32, max=512, help="Of the crops, pixels; else the network's.")
]
MostOption = Annotated[
    int | None, typer.Option("--triplets", min=1, help="At most so many; else one for each face that was found.")
]


def split_names(text: str) -> tuple[str, ...]:
    """``"glb, obj"`` -> ``("glb", "obj")``, without doubles."""
    return tuple(dict.fromkeys(name for name in (part.strip().lower() for part in text.split(",")) if name))


def finish(work: console.Work, json_output: bool = False) -> None:
    """Do the work of a command and leave with its exit code."""
    raise typer.Exit(run_guarded(work, json_output))
