"""Jobs through a real server: heads come back, what goes wrong is said, a cancel works at every stage."""

from __future__ import annotations

import io
import os
import signal
import sys
import time

import numpy as np
import pytest
from PIL import ExifTags, Image
from server_process import PHOTO, Running, finish, wait_for

from backend.face_model.registry import get_model
from backend.protocol.messages import TERMINAL
from backend.protocol.wire import Message
from backend.reconstruction.photometric_face import face_of

SMALL = {"texture_size": 0}


def kinds(seen: list[Message], job: str) -> list[str]:
    return [message.type for message in seen if message.id == job]


def test_a_photo_becomes_the_head_that_its_record_describes(client):
    seen: list[Message] = []
    job = client.reconstruct([PHOTO], {"texture_size": 1024})
    done = finish(client, job, seen)
    (face,) = [message for message in seen if message.type == "face"]
    assert done.type == "done" and (done.body["faces"], done.body["failed"]) == (1, 0)
    assert kinds(seen, job)[0] == "accepted" and kinds(seen, job)[-1] == "done"
    assert face.arrays["texture"].shape == (1024, 1024, 3) and face.arrays["confidence"].shape == (1024, 1024)
    record, model = face.body["record"], get_model()
    beyond = face.arrays["neutral"] - model.vertices(np.array(record["identity"], np.float32))
    size_mm = 1e3 * np.linalg.norm(beyond[face_of(model).vertices], axis=1)
    # The record counts vertices that moved at all; rounding to float32 hides the least of these moves.
    least, most = (np.sqrt((each**2).mean()) for each in (size_mm, size_mm[size_mm > 1e-4]))
    assert 0.0 < least <= record["fit"]["offset_rms_mm"] <= most
    assert set(record["expression"]) == set(model.expression_names)
    assert face.body["iris_color"] is not None and face.arrays["eye_texture"].shape == (512, 512, 3)
    assert (face.body["name"], record["photo"]["width"], record["photo"]["height"]) == ("astronaut.jpg", 512, 512)
    fractions = [message.body["job_fraction"] for message in seen if message.type == "progress"]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def test_bytes_give_the_same_head_as_a_path(client):
    heads = []
    data = np.frombuffer(PHOTO.read_bytes(), np.uint8)
    for photo in ({"name": PHOTO.name, "path": str(PHOTO)}, {"name": PHOTO.name, "array": "a"}):
        seen: list[Message] = []
        job = client.send("reconstruct", {"photos": [photo], "options": SMALL}, {"a": data})
        assert finish(client, job, seen).type == "done"
        heads += [message for message in seen if message.type == "face"]
    assert np.array_equal(heads[0].arrays["neutral"], heads[1].arrays["neutral"])
    assert "texture" not in heads[0].arrays


def test_a_turned_photo_comes_back_upright(client, tmp_path):
    """What phones write: the picture lies on its side and EXIF says so, which Blender does not read."""
    turned, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    upright = Image.open(PHOTO).crop((0, 0, 512, 400))
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif, quality=95)
    seen: list[Message] = []
    assert finish(client, client.reconstruct([turned, PHOTO], SMALL), seen).type == "done"
    faces = {message.body["name"]: message for message in seen if message.type == "face"}
    picture = Image.open(io.BytesIO(faces["turned.jpg"].arrays["photo"].tobytes()))
    record = faces["turned.jpg"].body["record"]["photo"]
    assert picture.size == upright.size == (record["width"], record["height"])
    assert np.abs(np.asarray(picture, float) - np.asarray(upright, float)).mean() < 3.0
    assert "photo" not in faces["astronaut.jpg"].arrays


def test_the_model_goes_with_the_faces(client):
    message_id = client.send("model", {"name": "open-head"})
    message = wait_for(client, lambda message: message.id == message_id)
    model = get_model()
    assert message.type == "model" and message.body["expression_names"] == list(model.expression_names)
    assert np.array_equal(message.arrays["expression"], model.expression)
    assert np.array_equal(message.arrays["quads"], model.faces)
    assert len(message.body["sha256"]) == 64


@pytest.mark.parametrize("name", ["nosuch", "../data/open-head", "/etc/passwd", "backend", "open-head.safetensors", ""])
def test_a_model_that_is_not_installed_is_refused(client, name):
    message_id = client.send("model", {"name": name})
    answer = wait_for(client, lambda message: message.id == message_id)
    assert (answer.type, answer.body["code"]) == ("error", "model")
    job = client.reconstruct([PHOTO], {"model": name})
    end = finish(client, job)
    assert (end.type, end.body["code"]) == ("failed", "model")
    assert "known are" in end.body["message"]


def test_a_bad_photo_stops_no_other(client, tmp_path):
    Image.new("RGB", (64, 64), (90, 120, 150)).save(tmp_path / "sky.jpg")
    (tmp_path / "text.jpg").write_text("not a photo")
    (tmp_path / "cut.jpg").write_bytes(PHOTO.read_bytes()[:9000])
    photos = [tmp_path / "sky.jpg", PHOTO, tmp_path / "text.jpg", tmp_path / "cut.jpg", tmp_path / "missing.jpg", PHOTO]
    seen: list[Message] = []
    done = finish(client, client.reconstruct(photos, SMALL), seen)
    failed = {message.body["photo"]: message.body for message in seen if message.type == "photo_failed"}
    assert done.type == "done" and (done.body["faces"], done.body["failed"]) == (2, 4)
    assert {index: body["code"] for index, body in failed.items()} == {0: "no_face", 2: "photo", 3: "photo", 4: "photo"}
    assert all(body["message"].endswith(".") and photos[i].name in body["message"] for i, body in failed.items())
    assert [message.body["photo"] for message in seen if message.type == "face"] == [1, 5]


