"""Real photos and videos into shards, as :mod:`trainer.data.draw_shards` puts invented people there.

Folders hold photos of anybody, or a folder for each person; a pattern may tell people apart by their files' names.
What was refused, and why, stands in ``refused.csv`` beside the shards.

Symbols: N views of a triplet, S side of a crop, T numbers of a truth.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from backend.errors import PhotoError, TrainingError
from backend.face_model.file_format import write_atomically
from trainer.data.photo_triplets import Group, PhotoTriplet, make_triplets, strangers
from trainer.data.photo_views import PhotoReader, PhotoView, Refused
from trainer.data.sample_files import ABOUT, columns_for, npy, png, stacked_grey
from trainer.data.shards import MANIFEST_FILE, PHOTOS, Manifest, Sample, Shard, save_manifest, write_shard
from trainer.data.synthetic import Head
from trainer.data.video import read_video

PER_SHARD = 256
REFUSED_FILE = "refused.csv"

PHOTO_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".heic"))
VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm"))

# Everything of one group that is one moment, for pictures of a ring of cameras.
ALWAYS = float("inf")

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class People:
    """Files of one person, or of anybody: ``person`` is None."""

    person: str | None
    files: tuple[Path, ...]


@dataclass
class Read:
    """What was read so far."""

    groups: list[Group] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    @property
    def views(self) -> int:
        return sum(len(group.views) for group in self.groups)


def people_in(folders: Sequence[Path], pattern: str | None = None) -> list[People]:
    """The photos of folders, by person.

    Photos that lie in a folder itself are anybody's, those in each folder below it one person's; with a ``pattern``
    (a regular expression with one group) people are what the group finds in a photo's path within its folder.

    Raises
    ------
    PhotoError
        A folder is missing or holds no photo, or the pattern is none.
    """
    try:
        expression = None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise PhotoError(f'"{pattern}" is no regular expression ({error}); correct --person.') from error
    if expression is not None and expression.groups != 1:
        raise PhotoError(f'"{pattern}" must have one group in parentheses, which is the person; correct --person.')
    result: list[People] = []
    for folder in folders:
        if not folder.is_dir():
            raise PhotoError(f"The folder {folder} is missing; name one that holds photos.")
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file())
        if not paths:
            raise PhotoError(f"There is no photo in {folder}; name a folder that holds photos.")
        people: dict[str | None, list[Path]] = {}
        for path in paths:
            inside = path.relative_to(folder)
            if expression is not None:
                found = expression.search(inside.as_posix())
                person = found.group(1) if found else None
            else:
                person = inside.parts[0] if len(inside.parts) > 1 else None
            people.setdefault(person, []).append(path)
        result += [People(person, tuple(files)) for person, files in people.items()]
    return result


def read_photos(
    people: Sequence[People],
    reader: PhotoReader,
    one_moment: bool = False,
    progress: Progress | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Read:
    """Fit all photos. ``one_moment``: those of a person were taken at once, by several cameras."""
    named = [(str(path), path) for person in people for path in person.files]
    owner = [index for index, person in enumerate(people) for _ in person.files]
    views: list[list[PhotoView]] = [[] for _ in people]
    read = Read()
    for count, (found, index) in enumerate(zip(reader.read(named, cancel), owner), start=1):
        if isinstance(found, Refused):
            read.refused.append(found)
        else:
            views[index].append(found)
        if progress is not None:
            progress(count / len(named), Path(named[count - 1][0]).name)
    for person, mine in zip(people, views):
        if person.person is not None:
            doubted = strangers(mine)
            reason = "The face looks like another person's than the rest; check whose photo it is."
            read.refused += [Refused(view.name, reason) for view, doubt in zip(mine, doubted) if doubt]
            mine = [view for view, doubt in zip(mine, doubted) if not doubt]
        times = tuple(0.0 for _ in mine) if one_moment and person.person is not None else ()
        if mine:
            read.groups.append(Group(tuple(mine), person.person is not None, times, ALWAYS))
    return read


def read_videos(
    files: Sequence[Path],
    reader: PhotoReader,
    per_second: float,
    progress: Progress | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Read:
    """Fit frames of all videos; one that cannot be read stops none of the others."""
    read = Read()
    for number, path in enumerate(files):

        def tell(part: float, number: int = number, path: Path = path) -> None:
            if progress is not None:
                progress((number + part) / len(files), path.name)

        try:
            groups, refused = read_video(path, reader, per_second, cancel, tell)
        except PhotoError as error:
            read.refused.append(Refused(str(path), str(error)))
            continue
        read.groups += groups
        read.refused += refused
    return read


def save_photos(
    read: Read, head: Head, side: int, folder: Path, seed: int, most: int | None, made_with: dict
) -> tuple[Manifest, dict[int, int]]:
    """Make triplets and write them; the list of the shards, and how many triplets have each flag.

    Raises
    ------
    TrainingError
        Nothing was left to write, or the folder holds training data already.
    OutputError
    """
    if (folder / MANIFEST_FILE).exists():
        raise TrainingError(f"{folder} holds training data already; name another folder with --out.")
    save_refused(read.refused, folder)
    if not read.views:
        raise TrainingError(f"No photo was of use; {folder / REFUSED_FILE} says why.")
    triplets = make_triplets(read.groups, seed, most)
    columns = columns_for(head.layout)
    manifest = Manifest(PHOTOS, head.fingerprint, side, columns, {**made_with, "seed": seed, "side": side})
    shards = []
    for start in range(0, len(triplets), PER_SHARD):
        path = folder / f"photos-{start // PER_SHARD:06d}.tar"
        part = triplets[start : start + PER_SHARD]
        samples = ((f"{start + index:08d}", files_of(triplet, columns)) for index, triplet in enumerate(part))
        shards.append(Shard(path.name, write_shard(path, samples), path.stat().st_size))
    manifest = replace(manifest, shards=tuple(shards))
    save_manifest(folder, manifest)
    flags = [triplet.flag for triplet in triplets]
    return manifest, {flag: flags.count(flag) for flag in sorted(set(flags))}


def files_of(triplet: PhotoTriplet, columns: dict[str, tuple[int, int]]) -> Sample:
    """The files of one sample; ``names.json`` is for people."""
    rows = np.stack([np.concatenate([view.numbers[name] for name in columns]) for view in triplet.views])
    about = dict(zip(ABOUT, (triplet.flag, triplet.moved, triplet.one_person, True)))
    return {
        **{f"view{number}.jpg": view.picture for number, view in enumerate(triplet.views)},
        "skin.png": png(stacked_grey([view.skin for view in triplet.views])),
        "truth.npy": npy(rows.astype("<f4")),
        "meta.json": json.dumps(about).encode(),
        "names.json": json.dumps([Path(view.name).name for view in triplet.views]).encode(),
    }


def save_refused(refused: Iterable[Refused], folder: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["photo", "reason"])
    writer.writerows([entry.name, entry.reason] for entry in refused)
    write_atomically(folder / REFUSED_FILE, text.getvalue().encode())


def check_videos(files: Sequence[Path]) -> None:
    """Refuse what is not there before anything else is done."""
    for path in files:
        if not path.is_file():
            raise PhotoError(f"The video {path} is missing; correct its name.")
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise PhotoError(
                f"{path.name} is no video by its name; name files that end in {', '.join(sorted(VIDEO_SUFFIXES))}."
            )
