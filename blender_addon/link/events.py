# SPDX-License-Identifier: GPL-3.0-or-later
"""What the link tells Blender's main thread, and what it is asked for. No bpy in here."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from ..scene.head_data import Head

DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
# Phases of the link, as the panel shows them.
STOPPED, STARTING, READY, BUSY = "stopped", "starting", "ready", "busy"


@dataclass(frozen=True)
class Request:
    """One job.

    Attributes
    ----------
    photos : tuple of str
        Paths on this machine.
    options : dict
        As in the protocol: model, texture_size, all_faces, stages...
    eyes, scale
        How the heads will be built, so that the thread can prepare them.
    wire_id : str
        What the backend knows the job by, once it was sent.
    """

    photos: tuple[str, ...]
    options: dict[str, Any]
    eyes: bool = True
    scale: float = 1.0
    wire_id: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Progress:
    """``fraction`` of the photo, ``job_fraction`` of all of them, both in [0, 1]."""

    job: str
    photo: int
    stage: str
    fraction: float
    job_fraction: float
    text: str


@dataclass(frozen=True)
class FaceReady:
    job: str
    photo: int
    head: Head


@dataclass(frozen=True)
class PhotoFailed:
    job: str
    photo: int
    sentence: str


@dataclass(frozen=True)
class Ended:
    """The one end of a job: ``kind`` is done, failed or cancelled."""

    job: str
    kind: str
    sentence: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status:
    """What the panel shows of the backend; replaced as a whole, so that any thread may read it.

    Attributes
    ----------
    phase : str
    sentence : str
        Why it is not ready, when there is something to say.
    hello : dict
        What the server said of itself: server_version, device, models...
    owned : bool
        Whether this Blender started the process.
    """

    phase: str = STOPPED
    sentence: str = ""
    hello: dict[str, Any] = field(default_factory=dict)
    owned: bool = False


Event = Progress | FaceReady | PhotoFailed | Ended
