# SPDX-License-Identifier: GPL-3.0-or-later
"""Set Up Backend: a private Python environment with the engine in it. No bpy in here.

The engine itself travels in the extension as a wheel; its dependencies come from PyPI. The environment
counts as finished when its stamp is written, last of all; whatever ends before that is removed.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .launcher import NO_CONSOLE, clean_environment, start_process

# MediaPipe, which finds the faces, has wheels for these; the first is tried first.
SUPPORTED = ("3.11", "3.12", "3.10")
# What uv brings where none of them is there, and the program that brings it.
BROUGHT, UV = "3.11", "uv>=0.5,<1"
# PyTorch without CUDA: a tenth of the size, where there is no NVIDIA card to use it.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
STAMP = "mgcface-environment.json"
# Bytes on the disk when all is done, measured on Linux with Python 3.11, and what pip needs meanwhile.
SIZE_CPU, SIZE_CUDA = 2.0e9, 7.5e9
SPARE = 1.0e9
# Packages that pip collects on the way, for the progress bar.
PACKAGES = 62
# Shares of the progress bar: finding and making the environment, PyTorch, everything else, the self-test.
SHARES = {"python": 0.05, "torch": 0.45, "engine": 0.45, "test": 0.05}


class InstallError(Exception):
    """The backend cannot be set up; one sentence for the artist."""


@dataclass(frozen=True)
class Step:
    """Where the set-up is: ``fraction`` of all in [0, 1] and a line of text."""

    fraction: float
    text: str


def environment_python(folder: Path) -> Path | None:
    """The Python of a finished environment; None when there is none."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    return python if (folder / STAMP).is_file() and python.exists() else None


