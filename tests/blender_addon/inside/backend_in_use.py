"""The backend that the tests inside Blender use: the engine's own Python, chosen in the preferences."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import bpy

# A job on two cores that other work shares, with the backend's start in it.
PATIENCE_S = 240.0


def use_backend(extension) -> bpy.types.AddonPreferences:
    """As an artist who chose an existing Python; the list of photos is empty then."""
    preferences = bpy.context.preferences.addons[extension.__name__].preferences
    # Setting a preference ends the backend, so only what differs is set.
    wanted = {"source": "PYTHON", "python": os.environ["MGCFACE_PYTHON"]}
    for name, value in wanted.items():
        if getattr(preferences, name) != value:
            setattr(preferences, name, value)
    state().photos.clear()
    return preferences


def state():
    """The state of list and job."""
    return bpy.context.window_manager.mgcface


def heads() -> list[bpy.types.Object]:
    return [obj for obj in bpy.context.scene.objects if obj.get("mgcface_role") == "head"]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE_S) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
