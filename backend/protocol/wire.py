"""A message as frames, and frames as a message that can be trusted to be what it says.

``[b"MGCF/1", header, array, array, ...]``: the version, a JSON object, and for every entry of the header's
``arrays`` one little-endian buffer. Whatever arrives is checked (count, sizes, dtypes, shapes) before any
of it is used; nothing is ever evaluated or decompressed here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PROTOCOL = 1
MAGIC_PREFIX = b"MGCF/"
MAGIC = MAGIC_PREFIX + str(PROTOCOL).encode()

# The only element types on the wire, little-endian, by the names that NumPy gives them.
DTYPES = {name: np.dtype(f"<{name}") for name in ("u1", "i4", "f4", "f8")}
MAX_DIMENSIONS = 4
MAX_NAME = 64
# A job of 256 photos, each an array of its own.
MAX_ARRAYS = 256
# A record with 478 landmarks takes 60 kB; 256 photos with long names 100 kB.
MAX_HEADER_BYTES = 1 << 20
# All frames together: 16 photos of a 50-megapixel camera as JPEG, or a 4096 texture five times over.
MAX_MESSAGE_BYTES = 1 << 28

# What a client may choose as the name of a job: it comes back in every message about that job.
ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
TYPE_PATTERN = re.compile(r"[a-z_]{1,32}")
RESERVED = ("type", "id", "arrays")

Buffer = Any  # bytes, memoryview, contiguous ndarray or zmq.Frame


class ProtocolError(Exception):
    """What arrived, or what was about to be sent, breaks the rules; one sentence for the user.

    ``code`` is for programs: ``protocol`` (not a message), ``version``, ``too_large``, ``connection``,
    ``keys``, ``lost``, ``frozen``.
    """

    def __init__(self, message: str, code: str = "protocol", job: str = "") -> None:
        super().__init__(message)
        self.code, self.job = code, job


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes
    ----------
    type : str
    id : str
        The job or request that it belongs to; empty where it belongs to none.
    body : dict
        The header without ``type``, ``id`` and ``arrays``.
    arrays : dict of str to ndarray
        Read-only views into the frames they came in.
    """

    type: str
    id: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def encode(message: Message, limit: int = MAX_MESSAGE_BYTES) -> list[Buffer]:
    """The frames of a message; :class:`ProtocolError` when it is larger than the other side takes.

    Arrays are sent as they lie in memory where they are contiguous and of a type in :data:`DTYPES`;
    everything else is an error here and not a surprise there.
    """
    if not TYPE_PATTERN.fullmatch(message.type) or (message.id and not ID_PATTERN.fullmatch(message.id)):
        raise ProtocolError(f"A message needs a type and an id in plain letters, not {message.type!r}, {message.id!r}.")
    taken = [key for key in RESERVED if key in message.body]
    if taken:
        raise ProtocolError(f"The key {taken[0]!r} is the header's own; give the field of the message another name.")
    entries, buffers = [], []
    for name, array in message.arrays.items():
        entry, buffer = _array_frame(name, array)
        entries.append(entry)
        buffers.append(buffer)
    head = {"type": message.type, "id": message.id, **message.body, "arrays": entries}
    try:
        header = json.dumps(head, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"The message {message.type} cannot be written as JSON ({error}); report it.") from None
    size = len(MAGIC) + len(header) + sum(buffer.nbytes for buffer in buffers)
    if size > limit or len(header) > MAX_HEADER_BYTES or len(buffers) > MAX_ARRAYS:
        raise ProtocolError(
            f"This is more than one message holds ({size / 1e6:.0f} MB in {len(buffers)} arrays, the limit is "
            f"{limit / 1e6:.0f} MB in {MAX_ARRAYS}); send fewer or smaller photos at once.",
            "too_large",
            message.id,
        )
    return [MAGIC, header, *buffers]


def _array_frame(name: str, array: np.ndarray) -> tuple[dict[str, Any], Buffer]:
    array = np.asarray(array)
    dtype = f"{array.dtype.kind}{array.dtype.itemsize}"
    if dtype not in DTYPES or array.ndim > MAX_DIMENSIONS or not 0 < len(name) <= MAX_NAME:
        raise ProtocolError(f"The array {name!r} ({array.dtype}, {array.ndim} dimensions) has no form on the wire.")
    flat = np.ascontiguousarray(array, DTYPES[dtype]).reshape(-1)
    return {"name": name, "dtype": dtype, "shape": list(array.shape)}, flat.view("u1").data


