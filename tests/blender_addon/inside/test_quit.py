"""Blender ends in the middle of a job: no crash, no process stays, and nobody else's work is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bpy
import pytest
from backend_in_use import alive, heads, state, use_backend, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

# Loading Blender, starting the backend: on a machine that other work shares.
LIMIT_S = 300
# The worker stops at once; the server looks once a second whether Blender is there.
GONE_S = 8.0


@contextmanager
def blender_with_a_job(photo: Path, settings: str) -> Iterator[subprocess.Popen]:
    """Another Blender; a line on its stdin ends it."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("quit_in_a_job.py")), str(photo)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "BLENDER_USER_RESOURCES": settings},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def processes_of(blender) -> list[int]:
    """Backend and worker, once the job has begun; Blender's own lines before are passed over."""
    for line in blender.stdout:
        if line.startswith("["):
            return json.loads(line)
    raise AssertionError(f"Blender ended with {blender.wait()}")


def end(blender, way: str) -> None:
    if way == "quit":
        blender.communicate("\n", timeout=LIMIT_S)
        assert blender.returncode == 0
    else:
        blender.kill()
        blender.wait()


@pytest.mark.parametrize("way", ["quit", "crash"])
def test_no_process_outlives_blender(heads_folder, way):
    with (
        tempfile.TemporaryDirectory() as settings,
        blender_with_a_job(heads_folder / "astronaut.jpg", settings) as blender,
    ):
        running = processes_of(blender)
        assert len(running) >= 2 and all(map(alive, running))
        end(blender, way)
        assert wait_for(lambda: not any(map(alive, running)), GONE_S)


@pytest.mark.skipif(bpy.app.version[:2] in ((4, 5), (5, 0)), reason="the oldest and the newest Blender are enough")
def test_the_backend_that_one_blender_started_stays_for_another(extension, addon, heads_folder):
    """Two Blenders of one artist, with the same settings: the one that started the backend goes first."""
    use_backend(extension)
    photo = heads_folder / "astronaut.jpg"
    with blender_with_a_job(photo, os.environ["BLENDER_USER_RESOURCES"]) as other:
        server, worker, *_ = processes_of(other)
        assert bpy.ops.mgcface.start_backend() == {"FINISHED"}
        assert addon("service").status().hello["pid"] == server
        options = {"model": "open-head", "texture_size": 1024}
        job = addon("jobs").Job([str(photo)], [-1], options, addon("scene.build").BuildOptions())
        job.start()
        assert not wait_for(job.pump, 0.5), "the other Blender's job is still at work"
        end(other, "quit")
        assert wait_for(job.pump) and len(heads()) == 1, state().result
    assert bpy.ops.mgcface.reconstruct(filepath=str(photo)) == {"FINISHED"}
    assert addon("service").status().hello["pid"] == server and alive(server)
    assert bpy.ops.mgcface.stop_backend() == {"FINISHED"}
    assert wait_for(lambda: not alive(server) and not alive(worker), GONE_S), "the last Blender ends it"
