"""Runs `window/artist.py` in Blender with a real window under a virtual screen, with clicks and pictures.

Needs a folder that holds such a Blender, named by MGCFACE_BLENDER_WINDOW, and the scripts that make and drive it
in ../shared/tools/blender.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

SCRIPTS = ROOT.parent / "shared" / "tools" / "blender"
STEPS = Path(__file__).with_name("window") / "artist.py"
# Where the steps look for their files, inside that Blender's root.
FILES = "tmp/mgcface-window"
LIMIT_S = 600


@pytest.fixture
def window_root() -> Path:
    named = os.environ.get("MGCFACE_BLENDER_WINDOW", "")
    if not named or not (Path(named) / ".complete").exists():
        pytest.skip("no windowed Blender is named by MGCFACE_BLENDER_WINDOW")
    if not (SCRIPTS / "gui-shot.sh").exists():
        pytest.skip("the scripts that drive a windowed Blender are not here")
    return Path(named)


@pytest.fixture
def backend(window_root):
    """A backend outside of that root, its connection file and a photo inside."""
    folder = window_root / FILES
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "astronaut.jpg", folder)
    file = folder / "connection.json"
    process = subprocess.Popen([sys.executable, "-m", "backend.cli", "serve", "--connection-file", str(file)], cwd=ROOT)
    end = time.monotonic() + 120
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.1)
    yield process
    process.terminate()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def test_an_artists_first_minutes_and_everything_that_may_go_wrong(
    window_root, backend, archive, tmp_path, record_property
):
    out = tmp_path / "pictures"
    environment = os.environ | {"EXT_ZIP": str(archive), "GUI_LIMIT": str(LIMIT_S)}
    command = ["bash", str(SCRIPTS / "gui-shot.sh"), str(window_root), str(STEPS), str(out)]
    answer = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=LIMIT_S + 120, check=False
    )
    log = (out / "blender.log").read_text() if (out / "blender.log").exists() else ""
    assert answer.returncode == 0, log[-6000:] + answer.stdout[-2000:] + answer.stderr[-2000:]
    measured = json.loads((out / "measured.json").read_text())
    assert not measured.pop("problems")
    for name, value in measured.items():
        record_property(name, value)
    assert backend.poll() is None, "the backend outlived everything that its client did"
    for picture in ("1-installed", "2-photo", "3-progress", "4-head", "5-camera", "6-undone", "7-cancelled"):
        assert (out / f"{picture}.png").stat().st_size > 20_000
