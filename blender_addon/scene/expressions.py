# SPDX-License-Identifier: GPL-3.0-or-later
"""The expression of each photo of a person as an action, to be laid on the head's shape keys."""

from __future__ import annotations

from collections.abc import Iterator

import bpy

from .. import naming
from .head_data import Head, Shot, photo_name
from .mesh import set_value

# Where an action holds its one pose.
FRAME = 1


def make_actions(keys: bpy.types.Key, head: Head) -> Iterator[None]:
    """One action for each photo that was used; the head itself keeps the main photo's expression, unanimated."""
    for shot in (head.shot, *head.others):
        _make_action(keys, head, shot)
        yield
    _set(keys, head, head.shot)


def _make_action(keys: bpy.types.Key, head: Head, shot: Shot) -> None:
    _set(keys, head, shot)
    for name in head.model.expression_names:
        # Blender makes the action, its slot and channels itself, in whatever way its version stores them.
        keys.key_blocks[name].keyframe_insert("value", frame=FRAME)
    animation = keys.animation_data
    assert animation is not None and animation.action is not None
    action = animation.action
    action[naming.UNFINISHED] = True
    action[naming.ROLE], action[naming.PHOTO] = naming.EXPRESSION, shot.photo
    action.name = f"{photo_name(shot.photo)} expression"
    # Without it Blender would not save what nothing uses yet.
    action.use_fake_user = True
    animation.action = None
    keys.animation_data_clear()


def _set(keys: bpy.types.Key, head: Head, shot: Shot) -> None:
    for name, value in zip(head.model.expression_names, shot.values):
        set_value(keys.key_blocks[name], value)