def test_several_clients_each_get_their_own(shared):
    clients = [shared.client(f"client {number}") for number in range(3)]
    # The same id on purpose: it is the client's own.
    for number, one in enumerate(clients):
        photos = [{"name": f"{number}.jpg", "path": str(PHOTO)}] * (number + 1)
        one.send("reconstruct", {"photos": photos, "options": SMALL}, id="job")
    for number, one in enumerate(clients):
        seen: list[Message] = []
        assert finish(one, "job", seen).body["faces"] == number + 1
        assert {message.body["name"] for message in seen if message.type == "face"} == {f"{number}.jpg"}
        assert one.poll(100) == []
        one.close()


def test_progress_comes_at_most_ten_times_a_second(client):
    seen: list[Message] = []
    started = time.monotonic()
    finish(client, client.reconstruct([PHOTO] * 16, SMALL), seen)
    # One more for the start of the count, one for the end of the job, which waits for nothing.
    assert sum(message.type == "progress" for message in seen) <= 10 * (time.monotonic() - started) + 2


# -- cancel ------------------------------------------------------------------------------------------


STAGES = ("accepted", "decode", "detect", "fit", "texture")


def has_come_to(message: Message, stage: str) -> bool:
    """Whether a job is at a stage or past it: progress comes ten times a second, so a short stage may go untold."""
    now = message.type if message.type in STAGES else message.body.get("stage")
    return now in STAGES and STAGES.index(now) >= STAGES.index(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_cancel_takes_effect_at_every_stage(shared, client, stage):
    """Within a second on an idle machine; here, that the work is gone and not waited for."""
    seen: list[Message] = []
    job = client.reconstruct([PHOTO] * 12, {"texture_size": 4096})
    wait_for(client, lambda message: has_come_to(message, stage), seen)
    asked = time.monotonic()
    client.cancel(job)
    assert finish(client, job, seen).type == "cancelled"
    spent = time.monotonic() - asked
    sys.stdout.write(f"cancel at {stage}: {spent * 1e3:.0f} ms\n")
    assert spent < 10.0  # twelve textures of 4096 take longer on any machine that runs this
    assert sum(kind in TERMINAL for kind in kinds(seen, job)) == 1
    pong_id = client.send("ping")
    assert not wait_for(client, lambda message: message.id == pong_id).body["busy"]


def test_cancel_leaves_the_jobs_of_others_alone(shared):
    with shared.client("one") as one, shared.client("other") as other:
        long = one.reconstruct([PHOTO] * 12)
        short = other.reconstruct([PHOTO] * 2)
        wait_for(one, lambda message: message.type == "progress")
        one.cancel(long)
        assert finish(one, long).type == "cancelled"
        assert finish(other, short).body["faces"] == 2


def test_a_waiting_job_is_cancelled_at_once(client):
    running = client.reconstruct([PHOTO] * 8)
    waiting = client.reconstruct([PHOTO], SMALL)
    client.cancel(waiting)
    client.cancel("no-such-job")
    seen: list[Message] = []
    assert finish(client, running, seen).type == "done"
    assert "cancelled" in kinds(seen, waiting) and "face" not in kinds(seen, waiting)


# -- faults ------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_worker_that_dies_is_replaced_and_the_job_goes_on(shared, client):
    seen: list[Message] = []
    job = client.reconstruct([PHOTO] * 3)
    wait_for(client, lambda message: message.body.get("stage") in ("detect", "fit", "texture"), seen)
    os.kill(shared.worker_pid(), signal.SIGKILL)
    done = finish(client, job, seen)
    assert (done.type, done.body["faces"], done.body["failed"]) == ("done", 3, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_face_comes_once_though_the_worker_dies_right_after_it(shared, client):
    """Three photos of the same batch: the first has been handed over when the worker goes."""
    seen: list[Message] = []
    job = client.reconstruct([PHOTO] * 3)
    wait_for(client, lambda message: message.type == "face", seen)
    os.kill(shared.worker_pid(), signal.SIGKILL)
    done = finish(client, job, seen)
    assert (done.type, done.body["faces"]) == ("done", 3)
    assert sorted(message.body["photo"] for message in seen if message.type == "face") == [0, 1, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_photo_that_kills_the_worker_twice_is_given_up(shared, client):
    """A texture of 4096 takes long enough to be met while the worker is at it."""
    seen: list[Message] = []
    job = client.reconstruct([PHOTO], {"texture_size": 4096})
    for _ in range(2):
        wait_for(client, lambda message: message.body.get("stage") == "texture", seen)
        os.kill(shared.worker_pid(), signal.SIGKILL)
    done = finish(client, job, seen)
    assert (done.type, done.body["faces"], done.body["failed"]) == ("done", 0, 1)
    (failed,) = [message.body for message in seen if message.type == "photo_failed"]
    assert failed["code"] == "worker" and "memory" in failed["message"] and "signal 9" in failed["message"]
    shared.wait_ready()
    assert finish(client, client.reconstruct([PHOTO], SMALL)).body["faces"] == 1


def test_a_client_that_vanishes_costs_nothing(shared: Running):
    client = shared.client("vanishing")
    job = client.reconstruct([PHOTO] * 100, {"texture_size": 4096})
    wait_for(client, lambda message: message.type == "progress")
    client.socket.close(0)  # without a word, as a crash would
    with shared.client() as other:
        assert finish(other, other.reconstruct([PHOTO], SMALL)).body["faces"] == 1
    assert f"job {job}: cancelled" in shared.log_text()
    client.monitor.close(0)
    client.context.term()
