"""``mgcface``: the one command.

This room declares what can be typed: here the commands in the order in which ``--help`` lists them, their options on a
page for each subject. The work is in :mod:`backend.commands`, imported when a command runs, so that ``mgcface --help``
answers at once and does not wait for PyTorch.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from backend import __version__
from backend.cli import building, head_models, machine, photos, training
from backend.cli.options import split_names
from backend.commands import console

__all__ = ["app", "main", "split_names"]

# Threads that wait for each other soon go to sleep. By default they spin, and on a processor with other work,
# Blender's for example, they spin in each other's turn: with two other programs on two cores a fit took over a second
# instead of 0.1 s. The short spin of GNU's OpenMP costs nothing there and keeps a fit on a quiet machine at 30 ms,
# where sleeping at once makes it 43.
THREADS_SLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}

app = typer.Typer(
    help="Photos to textured, animatable 3D heads.",
    no_args_is_help=True,
    add_completion=False,
    # Rich would double the time that --help takes.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models = typer.Typer(help="Face models: what is there, what each allows, install more.", no_args_is_help=True)
app.add_typer(models, name="models")
addon = typer.Typer(help="The Blender add-on: build its zip, install it.", no_args_is_help=True)
app.add_typer(addon, name="addon")
convert = typer.Typer(help="Weights that others published: turn them into files of ours.", no_args_is_help=True)
app.add_typer(convert, name="convert")
train_data = typer.Typer(help="Samples for `mgcface train` on disk.", no_args_is_help=True)
app.add_typer(train_data, name="train-data")


def show_version(wanted: bool) -> None:
    if wanted:
        console.say(f"mgcface {__version__}")
        raise typer.Exit


@app.callback()
def mgcface(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Photos to textured, animatable 3D heads."""


app.command()(photos.reconstruct)
app.command()(photos.report)
app.command()(machine.doctor)
app.command("warm-up")(machine.warm_up)
app.command()(machine.bench)
app.command()(machine.serve)
app.command("build-model")(building.build_model)
app.command("build-albedo")(building.build_albedo)
app.command("measure-detector")(building.measure_detector)
app.command()(building.evaluate)
app.command()(training.train)
models.command("list")(head_models.models_list)
models.command("info")(head_models.models_info)
models.command("install")(head_models.models_install)
addon.command("build")(machine.addon_build)
addon.command("install")(machine.addon_install)
convert.command("mgcnet")(head_models.convert_mgcnet)
train_data.command("draw")(training.train_data_draw)
train_data.command("photos")(training.train_data_photos)
train_data.command("video")(training.train_data_video)


def main() -> None:
    """Entry point of the ``mgcface`` command."""
    # Read when PyTorch is loaded, here and in the processes that are started from here.
    for name, value in THREADS_SLEEP.items():
        os.environ.setdefault(name, value)
    app(prog_name="mgcface")
