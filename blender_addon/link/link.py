# SPDX-License-Identifier: GPL-3.0-or-later
"""The thread that talks to the backend. It owns the client, and Blender's main thread never waits for it.

Commands go in by a queue, events come out by another; :attr:`Link.status` is what the panel shows. Whatever
goes wrong ends the job with one sentence, and the next job starts from the beginning. No bpy in here.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue

from backend.protocol.client import Client
from backend.protocol.connection import read_connection
from backend.protocol.wire import Message, ProtocolError

from ..scene.head_data import FaceModel, Head, HeadError, layout
from . import events
from .events import Ended, FaceReady, PhotoFailed, Progress, Request, Status
from .launcher import Launcher, LaunchError

# Longest sleep of the thread: how late a command is seen (seconds).
TICK_S = 0.02
# From the start of the process to its first answer: PyTorch is imported from a cold disk in between.
START_S = 90.0
# A backend that was running before is answering in less than this, or it is not there.
GREETING_S = 1.5
# A process that has closed its connections has ended by then.
ENDING_S = 3.0
# It answers in milliseconds that another Blender works with it, or it is ended.
LEAVING_S = 1.0
# One that somebody else started is waited for: nothing can be started in its place.
REMOTE_GREETING_S = 15.0

LOST = "The backend ended in the middle of the work: click Reconstruct Face to start it again."
FROZEN = "The backend stopped answering and was ended: click Reconstruct Face to start it again."
FROZEN_ELSEWHERE = "The backend does not answer any more: see that it runs, then click Reconstruct Face again."


class _GivenUpError(Exception):
    """The artist cancelled, or Blender closes, while the thread waits for something."""


class Link:
    """One backend, one job at a time.

    Parameters
    ----------
    launcher : Launcher or None
        None when the backend runs elsewhere and was started by somebody else.
    connection_file : Path
    name, version : str
        Of the program that talks to the backend, for its log.
    """

    def __init__(self, launcher: Launcher | None, connection_file: Path, name: str, version: str) -> None:
        self.launcher, self.connection_file, self.name, self.version = launcher, connection_file, name, version
        self.status = Status()
        self.events: SimpleQueue[events.Event] = SimpleQueue()
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._client: Client | None = None
        # Models by the sum of their file, and that sum by the name that this connection knows it by.
        self._models: dict[str, FaceModel] = {}
        self._digests: dict[str, str] = {}
        # The connection file as it was before a new backend was started, to see when that has written it.
        self._old_file = b""
        # When the process was started here, and whether it has sent a model since.
        self._launched, self._answered = 0.0, False
        self._model: FaceModel | None = None
        self._job: Request | None = None
        self._stopping, self._cancelled = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mgcface link", daemon=True)
        self._thread.start()

    # -- what the main thread calls; none of these waits, but for close ----------------------------

    def submit(self, request: Request) -> None:
        self._cancelled.clear()
        self._commands.put(lambda: self._begin(request))

    def cancel(self) -> None:
        self._cancelled.set()
        self._commands.put(self._cancel)

    def start(self) -> None:
        """Bring the backend up without a job."""
        # Said at once, so that whoever looks next sees that something happens.
        self.status = Status(events.STARTING, "Looking for the backend")
        self._commands.put(self._start)

    def stop(self) -> None:
        """Let go of the backend; its process ends unless another Blender works with it."""
        self._cancelled.set()
        self._commands.put(self._stop)

    def close(self, wait_s: float = 5.0) -> None:
        """Stop and end the thread; at the end of Blender or of the add-on."""
        self._stopping.set()
        self._thread.join(wait_s)
        if self.launcher is not None:
            self.launcher.kill()

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._take_commands()
                self._listen()
            except _GivenUpError:
                if self._job is not None:
                    self._end(Ended(self._job.id, events.CANCELLED))
                if self._client is None:
                    self.status = Status()
            except (ProtocolError, LaunchError, HeadError) as error:
                self._fail(str(error))
            except Exception as error:
                # Whatever it is, the thread has to live on and the artist has to read something.
                self._fail(f"The add-on met an error ({type(error).__name__}: {error}): use Copy Report and report it.")
        self._stop()

    def _take_commands(self) -> None:
        try:
            while True:
                self._commands.get_nowait()()
        except Empty:
            pass

    def _listen(self) -> None:
        if self._client is None:
            time.sleep(TICK_S)
            return
        for message in self._client.poll(int(TICK_S * 1000)):
            self._handle(message)
        if self._client is not None and self._client.lost is not None:
            self._lose(self._client.lost)

    def _lose(self, error: ProtocolError) -> None:
        """The connection is over: say why in the words of somebody who has buttons."""
        if error.code == "frozen":
            if self.launcher is None or not self.launcher.running:
                raise LaunchError(FROZEN_ELSEWHERE)
            self.launcher.kill()
            raise LaunchError(FROZEN)
        if error.code == "lost":
            if self.launcher is not None:
                # The sockets of a process close a moment before it counts as ended, and the next start asks.
                self.launcher.wait(ENDING_S)
            reason = self.launcher.reason() if self.launcher is not None and self.launcher.ended else ""
            raise LaunchError(LOST if self._job else f"The backend has ended{f' ({reason})' if reason else ''}.")
        raise error

    # -- commands ----------------------------------------------------------------------------------

    def _begin(self, request: Request) -> None:
        self._job = request
        self._check_wanted()
        self._model = self._ready_with(str(request.options["model"]))
        assert self._client is not None
        if request.options.get("same_person") and "same_person" not in self._client.server.get("capabilities", ()):
            raise HeadError("This backend cannot make one head of several photos yet: update it.")
        # Prepared here and kept: the main thread then finds it made.
        layout(self._model, request.eyes, request.scale)
        local = [os.path.abspath(path) for path in request.photos]
        request_id = self._client.reconstruct(local, request.options)
        self._job = replace(request, wire_id=request_id)

    def _ready_with(self, model: str) -> FaceModel:
        """A connected backend and the face model that it sent."""
        while True:
            self._start()
            assert self._client is not None
            self.status = replace(self.status, phase=events.BUSY)
            try:
                return self._face_model(model)
            except ProtocolError as error:
                if error is not self._client.lost:
                    raise
                starting = self.launcher is not None and self.launcher.running and not self._answered
                if error.code != "frozen" or not starting or time.monotonic() > self._launched + START_S:
                    self._lose(error)
                # Just started, on a machine with much else to do: loading libraries may hold it up for seconds.
                self._disconnect()
                self._connect(START_S)

    def _cancel(self) -> None:
        if self._job is not None and self._client is not None and self._job.wire_id:
            self._client.cancel(self._job.wire_id)

    def _start(self) -> None:
        """Connect to the backend that runs, or start one."""
        if self._client is not None:
            return
        self.status = Status(events.STARTING, "Looking for the backend")
        if self.launcher is None:
            self._connect(REMOTE_GREETING_S)
            return
        if not self.launcher.running:
            try:
                self._connect(GREETING_S)
                return
            except ProtocolError:
                # None is there, or one that cannot be used: a new one writes a new file.
                pass
        self._launch()

    def _launch(self) -> None:
        assert self.launcher is not None
        self.status = Status(events.STARTING, "Starting the backend")
        if not self.launcher.running:
            self._old_file = self._file_bytes()
            self._launched = time.monotonic()
            self._answered = False
            self.launcher.start()
        end = time.monotonic() + START_S
        while self._file_bytes() in (b"", self._old_file):
            if self.launcher.ended:
                if self.launcher.end() == 0 and self._file_bytes():
                    # It found one that runs, slow to answer, and left it the work.
                    break
                reason = self.launcher.reason() or "it said nothing"
                raise LaunchError(f"The backend could not start ({reason}): see its log, or click Set Up Backend.")
            if time.monotonic() > end:
                self.launcher.kill()
                raise LaunchError(f"The backend did not start within {START_S:.0f} seconds: see its log.")
            time.sleep(TICK_S)
            self._check_wanted()
        try:
            self._connect(max(GREETING_S, end - time.monotonic()))
        except ProtocolError:
            # A process that does not let its own Blender in is of no use; the next click starts another.
            self.launcher.kill()
            raise

    def _file_bytes(self) -> bytes:
        """What the connection file holds; nothing when it is not there."""
        try:
            return self.connection_file.read_bytes()
        except OSError:
            return b""

    def _stop(self) -> None:
        connected = self._client is not None and self._client.lost is None
        stays = connected and self.launcher is not None and self._leave()
        if self._job is not None:
            self._end(Ended(self._job.id, events.CANCELLED))
        self._disconnect()
        if self.launcher is not None:
            if stays:
                self.launcher.release()
            else:
                self.launcher.end(asked=connected)
        self.status = Status()

    def _leave(self) -> bool:
        """Tell the backend that this Blender needs it no longer; whether it stays for another one."""
        assert self._client is not None
        try:
            self._cancel()
            question = self._client.send("detach", {"pid": os.getpid()})
            end = time.monotonic() + LEAVING_S
            while self._client.lost is None and time.monotonic() < end:
                for message in self._client.poll(int(TICK_S * 1000)):
                    if message.type == "detached" and message.id == question:
                        return message.body["others"] > 0
        except ProtocolError:
            pass
        return False

    # -- the connection ----------------------------------------------------------------------------

    def _connect(self, patience_s: float) -> None:
        """Read the connection file and hear the backend's hello; raises ProtocolError."""
        connection = read_connection(self.connection_file)
        self._client = Client(connection, self.name, self.version)
        try:
            self._wait_for("hello", patience_s)
            if self.launcher is not None:
                # A backend that another Blender started stays for this one too.
                self._client.send("attach", {"pid": os.getpid()})
        except (ProtocolError, _GivenUpError):
            self._disconnect()
            raise
        owned = self.launcher is not None and self.launcher.running
        self.status = Status(events.READY, "", self._client.server, owned)

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None
        self._digests.clear()

    def _wait_for(self, kind: str, patience_s: float, question: str = "") -> Message:
        """The next message of a kind; raises ProtocolError when it does not come."""
        assert self._client is not None
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            self._check_wanted()
            for message in self._client.poll(int(TICK_S * 1000)):
                if message.type == kind and question in ("", message.id):
                    return message
                if message.type == "error":
                    raise ProtocolError(message.body["message"], message.body["code"])
            if self._client.lost is not None:
                raise self._client.lost
        raise ProtocolError("The backend does not answer: stop it and start it again.", "lost")

    def _check_wanted(self) -> None:
        """Leave a wait that nobody is interested in any more."""
        if self._stopping.is_set() or (self._job is not None and self._cancelled.is_set()):
            raise _GivenUpError

    def _face_model(self, name: str) -> FaceModel:
        assert self._client is not None
        if name not in self._digests:
            answer = self._wait_for("model", START_S, self._client.send("model", {"name": name}))
            digest = self._digests[name] = answer.body["sha256"]
            self._answered = True
            # A backend that was started again brings the same model: what was made of it stays.
            if digest not in self._models:
                self._models[digest] = FaceModel.from_message(answer.body, answer.arrays)
        return self._models[self._digests[name]]

    # -- messages ----------------------------------------------------------------------------------

    def _handle(self, message: Message) -> None:
        job, body = self._job, message.body
        if message.type == "pong":
            # The device is known only when the models are loaded.
            heard = {key: body[key] for key in ("device", "ready")}
            if any(self.status.hello.get(key) != value for key, value in heard.items()):
                self.status = replace(self.status, hello={**self.status.hello, **heard})
        if message.type == "closing" and job is None:
            raise ProtocolError("The backend was stopped.", "lost")
        if job is None or message.id != job.wire_id:
            return
        if message.type == "progress":
            of_photo, of_job = (min(1.0, max(0.0, float(body[name]))) for name in ("fraction", "job_fraction"))
            self.events.put(Progress(job.id, body["photo"], body["stage"], of_photo, of_job, body["text"]))
        elif message.type == "face":
            if self._model is None or not body["photo"] < len(job.photos):
                raise HeadError("The backend sent a head that nobody asked for: restart the backend.")
            head = Head.from_message(self._model, body, message.arrays, *job.photos)
            self.events.put(FaceReady(job.id, body["photo"], head))
        elif message.type == "photo_failed":
            self.events.put(PhotoFailed(job.id, body["photo"], body["message"]))
        elif message.type == "done":
            self._end(Ended(job.id, events.DONE, notes=tuple(body.get("notes", ()))))
        elif message.type == "cancelled":
            self._end(Ended(job.id, events.CANCELLED))
        elif message.type == "failed":
            if self._client is not None and self._client.lost is not None:
                self._lose(self._client.lost)
            self._end(Ended(job.id, events.FAILED, body["message"]))

    def _end(self, event: Ended) -> None:
        self._job = None
        if self.status.phase == events.BUSY:
            self.status = replace(self.status, phase=events.READY)
        self.events.put(event)

    def _fail(self, sentence: str) -> None:
        """Let go of everything and say why; the next job connects or starts anew."""
        self._disconnect()
        if self.launcher is not None and not self.launcher.running:
            self.launcher.end()
        if self._job is not None:
            self._end(Ended(self._job.id, events.FAILED, sentence))
        self.status = Status(events.STOPPED, sentence)
