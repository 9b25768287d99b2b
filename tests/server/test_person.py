"""Photos of one person through a real server: one head, a word on every photo, one end whatever happens."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageEnhance
from server_process import PHOTO, ROOT, Running, finish, wait_for

from backend.face_model.registry import get_model
from backend.protocol.messages import MAX_PHOTOS_OF_ONE_PERSON, TERMINAL
from backend.protocol.wire import Message, ProtocolError, encode
from backend.reconstruction.person import MOST_PHOTOS, Person, reconstruct_person
from backend.reconstruction.photometric_face import face_of
from backend.reconstruction.pipeline import Pipeline
from backend.reconstruction.texture_relief import FLAT
from backend.server import face_message
from backend.server.engine import Engine
from backend.server.item import Item
from backend.server.jobs import DEFAULT_OPTIONS

SCHEMA = json.loads((ROOT / "docs" / "reconstruction.schema.json").read_text("utf-8"))
STRANGER = ROOT.parent / "shared" / "photos" / "canada" / "115m.jpg"
PERSON = {"texture_size": 0, "same_person": True}


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> list[Path]:
    """The example photo as it is, darker and tilted, and on its side as phones store them: one person for certain."""
    folder = tmp_path_factory.mktemp("series")
    picture = Image.open(PHOTO).convert("RGB")
    picture.save(folder / "a.png")
    ImageEnhance.Brightness(picture.rotate(8.0, Image.Resampling.BICUBIC)).enhance(0.8).save(folder / "b.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    upright = picture.crop((0, 0, 420, 500))
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=exif, quality=95)
    return [folder / "a.png", folder / "b.png", folder / "turned.jpg"]


def of(seen: list[Message], job: str, kind: str) -> list[Message]:
    return [message for message in seen if message.id == job and message.type == kind]


def test_it_is_offered(client):
    assert "same_person" in client.server["capabilities"]
    assert client.server["limits"]["photos_of_one_person"] == MAX_PHOTOS_OF_ONE_PERSON == MOST_PHOTOS


def test_several_photos_become_one_head(client, series, tmp_path):
    Image.new("RGB", (64, 64), (90, 120, 150)).save(tmp_path / "sky.png")
    (tmp_path / "text.jpg").write_text("not a photo")
    photos = [series[0], tmp_path / "sky.png", series[1], tmp_path / "text.jpg", series[2]]
    seen: list[Message] = []
    job = client.reconstruct(photos, {"texture_size": 1024, "same_person": True, "normal_map": True})
    done = finish(client, job, seen)
    assert done.type == "done" and (done.body["faces"], done.body["failed"]) == (1, 2)
    (face,) = of(seen, job, "face")
    record, model = face.body["record"], get_model()
    jsonschema.Draft202012Validator(SCHEMA).validate(record)
    assert [photo["used"] for photo in record["photos"]] == [True, False, True, False, True]
    main = record["main_photo"]
    assert face.body["photo"] == main and face.body["name"] == photos[main].name
    assert record["photos"][main]["camera"] == record["camera"]
    beyond = face.arrays["neutral"] - model.vertices(np.array(record["identity"], np.float32))
    size_mm = 1e3 * np.linalg.norm(beyond[face_of(model).vertices], axis=1)
    # The record counts vertices that moved at all; rounding to float32 hides the least of these moves.
    least, most = (np.sqrt((each**2).mean()) for each in (size_mm, size_mm[size_mm > 1e-4]))
    assert 0.0 < least <= record["fit"]["offset_rms_mm"] <= most
    assert face.arrays["texture"].shape == (1024, 1024, 3) and face.arrays["light"].shape == (9, 3)
    assert_relief(face)
    sources, confidence = face.arrays["sources"], face.arrays["confidence"]
    assert sources.shape == (512, 512) and set(np.unique(sources)) <= {0, 1, 3, 5}
    # Every second texel of the texture: where any photo was seen, one of those that were used is named.
    assert sources[confidence[1::2, 1::2] > 0].all() and (sources > 0).mean() > 0.05
    failed = {message.body["photo"]: message.body for message in of(seen, job, "photo_failed")}
    assert {place: body["code"] for place, body in failed.items()} == {1: "no_face", 3: "photo"}
    assert all(body["message"] == record["photos"][place]["reason"] for place, body in failed.items())
    # The one that lies on its side comes back upright, and no other.
    name = "photo" if main == 4 else "photo4"
    assert [key for key in face.arrays if key.startswith("photo")] == [name]
    size = Image.open(io.BytesIO(face.arrays[name].tobytes())).size
    assert size == (420, 500) == (record["photos"][4]["width"], record["photos"][4]["height"])
    stages = {message.body["stage"] for message in of(seen, job, "progress")}
    assert stages & {"fit", "texture"}
    fractions = [message.body["job_fraction"] for message in of(seen, job, "progress")]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def assert_relief(face: Message) -> None:
    """A normal map beside the texture: out of the skin, flat where nothing was seen, and not flat everywhere."""
    normals, confidence = face.arrays["normal_map"], face.arrays["confidence"]
    assert normals.shape == face.arrays["texture"].shape and normals.dtype == np.uint8
    # Slopes are differences of neighbours.
    unseen = cv2.dilate(confidence, np.ones((3, 3), np.uint8)) == 0
    assert unseen.mean() > 0.3 and (normals[unseen] == FLAT).all() and (normals[..., 2] > 128).all()
    assert (normals != FLAT).any()


def test_bytes_give_the_same_head_as_paths(client, series):
    names = [f"p{place}" for place in range(len(series))]
    arrays = {name: np.frombuffer(path.read_bytes(), np.uint8) for name, path in zip(names, series)}
    entries = [{"name": path.name, "array": name} for name, path in zip(names, series)]
    heads = []
    for photos in (entries, [{"name": path.name, "path": str(path)} for path in series]):
        seen: list[Message] = []
        job = client.send("reconstruct", {"photos": photos, "options": PERSON}, arrays)
        assert finish(client, job, seen).body["faces"] == 1
        heads += of(seen, job, "face")
    assert np.array_equal(heads[0].arrays["neutral"], heads[1].arrays["neutral"])
    assert not {"texture", "sources"} & set(heads[0].arrays)


@pytest.mark.skipif(not STRANGER.exists(), reason="the photos of ../shared are not here")
@pytest.mark.parametrize("keep_all", [False, True])
def test_somebody_else_is_left_out_unless_all_are_kept(client, series, keep_all):
    seen: list[Message] = []
    job = client.reconstruct([series[0], STRANGER, *series[1:]], {**PERSON, "keep_all": keep_all})
    done = finish(client, job, seen)
    assert (done.type, done.body["faces"], done.body["failed"]) == ("done", 1, 0 if keep_all else 1)
    failed = [message.body for message in of(seen, job, "photo_failed")]
    assert [(body["photo"], body["code"]) for body in failed] == ([] if keep_all else [(1, "person")])
    assert keep_all or "another person's than in 3 other photos; switch on Keep All" in failed[0]["message"]


def test_photos_without_a_face_are_told_one_by_one(client, tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 64), (90, 120, 150)).save(tmp_path / name)
    seen: list[Message] = []
    done = finish(client, job := client.reconstruct([tmp_path / "a.png", tmp_path / "b.png"], PERSON), seen)
    assert done.type == "done" and (done.body["faces"], done.body["failed"]) == (0, 2)
    assert [message.body["code"] for message in of(seen, job, "photo_failed")] == ["no_face", "no_face"]


def test_one_photo_that_is_left_says_so(client, series, tmp_path):
    Image.new("RGB", (64, 64), (90, 120, 150)).save(tmp_path / "sky.png")
    done = finish(client, client.reconstruct([series[0], tmp_path / "sky.png"], PERSON))
    assert done.body["faces"] == 1 and any("Only one photo was used" in note for note in done.body["notes"])


def test_more_photos_than_a_batch_holds_make_one_head_beside_other_jobs(shared, series):
    with shared.client("one") as one, shared.client("other") as other:
        photos = [{"name": f"{place}.png", "path": str(series[place % 2])} for place in range(12)]
        person = one.send("reconstruct", {"photos": photos, "options": PERSON})
        single = other.reconstruct(series[:2], {"texture_size": 0})
        seen: list[Message] = []
        done = finish(one, person, seen)
        assert (done.body["faces"], done.body["failed"]) == (1, 0)
        assert len(of(seen, person, "face")[0].body["record"]["photos"]) == 12
        assert finish(other, single).body["faces"] == 2


def test_too_many_photos_are_a_sentence(client):
    with pytest.raises(ProtocolError, match="choose up to 100 of them"):
        client.reconstruct([PHOTO] * 101, PERSON)


@pytest.mark.parametrize("stage", ["accepted", "decode", "detect", "fit", "texture"])
def test_cancel_takes_effect_at_every_stage(shared: Running, client, series, stage):
    order = ("accepted", "decode", "detect", "fit", "texture")
    seen: list[Message] = []
    job = client.reconstruct(series * 4, {"texture_size": 4096, "same_person": True})

    def there(message: Message) -> bool:
        now = message.type if message.type in order else message.body.get("stage")
        return now in order and order.index(now) >= order.index(stage)

    wait_for(client, there, seen)
    client.cancel(job)
    assert finish(client, job, seen).type == "cancelled"
    assert sum(message.id == job and message.type in TERMINAL for message in seen) == 1
    assert not of(seen, job, "face")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_worker_that_dies_is_replaced_and_all_photos_are_used(shared: Running, client, series):
    seen: list[Message] = []
    job = client.reconstruct(series, {"same_person": True})
    wait_for(client, lambda message: message.body.get("stage") in ("detect", "fit", "texture"), seen)
    os.kill(shared.worker_pid(), signal.SIGKILL)
    done = finish(client, job, seen)
    assert (done.type, done.body["faces"], done.body["failed"]) == ("done", 1, 0)
    (face,) = of(seen, job, "face")
    assert [photo["used"] for photo in face.body["record"]["photos"]] == [True] * 3


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_photos_that_kill_the_worker_twice_are_given_up(shared: Running, client, series):
    seen: list[Message] = []
    job = client.reconstruct(series, {"texture_size": 4096, "same_person": True})
    for _ in range(2):
        wait_for(client, lambda message: message.body.get("stage") == "texture", seen)
        os.kill(shared.worker_pid(), signal.SIGKILL)
    end = finish(client, job, seen)
    assert (end.type, end.body["code"]) == ("failed", "worker") and "3 photos" in end.body["message"]
    shared.wait_ready()
    assert finish(client, client.reconstruct(series, PERSON)).body["faces"] == 1


@pytest.fixture(scope="module")
def person(series) -> Person:
    """Of the turned photo alone."""
    return reconstruct_person(Pipeline(texture_size=None), [series[2]])


def test_a_hundred_photos_fit_into_a_message(person):
    paths = [replace(person.photos[0], path=Path("/" + "long/" * 50)) for _ in range(MOST_PHOTOS)]
    body, arrays = face_message.person_message(replace(person, photos=tuple(paths)))
    jsonschema.Draft202012Validator(SCHEMA).validate(body["record"])
    assert sum(name.startswith("photo") for name in arrays) == MOST_PHOTOS
    assert encode(Message("face", "job", {"photo": 0, "face": 0, "name": "a", **body}, arrays))
    marks = [photo["landmarks_2d_mediapipe478"] is not None for photo in body["record"]["photos"]]
    assert marks == [True] + [False] * (MOST_PHOTOS - 1)


def test_backdrops_are_as_many_as_there_is_room_for(person, monkeypatch):
    three = replace(person, photos=person.photos * 3, main=1)
    shown = face_message.backdrops(three)
    assert list(shown) == ["photo0", "photo", "photo2"]
    monkeypatch.setattr(face_message, "BACKDROP_BYTES", int(2.5 * len(shown["photo"])))
    assert list(face_message.backdrops(three)) == ["photo0", "photo"]


class Said:
    """What an engine reports."""

    def __init__(self) -> None:
        self.kinds: list[tuple[str, str]] = []

    def progress(self, *_) -> None: ...

    def face(self, item, *_) -> None:
        self.kinds.append(("face", item.name))

    def photo_failed(self, item, code, message) -> None:
        self.kinds.append((code, message))

    def photo_done(self, item, *_) -> None:
        self.kinds.append(("done", item.name))

    def refused(self, code, message) -> None:
        self.kinds.append((code, message))

    def note(self, text) -> None:
        self.kinds.append(("note", text))

    def stopped(self) -> bool:
        return False


@pytest.mark.parametrize("gpu", [True, False])
def test_memory_that_runs_out_goes_to_the_processor_and_then_is_a_sentence(monkeypatch, series, gpu):
    """Photos of one person cannot go one by one; the card's memory is played, for want of one here."""
    engine, report, tried = Engine("cpu"), Said(), []

    def full(self, *_arguments, **_named):
        tried.append(self)
        raise MemoryError

    real = engine.pipeline
    monkeypatch.setattr(engine, "device", "cuda" if gpu else "cpu")
    monkeypatch.setattr(engine, "pipeline", lambda options, step: real(options, type(step)("cpu", False)))
    monkeypatch.setattr(Pipeline, "groups", full)
    items = [Item("c", "j", place, path.name, str(path)) for place, path in enumerate(series)]
    engine.run(items, {**DEFAULT_OPTIONS, **PERSON}, report)
    assert len(tried) == (2 if gpu else 1)
    assert report.kinds[-1][0] == "memory" and "these 3 photos" in report.kinds[-1][1]
    assert [kind for kind, _ in report.kinds[:-1]] == (["note"] if gpu else [])