def environment_stamp(folder: Path) -> dict:
    """What is known of a finished environment: engine version and size."""
    try:
        return json.loads((folder / STAMP).read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def installed_size(folder: Path) -> float:
    """Bytes, as counted when it was set up."""
    return float(environment_stamp(folder).get("bytes", 0))


def has_nvidia() -> bool:
    """Whether a driver for NVIDIA cards is here: its tool always comes along."""
    return shutil.which("nvidia-smi") is not None


def needs_cuda_build() -> bool:
    """macOS has one build of PyTorch for all."""
    return sys.platform != "darwin" and has_nvidia()


def needed_space() -> str:
    """One sentence for the panel, before anything is started."""
    size = SIZE_CUDA if needs_cuda_build() else SIZE_CPU
    return f"It will take about {size / 1e9:.0f} GB of disk, nearly all of it downloaded"


class Installation:
    """Sets the environment up in a thread; poll :attr:`step`, :attr:`error` and :attr:`finished`.

    Parameters
    ----------
    folder : Path
        The environment; what was there is replaced.
    wheel, constraints : Path
        The engine and the versions that it was tested with, both inside the extension.
    own_python : str
        The Python of Blender, which serves where its version does.
    log_file : Path
        Takes everything that pip prints.
    """

    def __init__(self, folder: Path, wheel: Path, constraints: Path, own_python: str, log_file: Path) -> None:
        self.folder, self.wheel, self.constraints = folder, wheel, constraints
        self.own_python, self.log_file = own_python, log_file
        # Where uv lies while it is needed, and the Python that it brings, which the environment then stands on.
        self.tools, self.brought = folder.with_name("uv"), folder.with_name("python")
        self.step = Step(0.0, "Looking for a Python")
        self.error = ""
        self.cancelled = False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="mgcface set-up", daemon=True)
        self._thread.start()

    @property
    def finished(self) -> bool:
        """It has ended, well or not."""
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """End pip; the thread then removes what it made."""
        self.cancelled = True
        end_tree(self._process)

    def wait(self, seconds: float | None = None) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        # What is there stays until it is clear that there is room for what takes its place.
        begun = False
        try:
            self.log_file.write_bytes(b"")
            self._check_space()
            begun = True
            self._remove(self.folder, self.brought)
            self._install()
        except InstallError as error:
            self.error = str(error)
        except OSError as error:
            self.error = f"The set-up failed ({error.strerror or error}): see its log and try again."
        self._remove(self.tools)
        if self.error or self.cancelled:
            if begun:
                self._remove(self.folder, self.brought)
            self.error = "" if self.cancelled else self.error

    @staticmethod
    def _remove(*folders: Path) -> None:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _check_space(self) -> None:
        size = (SIZE_CUDA if needs_cuda_build() else SIZE_CPU) + SPARE
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder.parent).free
        if free < size:
            raise InstallError(
                f"The backend needs {size / 1e9:.0f} GB on the disk of {self.folder.parent} and {free / 1e9:.1f} GB "
                "are free: make room and try again."
            )

    def _install(self) -> None:
        self._make_environment()
        python = str(self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
        pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        done = SHARES["python"]
        if not needs_cuda_build() and sys.platform != "darwin":
            # Where that address is blocked, the next step takes PyPI's build, which is larger and does as well.
            self._say(done, "Getting PyTorch")
            command = [*pip, "--index-url", TORCH_CPU_INDEX, "--constraint", str(self.constraints), "torch"]
            self._follow(command, done, SHARES["torch"], 12)
            done += SHARES["torch"]
        self._say(done, "Getting the engine")
        # With the reader of phone photos: it is an extra only where its licences matter to whoever redistributes it.
        command = [*pip, "--constraint", str(self.constraints), f"{self.wheel}[heif]"]
        if self._follow(command, done, 1.0 - SHARES["test"] - done, PACKAGES) != 0:
            raise InstallError(
                f"pip could not install the backend ({last_line(self.log_file)}): check the network and try again."
            )
        self._say(1.0 - SHARES["test"], "Testing it")
        if self._follow([python, "-m", "backend.cli", "doctor"], 1.0 - SHARES["test"], SHARES["test"], 1) != 0:
            raise InstallError("The backend was installed and its self-test failed: see the set-up's log.")
        self._say(1.0 - SHARES["test"] / 2, "Compiling, so that the first photo does not wait for it")
        # What this would leave undone is done at the first photo, so that its failing changes nothing.
        self._follow([python, "-m", "backend.cli", "warm-up"], 1.0 - SHARES["test"] / 2, 0.0, 1)
        stamp = {"engine": self.wheel.name, "bytes": folder_size(self.folder) + folder_size(self.brought)}
        (self.folder / STAMP).write_text(json.dumps(stamp), "utf-8")
        self.step = Step(1.0, "The backend is set up")

    def _make_environment(self) -> None:
        python = find_python(self.own_python)
        if python is not None:
            if self._follow([python, "-m", "venv", str(self.folder)], 0.0, SHARES["python"], 1) != 0:
                raise InstallError(f"{python} could not make an environment in {self.folder}: see the set-up's log.")
            return
        self._say(0.0, f"Getting Python {BROUGHT}")
        self._remove(self.tools)
        install = [self.own_python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        self._follow([self.own_python, "-m", "ensurepip"], 0.0, 0.01, 1)
        self._follow([*install, "--target", str(self.tools), UV], 0.01, 0.02, 1)
        uv = next(iter(sorted(glob.glob(str(self.tools / "bin" / "uv*")))), "")
        make = [uv, "venv", "--seed", "--python", BROUGHT, "--python-preference", "managed", str(self.folder)]
        # Everything stays in the extension's folder and goes with it.
        places = {"UV_PYTHON_INSTALL_DIR": str(self.brought), "UV_CACHE_DIR": str(self.tools / "cache")}
        if not uv or self._follow(make, 0.03, 0.02, 1, places) != 0:
            raise InstallError(
                "A Python 3.10, 3.11 or 3.12 is needed and could not be brought: install one from python.org and try "
                "again."
            )

    def _follow(
        self, command: list[str], start: float, share: float, packages: int, variables: dict[str, str] | None = None
    ) -> int:
        """Run a command and show its lines; the exit code, 1 when it could not even start."""
        if self.cancelled:
            return 1
        seen = 0
        for line in self._lines(command, variables):
            collected = re.match(r"(?:Collecting|Requirement already satisfied:|Downloading) *([^ (]+)", line)
            seen += line.startswith("Collecting")
            if collected:
                name = Path(collected[1]).name
                self._say(start + share * min(1.0, seen / packages), f"Getting {re.split(r'[-=<>~!;]', name)[0]}")
            elif line.startswith("Installing collected"):
                self._say(start + share * 0.9, "Unpacking; this takes a minute or two")
        return 1 if self._process is None else self._process.wait()

    def _lines(self, command: list[str], variables: dict[str, str] | None) -> Iterator[str]:
        with open(self.log_file, "ab") as log:
            log.write((" ".join(command) + "\n").encode())
            try:
                # Not where Blender was started: Python would take modules from there before the engine's own.
                place = self.folder.parent
                self._process = start_process(command, subprocess.PIPE, cwd=place, variables=variables)
            except OSError as error:
                self._process = None
                log.write(f"{error}\n".encode())
                return
            assert self._process.stdout is not None
            if self.cancelled:
                end_tree(self._process)
            for raw in self._process.stdout:
                log.write(raw)
                yield raw.decode("utf-8", "replace").rstrip()

    def _say(self, fraction: float, text: str) -> None:
        self.step = Step(min(1.0, fraction), text)


def find_python(own: str) -> str | None:
    """A Python that the backend runs on: Blender's own, on the PATH, or from the usual places."""
    names = [own]
    for version in SUPPORTED:
        names.append(shutil.which(f"python{version}") or "")
        if os.name == "nt":
            compact = version.replace(".", "")
            names += glob.glob(os.path.expandvars(rf"%LOCALAPPDATA%\Programs\Python\Python{compact}\python.exe"))
            names += glob.glob(rf"C:\Program Files\Python{compact}\python.exe")
        else:
            names += glob.glob(f"/opt/homebrew/bin/python{version}") + glob.glob(f"/usr/local/bin/python{version}")
            names += sorted(glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python")))
    return next((name for name in names if name and usable(name)), None)


def usable(python: str) -> bool:
    """Whether it runs, is of a version that the backend runs on and can make environments."""
    question = "import sys, ensurepip, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [python, "-c", question],
            capture_output=True,
            text=True,
            timeout=20,
            env=clean_environment(),
            creationflags=NO_CONSOLE,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return answer.returncode == 0 and answer.stdout.strip() in SUPPORTED


def end_tree(process: subprocess.Popen[bytes] | None) -> None:
    """End a process and what it started."""
    if process is None or process.poll() is not None:
        return
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False)
    else:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        total += sum(os.lstat(os.path.join(place, name)).st_size for name in names)
    return total


def last_line(log_file: Path) -> str:
    """The last thing that was printed, for a sentence."""
    lines = [line for line in log_file.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
