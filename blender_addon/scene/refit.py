# SPDX-License-Identifier: GPL-3.0-or-later
"""Another fit in the same object, of the same photos or with more: what the artist added to the head stays."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import bpy

from .. import naming
from ..typed import sure
from . import camera, confidence_map, expressions, harmonics, light, material, mesh
from .build import BuildOptions, finish, head_id_of, remember
from .head_data import Head, Shot, layout, photo_name


class RefitError(Exception):
    """This head cannot be fitted again; one sentence for the artist."""


def build_options(obj: bpy.types.Object) -> tuple[BuildOptions, dict]:
    """How a head was built and what the backend was asked for; raises RefitError."""
    try:
        settings = json.loads(obj[naming.SETTINGS])
        return BuildOptions(**settings["build"]), dict(settings["backend"])
    except (KeyError, TypeError, ValueError) as error:
        raise RefitError(f"{obj.name} has lost what Refit needs to know: reconstruct the photo again.") from error


def photos_of(obj: bpy.types.Object) -> dict[str, bool]:
    """The photos of a head, and whether it was made from each or left it out; raises RefitError."""
    try:
        named = obj.get(naming.PHOTOS)
        if not isinstance(named, str):
            return {bpy.path.abspath(str(obj[naming.PHOTO])): True}
        entries = json.loads(obj[naming.RECORD])["photos"]
        photos = [bpy.path.abspath(str(photo)) for photo in json.loads(named)]
        return {photo: bool(entry["used"]) for photo, entry in zip(photos, entries, strict=True)}
    except (KeyError, TypeError, ValueError) as error:
        raise RefitError(f"{obj.name} has lost what Refit needs to know: reconstruct the photo again.") from error


def present(photos: Sequence[str], what_to_do: str) -> list[str]:
    """The same paths; raises RefitError where one is not on the disk."""
    for photo in photos:
        if not os.path.isfile(photo):
            raise RefitError(f"The photo {photo} is gone: {what_to_do}.")
    return list(photos)


class Refitter:
    """Updates one head; has the steps of :class:`blender_addon.scene.build.Builder`.

    Nothing of the head is changed before all that can be refused was looked at.

    Parameters
    ----------
    name : str
        Name of the head object.
    added : sequence of str
        Photos that were not in the head yet: without one of these, and one of its own, it stays as it is.
    """

    def __init__(self, head: Head, name: str, options: BuildOptions, settings: dict, added: Sequence[str] = ()) -> None:
        self.name = name
        self._steps = self._update(head, options, settings, added)

    def step(self) -> bool:
        """Do a little; True when the head is the new one."""
        return next(self._steps, True) is True

    def _update(self, head: Head, options: BuildOptions, settings: dict, added: Sequence[str]) -> Iterator[None]:
        obj = bpy.data.objects.get(self.name)
        if obj is None or obj.get(naming.ROLE) != naming.HEAD:
            raise RefitError(f"{self.name} is gone, so it was not updated: reconstruct the photo again.")
        if obj.mode != "OBJECT":
            raise RefitError(f"{self.name} is in another mode: leave it for object mode and click again.")
        shape = layout(head.model, options.eyes, options.scale)
        data = obj.data
        if not isinstance(data, bpy.types.Mesh) or len(data.vertices) != len(shape.vertices):
            raise RefitError(
                f"{self.name} has another number of vertices than it was made with, so it cannot be updated: "
                "reconstruct the photo again."
            )
        shots, before = head.shots, {photo for photo, used in photos_of(obj).items() if used}
        if added:
            _check_added(self.name, shots, before, added)
        # The head goes on showing the photo that it has shown, as long as that photo is used.
        shown = shots.get(bpy.path.abspath(obj[naming.PHOTO]), head.shot)
        fresh = [shot for shot in shots.values() if shot.photo not in before]
        cameras = []
        for shot in fresh if options.camera and head.others else ():
            cameras.append(camera.make_camera(photo_name(shot.photo), shot, options.scale, naming.SHOT))
            yield
        if head.others and data.shape_keys is not None:
            single = naming.PHOTOS not in obj
            yield from self._actions(obj, data.shape_keys, head, shots if single else {s.photo: s for s in fresh})
        positions = head.positions(shape, options.scale)
        yield from mesh.update_mesh(data, head.model.expression_names, shown.values, shape, positions)
        mesh.set_confidence(data, head.vertex_confidence(shape))
        mesh.set_skin(data, shape)
        yield
        material.update_images(data, head)
        confidence_map.set_map(obj, head)
        yield
        for made in cameras:
            _place_beside(made, obj)
        self._update_family(obj, head, shown, options)
        remember(obj, head, shown, replace(options), settings)
        finish()

    def _actions(
        self, obj: bpy.types.Object, keys: bpy.types.Key, head: Head, wanted: dict[str, Shot]
    ) -> Iterator[None]:
        """Expressions that are not there yet are made, those that are become those of this fit."""
        head_id = head_id_of(obj)
        expressions.update_actions(keys, head_id, head.model, head.shots)
        yield
        if wanted:
            yield from expressions.make_actions(keys, head_id, head.model, wanted.values())

    def _update_family(self, obj: bpy.types.Object, head: Head, shown: Shot, options: BuildOptions) -> None:
        shots, relatives = head.shots, family(obj)
        cameras = {
            other: bpy.path.abspath(other[naming.PHOTO])
            for other in relatives
            if other.get(naming.ROLE) == naming.CAMERA or other.get(naming.ROLE) == naming.SHOT
        }
        for other, photo in cameras.items():
            if photo in shots:
                camera.set_lens(other, shots[photo].camera, options.scale)
            elif other[naming.ROLE] == naming.CAMERA and not head.others:
                camera.set_lens(other, head.camera, options.scale)
        main = next((other for other, photo in cameras.items() if photo == shown.photo), None)
        for other in cameras if main is not None else ():
            other[naming.ROLE] = naming.CAMERA if other == main else naming.SHOT
        for other in relatives:
            if other.get(naming.ROLE) == naming.SUN and shown.light is not None:
                light.set_sun(other, harmonics.photo_light(shown.light), options.scale)


def _check_added(name: str, shots: dict[str, Shot], before: set[str], added: Sequence[str]) -> None:
    """RefitError where the new photos do not go together with the old ones."""
    if not any(photo in shots for photo in added):
        new = "the new photo" if len(added) == 1 else "any of the new photos"
        raise RefitError(f"{name} stays as it was, because {new} could not be used.")
    if not any(photo in shots for photo in before):
        raise RefitError(
            f"{name} stays as it was, because the new photos agree with each other and not with its own: "
            "switch on Keep All if they show the same person."
        )


def _place_beside(made: bpy.types.Object, obj: bpy.types.Object) -> None:
    """A new camera goes where the head's others are: on its root, in its collection."""
    # A head that the artist took off its root carries the camera itself.
    made.parent = obj.parent if obj.parent is not None and obj.parent.get(naming.ROLE) == naming.ROOT else obj
    collections = obj.users_collection
    ours = [collection for collection in collections if collection.get(naming.ROLE) == naming.SUBJECT]
    for collection in (*ours, *collections, sure(bpy.context.scene).collection)[:1]:
        collection.objects.link(made)


def family(obj: bpy.types.Object) -> list[bpy.types.Object]:
    """The objects that came with a head: those on the same root, and on the head itself."""
    return [*obj.children, *(() if obj.parent is None else obj.parent.children)]
