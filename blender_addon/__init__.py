# SPDX-License-Identifier: GPL-3.0-or-later
"""MGC Face: photos to textured, animatable heads, in the tab Face of the 3D viewport's sidebar."""

from __future__ import annotations

import bpy

from . import jobs, panels, preferences, presets, properties, service
from .operators import backend, photos, reconstruct

# Properties first: the classes after them point to them.
CLASSES = (
    *properties.CLASSES,
    *preferences.CLASSES,
    *photos.CLASSES,
    *reconstruct.CLASSES,
    *backend.CLASSES,
    *presets.CLASSES,
    *panels.CLASSES,
)


def register() -> None:
    for each in CLASSES:
        bpy.utils.register_class(each)
    properties.register()
    presets.register()
    jobs.register()


def unregister() -> None:
    # The backend goes first: what it still sends must find nobody.
    service.forget()
    backend.unregister()
    panels.unregister()
    jobs.unregister()
    presets.unregister()
    properties.unregister()
    for each in reversed(CLASSES):
        bpy.utils.unregister_class(each)