def decode(frames: Sequence[Buffer], limit: int = MAX_MESSAGE_BYTES) -> Message:
    """The message in these frames; :class:`ProtocolError` says in one sentence what is wrong with them."""
    views = [_bytes_view(frame) for frame in frames]
    if sum(view.nbytes for view in views) > limit:
        size = sum(view.nbytes for view in views) / 1e6
        raise ProtocolError(
            f"A message of {size:.0f} MB came in and the limit is {limit / 1e6:.0f} MB; send less at once.",
            "too_large",
            peek_id(frames),
        )
    header = decode_header(views)
    entries = header["arrays"]
    if len(entries) != len(views) - 2:
        raise ProtocolError(f"The header names {len(entries)} arrays and {len(views) - 2} came with it.")
    arrays: dict[str, np.ndarray] = {}
    for entry, view in zip(entries, views[2:]):
        try:
            name, array = _array(entry, view)
        except ProtocolError as error:
            raise ProtocolError(str(error), error.code, header["id"]) from None
        if name in arrays:
            raise ProtocolError(f"Two arrays of one message are named {name!r}.", job=header["id"])
        arrays[name] = array
    body = {key: value for key, value in header.items() if key not in RESERVED}
    return Message(header["type"], header["id"], body, arrays)


def decode_header(frames: Sequence[Buffer]) -> dict[str, Any]:
    """The header alone, with ``type``, ``id`` and ``arrays`` checked: enough to pass a message on."""
    views = [_bytes_view(frame) for frame in frames[:2]]
    if len(views) < 2 or len(frames) > MAX_ARRAYS + 2:
        raise ProtocolError(f"A message has 2 to {MAX_ARRAYS + 2} frames; {len(frames)} came.")
    check_version(views[0])
    if views[1].nbytes > MAX_HEADER_BYTES:
        raise ProtocolError(
            f"A header of {views[1].nbytes} bytes came in; the limit is {MAX_HEADER_BYTES}.", "too_large"
        )
    try:
        header = json.loads(bytes(views[1]).decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ProtocolError("The header of a message is not JSON in UTF-8.") from None
    if not isinstance(header, dict):
        raise ProtocolError("The header of a message is not a JSON object.")
    header.setdefault("id", "")
    header.setdefault("arrays", [])
    if not isinstance(header.get("type"), str) or not TYPE_PATTERN.fullmatch(header["type"]):
        raise ProtocolError("The header of a message names no type.")
    if not isinstance(header["id"], str) or (header["id"] and not ID_PATTERN.fullmatch(header["id"])):
        raise ProtocolError("The id of a message is not 1 to 64 letters, digits, hyphens and underscores.")
    if not isinstance(header["arrays"], list):
        raise ProtocolError("The field arrays of a header is not a list.", job=header["id"])
    return header


def check_version(frame: Buffer) -> None:
    """The first frame, or a sentence that says which side is to be updated."""
    magic = bytes(_bytes_view(frame)[:32])
    if magic == MAGIC:
        return
    number = re.fullmatch(re.escape(MAGIC_PREFIX) + rb"([0-9]{1,6})", magic)
    if number is None:
        raise ProtocolError("What came in is not a message of MGC Face.")
    other = int(number[1])
    older = "the program that sent it" if other < PROTOCOL else "this one"
    raise ProtocolError(
        f"A message of protocol version {other} came in where {PROTOCOL} is spoken; update {older}.", "version"
    )


def peek_id(frames: Sequence[Buffer]) -> str:
    """The id that an answer to a broken message should carry; empty where none can be made out."""
    try:
        return decode_header(frames)["id"]
    except ProtocolError as error:
        return error.job


def peek_type(frames: Sequence[Buffer]) -> str:
    """The type of a message whose arrays may be broken; empty where none can be made out."""
    try:
        return decode_header(frames)["type"]
    except ProtocolError:
        return ""


def _array(entry: Any, view: memoryview) -> tuple[str, np.ndarray]:
    if not isinstance(entry, Mapping):
        raise ProtocolError("The header describes an array by something that is not an object.")
    name, dtype, shape = entry.get("name"), entry.get("dtype"), entry.get("shape")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise ProtocolError("An array of a message has no name.")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ProtocolError(f"The array {name!r} has a type that is not one of {', '.join(DTYPES)}.")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_length, shape)):
        raise ProtocolError(f"The array {name!r} has a shape that is not up to {MAX_DIMENSIONS} whole numbers.")
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if expected != view.nbytes:
        raise ProtocolError(f"The array {name!r} should take {expected} bytes by its shape and takes {view.nbytes}.")
    array = np.frombuffer(view, DTYPES[dtype]).reshape(shape)
    array.flags.writeable = False
    return name, array


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_MESSAGE_BYTES


def _bytes_view(frame: Buffer) -> memoryview:
    """A flat view of bytes, of a ``zmq.Frame`` as of anything else."""
    buffer: Buffer = getattr(frame, "buffer", frame)
    return memoryview(buffer).cast("B")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
