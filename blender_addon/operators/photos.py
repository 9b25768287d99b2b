# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of photos: add by file browser, by drag and drop, by paste; remove, reorder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import bpy
from bpy.props import BoolProperty, CollectionProperty, EnumProperty, StringProperty

from .. import properties
from ..link.pasted import paths_in
from ..properties import WAITING
from ..typed import Operator, sure
from . import allowed

if TYPE_CHECKING:
    from bpy.types import Context

    from ..typed import Answer

# What the backend can read (vision/decode.py).
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".heic", ".heif", ".bmp")
TAB = "Face"


def add_to_list(context: Context, paths: list[str]) -> tuple[int, str]:
    """Append photos that are not in the list; how many, and a sentence about one that could not be added."""
    state = properties.state(context)
    known = {os.path.normcase(photo.path) for photo in state.photos}
    added, problem = 0, ""
    for path in map(os.path.abspath, paths):
        wrong = problem_with(path)
        if wrong:
            problem = wrong
        elif os.path.normcase(path) not in known:
            known.add(os.path.normcase(path))
            photo = state.photos.add()
            photo.name, photo.path, photo.state = os.path.basename(path), path, WAITING
            state.active = len(state.photos) - 1
            added += 1
    return added, problem


def problem_with(path: str) -> str:
    """Why a file cannot be one of the photos, in a sentence; empty when it can."""
    if not os.path.isfile(path):
        return f"There is no file {path}: choose a photo that exists."
    if not path.lower().endswith(SUFFIXES):
        return f"{os.path.basename(path)} cannot be read: choose a JPEG, PNG, WebP, TIFF or HEIC file."
    return ""


class _NotWhileRunning(Operator):
    """The list must not change under a job."""

    @classmethod
    def poll(cls, context: Context) -> bool:
        running = properties.state(context).running
        return allowed(cls, "Wait for the reconstruction to end, or cancel it" if running else "")


class _NeedsPhotos(_NotWhileRunning):
    @classmethod
    def poll(cls, context: Context) -> bool:
        if not properties.state(context).photos:
            return allowed(cls, "The list is empty: add photos first")
        return super().poll(context)


class ChoosesPhotos(Operator):
    """What Blender's file browser goes by when it is opened for photos."""

    directory: StringProperty(subtype="DIR_PATH", options={"HIDDEN", "SKIP_SAVE"})
    files: CollectionProperty(type=bpy.types.OperatorFileListElement, options={"HIDDEN", "SKIP_SAVE"})
    filter_image: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    filter_folder: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    filter_glob: StringProperty(default=";".join(f"*{s}" for s in SUFFIXES), options={"HIDDEN"})


class MGCFACE_OT_add_photos(ChoosesPhotos, _NotWhileRunning, bpy.types.Operator):
    """Add photos to the list"""

    bl_idname = "mgcface.add_photos"
    bl_label = "Add Photos"

    # There is nothing to set beside the photos.
    hide_props_region: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})

    def invoke(self, context: Context, event: bpy.types.Event) -> Answer:
        if self.files:
            # Dropped onto the panel: the files are there already.
            return self.execute(context)
        photos = properties.state(context).photos
        if photos:
            # A person's other photos lie beside the first.
            self.directory = os.path.join(os.path.dirname(photos[-1].path), "")
        sure(context.window_manager).fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: Context) -> Answer:
        folder = bpy.path.abspath(self.directory)
        added, problem = add_to_list(context, [os.path.join(folder, file.name) for file in self.files if file.name])
        if problem:
            self.report({"WARNING"}, problem)
        return {"FINISHED"} if added else {"CANCELLED"}


class MGCFACE_OT_paste_photo(_NotWhileRunning, bpy.types.Operator):
    """Add the photos whose paths were copied, one on each line"""

    bl_idname = "mgcface.paste_photo"
    bl_label = "Paste Photo Path"

    def execute(self, context: Context) -> Answer:
        paths = paths_in(sure(context.window_manager).clipboard)
        if not paths:
            self.report({"WARNING"}, "The clipboard holds no path: copy the path of a photo first.")
            return {"CANCELLED"}
        added, problem = add_to_list(context, paths)
        if problem:
            self.report({"WARNING"}, problem)
        return {"FINISHED"} if added else {"CANCELLED"}


class MGCFACE_OT_remove_photo(_NeedsPhotos, bpy.types.Operator):
    """Take the chosen photo off the list; the file stays"""

    bl_idname = "mgcface.remove_photo"
    bl_label = "Remove Photo"

    def execute(self, context: Context) -> Answer:
        state = properties.state(context)
        state.photos.remove(state.active)
        state.result = ""
        state.active = max(0, min(state.active, len(state.photos) - 1))
        return {"FINISHED"}


class MGCFACE_OT_clear_photos(_NeedsPhotos, bpy.types.Operator):
    """Take all photos off the list; the files stay"""

    bl_idname = "mgcface.clear_photos"
    bl_label = "Remove All Photos"

    def execute(self, context: Context) -> Answer:
        state = properties.state(context)
        state.photos.clear()
        state.result = ""
        return {"FINISHED"}


class MGCFACE_OT_move_photo(_NeedsPhotos, bpy.types.Operator):
    """Move the chosen photo in the list; heads stand side by side in this order"""

    bl_idname = "mgcface.move_photo"
    bl_label = "Move Photo"

    direction: EnumProperty(items=(("UP", "Up", ""), ("DOWN", "Down", "")))

    def execute(self, context: Context) -> Answer:
        state = properties.state(context)
        target = state.active + (-1 if self.direction == "UP" else 1)
        if not 0 <= target < len(state.photos):
            return {"CANCELLED"}
        state.photos.move(state.active, target)
        state.active = target
        return {"FINISHED"}


class MGCFACE_FH_photos(bpy.types.FileHandler):
    """Photos dropped onto the Face tab; anywhere else Blender does with images what it always does."""

    bl_idname = "MGCFACE_FH_photos"
    bl_label = "Photos of Faces"
    bl_import_operator = MGCFACE_OT_add_photos.bl_idname
    bl_file_extensions = ";".join(SUFFIXES)

    @classmethod
    def poll_drop(cls, context: Context) -> bool:
        area, region = context.area, context.region
        if area is None or region is None or area.type != "VIEW_3D" or region.type != "UI":
            return False
        return region.active_panel_category == TAB


CLASSES = (
    MGCFACE_OT_add_photos,
    MGCFACE_OT_paste_photo,
    MGCFACE_OT_remove_photo,
    MGCFACE_OT_clear_photos,
    MGCFACE_OT_move_photo,
    MGCFACE_FH_photos,
)
