"""This machine: the add-on, its backend, what is installed and how fast it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.options import (
    Device,
    DeviceOption,
    JsonOption,
    ModelOption,
    QuietOption,
    TextureOption,
    TextureSize,
    WeightsOption,
    finish,
    split_names,
)


def addon_build(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the zip.")] = Path("dist"),
    blender: Annotated[
        Path | None, typer.Option("--blender", help="Blender that validates it; else one of scripts/blender.py.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Make the extension's zip, one for all systems, and have Blender validate it."""
    from backend.commands.addon import run_build

    finish(lambda _: run_build(out, blender, quiet))


def addon_install(
    blender: Annotated[Path, typer.Option("--blender", help="The Blender program to install into.")],
    archive: Annotated[
        Path | None, typer.Option("--zip", help="A zip that is there already; else it is built first.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Install and enable the extension in a Blender."""
    from backend.commands.addon import run_install

    finish(lambda _: run_install(blender, archive, quiet))


def doctor(json_output: JsonOption = False) -> None:
    """What is installed, what is missing and how to fix it, and which licences are in force."""
    from backend.commands.doctor import run

    finish(lambda _: run(json_output), json_output)


def warm_up(quiet: QuietOption = False) -> None:
    """Compile what is otherwise compiled at the first photo. Set-ups and installers call this once."""
    from backend.commands.warm_up import run

    finish(lambda _: run(quiet))


def bench(
    photo: Annotated[
        Path | None,
        typer.Option("--photo", help="Photo to measure with; the example photo when left out."),
    ] = None,
    model: ModelOption = "open-head",
    texture: TextureOption = TextureSize.s1024,
    device: DeviceOption = Device.auto,
    repeats: Annotated[int, typer.Option("--repeats", min=1, max=100, help="Warm runs; the median counts.")] = 7,
    many: Annotated[int, typer.Option("--many", min=2, max=1024, help="Photos in the one large call.")] = 64,
    weights: WeightsOption = None,
    stages: Annotated[
        str | None, typer.Option("--stages", help="Some of the stages of reconstruct; the usual ones when left out.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Measure the speed here: cold start, one photo and many photos by stage, peak memory."""
    from backend.commands.bench import Request, run

    request = Request(
        photo=photo,
        model=model,
        texture=texture.value,
        device=device.value,
        repeats=repeats,
        many=many,
        weights=weights,
        stages=None if stages is None else split_names(stages),
        json_output=json_output,
    )
    finish(lambda interrupt: run(request, interrupt), json_output)


def serve(
    connection_file: Annotated[
        Path | None,
        typer.Option("--connection-file", help="Where to write address and keys; a file of the user when left out."),
    ] = None,
    bind: Annotated[
        str, typer.Option("--bind", help="HOST or HOST:PORT to listen at; other machines only reach it if you say so.")
    ] = "127.0.0.1",
    parent_pid: Annotated[int | None, typer.Option("--parent-pid", help="End when this process ends.", min=1)] = None,
    device: DeviceOption = Device.auto,
    log_file: Annotated[
        Path | None, typer.Option("--log-file", help="The log; beside the connection file when left out.")
    ] = None,
) -> None:
    """Run the process behind the Blender add-on. A second start finds the first and leaves it running."""
    from backend.commands.serve import run

    finish(lambda interrupt: run(connection_file, bind, parent_pid, device.value, log_file, interrupt))
