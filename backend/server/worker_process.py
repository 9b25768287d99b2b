"""The worker as the server sees it: a process, what it says, and how it ends.

Two threads stand between the server's loop and the pipes, so that neither a full pipe nor a worker that
hangs ever holds the loop up.
"""

from __future__ import annotations

import logging
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import backend
from backend.server.pipe import read_frames, write_frames

log = logging.getLogger(__name__)

# The folder that holds the package: `-m` looks in the current folder first, and that must not be a stranger's.
ROOT = Path(backend.__file__).resolve().parents[1]
# What the worker prints in one line that is worth keeping.
LONGEST_LINE = 500
EXIT_PATIENCE_S = 2.0

# Called from another thread: the worker (to tell an old one from a new one) and its message, None at its end.
Heard = Callable[["WorkerProcess", "list[bytearray] | None"], None]


class WorkerProcess:
    """A running worker.

    Parameters
    ----------
    device : str
        As in ``mgcface serve --device``.
    heard : callable
        Gets every message as frames, and None once when the process has ended.
    """

    def __init__(self, device: str, heard: Heard) -> None:
        self.heard = heard
        self.outgoing: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        flags = getattr(subprocess, "CREATE_NO_WINDOW", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "backend.server.worker", "--device", device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            creationflags=flags,
        )
        self.threads = [
            threading.Thread(target=work, name=f"worker {name}", daemon=True)
            for name, work in (("in", self._write), ("out", self._read), ("log", self._log))
        ]
        for thread in self.threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, frames: list[Any]) -> None:
        """Hand a message over; never waits."""
        self.outgoing.put(frames)

    def kill(self) -> None:
        """End the process now, whatever it does."""
        self.process.kill()

    def close(self) -> None:
        """Ask the process to end, and make it."""
        self.outgoing.put(None)
        try:
            self.process.wait(EXIT_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def end_reason(self) -> str:
        """How the process ended, for a sentence: ``signal 9`` or ``exit code 1``."""
        code = self.process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _write(self) -> None:
        stdin = pipe_of(self.process.stdin)
        try:
            while (frames := self.outgoing.get()) is not None:
                write_frames(stdin, frames)
            stdin.close()  # the worker reads this as the request to end
        except (OSError, ValueError):
            pass  # the worker has ended, which `_read` tells

    def _read(self) -> None:
        stdout = pipe_of(self.process.stdout)
        while (frames := read_frames(stdout)) is not None:
            self.heard(self, frames)
        self.process.wait()
        self.outgoing.put(None)
        self.heard(self, None)

    def _log(self) -> None:
        for line in pipe_of(self.process.stderr):
            text = line[:LONGEST_LINE].decode("utf-8", "replace").rstrip()
            if text:
                log.info("worker %d: %s", self.pid, text)


def pipe_of(stream: IO[bytes] | None) -> Any:
    assert stream is not None
    return stream
