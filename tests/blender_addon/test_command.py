"""``mgcface addon``: the zip is made, a real Blender takes it, and what cannot be is one sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import blender_window
import pytest
from conftest import ROOT, environment_python

LIMIT_S = 300


def mgcface(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "backend.cli", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=LIMIT_S
    )


def one_sentence(answer: subprocess.CompletedProcess[str]) -> str:
    """The complaint of a command that failed as it should."""
    (line,) = answer.stderr.splitlines()
    assert answer.returncode == 1 and line.startswith("mgcface: ") and line.endswith("."), answer
    return line


def test_build_makes_the_zip_that_blender_accepts(tmp_path):
    environment_python("4.2")  # whose validator looks at it
    answer = mgcface("addon", "build", "--out", tmp_path / "new" / "folder")
    assert answer.returncode == 0, answer.stderr
    (made,) = (tmp_path / "new" / "folder").iterdir()
    assert f"{made} is ready" in answer.stdout
    names = set(zipfile.ZipFile(made).namelist())
    assert {"blender_manifest.toml", "__init__.py", "LICENSE", "engine/constraints.txt"} <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_a_zip_that_cannot_be_written_is_a_sentence(tmp_path):
    environment_python("4.2")
    (tmp_path / "file").write_text("in the way")
    assert "choose another --out" in one_sentence(mgcface("addon", "build", "--out", tmp_path / "file"))


def test_what_is_no_blender_is_a_sentence(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"")
    answer = mgcface("addon", "install", "--blender", tmp_path / "nowhere", "--zip", tmp_path / "a.zip")
    assert "is no program that runs" in one_sentence(answer)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script in Blender's place")
def test_a_blender_that_is_too_old_is_a_sentence(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"")
    old = tmp_path / "blender"
    old.write_text("#!/bin/sh\necho unknown argument, loading as file: --command >&2\n")
    old.chmod(0o755)
    answer = mgcface("addon", "install", "--blender", old, "--zip", tmp_path / "a.zip")
    assert "see that it is 4.2 or newer" in one_sentence(answer)


def test_a_zip_that_is_not_there_is_a_sentence(tmp_path):
    answer = mgcface("addon", "install", "--blender", sys.executable, "--zip", tmp_path / "none.zip")
    assert "There is no file" in one_sentence(answer)


# Blender lives in a root of its own, so that paths lose that root's name on their way in.
SHIFTED = """#!{python}
import os, sys
command = {command!r} + [argument.removeprefix({root!r}) for argument in sys.argv[1:]]
os.execvp(command[0], command)
"""


def test_a_real_blender_installs_and_enables_it(archive):
    root = Path(blender_window.folder())
    if not blender_window.is_complete(str(root)):
        pytest.skip("no windowed Blender is here: python3 scripts/blender_window.py")
    with tempfile.TemporaryDirectory(prefix="mgcface-", dir=root / "tmp") as name:
        folder = Path(name)
        settings = f"BLENDER_USER_RESOURCES=/{folder.relative_to(root)}/settings"
        command = [*blender_window.inside(str(root), settings), "blender"]
        blender = folder / "blender"
        blender.write_text(SHIFTED.format(python=sys.executable, command=command, root=str(root)))
        blender.chmod(0o755)
        shutil.copy(archive, folder / "extension.zip")
        answer = mgcface("addon", "install", "--blender", blender, "--zip", folder / "extension.zip")
        assert answer.returncode == 0 and "The extension is installed" in answer.stdout, answer
        (installed,) = folder.glob("settings/extensions/user_default/mgcface/blender_manifest.toml")
        assert installed.is_file()
