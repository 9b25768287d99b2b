"""Messages between the server and its worker: the frames of the wire over the worker's stdin and stdout.

A pipe belongs to its two processes alone, ends with either of them, and works the same everywhere. Each
message is the number of its frames, their lengths, and the frames.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

COUNT = struct.Struct("<I")
LENGTH = struct.Struct("<Q")


def write_frames(stream: BinaryIO, frames: Sequence[Any]) -> None:
    """One message; returns when the other side has taken it or it is in the pipe."""
    views = [memoryview(getattr(frame, "buffer", frame)).cast("B") for frame in frames]
    stream.write(COUNT.pack(len(views)) + b"".join(LENGTH.pack(view.nbytes) for view in views))
    for view in views:
        stream.write(view)
    stream.flush()


def read_frames(stream: BinaryIO) -> list[bytearray] | None:
    """One message, or None when the other side has ended, in the middle of a message too."""
    head = _exactly(stream, COUNT.size)
    if head is None:
        return None
    lengths = _exactly(stream, COUNT.unpack(head)[0] * LENGTH.size)
    if lengths is None:
        return None
    frames = []
    for (length,) in LENGTH.iter_unpack(lengths):
        frame = _exactly(stream, length)
        if frame is None:
            return None
        frames.append(frame)
    return frames


def _exactly(stream: BinaryIO, count: int) -> bytearray | None:
    """The next ``count`` bytes; None when the stream ends before."""
    data = bytearray(count)
    view = memoryview(data)
    while view:
        read = stream.readinto(view)  # type: ignore[attr-defined]
        if not read:
            return None
        view = view[read:]
    return data
