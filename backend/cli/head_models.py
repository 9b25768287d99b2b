"""Face models and weights: what is there, fetch more, convert what others published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.options import JsonOption, QuietOption, finish


def models_list(json_output: JsonOption = False) -> None:
    """All face models, installed or not, and whether their output may be sold."""
    from backend.commands.models import run_list

    finish(lambda _: run_list(json_output), json_output)


def models_info(
    name: Annotated[str, typer.Argument(help="Name of a model, or the path of its file.")],
    json_output: JsonOption = False,
) -> None:
    """One face model in full: sizes, expressions, licence, the notice its makers ask for."""
    from backend.commands.models import run_info

    finish(lambda _: run_info(name, json_output), json_output)


def models_install(
    name: Annotated[str, typer.Argument(help="Name of a model, see `mgcface models list`.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", help="File or folder to read instead of downloading."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Fetch a face model from its public home, or read it from --from, and convert it."""
    from backend.commands.models import run_install

    finish(lambda interrupt: run_install(name, source, quiet, interrupt))


def convert_mgcnet(
    checkpoint: Annotated[
        Path,
        typer.Option("--checkpoint", help="Folder with the TensorFlow checkpoint, or its prefix: model/model-400000."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The weights file to write.")] = Path("mgcnet.safetensors"),
    quiet: QuietOption = False,
) -> None:
    """The published weights of MGCNet as safetensors. Needs no TensorFlow. For research only."""
    from backend.commands.convert import run_mgcnet

    finish(lambda interrupt: run_mgcnet(checkpoint, out, quiet, interrupt))
