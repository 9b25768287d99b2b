"""Which messages there are and what each must carry. The table below is the protocol; docs/protocol.md tells it.

A field that is not in the table is ignored, so that a newer program may say more than an older one knows.
Symbols: V vertices, F faces, U texture coordinates, E expression shapes, S side of a texture, N bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .wire import ID_PATTERN, Message, ProtocolError

STAGES = ("detect", "regress", "fit", "refine", "texture")
TEXTURE_SIZES = (0, 1024, 2048, 4096)
DETECTORS = ("mediapipe", "fan")
# Priorities of a job: work in the background, a click, something that somebody waits for right now.
PRIORITIES = (0, 1, 2)
MAX_PHOTOS = 256
# A job of one person's photos is computed as a whole, so it has fewer.
MAX_PHOTOS_OF_ONE_PERSON = 100
LONGEST_TEXT = 4096

# The messages that end a job; every job gets exactly one of them.
TERMINAL = ("done", "failed", "cancelled")

Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and "\0" not in value


def _job_id(value: Any) -> bool:
    return isinstance(value, str) and ID_PATTERN.fullmatch(value) is not None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _list(value: Any) -> bool:
    return isinstance(value, list)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _numbers_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_number, value.values()))


def _one_of(*choices: Any) -> Check:
    return lambda value: any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices)


def _stages(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(stage, str) and stage in STAGES for stage in value)


@dataclass(frozen=True)
class Form:
    """What a message carries.

    Attributes
    ----------
    needs, may : dict of str to check
        Fields of the header that must and that can be there.
    arrays, may_arrays : dict of str to (dtype, shape)
        Arrays of these names must, can be there; None in a shape stands for any length.
    """

    needs: dict[str, Check] = field(default_factory=dict)
    may: dict[str, Check] = field(default_factory=dict)
    arrays: dict[str, tuple[str, tuple[int | None, ...]]] = field(default_factory=dict)
    may_arrays: dict[str, tuple[str, tuple[int | None, ...]]] = field(default_factory=dict)


OPTIONS: dict[str, Check] = {
    "model": _text,
    "texture_size": _one_of(*TEXTURE_SIZES),
    "normal_map": _flag,
    "all_faces": _flag,
    "detector": _one_of(*DETECTORS),
    "stages": _stages,
    "same_person": _flag,
    "keep_all": _flag,
}

FROM_CLIENT: dict[str, Form] = {
    "hello": Form({"client": _object, "protocol": _whole}, {"local_proof": _text}),
    "ping": Form(),
    "model": Form({"name": _text}),
    "reconstruct": Form({"photos": _list}, {"options": _object, "priority": _one_of(*PRIORITIES)}),
    "cancel": Form({"job": _job_id}),
    "attach": Form({"pid": _whole}),
    "detach": Form({"pid": _whole}),
    "shutdown": Form(),
}

FROM_SERVER: dict[str, Form] = {
    "hello": Form(
        {
            "protocol": _whole,
            "server_version": _text,
            "pid": _whole,
            "device": _text,
            "models": _list,
            "capabilities": _texts,
            "limits": _object,
        }
    ),
    "pong": Form({"busy": _flag, "queued": _whole, "ready": _flag, "device": _text, "jobs": _texts}),
    "model": Form(
        {"name": _text, "version": _text, "sha256": _text, "licence": _text, "expression_names": _texts},
        {"material_names": _texts, "region_names": _texts},
        {
            "mean": ("f4", (None, 3)),
            "quads": ("i4", (None, 4)),
            "uv": ("f4", (None, 2)),
            "uv_quads": ("i4", (None, 4)),
            "material": ("i4", (None,)),
            "expression": ("f4", (None, None, 3)),
        },
        {"regions": ("u1", (None, None))},
    ),
    "accepted": Form({"queue_position": _whole}),
    "progress": Form({"photo": _whole, "stage": _text, "fraction": _number, "job_fraction": _number, "text": _text}),
    "face": Form(
        {"photo": _whole, "face": _whole, "name": _text, "record": _object},
        {},
        {"neutral": ("f4", (None, 3))},
        {
            "texture": ("u1", (None, None, 3)),
            "normal_map": ("u1", (None, None, 3)),
            "confidence": ("u1", (None, None)),
            "sources": ("u1", (None, None)),
            "light": ("f4", (9, 3)),
            "eye_texture": ("u1", (None, None, 3)),
            "photo": ("u1", (None,)),
        },
    ),
    "photo_failed": Form({"photo": _whole, "code": _text, "message": _text}),
    "done": Form({"faces": _whole, "failed": _whole, "timings_ms": _numbers_by_name}, {"notes": _texts}),
    "failed": Form({"code": _text, "message": _text}),
    "cancelled": Form(),
    "attached": Form(),
    "detached": Form({"others": _whole}),
    "closing": Form(),
    "error": Form({"code": _text, "message": _text}),
}


def check_from_client(message: Message) -> None:
    """:class:`ProtocolError` with one sentence when a client may not send this."""
    _check(message, FROM_CLIENT)
    if message.type == "reconstruct":
        if not message.id:
            raise ProtocolError("A job needs an id; the client chooses one.")
        _check_job(message)


def check_from_server(message: Message) -> None:
    """:class:`ProtocolError` with one sentence when this is not what a server sends."""
    _check(message, FROM_SERVER)


def _check(message: Message, forms: Mapping[str, Form]) -> None:
    form = forms.get(message.type)
    if form is None:
        raise ProtocolError(f"There is no message {message.type!r} in this protocol.", "unknown", message.id)
    missing = [name for name in form.needs if name not in message.body]
    if missing:
        raise ProtocolError(f"The message {message.type} lacks the field {missing[0]!r}.", job=message.id)
    for name, check in {**form.may, **form.needs}.items():
        if name in message.body and not check(message.body[name]):
            raise ProtocolError(f"The message {message.type} has a field {name!r} of another kind.", job=message.id)
    missing = [name for name in form.arrays if name not in message.arrays]
    if missing:
        raise ProtocolError(f"The message {message.type} lacks the array {missing[0]!r}.", job=message.id)
    for name, (dtype, shape) in {**form.arrays, **form.may_arrays}.items():
        if name in message.arrays and not _has_form(message.arrays[name], dtype, shape):
            raise ProtocolError(f"The array {name!r} of the message {message.type} is of another form.", job=message.id)


def _has_form(array: np.ndarray, dtype: str, shape: tuple[int | None, ...]) -> bool:
    if array.dtype.str.lstrip("<|") != dtype or array.ndim != len(shape):
        return False
    return all(wanted is None or wanted == length for wanted, length in zip(shape, array.shape))


def _check_job(message: Message) -> None:
    options = message.body.get("options", {})
    for name, check in OPTIONS.items():
        if name in options and not check(options[name]):
            raise ProtocolError(f"The option {name!r} has a value that this version does not know.", job=message.id)
    photos = message.body["photos"]
    if options.get("same_person"):
        _check_person(message, options, len(photos))
    elif options.get("keep_all"):
        raise ProtocolError("The option keep_all is about photos of one person; add same_person.", job=message.id)
    if not 0 < len(photos) <= MAX_PHOTOS:
        raise ProtocolError(f"A job has 1 to {MAX_PHOTOS} photos; this one has {len(photos)}.", job=message.id)
    for index, photo in enumerate(photos):
        if not isinstance(photo, dict) or not _text(photo.get("name")) or not _has_one_source(photo, message):
            raise ProtocolError(
                f"Photo {index + 1} needs a name and either the bytes of its file or its path.", job=message.id
            )


def _check_person(message: Message, options: Mapping[str, Any], photos: int) -> None:
    """What photos of one person cannot be asked for."""
    stages = options.get("stages")
    if photos > MAX_PHOTOS_OF_ONE_PERSON:
        wrong = f"These are {photos} photos of one person; choose up to {MAX_PHOTOS_OF_ONE_PERSON} of them."
    elif options.get("all_faces"):
        wrong = "The options all_faces and same_person exclude each other; one person has one face in each photo."
    elif stages is not None and "fit" not in stages:
        wrong = "The option same_person needs the stage fit; add it to the stages."
    elif stages is not None and "regress" in stages:
        wrong = "The option same_person works from landmarks; leave out the stage regress."
    else:
        return
    raise ProtocolError(wrong, job=message.id)


def _has_one_source(photo: Mapping[str, Any], message: Message) -> bool:
    """Either an array of bytes or a path, never both."""
    if ("array" in photo) == ("path" in photo):
        return False
    if "path" in photo:
        return _text(photo["path"]) and photo["path"] != ""
    array = photo["array"]
    return isinstance(array, str) and array in message.arrays and _has_form(message.arrays[array], "u1", (None,))
