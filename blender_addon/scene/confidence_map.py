# SPDX-License-Identifier: GPL-3.0-or-later
"""The map of confidence in an artist's file: an image that the head points to and no material uses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import bpy

from .. import naming
from .head_data import Head
from .packed_images import packed_image, repack


@dataclass(frozen=True)
class Photo:
    """A photo that texels came from: its place among the head's photos, and its part of all that photos showed."""

    path: str
    place: int
    share: float


def set_map(obj: bpy.types.Object, head: Head) -> None:
    """The map of this head; an old one goes when there is none."""
    image = map_of(obj)
    if head.origin is None:
        if image is not None:
            del obj[naming.MAP]
            if not image.users:
                bpy.data.images.remove(image)
        return
    if image is None:
        image = packed_image(head.origin, naming.MAP_IMAGE)
        obj[naming.MAP] = image
    else:
        repack(image, head.origin.data)
    # Drawn as it is: its colours are a key, no light.
    color_space: Any = image.colorspace_settings
    color_space.name = "Non-Color"
    photos = head.photos or (head.photo,)
    image[naming.LEGEND] = json.dumps([[photos[place], place, share] for place, share in head.shares.items()])


def map_of(obj: bpy.types.Object) -> bpy.types.Image | None:
    image: Any = obj.get(naming.MAP)
    return image if isinstance(image, bpy.types.Image) else None


def legend(obj: bpy.types.Object) -> list[Photo]:
    """The photos in a head's map, in the order of the head's photos; empty without a map."""
    image = map_of(obj)
    try:
        entries = [] if image is None else json.loads(image[naming.LEGEND])
        return [Photo(str(path), int(place), float(share)) for path, place, share in entries]
    except (KeyError, TypeError, ValueError):
        return []
