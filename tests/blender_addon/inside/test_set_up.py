"""Set Up Backend, for real: an environment from the package index in the extension's folder, and a head with it.

Takes a minute or two and 2 GB of disk, which are given back.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import bpy
import pytest
from backend_in_use import heads, state, use_backend, wait_for

# How long pip may take to notice that it was ended.
STOP_S = 10.0


@pytest.fixture
def preferences(extension, addon):
    preferences = use_backend(extension)
    preferences.source = "OWN"
    system = bpy.context.preferences.system
    system.use_online_access = True
    yield preferences
    addon("service").forget()
    shutil.rmtree(addon("service").environment_folder(), ignore_errors=True)
    shutil.rmtree(addon("service").environment_folder().with_name("python"), ignore_errors=True)
    system.use_online_access = False


@pytest.fixture
def begin(addon, tmp_path):
    """A function: the set-up of :mod:`link.installer` begun in a folder of the test's."""
    begun = []

    def begin(**changes):
        wheel, constraints = addon("operators.backend").engine_files()
        arguments = {"wheel": wheel, "constraints": constraints, "own_python": sys.executable} | changes
        log = tmp_path / "setup.log"
        begun.append(addon("link.installer").Installation(tmp_path / "environment", log_file=log, **arguments))
        return begun[-1]

    yield begin
    for installation in begun:
        installation.cancel()
        installation.wait(STOP_S)


@pytest.fixture
def python_to_bring(addon, tmp_path, monkeypatch):
    """No Python suits, and what uv fetches comes from here: the engine's own, packed as its makers pack theirs."""
    ask = "import json, sys; print(json.dumps([sys.base_prefix, *sys.version_info[:3]]))"
    answer = subprocess.check_output([os.environ["MGCFACE_PYTHON"], "-c", ask], text=True)
    base, *version = json.loads(answer)
    short = "{}.{}".format(*version)
    if short != addon("link.installer").BROUGHT or base == "/usr" or platform.machine() != "x86_64":
        pytest.skip(f"the Python {short} of {base} cannot be handed on")
    left_out = {"site-packages", "__pycache__", "test", "idlelib", "tkinter", "lib2to3"}
    with tarfile.open(tmp_path / "python.tar.gz", "w:gz", compresslevel=1) as archive:
        for name in (f"bin/python{short}", f"lib/python{short}", f"lib/libpython{short}.so.1.0"):
            if Path(base, name).exists():
                archive.add(
                    Path(base, name), f"python/{name}", filter=lambda i: None if left_out & {*i.name.split("/")} else i
                )
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    entry = {"name": "cpython", "arch": {"family": "x86_64", "variant": None}, "os": "linux", "libc": "gnu"}
    entry |= dict(zip(("major", "minor", "patch"), version)) | {"prerelease": "", "variant": None, "build": "1"}
    entry |= {"url": f"{address}/python.tar.gz", "sha256": None}
    (tmp_path / "pythons.json").write_text(json.dumps({"cpython-{}.{}.{}-linux-x86_64-gnu".format(*version): entry}))
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", f"{address}/pythons.json")
    # uv would take one that it finds.
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(addon("link.installer"), "find_python", lambda own: None)
    yield
    server.shutdown()


def test_from_nothing_to_a_head(preferences, addon, heads_folder, record_property, request):
    service = addon("service")
    brought = service.environment_folder().with_name("python")
    if bpy.app.version >= (5, 2):
        request.getfixturevalue("python_to_bring")
    assert service.missing().startswith("There is no backend yet") and not service.python()
    began = time.monotonic()
    assert bpy.ops.mgcface.set_up_backend() == {"FINISHED"}
    record_property("set_up_s", round(time.monotonic() - began))
    record_property("set_up_gb", round(addon("link.installer").installed_size(service.environment_folder()) / 1e9, 2))
    assert state().result == "The backend is set up." and not service.missing()
    assert brought.exists() == (bpy.app.version >= (5, 2)) and not brought.with_name("uv").exists()
    # The engine that was installed has compiled what it needs, not one that lies where Blender was started.
    assert list(service.environment_folder().rglob("backend/**/*.nbi"))
    began = time.monotonic()
    # A photo of a phone, whose format is an extra of the engine.
    assert bpy.ops.mgcface.reconstruct(filepath=str(heads_folder / "phone.heic")) == {"FINISHED"}
    record_property("first_head_s", round(time.monotonic() - began, 1))
    assert len(heads()) == 1


def test_cancel_removes_what_was_begun(begin):
    installation = begin()
    assert wait_for(lambda: installation.folder.exists() and installation.step.fraction >= 0.05)
    installation.cancel()
    began = time.monotonic()
    installation.wait(STOP_S)
    assert installation.finished and time.monotonic() - began < STOP_S
    assert not installation.folder.exists() and not installation.error


def test_it_goes_on_when_another_file_is_loaded(begin, addon, tmp_path, monkeypatch):
    """Its operator ends with the file; a timer, which does not run in background mode, goes on looking."""
    backend = addon("operators.backend")
    monkeypatch.setattr(addon("link.installer"), "TORCH_CPU_INDEX", "file:///nowhere")
    # An engine that does not exist, so that nothing is fetched.
    installation = begin(wheel=tmp_path / "mgcface-9.9-py3-none-any.whl")
    monkeypatch.setattr(backend.MGCFACE_OT_set_up_backend, "under_way", installation)
    assert backend.follow_without_operator() == backend.TICK_S and state().setting_up
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    assert not installation.cancelled
    assert wait_for(lambda: backend.follow_without_operator() is None)
    assert not state().setting_up and state().failed and state().result == installation.error


def test_a_full_disk_is_told_before_anything_is_fetched(begin, addon, monkeypatch):
    monkeypatch.setattr(addon("link.installer"), "SPARE", 1e18)
    installation = begin()
    installation.wait(STOP_S)
    assert "make room and try again" in installation.error and not installation.folder.exists()


def test_what_pip_refuses_is_a_sentence(begin, tmp_path, addon, monkeypatch):
    """An engine that does not exist; macOS's way has no step before it."""
    monkeypatch.setattr(addon("link.installer"), "TORCH_CPU_INDEX", "file:///nowhere")
    installation = begin(wheel=tmp_path / "mgcface-9.9-py3-none-any.whl")
    assert wait_for(lambda: installation.finished)
    assert installation.error.startswith("pip could not install the backend") and installation.error.endswith(".")
    assert not installation.folder.exists()


def test_without_any_python_that_suits_uv_is_asked_and_its_failure_is_a_sentence(begin, addon, monkeypatch):
    installer = addon("link.installer")
    monkeypatch.setattr(installer, "find_python", lambda own: None)
    monkeypatch.setattr(installer, "BROUGHT", "3.0")  # there is none, so that nothing is fetched
    installation = begin()
    assert wait_for(lambda: installation.finished)
    assert "could not be brought" in installation.error and not installation.folder.exists()
    assert "uv venv" in installation.log_file.read_text()
