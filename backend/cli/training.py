"""Training our own network, and the samples for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.options import (
    Device,
    DeviceOption,
    JsonOption,
    MostOption,
    QuietOption,
    ShardsOption,
    SideOption,
    TrainingOption,
    finish,
)


def train(
    config: Annotated[Path | None, typer.Option("--config", help="TOML file; the defaults when left out.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for checkpoints, log and weights.")] = Path(
        "out/training"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out; begin where there is none.")
    ] = False,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Go on from this checkpoint instead of the newest.")
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Train a tiny network for a minute or two and check that it learned.")
    ] = False,
    ablation: Annotated[
        bool,
        typer.Option("--ablation", help="Train with and without each loss between views from one start, and compare."),
    ] = False,
    pack: Annotated[
        Path | None,
        typer.Option("--pack", help="Train nothing; gather here what a machine without a network needs to train."),
    ] = None,
    device: DeviceOption = Device.auto,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0.0, help="Stop with a checkpoint after this time.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write for TensorBoard. Needs the extra `board`.")
    ] = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train our own encoder on invented people. Several GPUs: torchrun --nproc-per-node N -m backend.cli train ..."""
    from backend.commands.train import Request, run

    request = Request(
        config=config,
        out=out,
        resume=resume,
        checkpoint=checkpoint,
        smoke=smoke,
        ablation=ablation,
        pack=pack,
        device=device.value,
        minutes=minutes,
        tensorboard=tensorboard,
        json_output=json_output,
        quiet=quiet,
    )
    finish(lambda interrupt: run(request, interrupt), json_output)


def train_data_draw(
    out: ShardsOption,
    config: TrainingOption = None,
    triplets: Annotated[int, typer.Option("--triplets", min=1, help="Invented people, three pictures each.")] = 10000,
    side: SideOption = None,
    device: DeviceOption = Device.auto,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes to spread the work over.")] = 1,
    quiet: QuietOption = False,
) -> None:
    """Draw invented people once, to train on them many times. The same line goes on after a stop."""
    from backend.commands.train_data import run_draw

    finish(lambda interrupt: run_draw(config, out, triplets, side, device.value, workers, quiet, interrupt))


def train_data_photos(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Photos of anybody, and folders in it of one person each.")
    ],
    out: ShardsOption,
    person: Annotated[
        str | None,
        typer.Option("--person", help="Regular expression whose group finds the person in a photo's path."),
    ] = None,
    one_moment: Annotated[
        bool, typer.Option("--one-moment", help="All photos of a person were taken at once, by several cameras.")
    ] = False,
    triplets: MostOption = None,
    config: TrainingOption = None,
    side: SideOption = None,
    device: DeviceOption = Device.auto,
    quiet: QuietOption = False,
) -> None:
    """Fit real photos and keep crops with what the fit says, to train on them.

    Exit code 3: some photos were refused; refused.csv says why.
    """
    from backend.commands.train_data import Reading, run_photos

    reading = Reading(out, triplets, config, side, device.value, quiet)
    finish(lambda interrupt: run_photos(folders, person, one_moment, reading, interrupt))


def train_data_video(
    files: Annotated[
        list[Path], typer.Argument(metavar="VIDEO...", help="Files that OpenCV reads: MP4, MOV, AVI, ...")
    ],
    out: ShardsOption,
    per_second: Annotated[
        float, typer.Option("--per-second", min=0.1, max=60.0, help="Frames that are looked at, of each second.")
    ] = 5.0,
    triplets: MostOption = None,
    config: TrainingOption = None,
    side: SideOption = None,
    device: DeviceOption = Device.auto,
    quiet: QuietOption = False,
) -> None:
    """The same from videos; cuts of the scene and other people are told apart."""
    from backend.commands.train_data import Reading, run_video

    reading = Reading(out, triplets, config, side, device.value, quiet)
    finish(lambda interrupt: run_video(files, per_second, reading, interrupt))
