"""From photos to heads: what an artist types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.options import (
    Detector,
    DetectorOption,
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


def reconstruct(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="JPEG, PNG, WebP, TIFF or HEIC files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results, one folder per face in it.")],
    model: ModelOption = "open-head",
    texture: TextureOption = TextureSize.s1024,
    device: DeviceOption = Device.auto,
    detector: DetectorOption = Detector.mediapipe,
    all_faces: Annotated[bool, typer.Option("--all-faces", help="Every face of a photo, not the largest.")] = False,
    same_person: Annotated[
        bool, typer.Option("--same-person", help="All photos show one person: make one head from them, in --out.")
    ] = False,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Use photos too that look like another person's (with --same-person).")
    ] = False,
    formats: Annotated[
        str | None,
        typer.Option("--formats", help="Files to write, with commas between: glb,obj,json,... All when left out."),
    ] = None,
    stages: Annotated[
        str | None,
        typer.Option(
            "--stages",
            help="Some of detect,regress,fit,refine,texture. Without fit the head is the network's, or without "
            "regress too the mean head posed on the photo. All when left out; regress only with --weights.",
        ),
    ] = None,
    weights: WeightsOption = None,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn photos into heads: GLB, OBJ, textures, an overlay picture and all numbers as JSON.

    Exit code 0: all went well; 1: nothing could be done; 2: wrong usage; 3: some photos failed, with
    one line each on stderr, and the rest were done; 130: interrupted.
    """
    from backend.commands.reconstruct import Request, run

    request = Request(
        photos=tuple(photos),
        out=out,
        model=model,
        texture_size=None if texture is TextureSize.none else int(texture.value),
        device=device.value,
        detector=detector.value,
        all_faces=all_faces,
        same_person=same_person,
        keep_all=keep_all,
        formats=split_names(formats or ""),
        stages=None if stages is None else split_names(stages),
        weights=weights,
        json_output=json_output,
        quiet=quiet,
    )
    finish(lambda interrupt: run(request, interrupt), json_output)


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="Folders that `mgcface reconstruct` wrote, or folders of such."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The one file to write; else report.html in the folder of each head."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Name or file of the face model; else the one that was used.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """A page to judge heads by: photos, overlays, the head from all sides, texture, figures. One HTML file.

    Exit code 3: some folders could not be used, with one line each on stderr, and the rest were.
    """
    from backend.commands.report import Request, run

    request = Request(folders=tuple(folders), out=out, model=model, quiet=quiet)
    finish(lambda interrupt: run(request, interrupt))
