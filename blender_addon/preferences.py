# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the backend comes from. Most artists never open this."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bpy
from bpy.props import EnumProperty, StringProperty

from . import service
from .typed import sure

if TYPE_CHECKING:
    from bpy.types import Context

OWN, PYTHON, REMOTE = "OWN", "PYTHON", "REMOTE"
SOURCES = (
    (OWN, "Set Up by the Add-on", "A private environment in this extension's folder, made by Set Up Backend"),
    (PYTHON, "Existing Python", "A Python that has mgcface installed, such as that of a clone's .venv"),
    (REMOTE, "Running Elsewhere", "A backend started by hand, on this machine or another, with its connection file"),
)
DEVICES = (
    ("auto", "Automatic", "A graphics card when there is one, else the processor"),
    ("cpu", "Processor", "The processor only"),
    ("cuda", "NVIDIA GPU", "An NVIDIA graphics card"),
)


def changed(_self: bpy.types.bpy_struct, _context: Context) -> None:
    service.forget()


class MGCFACE_AP_preferences(bpy.types.AddonPreferences):
    bl_idname = __package__

    source: EnumProperty(name="Backend", items=SOURCES, default=OWN, update=changed)
    python: StringProperty(
        name="Python",
        description="The Python program of an environment with mgcface in it",
        subtype="FILE_PATH",
        update=changed,
    )
    connection_file: StringProperty(
        name="Connection File",
        description="The file that `mgcface serve --connection-file FILE` wrote; it holds address and keys",
        subtype="FILE_PATH",
        update=changed,
    )
    device: EnumProperty(
        name="Compute On", description="Where the backend computes", items=DEVICES, default="auto", update=changed
    )

    def draw(self, context: Context) -> None:
        layout = sure(self.layout)
        layout.use_property_split = True
        layout.prop(self, "source")
        if self.source == PYTHON:
            layout.prop(self, "python")
        if self.source == REMOTE:
            layout.prop(self, "connection_file")
        else:
            layout.prop(self, "device")
        if self.source == OWN:
            column = layout.column(align=True)
            for line in service.setup_lines():
                column.label(text=line)
            layout.operator("mgcface.set_up_backend", icon="IMPORT")


CLASSES = (MGCFACE_AP_preferences,)
