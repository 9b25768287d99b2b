"""Sets of training samples on disk: tar files that the package ``webdataset`` reads too, and a list of them.

A sample is some files of a tar that follow each other and share a name up to the first dot, as WebDataset has it:
``00000017.photos.npy``, ``00000017.truth.npy``. The package itself is not needed: what it does beyond reading a tar
(fetching from servers, shuffling in a buffer, spreading over workers) either is of no use here or would cost a run
that goes on after a stop its order. Tars are written uncompressed, so that samples are read in place from the mapped
file and the system keeps in memory what fits.

``shards.json`` beside the tars says what the samples are; :class:`Manifest`.

Symbols: N views of a sample, T numbers of a truth.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from backend.errors import TrainingError
from backend.face_model.file_format import write_atomically

MANIFEST_FILE = "shards.json"
FORMAT_VERSION = 1
KIND = "training_shards"

# Where samples come from.
DRAWN, PHOTOS = "drawn", "photos"

# A sample's files: name behind the first dot -> content, or where it lies in the shard.
Sample = Mapping[str, bytes | memoryview]


@dataclass(frozen=True)
class Shard:
    """One tar: its ``name`` in the folder, how many ``samples`` and ``bytes`` it has."""

    name: str
    samples: int
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds.

    Attributes
    ----------
    origin : str
        ``drawn``: invented people with all that is true of them. ``photos``: real ones with what a fit says.
    face_model : str
        Fingerprint, see :class:`trainer.data.synthetic.Head`.
    side : int
        Of the crops, pixels.
    columns : dict of str to (int, int)
        Where each part of the truth begins and ends in the T numbers of ``truth.npy``.
    made_with : dict
        All that decides what the samples are; two sets with the same are the same.
    shards : tuple of Shard
    """

    origin: str
    face_model: str
    side: int
    columns: dict[str, tuple[int, int]]
    made_with: dict
    shards: tuple[Shard, ...] = ()

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """8 hexadecimal digits; other samples have others."""
        return hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=4).hexdigest()

    def same_set(self, other: Manifest) -> bool:
        """Both are of one set, which may not be complete in either."""
        return replace(self, shards=()) == replace(other, shards=())


def save_manifest(folder: Path, manifest: Manifest) -> None:
    about = {"kind": KIND, "format_version": FORMAT_VERSION, **asdict(manifest)}
    write_atomically(folder / MANIFEST_FILE, (json.dumps(about, indent=1, sort_keys=True) + "\n").encode())


def load_manifest(folder: Path) -> Manifest:
    """The list of a folder; :class:`TrainingError` where there is none."""
    path = folder / MANIFEST_FILE
    try:
        about = json.loads(path.read_text("utf-8"))
        if about["kind"] != KIND or about["format_version"] > FORMAT_VERSION:
            raise ValueError(about["kind"], about["format_version"])
        shards = tuple(Shard(str(s["name"]), int(s["samples"]), int(s["bytes"])) for s in about["shards"])
        # Names come from a file: none of them may lead out of the folder.
        if any(Path(shard.name).name != shard.name or shard.samples < 1 for shard in shards):
            raise ValueError("a shard's name or count")
        columns = {str(name): (int(low), int(high)) for name, (low, high) in about["columns"].items()}
        origin, model = str(about["origin"]), str(about["face_model"])
        return Manifest(origin, model, int(about["side"]), columns, dict(about["made_with"]), shards)
    except FileNotFoundError as error:
        raise TrainingError(
            f"{folder} holds no training data ({MANIFEST_FILE} is missing); make some with `mgcface train-data`."
        ) from error
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise TrainingError(f"{path} is damaged or of another version ({error}); make the data again.") from error


# --- tars -------------------------------------------------------------------------------------------------


def write_shard(path: Path, samples: Iterable[tuple[str, Sample]]) -> int:
    """Write samples (key, files) into a tar, whole or not at all; how many. Equal samples give equal bytes."""
    content, count = io.BytesIO(), 0
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, files in samples:
            for name, data in files.items():
                entry = tarfile.TarInfo(f"{key}.{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
            count += 1
    write_atomically(path, content.getvalue())
    return count


class OpenShard:
    """A tar whose samples are read where they lie.

    Raises
    ------
    TrainingError
        The file is missing or damaged, or holds another number of samples than the list says.
    """

    def __init__(self, path: Path, samples: int) -> None:
        self.path = path
        self.places: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with open(path, "rb") as file:
                self.memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for entry in tar:
                        key, _, name = entry.name.partition(".")
                        if entry.offset_data + entry.size > len(self.memory):
                            raise ValueError("it is cut off")
                        self.places.setdefault(key, {})[name] = (entry.offset_data, entry.size)
        except (OSError, ValueError, tarfile.TarError) as error:
            raise TrainingError(f"{path} is missing or damaged ({error}); make the training data again.") from error
        if len(self.places) != samples:
            raise TrainingError(
                f"{path} holds {len(self.places)} samples and {MANIFEST_FILE} says {samples}; make the data again."
            )
        self.keys = list(self.places)

    def __getitem__(self, number: int) -> dict[str, memoryview]:
        """The files of a sample."""
        places = self.places[self.keys[number]]
        return {name: self.memory[start : start + size] for name, (start, size) in places.items()}
