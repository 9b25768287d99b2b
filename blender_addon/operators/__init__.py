# SPDX-License-Identifier: GPL-3.0-or-later
"""What the artist can click, one file for each subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bpy.types import Operator


def allowed(operator: type[Operator], reason: str) -> bool:
    """What a poll answers: yes when there is no reason against it, which the button else shows."""
    if reason:
        operator.poll_message_set(reason)
    return not reason
