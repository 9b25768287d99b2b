"""How threads reach the server's loop: they put something down and wake it."""

from __future__ import annotations

import queue
import threading
from typing import Any

import zmq


class Inbox:
    """A queue with a socket that a poller can watch. Anyone may put; the loop alone takes."""

    def __init__(self, context: zmq.Context) -> None:
        self.items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.socket = context.socket(zmq.PULL)
        self.bell = context.socket(zmq.PUSH)
        address = f"inproc://inbox-{id(self)}"
        self.socket.bind(address)
        self.bell.connect(address)
        # The loop's own bell, which a signal may ring while the other is in somebody's hands.
        self.own_bell = context.socket(zmq.PUSH)
        self.own_bell.connect(address)
        self.lock = threading.Lock()
        self.closed = False

    def put(self, item: Any) -> None:
        self.items.put(item)
        with self.lock:  # sockets may change threads, but never be used by two at once
            if not self.closed:
                ring(self.bell)

    def wake(self) -> None:
        """Let the poller return once more, though nothing was put; for the loop's own thread."""
        if not self.closed:
            ring(self.own_bell)

    def take(self) -> list[Any]:
        """Everything that has been put down, oldest first."""
        try:
            while True:
                self.socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            pass
        items = []
        while not self.items.empty():
            items.append(self.items.get())
        return items

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self.bell.close(0)
            self.own_bell.close(0)
            self.socket.close(0)


def ring(bell: zmq.Socket) -> None:
    try:
        bell.send(b"", zmq.NOBLOCK)
    except zmq.Again:
        pass  # a thousand rings wait already
