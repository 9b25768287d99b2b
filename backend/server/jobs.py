"""Jobs and the order in which their photos are computed: by priority, and in turn between clients.

What is handed to the worker is a batch of photos, not a job: a job of 200 photos leaves room for another
client's one after every batch, and photos of several small jobs go through the fit together.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

# Photos handed to the worker at once. The fit gains little from more than 8 on a CPU (docs/benchmarks/speed.md),
# and a click of another client waits for at most this many.
BATCH_PHOTOS = 8
# Results of a batch that may wait for a slow client: two textures of 4096 with their confidence.
BATCH_BYTES = 1 << 27
# A photo during which the worker has died this often is given up.
MOST_ATTEMPTS = 2

DEFAULT_OPTIONS: dict[str, Any] = {
    "model": "open-head",
    "texture_size": 1024,
    "normal_map": False,
    "all_faces": False,
    "detector": "mediapipe",
    # What the pipeline does by default with this face model.
    "stages": None,
    # One head from all photos of the job, and whether from those too that do not seem to belong.
    "same_person": False,
    "keep_all": False,
}


@dataclass
class JobPhoto:
    """One photo of a job. ``source`` is the path of a file or the bytes of one; the client has ``faces_told``."""

    index: int
    name: str
    source: str | memoryview
    attempts: int = 0
    fraction: float = 0.0
    faces_told: int = 0


@dataclass
class Job:
    """What one client asked for at once.

    Attributes
    ----------
    waiting : deque of JobPhoto
        Not with the worker.
    running : dict of photo index to JobPhoto
        With the worker.
    progress : dict of photo index to message body
        Not told yet; a newer one replaces an older one.
    """

    id: str
    client: bytes
    options: dict[str, Any]
    photos: list[JobPhoto]
    priority: int = 1
    waiting: deque[JobPhoto] = field(default_factory=deque)
    running: dict[int, JobPhoto] = field(default_factory=dict)
    faces: int = 0
    failed: int = 0
    timings_ms: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    progress: dict[int, dict[str, Any]] = field(default_factory=dict)
    progress_told: float = 0.0
    cancelling: bool = False
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.waiting.extend(self.photos)

    @property
    def finished(self) -> bool:
        return not self.waiting and not self.running

    @property
    def fraction(self) -> float:
        """How much of the whole job is done, in [0, 1]."""
        return sum(photo.fraction for photo in self.photos) / len(self.photos)

    @property
    def together(self) -> bool:
        """All photos make one head, so they go to the worker in one batch and nothing else with them."""
        return bool(self.options["same_person"])

    @property
    def size(self) -> int:
        """Bytes of photos that are kept for this job."""
        return sum(len(photo.source) for photo in self.photos if not isinstance(photo.source, str))

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """Photos with the same key can be computed together."""
        return tuple(tuple(value) if isinstance(value, list) else value for _, value in sorted(self.options.items()))

    def end(self, photo: JobPhoto) -> None:
        """This photo is through, well or badly; its bytes are not needed any more."""
        self.running.pop(photo.index, None)
        photo.fraction, photo.source = 1.0, ""

    def take_back(self, photos: Iterable[JobPhoto]) -> None:
        """Photos that the worker did not finish come first the next time."""
        for photo in sorted(photos, key=lambda photo: -photo.index):
            if self.running.pop(photo.index, None) is not None:
                photo.fraction = 0.0
                self.waiting.appendleft(photo)


class JobQueue:
    """All jobs that have not ended."""

    def __init__(self) -> None:
        self.jobs: dict[tuple[bytes, str], Job] = {}
        # Clients in the order of their turns: who was served goes to the end.
        self.turns: dict[bytes, None] = {}

    def add(self, job: Job) -> int:
        """Put a job in; how many photos stand before it at most."""
        before = sum(len(other.waiting) + len(other.running) for other in self.jobs.values())
        self.jobs[job.client, job.id] = job
        self.turns.setdefault(job.client)
        return before

    def remove(self, job: Job) -> None:
        self.jobs.pop((job.client, job.id), None)
        if not self.of_client(job.client):
            self.turns.pop(job.client, None)

    def get(self, client: bytes, id: str) -> Job | None:
        return self.jobs.get((client, id))

    def of_client(self, client: bytes) -> list[Job]:
        return [job for job in self.jobs.values() if job.client == client]

    @property
    def waiting_photos(self) -> int:
        return sum(len(job.waiting) for job in self.jobs.values())

    def next_batch(self, held_back: Iterable[bytes] = ()) -> list[tuple[Job, JobPhoto]]:
        """Take the photos that are computed next; empty when nothing waits.

        The highest priority goes first, the clients that have such jobs take turns photo by photo, and a
        client's own jobs go in their order. Only photos with the same options share a batch. A photo
        during which the worker has died goes alone. Photos of one person are a batch of their own, whole.
        Clients ``held_back`` do not read what they got.
        """
        held_back = set(held_back)
        batch: list[tuple[Job, JobPhoto]] = []
        first = self._next_job(batch, held_back)
        if first is not None and first.together:
            return self._whole_job(first)
        limit = BATCH_PHOTOS
        while len(batch) < limit:
            job = self._next_job(batch, held_back)
            if job is None:
                break
            photo = job.waiting.popleft()
            job.running[photo.index] = photo
            batch.append((job, photo))
            self.turns[job.client] = self.turns.pop(job.client)
            side = job.options["texture_size"]
            texel = 7 if job.options["normal_map"] else 4
            limit = 1 if photo.attempts else min(limit, max(1, BATCH_BYTES // max(1, texel * side * side)))
        return batch

    def _whole_job(self, job: Job) -> list[tuple[Job, JobPhoto]]:
        photos = list(job.waiting)
        job.waiting.clear()
        job.running.update({photo.index: photo for photo in photos})
        self.turns[job.client] = self.turns.pop(job.client)
        return [(job, photo) for photo in photos]

    def _next_job(self, batch: list[tuple[Job, JobPhoto]], held_back: set[bytes]) -> Job | None:
        open_jobs = [
            job for job in self.jobs.values() if job.waiting and not job.cancelling and job.client not in held_back
        ]
        if batch:
            key = batch[0][0].batch_key
            open_jobs = [job for job in open_jobs if job.batch_key == key and not job.waiting[0].attempts]
        if not open_jobs:
            return None
        turn = {client: place for place, client in enumerate(self.turns)}
        # min() takes the first of equals, and jobs stand in the order in which they came.
        return min(open_jobs, key=lambda job: (-job.priority, turn[job.client]))
