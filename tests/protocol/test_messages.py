"""The table of messages: what each must carry, checked on both sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.protocol.messages import (
    FROM_CLIENT,
    FROM_SERVER,
    MAX_PHOTOS,
    MAX_PHOTOS_OF_ONE_PERSON,
    check_from_client,
    check_from_server,
)
from backend.protocol.wire import Message, ProtocolError

PHOTO = np.zeros(4, np.uint8)


def job(body: dict, arrays: dict | None = None, id: str = "job") -> Message:
    return Message("reconstruct", id, body, {"photo0": PHOTO} if arrays is None else arrays)


def person(photos: int = 2, **options) -> Message:
    options = {"same_person": True, "keep_all": True, **options}
    return job({"photos": [{"name": "a.jpg", "array": "photo0"}] * photos, "options": options})


RIGHT_JOBS = {
    "bytes": job({"photos": [{"name": "a.jpg", "array": "photo0"}]}),
    "path": job({"photos": [{"name": "a.jpg", "path": "/a.jpg"}]}),
    "options": job(
        {
            "photos": [{"name": "a.jpg", "array": "photo0"}],
            "options": {
                "model": "open-head",
                "texture_size": 0,
                "normal_map": True,
                "all_faces": True,
                "stages": ["detect"],
            },
            "priority": 2,
        }
    ),
    "same person": person(),
    "same person, stages named": person(MAX_PHOTOS_OF_ONE_PERSON, stages=["detect", "fit"], keep_all=False),
    "more than we know": job({"photos": [{"name": "a.jpg", "array": "photo0", "x": 1}], "options": {"x": 1}, "x": 1}),
}

WRONG_JOBS = {
    "no id": job({"photos": [{"name": "a.jpg", "array": "photo0"}]}, id=""),
    "no photos": job({"photos": []}),
    "too many photos": job({"photos": [{"name": "a.jpg", "array": "photo0"}] * (MAX_PHOTOS + 1)}),
    "photos of another kind": job({"photos": "a.jpg"}),
    "photo of another kind": job({"photos": ["a.jpg"]}),
    "no name": job({"photos": [{"array": "photo0"}]}),
    "array not there": job({"photos": [{"name": "a.jpg", "array": "photo1"}]}),
    "array and path": job({"photos": [{"name": "a.jpg", "array": "photo0", "path": "/a"}]}),
    "neither": job({"photos": [{"name": "a.jpg"}]}),
    "path with a zero": job({"photos": [{"name": "a.jpg", "path": "/a\0b"}]}),
    "photo as pixels": job({"photos": [{"name": "a.jpg", "array": "p"}]}, {"p": np.zeros((2, 2, 3), np.uint8)}),
    "photo as floats": job({"photos": [{"name": "a.jpg", "array": "p"}]}, {"p": np.zeros(4, np.float32)}),
    "texture size": job({"photos": [{"name": "a.jpg", "array": "photo0"}], "options": {"texture_size": 100000}}),
    "texture size as text": job({"photos": [{"name": "a.jpg", "array": "photo0"}], "options": {"texture_size": "0"}}),
    "texture size as a flag": job(
        {"photos": [{"name": "a.jpg", "array": "photo0"}], "options": {"texture_size": False}}
    ),
    "normal map as a number": job({"photos": [{"name": "a.jpg", "array": "photo0"}], "options": {"normal_map": 1}}),
    "detector": job({"photos": [{"name": "a.jpg", "array": "photo0"}], "options": {"detector": "os.system"}}),
    "stages": job({"photos": [{"name": "a.jpg", "array": "photo0"}], "options": {"stages": ["fly"]}}),
    "stages unhashable": job({"photos": [{"name": "a.jpg", "array": "photo0"}], "options": {"stages": [[]]}}),
    "options of another kind": job({"photos": [{"name": "a.jpg", "array": "photo0"}], "options": []}),
    "same person and all faces": person(all_faces=True),
    "same person without the fit": person(stages=["detect", "texture"]),
    "same person with the network": person(stages=["detect", "regress", "fit"]),
    "too many photos of one person": person(MAX_PHOTOS_OF_ONE_PERSON + 1),
    "same person as a number": person(same_person=1),
    "keep all of several people": person(same_person=False),
    "priority": job({"photos": [{"name": "a.jpg", "array": "photo0"}], "priority": 99}),
    "priority as a flag": job({"photos": [{"name": "a.jpg", "array": "photo0"}], "priority": True}),
}


@pytest.mark.parametrize("message", RIGHT_JOBS.values(), ids=RIGHT_JOBS.keys())
def test_a_right_job_passes(message):
    check_from_client(message)


@pytest.mark.parametrize("message", WRONG_JOBS.values(), ids=WRONG_JOBS.keys())
def test_a_wrong_job_is_refused_in_one_sentence(message):
    with pytest.raises(ProtocolError) as caught:
        check_from_client(message)
    assert str(caught.value).endswith(".") and caught.value.job == message.id


@pytest.mark.parametrize(("forms", "check"), [(FROM_CLIENT, check_from_client), (FROM_SERVER, check_from_server)])
def test_every_message_is_refused_without_any_of_what_it_needs(forms, check):
    for kind, form in forms.items():
        if form.needs or form.arrays:
            with pytest.raises(ProtocolError, match="lacks"):
                check(Message(kind, "job"))
        for name in form.needs:  # no field of any message is an object of this class
            with pytest.raises(ProtocolError):
                check(Message(kind, "job", {**dict.fromkeys(form.needs, 0), name: object()}))


def test_a_message_of_the_other_side_is_refused():
    for kind in FROM_SERVER.keys() - FROM_CLIENT.keys():
        with pytest.raises(ProtocolError, match="no message"):
            check_from_client(Message(kind))
    for kind in FROM_CLIENT.keys() - FROM_SERVER.keys():
        with pytest.raises(ProtocolError, match="no message"):
            check_from_server(Message(kind))


def test_a_face_with_arrays_of_another_form_is_refused():
    body = {"photo": 0, "face": 0, "name": "a.jpg", "record": {}}
    neutral = np.zeros((5, 3), np.float32)
    check_from_server(Message("face", "job", body, {"neutral": neutral}))
    for arrays in (
        {"neutral": neutral.astype(np.float64)},
        {"neutral": neutral[:, :2]},
        {"neutral": neutral, "texture": np.zeros((8, 8), np.uint8)},
        {"neutral": neutral, "light": np.zeros((3, 9), np.float32)},
        {"neutral": neutral, "sources": np.zeros((8, 8, 1), np.uint8)},
        {"neutral": neutral, "sources": np.zeros((8, 8), np.int32)},
    ):
        with pytest.raises(ProtocolError):
            check_from_server(Message("face", "job", body, arrays))


def test_arrays_that_came_later_are_no_hindrance_to_an_older_program(monkeypatch):
    """A client that knows no ``sources`` takes a face that has them, and one that knows them does without."""
    arrays = {"neutral": np.zeros((5, 3), np.float32), "confidence": np.zeros((8, 8), np.uint8)}
    body = {"photo": 0, "face": 0, "name": "a.jpg", "record": {}}
    check_from_server(Message("face", "job", body, arrays))
    older = {name: form for name, form in FROM_SERVER["face"].may_arrays.items() if name != "sources"}
    monkeypatch.setitem(FROM_SERVER, "face", replace(FROM_SERVER["face"], may_arrays=older))
    check_from_server(Message("face", "job", body, arrays | {"sources": np.zeros((8, 8), np.uint8)}))
