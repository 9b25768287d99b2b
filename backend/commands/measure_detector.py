"""``mgcface measure-detector``: the weights that the fit starts from. The work is the package ``trainer``."""

from __future__ import annotations

from pathlib import Path

from backend.commands import console
from backend.commands.progress import fraction_bar
from backend.errors import DependencyError, PhotoError

# What a folder of portraits may hold; anything else in it is passed over.
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")


def run(model: str, people: int, skins: list[Path], workers: int, out: Path, quiet: bool) -> int:
    try:
        from trainer import measure_detector
    except ModuleNotFoundError as error:
        raise DependencyError(f'Measuring needs {error.name}; install it with: pip install -e ".[train]".') from error

    photos = [photo for folder in skins for photo in photos_in(folder)]
    with fraction_bar("painting and detecting", quiet) as show:
        progress = (lambda done: show(done, "")) if show else None
        found, missed = measure_detector.run(model, people, workers, out, progress, photos)
    if not quiet:
        console.say(f"{out}: learned from {found} people, {missed} were not detected")
    return console.EXIT_DONE


def photos_in(folder: Path) -> list[Path]:
    """The photos that lie in a folder, by name."""
    if not folder.is_dir():
        raise PhotoError(f"The folder {folder} is missing; name one that holds portraits.")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES)
    if not found:
        raise PhotoError(f"There is no photo in {folder}; name a folder that holds portraits.")
    return found
