# SPDX-License-Identifier: GPL-3.0-or-later
"""What the panel edits: the list of photos and the state of a job in the window manager, options in the scene.

The window manager is neither saved nor undone, which suits a job; options belong to a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from . import redraw, service

if TYPE_CHECKING:
    from bpy.types import Context

WAITING, RUNNING, DONE, FAILED = "WAITING", "RUNNING", "DONE", "FAILED"
# What is said of a job that was cancelled.
CANCELLED = "Cancelled"
DEFAULT_MODEL = "open-head"
# Until the backend has said its own.
MOST_PHOTOS_OF_ONE_PERSON = 100
STATES = ((WAITING, "Waiting", ""), (RUNNING, "Running", ""), (DONE, "Done", ""), (FAILED, "Failed", ""))
TEXTURE_SIZES = (
    ("0", "None", "No texture: the quickest"),
    ("1024", "1024", "1024 pixels along each side"),
    ("2048", "2048", "2048 pixels along each side"),
    ("4096", "4096", "4096 pixels along each side, for photos of 12 megapixels and more"),
)
PLACEMENTS = (
    ("ORIGIN", "At the Origin", "The head upright at the origin, the camera where the photographer stood"),
    ("CAMERA", "As the Camera Saw It", "The camera level at the origin, the head in front of it as photographed"),
)
# Blender keeps no reference to the strings of a dynamic enum, so this module does.
_model_items: list[tuple[str, str, str]] = []


def model_items(_self: bpy.types.bpy_struct, _context: Context | None) -> list[tuple[str, str, str]]:
    """The backend's models; the default alone until the backend was asked."""
    models = service.status().hello.get("models", ())
    found = [(str(entry["name"]), str(entry["name"]), str(entry.get("terms", ""))) for entry in models]
    items = sorted(found, key=lambda item: item[0] != DEFAULT_MODEL) or [(DEFAULT_MODEL, DEFAULT_MODEL, "")]
    if items != _model_items:
        _model_items[:] = items
    return _model_items


def confidence_switched(_self: bpy.types.bpy_struct, context: Context) -> None:
    redraw.viewports(context)


class MGCFACE_PG_photo(bpy.types.PropertyGroup):
    """One photo of the list."""

    path: StringProperty(subtype="FILE_PATH")
    state: EnumProperty(items=STATES, default=WAITING)
    fraction: FloatProperty(min=0.0, max=1.0)
    note: StringProperty()


class MGCFACE_PG_state(bpy.types.PropertyGroup):
    """The list and what runs."""

    photos: CollectionProperty(type=MGCFACE_PG_photo)
    active: IntProperty()
    running: BoolProperty()
    cancelling: BoolProperty()
    fraction: FloatProperty(min=0.0, max=1.0)
    text: StringProperty()
    result: StringProperty()
    failed: BoolProperty()
    setting_up: BoolProperty()


class MGCFACE_PG_options(bpy.types.PropertyGroup):
    """What to ask for and what to build."""

    model: EnumProperty(name="Face Model", description="The head that is fitted to the photo", items=model_items)
    texture_size: EnumProperty(
        name="Texture", description="Pixels along each side of the skin's texture", items=TEXTURE_SIZES, default="2048"
    )
    normal_map: BoolProperty(
        name="Normal Map",
        description="Wrinkles and pores of the skin that are finer than the mesh, read from its texture; best from "
        "2048 on",
    )
    same_person: BoolProperty(
        name="Same Person",
        description="All photos show one person: make one head of them, with a camera for each photo",
    )
    keep_all: BoolProperty(
        name="Keep All",
        description="Use photos too that look like another person's or disagree with the others",
    )
    all_faces: BoolProperty(name="All Faces", description="Every face of a photo, not only the largest")
    shape_keys: BoolProperty(
        name="Shape Keys",
        description="52 expressions with Apple's names, set as photographed over a face at rest",
        default=True,
    )
    eyes: BoolProperty(name="Eyes", description="Eyeballs with the iris in the photo's colour", default=True)
    camera: BoolProperty(name="Camera", description="The photo's camera with the photo behind the head", default=True)
    lights: BoolProperty(
        name="Lights", description="A sun and the world's colour, estimated from the photo", default=True
    )
    placement: EnumProperty(name="Place", description="Where the head stands", items=PLACEMENTS)
    scale: FloatProperty(
        name="Scale",
        description="Blender units per metre",
        default=1.0,
        min=0.001,
        soft_min=0.01,
        soft_max=100.0,
        max=1000.0,
    )
    show_confidence: BoolProperty(
        name="Show Confidence",
        description="Colour the heads in the viewport by the photo that each part came from, darker where it was less "
        "sure and dark where no photo showed it; materials stay as they are",
        update=confidence_switched,
    )


CLASSES = (MGCFACE_PG_photo, MGCFACE_PG_state, MGCFACE_PG_options)


def not_one_person(photos: int) -> str:
    """Why so many photos cannot become one head, in a few words; empty when they can."""
    hello = service.status().hello
    limit = hello.get("limits", {}).get("photos_of_one_person", MOST_PHOTOS_OF_ONE_PERSON)
    if hello and "same_person" not in hello.get("capabilities", ()):
        return "update the backend"
    if photos < 2:
        return "needs 2 photos"
    return f"{limit} photos at most" if photos > limit else ""


# Blender's types do not know what is registered below; everything else asks these two.
def state(context: Context) -> MGCFACE_PG_state:
    return context.window_manager.mgcface  # type: ignore[union-attr]


def options(context: Context) -> MGCFACE_PG_options:
    return context.scene.mgcface  # type: ignore[union-attr]


def register() -> None:
    bpy.types.WindowManager.mgcface = PointerProperty(type=MGCFACE_PG_state)  # type: ignore[attr-defined]
    bpy.types.Scene.mgcface = PointerProperty(type=MGCFACE_PG_options)  # type: ignore[attr-defined]


def unregister() -> None:
    del bpy.types.WindowManager.mgcface  # type: ignore[attr-defined]
    del bpy.types.Scene.mgcface  # type: ignore[attr-defined]
