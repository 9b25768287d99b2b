"""What is on its way to clients: a slow one is waited for, a vanished one is told of, none holds others up."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import zmq

# Messages that ZeroMQ itself keeps for one client before this outbox begins to fill.
HIGH_WATER = 8
# A client with this much unread gets no further photos computed until it has read.
HOLD_BACK_BYTES = 1 << 26
# Small answers that wait for a client before it is taken for a program gone wild that asks and never reads.
MOST_WAITING = 10_000
# A client that has read nothing for this long while results wait is taken for gone.
STALLED_AFTER_S = 60.0


class Outbox:
    """Sends through a ROUTER socket that says when it cannot (``ROUTER_MANDATORY``)."""

    def __init__(self, socket: zmq.Socket) -> None:
        self.socket = socket
        self.waiting: dict[bytes, deque[Sequence[Any]]] = {}
        self.sizes: dict[bytes, int] = {}
        self.stalled_since: dict[bytes, float] = {}

    def send(self, client: bytes, frames: Sequence[Any]) -> bool:
        """Send, or keep until the client reads; False when the client is gone, or as good as gone."""
        if client not in self.waiting:
            sent = self._try(client, frames)
            if sent is not None:
                return sent
            self.stalled_since[client] = time.monotonic()
        waiting = self.waiting.setdefault(client, deque())
        waiting.append(frames)
        self.sizes[client] = self.sizes.get(client, 0) + size_of(frames)
        return len(waiting) <= MOST_WAITING

    def flush(self) -> list[bytes]:
        """Send what waits as far as there is room; the clients that are gone or have stalled."""
        gone = []
        now = time.monotonic()
        for client, frames in list(self.waiting.items()):
            while frames:
                sent = self._try(client, frames[0])
                if sent is None:
                    break
                if not sent:
                    gone.append(client)
                    break
                self.sizes[client] -= size_of(frames.popleft())
                self.stalled_since[client] = now
            if not frames:
                self.forget(client)
            elif now - self.stalled_since[client] > STALLED_AFTER_S:
                gone.append(client)
        return gone

    def slow_clients(self) -> list[bytes]:
        return [client for client, size in self.sizes.items() if size > HOLD_BACK_BYTES]

    def forget(self, client: bytes) -> None:
        for table in (self.waiting, self.sizes, self.stalled_since):
            table.pop(client, None)

    def _try(self, client: bytes, frames: Sequence[Any]) -> bool | None:
        """True when sent, False when the client is gone, None when there is no room."""
        try:
            self.socket.send_multipart([client, *frames], zmq.NOBLOCK, copy=False)
            return True
        except zmq.Again:
            return None
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise


def size_of(frames: Sequence[Any]) -> int:
    return sum(memoryview(frame).nbytes for frame in frames)
