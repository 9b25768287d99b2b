# SPDX-License-Identifier: GPL-3.0-or-later
"""Presets of the options: three that come along, and the artist's own."""

from __future__ import annotations

from pathlib import Path

import bpy
from bl_operators.presets import AddPresetBase

# Below Blender's folders of presets.
FOLDER = "mgcface/options"


class MGCFACE_MT_presets(bpy.types.Menu):
    bl_label = "Presets"
    preset_subdir = FOLDER
    preset_operator = "script.execute_preset"
    draw = bpy.types.Menu.draw_preset  # type: ignore[assignment] # it calls its parameter otherwise


class MGCFACE_OT_add_preset(AddPresetBase, bpy.types.Operator):  # type: ignore[misc] # its methods have no return type
    """Keep these options as a preset, or remove the chosen one"""

    bl_idname = "mgcface.add_preset"
    bl_label = "Add Preset"
    preset_menu = "MGCFACE_MT_presets"
    preset_subdir = FOLDER
    preset_defines = ("options = bpy.context.scene.mgcface",)
    preset_values = (
        "options.texture_size",
        "options.normal_map",
        "options.all_faces",
        "options.shape_keys",
        "options.eyes",
        "options.camera",
        "options.lights",
        "options.placement",
        "options.scale",
    )


CLASSES = (MGCFACE_MT_presets, MGCFACE_OT_add_preset)


def register() -> None:
    bpy.utils.register_preset_path(str(Path(__file__).parents[1]))  # type: ignore[attr-defined]


def unregister() -> None:
    bpy.utils.unregister_preset_path(str(Path(__file__).parents[1]))  # type: ignore[attr-defined]
