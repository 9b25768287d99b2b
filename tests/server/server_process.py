"""A real `mgcface serve` process, and clients that wait for what should come."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from backend.protocol.client import Client
from backend.protocol.connection import Connection, read_connection
from backend.protocol.messages import TERMINAL
from backend.protocol.wire import Message

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "examples" / "astronaut.jpg"
# Only a hang takes this long; a machine with other work may take much of it.
PATIENCE_S = 150.0


class Running:
    """A server process and its files."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.file = folder / "server.json"
        self.log = folder / "server.log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "backend.cli", "serve", "--connection-file", str(self.file), *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()

    @property
    def connection(self) -> Connection:
        return read_connection(self.file)

    def client(self, name: str = "test") -> Client:
        client = Client(self.connection, name)
        wait_for(client, lambda message: message.type == "hello")
        return client

    def log_text(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def worker_pid(self) -> int:
        return int(re.findall(r"worker (\d+) started", self.log_text())[-1])

    def wait_ready(self) -> None:
        """Until the worker is warm."""
        with self.client() as client:
            give_up = time.monotonic() + PATIENCE_S
            while time.monotonic() < give_up:
                asked = client.send("ping")
                pong = wait_for(client, lambda message, asked=asked: message.id == asked)
                assert not pong.body["problem"], pong.body["problem"]
                if pong.body["ready"]:
                    return
                time.sleep(0.1)
        raise AssertionError(f"The worker did not get warm: {self.log_text()}")

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()


def wait_for(client: Client, wanted: Callable[[Message], bool], seen: list[Message] | None = None) -> Message:
    """The first message that is wanted; what comes before goes into ``seen``."""
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        for message in client.poll(20):
            if seen is not None:
                seen.append(message)
            if wanted(message):
                return message
        assert client.lost is None, f"The connection was lost: {client.lost}"
    raise AssertionError("What was waited for did not come.")


def finish(client: Client, job: str, seen: list[Message] | None = None) -> Message:
    """The terminal message of a job."""
    return wait_for(client, lambda message: message.id == job and message.type in TERMINAL, seen)
