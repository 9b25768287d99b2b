"""A folder with all that a training machine without a network needs: code, face model, photos, one command.

The code that is copied is this checkout's, as far as training imports it. Nothing of it is installed there; Python
with the packages of :data:`NEEDED` must be. Real photos travel as the crops with their pseudo-truth that
``mgcface train-data`` made of them; invented people are drawn there, however they were here.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from backend.errors import OutputError
from backend.face_model.albedo_file import albedo_path
from backend.face_model.registry import find_model
from trainer.data.shards import MANIFEST_FILE, load_manifest
from trainer.train.config import Config, config_text

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 1_000_000

# What a pack may weigh.
LARGEST = 60 * MEGABYTE

# Folders of the project that training runs on, and papers that travel with them.
CODE = ("backend", "trainer")
PAPERS = ("LICENSE", "NOTICE", "LICENSES", "docs/training.md")
NEEDED = ("numpy", "scipy", "pillow", "numba", "safetensors", "torch", "typer", "rich")

README = """# Training pack

    sh train.sh                  # trains on the GPU until it is done; again goes on from the last checkpoint
    sh train.sh --minutes 9      # stops with a checkpoint after nine minutes

Checkpoints, the log and the weights come into `run/`; `run/encoder.safetensors` is what is used, and is written at
every checkpoint. Several GPUs: `GPUS=8 sh train.sh`. Needs Python 3.10 to 3.12 with {needed}
(on Linux with a GPU, PyTorch brings Triton along). Nothing is fetched. See docs/training.md.
"""

SCRIPT = """#!/bin/sh
# Trains on this machine; what is typed behind the script's name goes to `mgcface train`.
set -e
cd "$(dirname "$0")"
if [ "${GPUS:-1}" -gt 1 ]; then
    exec python3 -m torch.distributed.run --standalone --nproc-per-node "$GPUS" -m backend.cli train \\
        --config config.toml --out run --resume "$@"
fi
exec python3 -m backend.cli train --config config.toml --out run --resume "$@"
"""


def pack(config: Config, folder: Path) -> int:
    """Make the folder; its size in bytes.

    Raises
    ------
    OutputError
        The folder is there already, cannot be written, or would be too large.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is there already; name a folder that is new or empty.")
    model = find_model(config.data.model)
    skip = shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc", "*.pyc")
    try:
        for name in (*CODE, *PAPERS):
            source, target = ROOT / name, folder / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=skip)
            elif source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        inside = model.resolve().is_relative_to(ROOT / "backend")
        place = model.resolve().relative_to(ROOT) if inside else Path("models") / model.name
        if not inside:
            (folder / "models").mkdir()
            shutil.copy2(model, folder / place)
            if albedo_path(model).is_file():
                shutil.copy2(albedo_path(model), folder / "models")
        photos = _copy_photos(Path(config.data.photos), folder) if config.data.photos else ""
        packed = replace(config, data=replace(config.data, model=place.as_posix(), shards="", photos=photos))
        (folder / "config.toml").write_text(config_text(packed), "utf-8")
        (folder / "README.md").write_text(README.format(needed=", ".join(NEEDED)), "utf-8")
        (folder / "train.sh").write_text(SCRIPT, "utf-8")
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error.strerror}); free some space or choose another folder."
        ) from error
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LARGEST:
        shutil.rmtree(folder)
        raise OutputError(
            f"The pack would have {size / MEGABYTE:.0f} MB and may have {LARGEST / MEGABYTE:.0f}; use a smaller face "
            f"model than {model.name}" + (" or fewer photos (train-data --triplets)." if photos else ".")
        )
    return size


def _copy_photos(source: Path, folder: Path) -> str:
    """Copy a folder of shards as far as its list names them; its name in the pack."""
    target = folder / "photos"
    manifest = load_manifest(source)
    target.mkdir()
    for name in (MANIFEST_FILE, *(shard.name for shard in manifest.shards)):
        shutil.copy2(source / name, target / name)
    return target.name
