"""Invented people drawn into shards: once on a CPU, to be trained on many times.

A shard is a function of the configuration and its number, so work that stopped goes on with the shards that are
missing, and any number of processes draws the same people: their pictures differ in last digits at most.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from backend.errors import Cancelled, TrainingError
from backend.face_model.albedo import Albedo
from backend.face_model.model import FaceModel
from trainer.data.sample_files import columns_for, files_of
from trainer.data.shards import DRAWN, MANIFEST_FILE, Manifest, Shard, load_manifest, save_manifest, write_shard
from trainer.data.synthetic import Head, SyntheticFaces

# Triplets that are drawn at a time, and that one shard holds.
AT_ONCE, PER_SHARD = 8, 256

# Raised whenever the same seed comes to draw other pictures: sets of two kinds must not be mixed unseen.
DRAWN_BY = 4

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Drawing:
    """What is drawn.

    Attributes
    ----------
    side, seed, looks, supersampling, one_moment, one_sitting
        See :class:`trainer.data.synthetic.SyntheticFaces`.
    """

    side: int
    seed: int
    looks: int
    supersampling: int
    one_moment: float
    one_sitting: float

    def faces(self, head: Head) -> SyntheticFaces:
        return SyntheticFaces(head, **asdict(self))


def draw_shards(
    drawing: Drawing,
    head: Head,
    folder: Path,
    triplets: int,
    workers: int = 1,
    progress: Progress | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Manifest:
    """Draw ``triplets`` into a folder, or those that are still missing there.

    Raises
    ------
    TrainingError
        The folder holds another set.
    OutputError
        It cannot be written.
    Cancelled
        The user stopped; shards that are done stay and are listed.
    """
    manifest = begun(drawing, head, folder)
    wanted = [(number, min(PER_SHARD, triplets - number * PER_SHARD)) for number in range(-(-triplets // PER_SHARD))]
    done = {shard.name: shard for shard in manifest.shards if (folder / shard.name).is_file()}
    missing = [job for job in wanted if done.get(shard_name(job[0]), Shard("", 0, 0)).samples < job[1]]
    drawn = sum(shard.samples for shard in done.values())
    for shard in _drawn(missing, drawing, head, folder, workers, cancel):
        drawn += shard.samples
        done[shard.name] = shard
        manifest = replace(manifest, shards=tuple(done[name] for name in sorted(done)))
        save_manifest(folder, manifest)
        if progress is not None:
            progress(min(drawn / triplets, 1.0), f"{drawn} of {triplets} triplets")
    return manifest


def begun(drawing: Drawing, head: Head, folder: Path) -> Manifest:
    """The list of the folder, or an empty one."""
    fresh = Manifest(
        DRAWN,
        head.fingerprint,
        drawing.side,
        columns_for(head.layout),
        {**asdict(drawing), "at_once": AT_ONCE, "drawn_by": DRAWN_BY},
    )
    if not (folder / MANIFEST_FILE).exists():
        return fresh
    there = load_manifest(folder)
    if not there.same_set(fresh):
        raise TrainingError(f"{folder} holds other training data already; name another folder with --out.")
    return there


@contextmanager
def one_thread() -> Iterator[None]:
    """As many as each of several processes has: sums that threads share differ in their last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def shard_name(number: int) -> str:
    return f"drawn-{number:06d}.tar"


def _drawn(
    jobs: list[tuple[int, int]],
    drawing: Drawing,
    head: Head,
    folder: Path,
    workers: int,
    cancel: Callable[[], bool],
) -> Iterator[Shard]:
    """The shards, as they are done."""
    if not jobs:
        return
    if workers <= 1:
        with one_thread():
            faces = drawing.faces(head)
            for number, count in jobs:
                yield _draw(faces, folder, number, count, cancel)
        return
    albedo = None if head.skin_albedo is None else head.skin_albedo.source
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(workers, context, _start, (drawing, head.model, albedo, str(head.device), stop)) as pool:
        waiting = {pool.submit(_draw_here, folder, *job) for job in jobs}
        try:
            while waiting:
                ready, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                if cancel():
                    raise Cancelled("Drawing was stopped; the same command goes on with it.")
                for future in ready:
                    yield future.result()
        finally:
            stop.set()
            for future in waiting:
                future.cancel()


def _draw(faces: SyntheticFaces, folder: Path, number: int, count: int, cancel: Callable[[], bool]) -> Shard:
    """Draw one shard of ``count`` triplets."""
    samples = []
    for start in range(0, count, AT_ONCE):
        if cancel():
            raise Cancelled("Drawing was stopped; the same command goes on with it.")
        first = number * PER_SHARD + start
        batch = faces.batch(first // AT_ONCE, min(AT_ONCE, count - start))
        samples += [(f"{first + index:08d}", files) for index, files in enumerate(files_of(batch))]
    path = folder / shard_name(number)
    return Shard(path.name, write_shard(path, samples), path.stat().st_size)


# --- in a process of its own ------------------------------------------------------------------------------

_mine: dict = {}


def _start(drawing: Drawing, model: FaceModel, albedo: Albedo | None, device: str, stop) -> None:
    # Ctrl-C reaches every process of a terminal; only the first one answers, and says so here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _mine.update(faces=drawing.faces(Head(model, torch.device(device), albedo)), stop=stop)


def _draw_here(folder: Path, number: int, count: int) -> Shard:
    return _draw(_mine["faces"], folder, number, count, _mine["stop"].is_set)
