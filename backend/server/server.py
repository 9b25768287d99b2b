"""The server's loop: one thread that owns the ROUTER socket and never waits for anything but messages.

Requests come in and are checked; jobs go to :mod:`backend.server.compute`; what takes long (reading face
models) goes to a thread of its own; answers go out through :mod:`backend.server.outbox`.
"""

from __future__ import annotations

import hmac
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import Any

import zmq

from backend import __version__
from backend.errors import MgcFaceError
from backend.protocol.messages import MAX_PHOTOS, MAX_PHOTOS_OF_ONE_PERSON, TEXTURE_SIZES, check_from_client
from backend.protocol.wire import (
    MAX_ARRAYS,
    MAX_MESSAGE_BYTES,
    PROTOCOL,
    Message,
    ProtocolError,
    decode,
    encode,
    peek_type,
)
from backend.server.compute import Compute
from backend.server.inbox import Inbox
from backend.server.jobs import DEFAULT_OPTIONS, Job, JobPhoto
from backend.server.keys import Keys
from backend.server.outbox import HIGH_WATER, Outbox
from backend.server.parents import Parents
from backend.vision.decode import MAX_MEGAPIXELS

log = logging.getLogger(__name__)

# What one client may have open, so that a program gone wild fills neither the queue nor the memory.
JOBS_PER_CLIENT = 64
BYTES_PER_CLIENT = 1 << 30
# Requests handled before the worker and the clock get their turn.
REQUESTS_PER_TURN = 32
# Requests that wait in ZeroMQ for one client; the rest waits on its side.
INCOMING_PER_CLIENT = 16
# A connection that has not shown a valid key by then is closed, milliseconds.
HANDSHAKE_MS = 5000
# ZeroMQ's own heartbeat finds machines that have gone without a word.
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 5000, 30000
# How often the loop looks at what no message tells of: parents, full outboxes.
LOOK_EVERY_S = 1.0
RETRY_SEND_S = 0.02
# Broken messages of a client are logged at these counts and not each.
LOGGED_COUNTS = (1, 10, 100, 1000, 10000, 100000)
LONGEST_NAME = 200
# Clients that the server remembers having met.
REMEMBERED = 4096

# What every client may ask for.
CAPABILITIES = ("reconstruct", "same_person", "models", "priority", "normal_map")


