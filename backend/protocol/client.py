"""A client that never blocks: send, poll, and know within seconds when the backend has gone or hangs.

One thread owns a :class:`Client`, as it owns its sockets. Every job that was sent ends in exactly one
terminal message out of :meth:`Client.poll`, also when the backend dies: the client then says ``failed``
in its place.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from zmq.utils.monitor import parse_monitor_message

from .connection import Connection, prove_local
from .messages import TERMINAL, check_from_client, check_from_server
from .wire import MAX_MESSAGE_BYTES, PROTOCOL, Message, ProtocolError, decode, encode

# A question to a silent server after this many seconds; any traffic counts as a sign of life.
PING_EVERY_S = 1.0
# Waiting for the answer to a ping after which a server counts as frozen: its network side never computes, so it
# answers in milliseconds, and users should hear of it within 5 s.
FROZEN_AFTER_S = 3.0
# How long closing waits for a last `cancel` or `shutdown` to leave, milliseconds.
LINGER_MS = 200
# Messages handed out by one poll: a caller that draws on a screen wants its turn too.
MOST_AT_ONCE = 64

# What the socket's monitor says -> why the connection is lost.
LOST_EVENTS: dict[int, tuple[str, str]] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: ("keys", "The backend does not accept this key; read its connection file again."),
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: (
        "keys",
        "What listens at the address in the connection file has other keys; start the backend again.",
    ),
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: (
        "keys",
        "What listens at the address in the connection file is not the backend; start the backend again.",
    ),
    zmq.EVENT_CLOSED: ("lost", "Nothing listens at the address in the connection file; start the backend."),
    zmq.EVENT_DISCONNECTED: ("lost", "The backend has ended; start it again."),
}


class Client:
    """A connection to one backend.

    Parameters
    ----------
    connection : Connection
    name, version : str
        Who is asking, for the backend's log.

    Attributes
    ----------
    server : dict
        What the backend said of itself in ``hello``; empty until that has arrived.
    lost : ProtocolError or None
        Why this connection is over. Make a new :class:`Client` then.
    """

    def __init__(self, connection: Connection, name: str = "client", version: str = "") -> None:
        self.connection = connection
        self.server: dict[str, Any] = {}
        self.lost: ProtocolError | None = None
        self.jobs: dict[str, float] = {}
        self.heard = self.asked = time.monotonic()
        self.ping = ""
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.maxmsgsize = MAX_MESSAGE_BYTES
        # A new connection would be a new client to the server: jobs belong to the connection.
        self.socket.reconnect_ivl = -1
        self.socket.curve_serverkey = connection.server_public_key.encode("ascii")
        self.socket.curve_publickey = connection.client_public_key.encode("ascii")
        self.socket.curve_secretkey = connection.client_secret_key.encode("ascii")
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_ALL)
        self.poller = zmq.Poller()
        self.poller.register(self.socket, zmq.POLLIN)
        self.poller.register(self.monitor, zmq.POLLIN)
        try:
            self.socket.connect(connection.address)
        except zmq.ZMQError as error:
            self.lost = ProtocolError(
                f"The address {connection.address} cannot be reached ({error.strerror}); start the backend again.",
                "lost",
            )
        hello = {"client": {"name": name, "version": version}, "protocol": PROTOCOL}
        proof = prove_local(connection)
        self.send("hello", {**hello, "local_proof": proof} if proof else hello)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- sending ---------------------------------------------------------------------------------

    def send(
        self,
        kind: str,
        body: Mapping[str, Any] | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
        id: str = "",
    ) -> str:
        """Send one message and return its id (made up when not given); raises :class:`ProtocolError`.

        What is too large or malformed is refused here, before the connection would break over it.
        """
        message = Message(kind, id or uuid.uuid4().hex, dict(body or {}), dict(arrays or {}))
        check_from_client(message)
        frames = encode(message, self.server.get("limits", {}).get("message_bytes", MAX_MESSAGE_BYTES))
        if self.lost is None:
            try:
                self.socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
            except zmq.Again:
                raise ProtocolError("The backend takes nothing in; start it again.", "frozen") from None
        elif kind == "reconstruct":
            raise self.lost
        if kind == "reconstruct":
            self.jobs[message.id] = time.monotonic()
        return message.id

    def reconstruct(
        self, photos: Sequence[Path | str], options: Mapping[str, Any] | None = None, priority: int = 1
    ) -> str:
        """Start a job with these photo files; its id.

        Files go by their path to a server on the same machine and as their bytes to another one.
        Raises :class:`ProtocolError` for a file that cannot be read and for more than one message holds.
        """
        local = "local_files" in self.server.get("capabilities", ())
        entries: list[dict[str, Any]] = []
        arrays: dict[str, np.ndarray] = {}
        for index, path in enumerate(map(Path, photos)):
            if local:
                entries.append({"name": path.name, "path": str(path.absolute())})
                continue
            try:
                arrays[f"photo{index}"] = np.frombuffer(path.read_bytes(), np.uint8)
            except OSError as error:
                reason = error.strerror or type(error).__name__
                raise ProtocolError(f"{path.name} cannot be read ({reason}); check the path.", "photo") from None
            entries.append({"name": path.name, "array": f"photo{index}"})
        body = {"photos": entries, "options": dict(options or {}), "priority": priority}
        return self.send("reconstruct", body, arrays)

    def cancel(self, job: str) -> None:
        self.send("cancel", {"job": job})

    # -- receiving -------------------------------------------------------------------------------

    def poll(self, timeout_ms: int = 0) -> list[Message]:
        """Messages that have come, oldest first; waits up to ``timeout_ms`` for the first.

        Pings a silent server, and turns its end into ``failed`` for every open job. Call this several
        times a second.
        """
        messages: list[Message] = []
        if self.lost is None and dict(self.poller.poll(timeout_ms)):
            messages += self._received()
            self._watch_connection()
            # What was on its way when the server ended is still in the socket and counts.
            messages += self._received() if self.lost else []
        self._keep_alive()
        if self.lost is not None:
            messages += [self._failed(job, self.lost) for job in list(self.jobs)]
        return messages

    def close(self) -> None:
        """Give the sockets back; an open job is cancelled by the server when it notices."""
        if self.socket.closed:
            return
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(LINGER_MS if self.lost is None else 0)
        self.context.term()

    def _received(self) -> list[Message]:
        messages: list[Message] = []
        while len(messages) < MOST_AT_ONCE:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            self.heard = time.monotonic()
            try:
                message = decode(frames)
                check_from_server(message)
            except ProtocolError as error:
                messages += self._give_up(error)
                continue
            messages += self._followed(message)
        return messages

    def _followed(self, message: Message) -> list[Message]:
        """Keeps the books; the message, and what follows from it for jobs."""
        if message.type == "hello":
            self.server = message.body
        elif message.type == "pong" and message.id == self.ping:
            # A job that the server does not know, sent before the ping that this answers, will never end.
            gone = [job for job, sent in self.jobs.items() if sent < self.asked and job not in message.body["jobs"]]
            lost = ProtocolError("The backend has lost this job; click again.", "lost")
            return [message, *(self._failed(job, lost) for job in gone)]
        elif message.type in TERMINAL:
            if self.jobs.pop(message.id, None) is None:
                return []
        elif message.type == "error" and message.id in self.jobs:
            return [message, self._failed(message.id, ProtocolError(message.body["message"], message.body["code"]))]
        return [message]

    def _give_up(self, error: ProtocolError) -> list[Message]:
        """A message that makes no sense ends its job, or the connection where it speaks another version."""
        if error.job in self.jobs:
            self.send("cancel", {"job": error.job})
            return [self._failed(error.job, error)]
        if error.code == "version":
            self.lost = error
        return []

    def _watch_connection(self) -> None:
        while self.lost is None:
            try:
                event = parse_monitor_message(self.monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            reason = LOST_EVENTS.get(int(event["event"]))
            if reason is not None:
                self.lost = ProtocolError(reason[1], reason[0])

    def _keep_alive(self) -> None:
        now = time.monotonic()
        if self.lost is not None:
            return
        if self.heard < self.asked and now - self.asked > FROZEN_AFTER_S:
            self.lost = ProtocolError("The backend does not answer any more; stop it and start it again.", "frozen")
        elif self.heard >= self.asked and now - self.heard > PING_EVERY_S:
            self.asked = now
            try:
                self.ping = self.send("ping")
            except ProtocolError as error:
                self.lost = error

    def _failed(self, job: str, error: ProtocolError) -> Message:
        self.jobs.pop(job, None)
        return Message("failed", job, {"code": error.code, "message": str(error), "by": "client"})
