"""What the project is made of, built and measured: the default head, its skins, its accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.options import JsonOption, ModelOption, QuietOption, WeightsOption, finish, split_names


def build_model(
    source: Annotated[Path, typer.Option("--from", help="Folder that holds ict-facekit-light.npz.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model file to write.")] = Path("open-head.safetensors"),
    report: Annotated[Path | None, typer.Option("--report", help="Folder for pictures and figures.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Build the default head `open-head` from its source model. Needs the extra `train`."""
    from backend.commands.build_model import run

    finish(lambda _: run(source, out, report, quiet))


def build_albedo(
    photos: Annotated[
        Path, typer.Option("--photos", help="Folder with the sets london, canada and, for variety, interfaces.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The albedo file to write.")] = Path(
        "open-head.albedo.safetensors"
    ),
    model: ModelOption = "open-head",
    modes: Annotated[int, typer.Option("--modes", min=1, max=100, help="Modes to keep.")] = 50,
    report: Annotated[Path | None, typer.Option("--report", help="Folder for pictures and figures.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Learn the statistical albedo of a head from flat-lit photos. Needs the extra `train`."""
    from backend.commands.build_albedo import run

    finish(lambda _: run(photos, out, model, modes, report, quiet))


def measure_detector(
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of weights to write.")],
    model: ModelOption = "open-head",
    people: Annotated[int, typer.Option("--people", min=200, help="Invented people to paint and detect.")] = 20000,
    skins: Annotated[
        list[Path] | None,
        typer.Option("--skins", help="Folder of portraits whose skins the people may wear; more than one is fine."),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes to spread the work over.")] = 2,
    quiet: QuietOption = False,
) -> None:
    """Measure the landmark detector on invented people, and learn what the fit starts from."""
    from backend.commands.measure_detector import run

    finish(lambda _: run(model, people, skins or [], workers, out, quiet))


def evaluate(
    model: ModelOption = "open-head",
    sets: Annotated[str, typer.Option("--sets", help="Sets to measure, with commas between; else our own.")] = "",
    data: Annotated[Path | None, typer.Option("--data", help="Folder with the photos and scans to measure on.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")] = Path("out/evaluation"),
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes to spread the work over.")] = 1,
    weights: WeightsOption = None,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure the accuracy of a face model and the fit, and write a report. Needs the extra `train`."""
    from backend.commands.evaluate import run

    finish(lambda _: run(model, split_names(sets), data, out, workers, weights, json_output, quiet), json_output)
