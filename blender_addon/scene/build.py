# SPDX-License-Identifier: GPL-3.0-or-later
"""One head becomes a collection, in steps short enough for the interface to stay alive between them.

The steps make data-blocks that nothing shows yet; the last one puts the collection into the scene. What
happens between two steps (undo, another file, a deletion) may take the data-blocks away, so :class:`Builder`
is thrown away then and a new one begins; :func:`sweep` removes what the old one left.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import bpy
import numpy as np
from mathutils import Matrix

from .. import naming
from ..typed import sure
from . import axes, camera, confidence_map, expressions, light, material, mesh
from .head_data import Head, Shot, layout, photo_name

# Heads of one job stand beside each other, this far apart (metres): shoulders have room between them.
SPACING_M = 0.4
# Room between a head and what it steps aside for (metres): a cube that is nearer stands in the photo's picture.
CLEARANCE_M = 0.8
# How large the empty at the root is drawn (metres).
ROOT_DRAWN_M = 0.05
# Kinds of data-blocks that a builder makes.
KINDS = ("objects", "meshes", "materials", "images", "cameras", "lights", "actions", "collections")


@dataclass(frozen=True)
class BuildOptions:
    """What to make of a head.

    Attributes
    ----------
    shape_keys, eyes, camera, lights : bool
    placement : {"ORIGIN", "CAMERA"}
        The head upright at the origin, or the camera there, level, and the head where it saw it.
    scale : float
        Blender units per metre.
    """

    shape_keys: bool = True
    eyes: bool = True
    camera: bool = True
    lights: bool = True
    placement: str = "ORIGIN"
    scale: float = 1.0


class Builder:
    """Makes one head; call :meth:`step` until it returns True.

    Parameters
    ----------
    place : int
        How many places to the side of the origin the head stands.
    settings : dict
        What the backend was asked for, kept with the head so that Refit asks the same.
    """

    def __init__(self, head: Head, options: BuildOptions, place: int, settings: dict) -> None:
        # Of the head object: Blender numbers the second head of a photo.
        self.name = ""
        self.collection = ""
        self._steps = self._build(head, options, place, settings)

    def step(self) -> bool:
        """Do a little; True when the head stands in the scene."""
        return next(self._steps, True) is True

    def _build(self, head: Head, options: BuildOptions, place: int, settings: dict) -> Iterator[None]:
        scale = options.scale
        shape = layout(head.model, options.eyes, scale)
        positions = head.positions(shape, scale)
        data = mesh.make_mesh(head.name, shape, positions)
        obj = bpy.data.objects.new(head.name, data)
        obj[naming.UNFINISHED] = True
        self.name = obj.name
        yield
        if options.shape_keys:
            yield from mesh.add_shape_keys(obj, head, shape, positions)
        else:
            data.vertices.foreach_set("co", mesh.posed(head.values, shape, positions).ravel())
            data.update()
        yield
        mesh.set_confidence(data, head.vertex_confidence(shape))
        mesh.set_skin(data, shape)
        confidence_map.set_map(obj, head)
        material.make_materials(data, shape.materials, head, scale)
        yield
        remember(obj, head, head.shot, options, settings)
        root = _root(head, options, place)
        parts = [root, obj]
        if options.camera:
            parts.append(camera.make_camera(head.name, head.shot, scale))
            for shot in head.others:
                parts.append(camera.make_camera(photo_name(shot.photo), shot, scale, naming.SHOT))
                yield
        if head.others and data.shape_keys is not None:
            yield from expressions.make_actions(data.shape_keys, head_id_of(obj), head.model, head.shots.values())
        sun = light.make_sun(head, scale) if options.lights else None
        if sun is not None:
            parts.append(sun)
        self.collection = _collect(head, parts, root)
        yield
        scene = sure(bpy.context.scene)
        if options.placement == "ORIGIN":
            step_aside(root, scene.objects, scale)
        first = not any(other.get(naming.ROLE) == naming.HEAD for other in scene.objects)
        scene.collection.children.link(bpy.data.collections[self.collection])
        if sun is not None:
            # Suns shine on everything: a second one would light the first head twice.
            sun.hide_render = not first
            sun.hide_set(not first)
        if options.lights and first:
            light.set_ambient(scene, head)
        if options.camera and first:
            camera.look_through(scene, next(part for part in parts if part.get(naming.ROLE) == naming.CAMERA))
        obj[naming.ROLE] = naming.HEAD
        select_only(obj)
        finish()


def step_aside(root: bpy.types.Object, objects: Iterable[bpy.types.Object], scale: float) -> None:
    """Move the root along +X until no mesh of the scene swallows the head: every new file has a cube there."""
    boxes = [world_box(obj) for obj in objects if obj.type == "MESH" and obj.visible_get()]
    half = SPACING_M * scale / 2.0
    # Sorted by their far side, so that one pass is enough: the root only ever moves on.
    for low, high in sorted(boxes, key=lambda box: box[1][0]):
        x = root.location.x
        beside = (low[0] >= x + half, high[0] <= x - half, low[1] >= half, high[1] <= -half, low[2] >= half)
        if not any(beside) and high[2] > -half:
            root.location.x = float(high[0]) + half + CLEARANCE_M * scale


def world_box(obj: bpy.types.Object) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner (3,) of an object's bounding box in the world."""
    matrix = np.array(obj.matrix_world)
    corners = np.array(obj.bound_box) @ matrix[:3, :3].T + matrix[:3, 3]
    return corners.min(axis=0), corners.max(axis=0)


