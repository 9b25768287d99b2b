# SPDX-License-Identifier: GPL-3.0-or-later
"""The one link of this Blender to its backend, made from the preferences when it is first needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import bpy

from .link.events import Status
from .link.installer import environment_python, installed_size, needed_space
from .link.launcher import Launcher
from .link.link import Link

if TYPE_CHECKING:
    from .preferences import MGCFACE_AP_preferences

LOG_NAME, CONNECTION_NAME, ENVIRONMENT_NAME = "backend.log", "connection.json", "environment"

_link: Link | None = None


def preferences() -> MGCFACE_AP_preferences:
    return bpy.context.preferences.addons[__package__].preferences  # type: ignore[union-attr, return-value]


def user_folder() -> Path:
    """The folder that Blender gives this extension for files of its own."""
    return Path(bpy.utils.extension_path_user(__package__, create=True))


def user_folder_if_there() -> Path:
    """The same without making it, for polls, which change nothing."""
    return Path(bpy.utils.extension_path_user(__package__))


def environment_folder() -> Path:
    return user_folder_if_there() / ENVIRONMENT_NAME


def log_file() -> Path:
    return user_folder() / LOG_NAME


def python() -> str:
    """The backend's Python; empty when there is none yet."""
    chosen = preferences()
    if chosen.source == "PYTHON":
        return bpy.path.abspath(chosen.python)
    found = environment_python(environment_folder())
    return str(found) if found is not None else ""


def missing() -> str:
    """Why a job could not even be tried; empty when it can. Pure, for the polls of buttons."""
    chosen = preferences()
    if chosen.source == "OWN" and not python():
        return "There is no backend yet: click Set Up Backend below"
    if chosen.source == "PYTHON" and not chosen.python:
        return "No Python was chosen for the backend: open this add-on's preferences"
    if chosen.source == "REMOTE" and not chosen.connection_file:
        return "No connection file was chosen: open this add-on's preferences"
    return ""


def link() -> Link:
    """The link, made now if there is none. Does not start the backend."""
    global _link
    if _link is None:
        chosen = preferences()
        if chosen.source == "REMOTE":
            launcher, file = None, Path(bpy.path.abspath(chosen.connection_file))
        else:
            file = user_folder() / CONNECTION_NAME
            launcher = Launcher(python(), file, log_file(), chosen.device)
        _link = Link(launcher, file, f"Blender {bpy.app.version_string}", version())
    return _link


def status() -> Status:
    """What is known of the backend without asking."""
    return Status() if _link is None else _link.status


def forget() -> None:
    """Close the link, so that the next use follows changed preferences; ends the process that it started."""
    global _link
    if _link is not None:
        _link.close()
        _link = None


def version() -> str:
    """The extension's version, from its manifest."""
    manifest = Path(__file__).with_name("blender_manifest.toml").read_text("utf-8")
    line = next(line for line in manifest.splitlines() if line.startswith("version"))
    return line.split('"')[1]


def setup_lines() -> list[str]:
    """What Set Up Backend will do, or has done, with sizes."""
    folder = environment_folder()
    if environment_python(folder) is not None:
        return [f"Set up in {folder}", f"It takes {installed_size(folder) / 1e9:.1f} GB"]
    return [f"Will be set up in {folder}", needed_space()]