class Server:
    """Listens, answers, computes, until asked to stop.

    Parameters
    ----------
    bind : str
        ZeroMQ address; a port of ``*`` takes a free one.
    device : {"auto", "cpu", "cuda"}
    proof : str
        The secret of the file that shows a client to be on this machine; empty where paths are never opened.
    parents : Parents
    """

    def __init__(self, bind: str, device: str, proof: str, parents: Parents) -> None:
        self.proof, self.parents = proof, parents
        self.context = zmq.Context()
        self.keys = Keys()
        self.router = self.context.socket(zmq.ROUTER)
        self.authenticator = self.keys.guard(self.router, self.context)
        self.inbox = Inbox(self.context)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.LINGER, 500),
            (zmq.SNDHWM, HIGH_WATER),
            (zmq.RCVHWM, INCOMING_PER_CLIENT),
            (zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
            (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
            (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS),
        ):
            self.router.setsockopt(option, value)
        try:
            self.router.bind(bind)
        except zmq.ZMQError:
            self._close_sockets()
            raise
        self.address = bytes(self.router.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode("ascii")  # type: ignore[arg-type]
        self.outbox = Outbox(self.router)
        self.compute = Compute(device, self.inbox, self.tell)
        self.reader = ThreadPoolExecutor(1, thread_name_prefix="models")
        # ROUTER sockets do not tell when a client leaves, so these are bounded.
        self.local: dict[bytes, None] = {}
        self.clients: dict[bytes, None] = {}
        self.broken: dict[bytes, int] = {}
        self.stopping = ""

    # -- the loop --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until a shutdown is asked for or every parent has gone."""
        poller = zmq.Poller()
        poller.register(self.router, zmq.POLLIN)
        poller.register(self.inbox.socket, zmq.POLLIN)
        look_at = time.monotonic()
        while not self.stopping:
            poller.poll(round(1e3 * max(0.0, self._wake_at(look_at) - time.monotonic())))
            self._read_requests()
            for put in self.inbox.take():
                self._take(put)
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + LOOK_EVERY_S
                if self.parents.all_gone():
                    self.stop("the programs that it was started for have ended")
            for client in self.outbox.flush():
                self._forget(client)
            self.compute.turn(self.outbox.slow_clients())
        log.info("stops: %s", self.stopping)

    def stop(self, reason: str) -> None:
        """End the loop after what it is doing; the loop's own thread calls this, from a signal too."""
        self.stopping = reason
        self.inbox.wake()

    def close(self) -> None:
        """Tell the clients, end the worker, free the address."""
        for client in self.clients:
            self.outbox.send(client, encode(Message("closing")))
        self.compute.close()
        self.reader.shutdown(wait=False, cancel_futures=True)
        self._close_sockets()

    def _close_sockets(self) -> None:
        self.inbox.close()
        self.router.close()
        self.authenticator.stop()
        self.context.term()

    def _wake_at(self, look_at: float) -> float:
        times = [look_at, self.compute.next_due()]
        if self.outbox.waiting:
            times.append(time.monotonic() + RETRY_SEND_S)
        return min(due for due in times if due is not None)

    def _take(self, put: Any) -> None:
        """What a thread has put down: the worker's words, or an answer that took a while."""
        sender, content = put
        if isinstance(sender, bytes):
            if not self.outbox.send(sender, content):
                self._forget(sender)
        else:
            self.compute.hear(sender, content)

    # -- requests ------------------------------------------------------------------------------------

    def _read_requests(self) -> None:
        for _ in range(REQUESTS_PER_TURN):
            try:
                client, *frames = self.router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._handle(bytes(client.buffer), frames)

    def _handle(self, client: bytes, frames: Sequence[Any]) -> None:
        """One request; whatever is wrong with it is answered in a sentence and harms nobody."""
        try:
            message = decode(frames)
            check_from_client(message)
            getattr(self, f"_on_{message.type}")(client, message)
        except ProtocolError as error:
            count = self.broken.get(client, 0) + 1
            remember(self.broken, client, count)
            if count in LOGGED_COUNTS:
                log.warning("client %s: broken message number %d: %s", client.hex(), count, error)
            # A job that is refused has ended, and every job ends in the same few words.
            kind = "failed" if error.job and peek_type(frames) == "reconstruct" else "error"
            self._answer(client, kind, error.job, code=error.code, message=str(error))

    def _answer(self, client: bytes, kind: str, id: str, **body: Any) -> None:
        if not self.outbox.send(client, encode(Message(kind, id, body))):
            self._forget(client)

    def _on_hello(self, client: bytes, message: Message) -> None:
        if message.body["protocol"] != PROTOCOL:
            raise ProtocolError(
                f"The client speaks protocol version {message.body['protocol']} and this backend {PROTOCOL}; "
                "update the older of the two.",
                "version",
                message.id,
            )
        proof = message.body.get("local_proof", "")
        if self.proof and hmac.compare_digest(proof.encode("utf-8"), self.proof.encode("ascii")):
            remember(self.local, client)
        remember(self.clients, client)
        who = {key: str(value)[:80] for key, value in list(message.body["client"].items())[:4]}
        log.info("client %s: %s, local files: %s", client.hex(), who, client in self.local)
        self._later(client, message.id, self._introduction, client in self.local)

    def _introduction(self, local: bool) -> Message:
        """The server's hello; runs in the reader's thread."""
        from backend.server.catalogue import model_list

        body = {
            "protocol": PROTOCOL,
            "server_version": __version__,
            "pid": os.getpid(),
            "device": self.compute.device,
            "ready": self.compute.ready,
            "problem": self.compute.unable,
            "models": model_list(),
            "capabilities": [*CAPABILITIES, *(["local_files"] if local else [])],
            "limits": {
                "message_bytes": MAX_MESSAGE_BYTES,
                "arrays": MAX_ARRAYS,
                "photo_pixels": int(MAX_MEGAPIXELS * 1e6),
                "photos_per_job": MAX_PHOTOS,
                "photos_of_one_person": MAX_PHOTOS_OF_ONE_PERSON,
                "jobs": JOBS_PER_CLIENT,
                "texture_sizes": list(TEXTURE_SIZES),
            },
        }
        return Message("hello", body=body)

    def _on_model(self, client: bytes, message: Message) -> None:
        def read(name: str) -> Message:
            from backend.server.catalogue import model_message

            return Message("model", "", *model_message(name))

        self._later(client, message.id, read, message.body["name"])

    def _later(self, client: bytes, id: str, work: Callable[..., Message], *arguments: Any) -> None:
        """Do this in the reader's thread and answer when it is done."""

        def answer() -> None:
            try:
                reply = work(*arguments)
                frames = encode(Message(reply.type, id, reply.body, reply.arrays))
            except (MgcFaceError, ProtocolError) as error:
                frames = encode(Message("error", id, {"code": error.code, "message": str(error)}))
            except Exception:
                log.exception("a request could not be answered")
                text = "Something went wrong in the backend that should not have; please report it with its log."
                frames = encode(Message("error", id, {"code": "bug", "message": text}))
            self.inbox.put((client, frames))

        self.reader.submit(answer)

    def _on_ping(self, client: bytes, message: Message) -> None:
        queue, compute = self.compute.queue, self.compute
        jobs = [job.id for job in queue.of_client(client)]
        state = {"ready": compute.ready, "device": compute.device, "problem": compute.unable}
        self._answer(
            client, "pong", message.id, busy=bool(compute.batch), queued=queue.waiting_photos, jobs=jobs, **state
        )

    def _on_attach(self, client: bytes, message: Message) -> None:
        """Another program on this machine wants the server to stay until it ends."""
        if client not in self.local:
            raise ProtocolError("Only a program on the server's own machine can be waited for.", "denied", message.id)
        if not self.parents.add(message.body["pid"]):
            raise ProtocolError("There is no process of that number.", "denied", message.id)
        self._answer(client, "attached", message.id)

    def _on_detach(self, client: bytes, message: Message) -> None:
        """A program that was waited for needs the server no longer; the last of them ends it."""
        if client not in self.local:
            raise ProtocolError("Only a program on the server's own machine can be waited for.", "denied", message.id)
        others = self.parents.remove(message.body["pid"])
        self._answer(client, "detached", message.id, others=others)
        if self.parents.all_gone():
            self.stop("the last program that needed it has left")

    def _on_shutdown(self, client: bytes, message: Message) -> None:
        self.stop("a client asked for it")

    def _on_cancel(self, client: bytes, message: Message) -> None:
        job = self.compute.queue.get(client, message.body["job"])
        if job is not None:  # it may have ended while the request was on its way
            self.compute.cancel(job)

    def _on_reconstruct(self, client: bytes, message: Message) -> None:
        open_jobs = self.compute.queue.of_client(client)
        if any(job.id == message.id for job in open_jobs):
            raise ProtocolError("A job of this id is still open; choose another id.", "busy", "")
        kept = sum(job.size for job in open_jobs) + sum(array.nbytes for array in message.arrays.values())
        if len(open_jobs) >= JOBS_PER_CLIENT or kept > BYTES_PER_CLIENT:
            text = "Too many jobs of yours wait already; wait for some of them or cancel them."
            self._answer(client, "failed", message.id, code="busy", message=text)
            return
        photos = [self._photo(client, index, photo, message) for index, photo in enumerate(message.body["photos"])]
        known = {key: value for key, value in message.body.get("options", {}).items() if key in DEFAULT_OPTIONS}
        job = Job(message.id, client, {**DEFAULT_OPTIONS, **known}, photos, message.body.get("priority", 1))
        position = self.compute.add(job)
        log.info("job %s of client %s: %d photos, %s", job.id, client.hex(), len(photos), job.options)
        self.tell(job, encode(Message("accepted", job.id, {"queue_position": position})))

    def _photo(self, client: bytes, index: int, photo: dict[str, Any], message: Message) -> JobPhoto:
        name = PurePath(photo["name"].replace("\\", "/")).name[:LONGEST_NAME] or f"photo {index + 1}"
        if "path" not in photo:
            return JobPhoto(index, name, message.arrays[photo["array"]].data)
        if client not in self.local:
            raise ProtocolError(
                "This backend opens no files by their path for you; send the bytes of the photos.", "denied", message.id
            )
        if not os.path.isabs(photo["path"]):
            raise ProtocolError("The path of a photo has to begin at the root of the disk.", job=message.id)
        return JobPhoto(index, name, photo["path"])

    # -- answers of jobs -----------------------------------------------------------------------------

    def tell(self, job: Job, frames: Sequence[Any]) -> bool:
        """A job's message to its client; False when that is gone."""
        return self.outbox.send(job.client, frames)

    def _forget(self, client: bytes) -> None:
        """A client that has gone: nothing of it is computed any more."""
        self.outbox.forget(client)
        for table in (self.local, self.clients, self.broken):
            table.pop(client, None)
        for job in self.compute.queue.of_client(client):
            self.compute.drop(job)


def remember(table: dict[bytes, Any], client: bytes, value: Any = None) -> None:
    """Put a client down, and let the one go that was put down longest ago when there are too many."""
    table[client] = value
    if len(table) > REMEMBERED:
        table.pop(next(iter(table)))
