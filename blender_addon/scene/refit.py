# SPDX-License-Identifier: GPL-3.0-or-later
"""Another fit of the same photo in the same object: what the artist added to the head stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import bpy

from .. import naming
from . import camera, harmonics, light, material, mesh
from .build import BuildOptions, remember
from .head_data import Head, layout


class RefitError(Exception):
    """This head cannot be fitted again; one sentence for the artist."""


def build_options(obj: bpy.types.Object) -> tuple[BuildOptions, dict]:
    """How a head was built and what the backend was asked for; raises RefitError."""
    try:
        settings = json.loads(obj[naming.SETTINGS])
        return BuildOptions(**settings["build"]), dict(settings["backend"])
    except (KeyError, TypeError, ValueError) as error:
        raise RefitError(f"{obj.name} has lost what Refit needs to know: reconstruct the photo again.") from error


def photos_of(obj: bpy.types.Object) -> list[str]:
    """The photos that a head was made from, those of the person that were left out too; raises RefitError."""
    try:
        named = obj.get(naming.PHOTOS)
        return [str(photo) for photo in json.loads(named)] if isinstance(named, str) else [str(obj[naming.PHOTO])]
    except (KeyError, TypeError, ValueError) as error:
        raise RefitError(f"{obj.name} has lost what Refit needs to know: reconstruct the photo again.") from error


class Refitter:
    """Updates one head; has the steps of :class:`blender_addon.scene.build.Builder`.

    Parameters
    ----------
    name : str
        Name of the head object.
    """

    def __init__(self, head: Head, name: str, options: BuildOptions, settings: dict) -> None:
        self._name = name
        self._steps = self._update(head, options, settings)

    def step(self) -> bool:
        """Do a little; True when the head is the new one."""
        return next(self._steps, True) is True

    def _update(self, head: Head, options: BuildOptions, settings: dict) -> Iterator[None]:
        obj = bpy.data.objects.get(self._name)
        if obj is None or obj.get(naming.ROLE) != naming.HEAD:
            raise RefitError(f"{self._name} is gone, so it was not updated: reconstruct the photo again.")
        if obj.mode != "OBJECT":
            raise RefitError(f"{self._name} is in another mode: leave it for object mode and click Refit again.")
        shape = layout(head.model, options.eyes, options.scale)
        data = obj.data
        if not isinstance(data, bpy.types.Mesh) or len(data.vertices) != len(shape.vertices):
            raise RefitError(
                f"{self._name} has another number of vertices than it was made with, so it cannot be updated: "
                "reconstruct the photo again."
            )
        positions = head.positions(shape, options.scale)
        yield from mesh.update_mesh(data, head, shape, positions)
        mesh.set_confidence(data, head.vertex_confidence(shape))
        yield
        material.update_images(data, head)
        yield
        shots = {shot.photo: shot for shot in (head.shot, *head.others)}
        for other in family(obj):
            role, photo = other.get(naming.ROLE), other.get(naming.PHOTO)
            if role in (naming.CAMERA, naming.SHOT) and photo in shots:
                camera.set_lens(other, shots[photo].camera, options.scale)
            elif role == naming.CAMERA and not head.others:
                camera.set_lens(other, head.camera, options.scale)
            elif other.get(naming.ROLE) == naming.SUN and head.light is not None:
                light.set_sun(other, harmonics.photo_light(head.light), options.scale)
        remember(obj, head, replace(options), settings)


def family(obj: bpy.types.Object) -> list[bpy.types.Object]:
    """The objects that came with a head: those on the same root."""
    return [] if obj.parent is None else list(obj.parent.children)
