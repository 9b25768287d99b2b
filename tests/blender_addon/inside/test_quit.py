"""Blender ends in the middle of a job: no crash, and no process stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from backend_in_use import alive, wait_for

# Loading Blender, starting the backend: on a machine that other work shares.
LIMIT_S = 300
# The worker stops at once; the server looks once a second whether Blender is there.
GONE_S = 8.0


@pytest.fixture
def other_blender(heads_folder):
    with tempfile.TemporaryDirectory() as settings:
        script = Path(__file__).with_name("quit_in_a_job.py")
        process = subprocess.Popen(
            [sys.executable, str(script), str(heads_folder / "astronaut.jpg")],
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


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("way", ["quit", "crash"])
def test_no_process_outlives_blender(other_blender, way):
    running = processes_of(other_blender)
    assert len(running) >= 2 and all(map(alive, running))
    if way == "quit":
        other_blender.communicate("\n", timeout=LIMIT_S)
        assert other_blender.returncode == 0
    else:
        other_blender.kill()
        other_blender.wait()
    assert wait_for(lambda: not any(map(alive, running)), GONE_S)
