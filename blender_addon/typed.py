# SPDX-License-Identifier: GPL-3.0-or-later
"""What the type checker has to be told about Blender; at run time it is next to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from bpy.stub_internal.rna_enums import IconItems, OperatorReturnItems
    from bpy.types import Operator, Panel

    Icon = IconItems
    # What operators return.
    Answer = set[OperatorReturnItems]
else:
    # What several operators or panels share is no class of Blender's itself.
    Operator = Panel = object

T = TypeVar("T")


def sure(value: T | None) -> T:
    """For what Blender's types leave open and always is there: window manager, scene, layout of what is drawn."""
    assert value is not None
    return value
