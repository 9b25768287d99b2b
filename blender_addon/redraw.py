# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets Blender draw the panel again when a thread has news: it does not look for them itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bpy

from . import service
from .link import events
from .typed import sure

if TYPE_CHECKING:
    from bpy.types import Context

# Seconds between two looks at the backend while it starts, and while nothing is expected of it.
SOON_S, LATER_S = 0.2, 1.0

_shown: events.Status | None = None


def panels(context: Context) -> None:
    """The sidebars of all windows, and the preferences, but no viewport: a heavy scene takes long to draw."""
    for window in sure(context.window_manager).windows:
        for area in window.screen.areas:
            if area.type == "PREFERENCES":
                area.tag_redraw()
            elif area.type == "VIEW_3D":
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()


def viewports(context: Context) -> None:
    """All of the 3D viewports, when what they show has changed."""
    for window in sure(context.window_manager).windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()


def watch_status() -> None:
    """Keep the panel's word on the backend true; timers do not run in background mode."""
    if not bpy.app.background and not bpy.app.timers.is_registered(_look):
        bpy.app.timers.register(_look, first_interval=SOON_S, persistent=True)


def _look() -> float:
    global _shown
    status = service.status()
    if status is not _shown:
        _shown = status
        panels(bpy.context)
    return SOON_S if status.phase == events.STARTING else LATER_S


def unregister() -> None:
    if bpy.app.timers.is_registered(_look):
        bpy.app.timers.unregister(_look)
