# SPDX-License-Identifier: GPL-3.0-or-later
"""The expression of each photo of a person as an action, to be laid on the head's shape keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import bpy

from .. import naming
from .head_data import FaceModel, Shot, photo_name
from .mesh import set_value, widen

# Where an action holds its one pose.
FRAME = 1


def make_actions(keys: bpy.types.Key, head_id: str, model: FaceModel, shots: Iterable[Shot]) -> Iterator[None]:
    """One action for each of these photos; what the head's own keys show, and what animates them, stays as it is.

    Blender makes action, slot and channels itself where a value is keyed, in whatever way its version stores them,
    so that is done to keys of the same names that nobody sees.
    """
    mesh = bpy.data.meshes.new("expression")
    mesh[naming.UNFINISHED] = True
    obj = bpy.data.objects.new("expression", mesh)
    obj[naming.UNFINISHED] = True
    for name in (naming.BASIS, *model.expression_names):
        obj.shape_key_add(name=name, from_mix=False)
    scratch = mesh.shape_keys
    assert scratch is not None
    for shot in shots:
        for name, value in zip(model.expression_names, shot.values):
            set_value(scratch.key_blocks[name], value)
            # The artist's slider has to reach as far as the action moves it; one that is gone is not missed.
            if name in keys.key_blocks:
                widen(keys.key_blocks[name], value)
        _make_action(scratch, keys.name, head_id, model, shot)
        yield
    bpy.data.objects.remove(obj)
    bpy.data.meshes.remove(mesh)


def _make_action(scratch: bpy.types.Key, name: str, head_id: str, model: FaceModel, shot: Shot) -> None:
    for expression in model.expression_names:
        scratch.key_blocks[expression].keyframe_insert("value", frame=FRAME)
    animation = scratch.animation_data
    assert animation is not None and animation.action is not None
    action: Any = animation.action
    action[naming.UNFINISHED] = True
    action[naming.ROLE], action[naming.PHOTO], action[naming.HEAD_ID] = naming.EXPRESSION, shot.photo, head_id
    action.name = f"{photo_name(shot.photo)} expression"
    # Without it Blender would not save what nothing uses yet.
    action.use_fake_user = True
    for slot in getattr(action, "slots", ()):
        # By this name Blender finds the slot when the artist gives the action to the head.
        slot.name_display = name
    scratch.animation_data_clear()


def update_actions(keys: bpy.types.Key, head_id: str, model: FaceModel, shots: dict[str, Shot]) -> None:
    """The expressions of another fit in a head's actions, but for channels that the artist has worked on."""
    for action in bpy.data.actions:
        ours = action.get(naming.ROLE) == naming.EXPRESSION and action.get(naming.HEAD_ID) == head_id
        shot = shots.get(bpy.path.abspath(action[naming.PHOTO])) if ours else None
        if shot is None:
            continue
        values = {f'key_blocks["{name}"].value': value for name, value in zip(model.expression_names, shot.values)}
        for curve in _curves(action):
            points = curve.keyframe_points
            if curve.data_path in values and len(points) == 1 and points[0].co[0] == FRAME:
                # With its handles, which else would bend the channel when the artist adds a key.
                points[0].co_ui[1] = values[curve.data_path]
                curve.update()
        for name, value in zip(model.expression_names, shot.values):
            if name in keys.key_blocks:
                widen(keys.key_blocks[name], value)


def _curves(action: Any) -> list[Any]:
    """All channels of an action; from Blender 5.0 on they lie in layers and strips."""
    if hasattr(action, "fcurves"):
        return list(action.fcurves)
    bags = (bag for layer in action.layers for strip in layer.strips for bag in strip.channelbags)
    return [curve for bag in bags for curve in bag.fcurves]
