"""Runs the steps of `window/` in Blender with a real window under a virtual screen, with clicks and pictures.

Needs root and the folder that scripts/blender_window.py makes.
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
from PIL import Image
from screen import blender_window, link_engine, screen

from backend.protocol.client import Client
from backend.protocol.connection import read_connection
from backend.protocol.messages import TERMINAL

PHOTO = ROOT / "examples" / "astronaut.jpg"
# Enough photos that Blender can end in the middle of them.
PHOTOS = 4
# Some minutes on a machine that other work shares.
LIMIT_S = 1200.0
BACKEND_S = 120.0


@pytest.fixture
def root() -> Path:
    place = blender_window.folder()
    if not blender_window.is_complete(place):
        pytest.skip("no windowed Blender is here: sudo python3 scripts/blender_window.py")
    if os.geteuid() != 0:
        pytest.skip("a windowed Blender runs as root only")
    return Path(os.path.realpath(place))


@pytest.fixture
def display(root):
    with screen(root) as display:
        for number in range(PHOTOS):
            shutil.copy(PHOTO, display.folder / f"astronaut-{number}.jpg")
        yield display


@pytest.fixture
def backend(display):
    """A backend outside of that Debian; its connection file lies beside the steps."""
    file = display.folder / "connection.json"
    process = subprocess.Popen([sys.executable, "-m", "backend.cli", "serve", "--connection-file", str(file)], cwd=ROOT)
    try:
        end = time.monotonic() + BACKEND_S
        while not file.exists() and time.monotonic() < end:
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(BACKEND_S)
        finally:
            process.kill()


@pytest.fixture
def pictures(tmp_path) -> Path:
    return tmp_path / "pictures"


def test_an_artists_first_minutes_and_everything_that_may_go_wrong(
    display, backend, archive, pictures, record_property
):
    ended = display.run("artist.py", archive, pictures, LIMIT_S)
    assert ended.exit_code == 0, ended.log[-6000:]
    measured = json.loads((pictures / "measured.json").read_text())
    assert not measured.pop("problems")
    for name, value in measured.items():
        record_property(name, value)
    assert backend.poll() is None, "the backend outlived everything that its client did"
    names = "1-installed 2-photo 3-progress 4-head 5-camera 6-undone 7-cancelled 8-dropped 9-many 10-browser 11-options"
    names += " 12-preferences-own 12-preferences-python 12-preferences-remote"
    for name in names.split():
        assert (pictures / f"{name}.png").stat().st_size > 20_000


def test_the_switch_for_photos_of_one_person(display, backend, archive, pictures):
    Image.new("RGB", (300, 300), (120, 120, 120)).save(display.folder / "wall.png")
    ended = display.run("person.py", archive, pictures, LIMIT_S)
    assert ended.exit_code == 0, ended.log[-6000:]
    assert backend.poll() is None
    for name in ("20-one-photo", "21-same-person", "22-progress", "23-other-camera"):
        assert (pictures / f"{name}.png").stat().st_size > 20_000


def test_a_head_is_improved_and_its_confidence_is_shown(display, backend, archive, pictures):
    """With the example itself, tilted, for a second photo of the same person."""
    Image.open(PHOTO).rotate(8.0, Image.Resampling.BICUBIC).save(display.folder / "tilted.png")
    ended = display.run("improve.py", archive, pictures, LIMIT_S)
    assert ended.exit_code == 0, ended.log[-6000:]
    assert backend.poll() is None
    for name in ("31-progress", "32-better", "33-undone", "36-confidence", "39-opened", "40-material"):
        assert (pictures / f"{name}.png").stat().st_size > 20_000


def ended_well(ended) -> None:
    """Blender ended by itself, and nothing of it is left."""
    assert "LEAVING" in ended.log, ended.log[-6000:]
    assert (ended.exit_code, ended.crash_files, ended.left) == (0, [], []), ended.log[-6000:]


@pytest.mark.parametrize("way", ["quit", "close"])
def test_blender_ends_in_the_middle_of_a_job_elsewhere(way, display, backend, archive, pictures):
    """The backend drops the job of a client that has gone, and has time for the next one."""
    ended = display.run("leaving.py", archive, pictures, LIMIT_S, way, "REMOTE", "connection.json")
    ended_well(ended)
    assert backend.poll() is None
    with Client(read_connection(display.folder / "connection.json"), "next") as client:
        began = time.monotonic()
        job, seen = client.reconstruct([PHOTO], {"texture_size": 0}), []
        while not any(message.id == job and message.type in TERMINAL for message in seen):
            seen += client.poll(50)
            assert time.monotonic() - began < BACKEND_S
    assert seen[-1].type == "done" and seen[-1].body["faces"] == 1


def test_the_backend_that_blender_started_ends_with_it(display, archive, pictures, record_property):
    ended = display.run("backend.py", archive, pictures, LIMIT_S, link_engine(display))
    ended_well(ended)
    record_property("backend_gone_s", ended.all_gone_s)
