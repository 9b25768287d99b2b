# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend's process on this machine: start it, see that it lives, end it. No bpy in here."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import IO

# Variables that would make another Python load Blender's modules or another environment's.
FOREIGN_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "VIRTUAL_ENV", "LD_PRELOAD")
# On Windows: no console window, and Ctrl-C in Blender's terminal stays there. Elsewhere a session of its own does that.
NO_CONSOLE = getattr(subprocess, "CREATE_NO_WINDOW", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
# Seconds that a backend which was asked to end may take before it is killed.
PATIENCE_S = 3.0
# Characters at the end of the output that are searched for the reason of a crash.
OUTPUT_TAIL = 4000


class LaunchError(Exception):
    """The backend cannot be started or reached; one sentence for the artist."""


class Launcher:
    """Starts `mgcface serve` and owns that process.

    Parameters
    ----------
    python : str
        The Python that has the backend; empty when none was set up.
    connection_file : Path
        Where the server says how to reach it.
    log_file : Path
        The server's own log. What the process prints beside it goes into ``output_file``.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    """

    def __init__(self, python: str, connection_file: Path, log_file: Path, device: str) -> None:
        self.python, self.connection_file, self.log_file, self.device = python, connection_file, log_file, device
        self.output_file = log_file.with_suffix(".out")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; raises LaunchError. The server says in the connection file when it listens."""
        if not self.python:
            raise LaunchError("There is no backend yet: click Set Up Backend in the Backend panel.")
        if not os.path.isfile(self.python):
            raise LaunchError(f"The backend's Python {self.python} is gone: click Set Up Backend or choose another.")
        command = [self.python, "-m", "backend.cli", "serve", "--connection-file", str(self.connection_file)]
        command += ["--parent-pid", str(os.getpid()), "--device", self.device, "--log-file", str(self.log_file)]
        self.connection_file.parent.mkdir(parents=True, exist_ok=True)
        try:
            # The child keeps its own handle of the file; ours is closed at once.
            with open(self.output_file, "wb") as output:
                self.process = start_process(command, output, cwd=self.connection_file.parent)
        except OSError as error:
            raise LaunchError(
                f"The backend could not be started ({error.strerror or error}): click Set Up Backend to repair it."
            ) from error

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def ended(self) -> bool:
        """It was started here and is no more."""
        return self.process is not None and self.process.poll() is not None

    def reason(self) -> str:
        """The last thing that the process printed; empty when it printed nothing."""
        try:
            text = self.output_file.read_bytes()[-OUTPUT_TAIL:].decode("utf-8", "replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def wait(self, patience_s: float) -> None:
        """Give the process a moment to end by itself."""
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(patience_s)

    def end(self, patience_s: float = PATIENCE_S, asked: bool = True) -> int | None:
        """Wait for the process to end, then make it; its exit code, None when there was none.

        ``asked`` says that it knows already; else it is asked by a signal.
        """
        process, self.process = self.process, None
        if process is None:
            return None
        if not asked:
            process.terminate()
        try:
            return process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def release(self) -> None:
        """Leave the process to whoever else works with it."""
        self.process = None

    def kill(self) -> None:
        """For a process that does not answer any more."""
        self.end(patience_s=0.0)


def start_process(
    command: list[str],
    output: IO[bytes] | int,
    errors: int = subprocess.STDOUT,
    cwd: Path | None = None,
    variables: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program of the backend's: no input, no window, nothing of Blender's around it; raises OSError.

    ``variables`` join its environment.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        cwd=cwd,
        env=clean_environment() | (variables or {}),
        creationflags=NO_CONSOLE,
        start_new_session=True,
    )


def clean_environment() -> dict[str, str]:
    """This process's environment without what Blender or a shell put there for another Python."""
    kept = {key: value for key, value in os.environ.items() if key not in FOREIGN_VARIABLES}
    return {**kept, "PYTHONNOUSERSITE": "1", "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