def remember(obj: bpy.types.Object, head: Head, shown: Shot, options: BuildOptions, settings: dict) -> None:
    """Everything that is needed to make this head again; ``shown`` is the photo whose expression it has."""
    obj[naming.RECORD] = json.dumps(head.record, separators=(",", ":"))
    obj[naming.PHOTO] = shown.photo
    if head.photos:
        obj[naming.PHOTOS], obj[naming.USED] = json.dumps(head.photos), 1 + len(head.others)
    obj[naming.FACE] = head.face
    info = {key: head.model.header.get(key, "") for key in ("name", "version", "licence", "terms", "attribution")}
    obj[naming.SETTINGS] = json.dumps({"build": asdict(options), "backend": settings, "face_model": info})


def head_id_of(obj: bpy.types.Object) -> str:
    """What the head's actions know it by."""
    if obj.get(naming.HEAD_ID) is None:
        obj[naming.HEAD_ID] = uuid.uuid4().hex
    return obj[naming.HEAD_ID]


def _root(head: Head, options: BuildOptions, place: int) -> bpy.types.Object:
    """The empty that head, camera and sun hang on: moving it moves all of them."""
    root = bpy.data.objects.new(f"{head.name} root", None)
    root[naming.UNFINISHED] = True
    root[naming.ROLE] = naming.ROOT
    root.empty_display_size = ROOT_DRAWN_M * options.scale
    aside = Matrix.Translation((place * SPACING_M * options.scale, 0.0, 0.0))
    if options.placement == "CAMERA":
        aside @= Matrix(axes.as_seen(head.camera.R, head.camera.t, options.scale).tolist())
    root.matrix_world = aside
    return root


def _collect(head: Head, parts: list[bpy.types.Object], root: bpy.types.Object) -> str:
    collection = bpy.data.collections.new(head.name)
    collection[naming.UNFINISHED] = True
    collection[naming.ROLE] = naming.SUBJECT
    for part in parts:
        collection.objects.link(part)
        if part is not root:
            # With no inverse, a part's own matrix is its place relative to the head.
            part.parent = root
    return collection.name


def select_only(obj: bpy.types.Object) -> None:
    """The new head is what the artist wants to work with; in a mode other than object mode nothing is changed."""
    view_layer = sure(bpy.context.view_layer)
    if bpy.context.mode != "OBJECT" or obj.name not in view_layer.objects:
        return
    for other in view_layer.objects.selected:
        other.select_set(False)
    obj.select_set(True)
    view_layer.objects.active = obj


def finish() -> None:
    """What was under construction is now the artist's."""
    for block in _unfinished():
        del block[naming.UNFINISHED]


def sweep() -> None:
    """Remove what an abandoned builder left behind."""
    for block in _unfinished():
        # One removal may take others along, so each is looked up again by the loop below.
        getattr(bpy.data, _kind(block)).remove(block)


def _unfinished() -> list[bpy.types.ID]:
    return [block for kind in KINDS for block in getattr(bpy.data, kind) if naming.UNFINISHED in block]


def _kind(block: bpy.types.ID) -> str:
    kinds = {
        bpy.types.Object: "objects",
        bpy.types.Mesh: "meshes",
        bpy.types.Material: "materials",
        bpy.types.Image: "images",
        bpy.types.Camera: "cameras",
        bpy.types.Light: "lights",
        bpy.types.Action: "actions",
        bpy.types.Collection: "collections",
    }
    return next(name for kind, name in kinds.items() if isinstance(block, kind))
