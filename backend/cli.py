"""``mgcface``: the one command.

This page declares what can be typed. The work is in :mod:`backend.commands`, imported when a command
runs, so that ``mgcface --help`` answers at once and does not wait for PyTorch.
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from backend import __version__
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


def show_version(wanted: bool) -> None:
    if wanted:
        console.say(f"mgcface {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Photos to textured, animatable 3D heads."""


@app.command()
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
            help="Some of detect,regress,fit,texture. Without fit the head is the network's, or without regress too "
            "the mean head posed on the photo. All when left out; regress only with --weights.",
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


@models.command("list")
def models_list(json_output: JsonOption = False) -> None:
    """All face models, installed or not, and whether their output may be sold."""
    from backend.commands.models import run_list

    finish(lambda _: run_list(json_output), json_output)


@models.command("info")
def models_info(
    name: Annotated[str, typer.Argument(help="Name of a model, or the path of its file.")],
    json_output: JsonOption = False,
) -> None:
    """One face model in full: sizes, expressions, licence, the notice its makers ask for."""
    from backend.commands.models import run_info

    finish(lambda _: run_info(name, json_output), json_output)


@models.command("install")
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


@addon.command("build")
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


@addon.command("install")
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


@app.command()
def doctor(json_output: JsonOption = False) -> None:
    """What is installed, what is missing and how to fix it, and which licences are in force."""
    from backend.commands.doctor import run

    finish(lambda _: run(json_output), json_output)


@app.command("warm-up")
def warm_up(quiet: QuietOption = False) -> None:
    """Compile what is otherwise compiled at the first photo. Set-ups and installers call this once."""
    from backend.commands.warm_up import run

    finish(lambda _: run(quiet))


@app.command()
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
        json_output=json_output,
    )
    finish(lambda interrupt: run(request, interrupt), json_output)


@app.command()
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


@app.command("build-model")
def build_model(
    source: Annotated[Path, typer.Option("--from", help="Folder that holds ict-facekit-light.npz.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model file to write.")] = Path("open-head.safetensors"),
    report: Annotated[Path | None, typer.Option("--report", help="Folder for pictures and figures.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Build the default head `open-head` from its source model. Needs the extra `train`."""
    from backend.commands.build_model import run

    finish(lambda _: run(source, out, report, quiet))


@app.command("build-albedo")
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


@convert.command("mgcnet")
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


@app.command("measure-detector")
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


@app.command()
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


@app.command()
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


@train_data.command("draw")
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


@train_data.command("photos")
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
    from backend.commands.train_data import run_photos

    finish(
        lambda interrupt: run_photos(
            folders, out, person, one_moment, triplets, config, side, device.value, quiet, interrupt
        )
    )


@train_data.command("video")
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
    from backend.commands.train_data import run_video

    finish(lambda interrupt: run_video(files, out, per_second, triplets, config, side, device.value, quiet, interrupt))


def split_names(text: str) -> tuple[str, ...]:
    """``"glb, obj"`` -> ``("glb", "obj")``, without doubles."""
    return tuple(dict.fromkeys(name for name in (part.strip().lower() for part in text.split(",")) if name))


def finish(work: console.Work, json_output: bool = False) -> None:
    """Do the work of a command and leave with its exit code."""
    raise typer.Exit(run_guarded(work, json_output))


def main() -> None:
    """Entry point of the ``mgcface`` command."""
    # Read when PyTorch is loaded, here and in the processes that are started from here.
    for name, value in THREADS_SLEEP.items():
        os.environ.setdefault(name, value)
    app(prog_name="mgcface")


if __name__ == "__main__":
    main()
