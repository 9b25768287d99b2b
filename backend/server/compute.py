"""Jobs on their way through the worker: batches out, results in, stops, deaths and second tries.

Runs in the server's loop and never waits. Every job leaves through :meth:`Compute.finish`, once.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backend.protocol.wire import MAGIC, MAX_MESSAGE_BYTES, Message, decode_header, encode
from backend.server.inbox import Inbox
from backend.server.jobs import MOST_ATTEMPTS, Job, JobPhoto, JobQueue
from backend.server.worker_process import WorkerProcess

log = logging.getLogger(__name__)

# The pipeline asks between its stages whether to stop. A worker that has not heard by then is ended, so that a
# cancel takes effect within a second at every stage.
STOP_PATIENCE_S = 0.6
# A worker that dies before it was ever ready is started again after a while, and after so many times only when
# another job comes.
RETRY_S, MOST_STARTS = 2.0, 3
# Progress of one job, seconds between two messages: at most 10 a second.
PROGRESS_EVERY_S = 0.1

STAGE_TEXTS = {
    "decode": "Reading the photo",
    "detect": "Finding the face",
    "regress": "Looking at the face",
    "fit": "Fitting the head",
    "refine": "Refining the head",
    "texture": "Taking the texture from the photo",
    "done": "Done",
}

# Sends a message to a job's client; False when it is gone.
Tell = Callable[[Job, Sequence[Any]], bool]


class Compute:
    """The queue and the one worker.

    Parameters
    ----------
    device : str
    inbox : Inbox
        Where the worker's threads put ``(worker, frames or None)``.
    tell : callable
        How messages reach the client of a job.
    """

    def __init__(self, device: str, inbox: Inbox, tell: Tell) -> None:
        self.device_wanted, self.inbox, self.tell = device, inbox, tell
        self.queue = JobQueue()
        self.device = ""
        self.unable = ""
        self.batch = ""
        self.batch_photos: list[tuple[Job, JobPhoto]] = []
        self.kill_at: float | None = None
        self.retry_at: float | None = None
        self.failed_starts = 0
        self.worker: WorkerProcess | None = None
        self.start_worker()

    @property
    def ready(self) -> bool:
        return self.worker is not None and self.device != ""

    def start_worker(self) -> None:
        self.retry_at, self.device, self.unable = None, "", ""
        self.worker = WorkerProcess(self.device_wanted, lambda worker, frames: self.inbox.put((worker, frames)))
        log.info("worker %d started", self.worker.pid)

    def close(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.close()

    # -- jobs in and out -----------------------------------------------------------------------------

    def add(self, job: Job) -> int:
        position = self.queue.add(job)
        if self.unable:  # perhaps what was missing has been installed since
            self.failed_starts = 0
            self.start_worker()
        return position

    def cancel(self, job: Job) -> None:
        """End a job as soon as the worker has let go of it."""
        if job.cancelling:
            return
        job.cancelling = True
        job.waiting.clear()
        if job.finished:
            self.finish(job, "cancelled")
            return
        self.stop_batch()

    def finish(self, job: Job, kind: str, **body: Any) -> None:
        """Say the last word of a job."""
        self.queue.remove(job)
        job.waiting.clear()
        log.info("job %s: %s %s", job.id, kind, body.get("message", ""))
        self.tell(job, encode(Message(kind, job.id, body)))

    def drop(self, job: Job) -> None:
        """A job whose client has gone."""
        if not job.cancelling:
            log.info("job %s: its client has gone", job.id)
            self.cancel(job)

    def _close_books(self, job: Job) -> None:
        """Say the last word if there is nothing left to do."""
        if (job.client, job.id) not in self.queue.jobs or not job.finished:
            return
        if job.cancelling:
            self.finish(job, "cancelled")
            return
        self.tell_progress(job, force=True)
        timings = {stage: round(spent, 3) for stage, spent in job.timings_ms.items()}
        timings["total"] = round((time.monotonic() - job.started) * 1e3, 3)
        self.finish(job, "done", faces=job.faces, failed=job.failed, timings_ms=timings, notes=job.notes)

    # -- to the worker ---------------------------------------------------------------------------------

    def turn(self, slow_clients: Sequence[bytes]) -> None:
        """What is due now: the next batch, a worker's end or beginning, progress that was held back."""
        now = time.monotonic()
        if self.kill_at is not None and now >= self.kill_at and self.worker is not None:
            log.info("worker %d did not stop in time and is ended", self.worker.pid)
            # Its memory takes a moment to be given back; the jobs and the next worker need not wait for that.
            self.worker.kill()
            self._batch_over()
            self.start_worker()
        if self.retry_at is not None and now >= self.retry_at:
            self.start_worker()
        if self.ready and not self.batch:
            self._send_batch(slow_clients)
        for job in list(self.queue.jobs.values()):
            self.tell_progress(job)

    def next_due(self) -> float | None:
        """Monotonic time of the next thing to do without being asked; None when there is none."""
        times = [due for due in (self.kill_at, self.retry_at) if due is not None]
        times += [job.progress_told + PROGRESS_EVERY_S for job in self.queue.jobs.values() if job.progress]
        return min(times, default=None)

    def _send_batch(self, slow_clients: Sequence[bytes]) -> None:
        photos = self.queue.next_batch(slow_clients)
        if not photos or self.worker is None:
            return
        entries: list[dict[str, Any]] = []
        arrays: dict[str, np.ndarray] = {}
        for place, (job, photo) in enumerate(photos):
            entry: dict[str, Any] = {"job": job.id, "client": job.client.hex(), "index": photo.index}
            entry["name"] = photo.name
            if isinstance(photo.source, str):
                entry["path"] = photo.source
            else:
                entry["array"] = f"photo{place}"
                arrays[f"photo{place}"] = np.frombuffer(photo.source, np.uint8)
            entries.append(entry)
        self.batch, self.batch_photos = uuid.uuid4().hex, photos
        body = {"photos": entries, "options": photos[0][0].options}
        self.worker.send(encode(Message("batch", self.batch, body, arrays), len(photos) * MAX_MESSAGE_BYTES))

    def stop_batch(self) -> None:
        """Ask the worker to let go of its batch, and end it if it does not."""
        if self.worker is not None and self.batch and self.kill_at is None:
            self.worker.send(encode(Message("stop", self.batch)))
            self.kill_at = time.monotonic() + STOP_PATIENCE_S

    # -- from the worker -----------------------------------------------------------------------------

    def hear(self, worker: WorkerProcess, frames: list[bytearray] | None) -> None:
        """One message of a worker, or its end."""
        if worker is not self.worker:
            return
        if frames is None:
            self._worker_ended(worker)
            return
        header = decode_header(frames)
        kind = header["type"]
        if kind == "ready":
            self.device, self.failed_starts = header["device"], 0
            log.info("worker %d is ready on %s", worker.pid, self.device)
        elif kind == "unable":
            self._worker_unable(header["message"])
        elif kind == "batch_done":
            self._batch_over()
        else:
            self._hear_of_job(kind, header, frames)

    def _hear_of_job(self, kind: str, header: dict[str, Any], frames: list[bytearray]) -> None:
        job = self.queue.get(bytes.fromhex(header.pop("client")), header["id"])
        if job is None or job.cancelling:
            return
        photo = job.running.get(header.get("photo", -1))
        if kind == "progress" and photo is not None:
            photo.fraction = max(photo.fraction, header["fraction"])
            if job.together:  # all photos are at the same work, so only the newest word of it is news
                job.progress.clear()
            job.progress[photo.index] = {"photo": photo.index, "stage": header["stage"]}
            self.tell_progress(job)
        elif kind == "face" and photo is not None:
            # A photo whose worker died half-way is computed again; what the client has got it does not get twice.
            if header["face"] >= photo.faces_told:
                job.faces, photo.faces_told = job.faces + 1, header["face"] + 1
                self._pass_on(job, header, frames[2:])
        elif kind == "photo_failed" and photo is not None:
            self._photo_failed(job, photo, header["code"], header["message"])
        elif kind == "photo_done" and photo is not None:
            for stage, spent in header["timings_ms"].items():
                job.timings_ms[stage] = job.timings_ms.get(stage, 0.0) + spent
            self._photo_over(job, photo)
        elif kind == "note":
            if header["text"] not in job.notes:
                job.notes.append(header["text"])
        elif kind == "refused":
            job.running.clear()
            self.finish(job, "failed", code=header["code"], message=header["message"])

    def _pass_on(self, job: Job, header: dict[str, Any], arrays: list[bytearray]) -> None:
        """The worker's arrays go to the client as they are; they were checked where they were made."""
        text = json.dumps(header, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        if not self.tell(job, [MAGIC, text.encode("utf-8"), *arrays]):
            self.drop(job)

    def _photo_failed(self, job: Job, photo: JobPhoto, code: str, message: str) -> None:
        job.failed += 1
        self.tell(
            job, encode(Message("photo_failed", job.id, {"photo": photo.index, "code": code, "message": message}))
        )
        self._photo_over(job, photo)

    def _photo_over(self, job: Job, photo: JobPhoto) -> None:
        job.end(photo)
        job.progress[photo.index] = {"photo": photo.index, "stage": "done"}
        self._close_books(job)

    def _batch_over(self) -> None:
        """The worker has let go of the batch: what it did not finish waits again."""
        photos, self.batch_photos = self.batch_photos, []
        self.batch, self.kill_at = "", None
        for job in {id(job): job for job, _ in photos}.values():
            left = [photo for other, photo in photos if other is job and photo.index in job.running]
            if job.cancelling:
                job.running.clear()
            job.take_back(left)
            self._close_books(job)

    def _worker_ended(self, worker: WorkerProcess) -> None:
        """Start another; a photo that this has happened to too often is given up."""
        reason = worker.end_reason()
        was_ready, self.worker, self.device = self.device != "", None, ""
        for job, photo in self.batch_photos:
            if photo.index not in job.running or job.cancelling:
                continue
            if job.together and job.faces:
                # Its head has gone out; only the last word on this photo was lost.
                self._photo_over(job, photo)
                continue
            photo.attempts += 1
            if photo.attempts >= MOST_ATTEMPTS and job.together:
                job.running.clear()
                self.finish(
                    job, "failed", code="worker", message=worker_died(f"these {len(job.photos)} photos", reason)
                )
            elif photo.attempts >= MOST_ATTEMPTS:
                self._photo_failed(job, photo, "worker", worker_died(photo.name, reason))
        self._batch_over()
        if self.unable:
            return
        log.error("worker %d ended by itself (%s)", worker.pid, reason)
        if was_ready:
            self.start_worker()
            return
        self.failed_starts += 1
        if self.failed_starts >= MOST_STARTS:
            self._worker_unable(f"The computation cannot start ({reason}); run `mgcface doctor` and see the log.")
        else:
            self.retry_at = time.monotonic() + RETRY_S

    def _worker_unable(self, message: str) -> None:
        """The worker cannot compute here at all, a missing library for example: every job hears why."""
        log.error("worker cannot start: %s", message)
        self.unable = message
        for job in list(self.queue.jobs.values()):
            job.running.clear()
            self.finish(job, "failed", code="dependency", message=message)

    # -- progress ------------------------------------------------------------------------------------

    def tell_progress(self, job: Job, force: bool = False) -> None:
        """The oldest news of a job, at most ten times a second; what comes faster is replaced by what is newer."""
        now = time.monotonic()
        while job.progress and (force or now - job.progress_told >= PROGRESS_EVERY_S):
            index = next(iter(job.progress))
            news = job.progress.pop(index)
            job.progress_told = now
            body = {
                **news,
                "fraction": job.photos[index].fraction,
                "job_fraction": round(job.fraction, 4),
                "text": STAGE_TEXTS.get(news["stage"], news["stage"]),
            }
            if not self.tell(job, encode(Message("progress", job.id, body))):
                self.drop(job)
            if force:
                job.progress.clear()


def worker_died(name: str, reason: str) -> str:
    return (
        f"The computation ended by itself twice at {name} ({reason}), most likely because the memory is used up; "
        "use smaller photos or a smaller texture."
    )
