# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that live in the .blend file, and that show what is in them after an undo too."""

from __future__ import annotations

import uuid

import bpy
from bpy.app.handlers import persistent

from .. import naming
from .head_data import Picture

# Which contents of an image Blender has decoded, by the image's number in this session.
_decoded: dict[int, str] = {}


def packed_image(picture: Picture, role: str) -> bpy.types.Image:
    """An image that lives in the .blend file."""
    image = bpy.data.images.new(picture.name, picture.side, picture.side)
    image[naming.ROLE] = role
    image[naming.UNFINISHED] = True
    repack(image, picture.data)
    return image


def repack(image: bpy.types.Image, data: bytes) -> None:
    """Other pixels for an image, as an encoded file."""
    if image.packed_file is not None:
        # A second pack would be ignored while the first is there.
        image.unpack(method="REMOVE")
    image.pack(data=data, data_len=len(data))  # type: ignore[arg-type] # Blender takes bytes
    image.source = "FILE"
    image[naming.PIXELS] = uuid.uuid4().hex
    _forget_decoded(image)


def _forget_decoded(image: bpy.types.Image) -> None:
    """What was decoded or drawn before is the old picture."""
    image.buffers_free()
    image.gl_free()
    _decoded[image.session_uid] = image[naming.PIXELS]


@persistent
def undone(*_: object) -> None:
    """Undo brings the packed file back and keeps the pixels that were decoded from the one after it."""
    for image in bpy.data.images:
        pixels = image.get(naming.PIXELS)
        if pixels is not None and _decoded.setdefault(image.session_uid, pixels) != pixels:
            _forget_decoded(image)


@persistent
def loaded(*_: object) -> None:
    """Of a file that was just opened nothing was decoded before."""
    _decoded.clear()
    undone()


HANDLERS = {"undo_post": undone, "redo_post": undone, "load_post": loaded}


def register() -> None:
    for name, handler in HANDLERS.items():
        getattr(bpy.app.handlers, name).append(handler)


def unregister() -> None:
    for name, handler in HANDLERS.items():
        getattr(bpy.app.handlers, name).remove(handler)
    _decoded.clear()
