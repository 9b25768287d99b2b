"""Real photos and videos as training samples: pseudo-truth where the head is, triplets by what can be compared."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training_runs import TINY

from backend import cli
from backend.errors import Cancelled, OutputError, PhotoError, TrainingError
from backend.geometry.rotation import rotation_from_head_euler
from backend.network.outputs import GROUPS
from backend.vision.decode import load_photo
from backend.vision.photo import Photo
from trainer.data.draw_shards import Drawing, draw_shards
from trainer.data.mixed import MixedFaces
from trainer.data.photo_shards import people_in, read_photos, save_photos
from trainer.data.photo_triplets import Group, make_triplets, overlap, strangers, suits, turn_between
from trainer.data.photo_views import PhotoReader, PhotoView, Refused
from trainer.data.shards import load_manifest
from trainer.data.stored import StoredFaces
from trainer.data.synthetic import project
from trainer.data.video import breaks, frames, read_video
from trainer.losses.flags import ANYBODY, ONE_MOMENT, ONE_PERSON
from trainer.train.checkpoint import checkpoint_path
from trainer.train.config import config_text, read_config
from trainer.train.loop import Options, train
from trainer.train.pack import pack
from trainer.train.processes import Processes

ROOT = Path(__file__).parents[3]
ASTRONAUT = ROOT / "examples/astronaut.jpg"
ALONE = Processes(0, 1, torch.device("cpu"))
SIDE = 64


@pytest.fixture(scope="module")
def reader(head) -> PhotoReader:
    return PhotoReader(head, SIDE, "cpu")


@pytest.fixture(scope="module")
def astronaut(reader) -> PhotoView:
    (view,) = reader.read([("astronaut", ASTRONAUT)])
    assert isinstance(view, PhotoView)
    return view


@pytest.fixture(scope="module")
def photos(head, reader, tmp_path_factory) -> Path:
    """A folder of shards: the astronaut as she is, mirrored and darker, as one person; and a file that is no photo."""
    folder = tmp_path_factory.mktemp("photos")
    pixels = load_photo(ASTRONAUT).pixels
    (folder / "her").mkdir()
    for name, picture in (("a", pixels), ("b", pixels[:, ::-1]), ("c", (0.7 * pixels).astype(np.uint8))):
        Image.fromarray(np.ascontiguousarray(picture)).save(folder / "her" / f"{name}.jpg", quality=92)
    (folder / "her" / "d.jpg").write_text("no photo")
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(folder / "wall.png")
    read = read_photos(people_in([folder]), reader)
    out = tmp_path_factory.mktemp("shards")
    save_photos(read, head, SIDE, out, seed=1, most=None, made_with={})
    return out


# --- one photo --------------------------------------------------------------------------------------------


def test_the_pseudo_truth_lies_on_the_photo(head, photos):
    """Decoded as training does, the head's landmarks are where the detector found them, and trust is a part of one."""
    batch = StoredFaces(photos, head, SIDE, 1, real=True).batch(0, 2)
    truth = batch.truth
    points = head.points(head.vertices(truth.identity, truth.expression), "ibug68")
    pixels, _ = project(points, truth.K(SIDE), truth.R, truth.t(head.layout))
    away = (pixels - batch.landmarks["ibug68"]).norm(dim=2)
    assert float(away[batch.visible["ibug68"]].median()) < 0.015 * SIDE
    assert bool(batch.real.all()) and float(batch.visible["ibug68"].float().mean()) > 0.4
    for name in GROUPS:
        trust = batch.trust[name]
        if name in ("albedo", "light", "log_focal"):
            assert float(trust.max()) == 0.0, name
        else:
            assert 0.05 < float(trust.min()) <= float(trust.max()) < 1.0, name


def test_skin_is_the_face_and_not_what_is_round_it(astronaut):
    skin = np.asarray(Image.open(io.BytesIO(astronaut.skin))) / 255.0
    picture = np.asarray(Image.open(io.BytesIO(astronaut.picture))).astype(float)
    assert 0.1 < skin.mean() < 0.5
    edge = np.concatenate([skin[:3].ravel(), skin[-3:].ravel()])
    assert edge.max() < 0.5
    # Skin is red over green, as the suit and the flag behind her are not on the whole.
    red = picture[..., 0] - picture[..., 1]
    assert red[skin > 0.8].mean() > red[skin < 0.1].mean() + 10


def test_a_camera_that_tells_its_focal_length_is_believed(reader, astronaut):
    photo = load_photo(ASTRONAUT)
    (told,) = reader.read([("told", replace(photo, focal_px=1.5 * photo.width))])
    assert isinstance(told, PhotoView)
    focal = GROUPS.index("log_focal")
    assert astronaut.numbers["trust"][focal] == 0.0 and told.numbers["trust"][focal] > 0.3


def test_what_is_of_no_use_is_refused_with_a_reason(reader, tmp_path):
    photo = load_photo(ASTRONAUT)
    far = cv2.resize(photo.pixels, None, fx=0.12, fy=0.12, interpolation=cv2.INTER_AREA)
    far = np.pad(far, ((100, 100), (100, 100), (0, 0)), mode="edge")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing")
    # In the corner of a picture as wide as a fisheye's.
    corner = np.pad(photo.pixels, ((0, 1100), (0, 1100), (0, 0)), mode="edge")
    sources = [
        ("wall", Photo(np.full((300, 300, 3), 128, np.uint8))),
        ("broken", broken),
        ("far", Photo(far)),
        ("corner", Photo(corner, focal_px=500.0)),
        ("good", photo),
    ]
    answers = list(reader.read(sources))
    assert [type(answer) for answer in answers] == [Refused] * 4 + [PhotoView]
    for answer in answers[:4]:
        assert isinstance(answer, Refused) and "\n" not in answer.reason and answer.reason.endswith(".")
    assert "No face" in answers[0].reason and "middle" in answers[3].reason


def test_reading_can_be_stopped(reader):
    with pytest.raises(Cancelled):
        list(reader.read([("a", ASTRONAUT)], cancel=lambda: True))


# --- which three ------------------------------------------------------------------------------------------


def seen_from(view: PhotoView, head, yaw: float, name: str = "", **numbers: np.ndarray) -> PhotoView:
    """The same head from another side, as far as choosing partners looks at it."""
    R = rotation_from_head_euler(yaw, 0.0, 0.0)
    model = head.model
    away = model.mean - model.mean.mean(axis=0)
    camera = -R.T @ np.array([0.0, 0.0, 1.0])
    facing = (away @ camera > 0.0) & head.face.numpy()
    changed = {**view.numbers, "R": R.astype(np.float32).ravel(), **numbers}
    return replace(view, name=name or f"{yaw:.0f}", numbers=changed, facing=facing)


def test_views_suit_when_they_differ_and_share_enough(head, astronaut):
    views = {yaw: seen_from(astronaut, head, yaw) for yaw in (0, 4, 30, -30, 80)}
    assert turn_between(views[0], views[30]) == pytest.approx(30.0, abs=1e-3)
    assert views[30].yaw == pytest.approx(30.0, abs=1e-3)
    assert not suits(views[0], views[4]) and suits(views[0], views[30]) and suits(views[30], views[-30])
    assert not suits(views[-30], views[80])
    assert 1.0 >= overlap(views[0], views[30]) > overlap(views[-30], views[80])


def test_flags_say_what_can_be_compared(head, astronaut):
    turned = [seen_from(astronaut, head, yaw) for yaw in (0, 20, 40)]
    alike = [seen_from(astronaut, head, yaw) for yaw in (0, 1, 2)]
    cases = (
        (Group(tuple(turned), True), {ONE_PERSON}, True),
        (Group(tuple(turned), True, (0.0, 0.2, 0.4), 0.75), {ONE_MOMENT}, True),
        (Group(tuple(turned), True, (0.0, 5.0, 9.0), 0.75), {ONE_PERSON}, True),
        (Group(tuple(alike), True), {ANYBODY}, True),
        (Group(tuple(turned), False), {ANYBODY}, False),
        (Group(tuple(turned[:1]), True), {ANYBODY}, False),
    )
    for group, flags, one_person in cases:
        triplets = make_triplets([group], seed=1)
        assert len(triplets) == len(group.views) and {triplet.flag for triplet in triplets} == flags
        assert all(triplet.one_person == one_person and triplet.moved == (triplet.flag != 2) for triplet in triplets)
    # One who smiles in between is of one moment with nobody.
    smiling = np.zeros_like(astronaut.numbers["expression"])
    smiling[:4] = 0.6
    moving = [turned[0], seen_from(astronaut, head, 20, expression=smiling), turned[2]]
    assert {t.flag for t in make_triplets([Group(tuple(moving), True, (0.0, 0.2, 0.4), 0.75)], seed=1)} == {ONE_PERSON}


def test_people_are_not_mixed_and_triplets_repeat(head, astronaut):
    groups = [
        Group(tuple(seen_from(astronaut, head, yaw, f"{who}{yaw}") for yaw in (0, 15, 30, 45)), True) for who in "ab"
    ]
    triplets = make_triplets(groups, seed=3)
    assert all(len({view.name[0] for view in triplet.views}) == 1 for triplet in triplets)
    assert all(len({view.name for view in triplet.views}) == 3 for triplet in triplets)
    names = [[view.name for view in triplet.views] for triplet in triplets]
    assert names == [[view.name for view in triplet.views] for triplet in make_triplets(groups, seed=3)]
    assert len(make_triplets(groups, seed=3, most=5)) == 5


def test_a_stranger_among_ones_photos_is_noticed(head, astronaut):
    shifted = seen_from(astronaut, head, 0, identity=astronaut.numbers["identity"] + 0.6)
    assert strangers([astronaut, astronaut, shifted, astronaut]) == [False, False, True, False]
    assert strangers([astronaut, shifted]) == [False, False]


def test_folders_tell_people_apart(tmp_path):
    for name in ("anna/1.jpg", "anna/2.PNG", "bert/old/1.jpg", "anybody.jpg", "anna/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = {person.person: len(person.files) for person in people_in([tmp_path])}
    assert found == {"anna": 2, "bert": 1, None: 1}
    by_name = {person.person: len(person.files) for person in people_in([tmp_path], r"(\d)\.")}
    assert by_name == {"1": 2, "2": 1, None: 1}
    for pattern, message in ((r"(", "regular expression"), (r"\d", "one group")):
        with pytest.raises(PhotoError, match=message):
            people_in([tmp_path], pattern)
    for folder in (tmp_path / "none", tmp_path / "anna/../empty"):
        with pytest.raises(PhotoError):
            people_in([folder])


# --- shards -----------------------------------------------------------------------------------------------


def test_a_shard_says_what_it_holds_and_what_was_refused(photos):
    manifest = load_manifest(photos)
    assert manifest.origin == "photos" and manifest.samples == 3
    with tarfile.open(photos / manifest.shards[0].name) as tar:
        names = tar.getnames()
        about = json.loads(tar.extractfile("00000000.meta.json").read())
    assert names[:7] == [
        f"00000000.{part}"
        for part in ("view0.jpg", "view1.jpg", "view2.jpg", "skin.png", "truth.npy", "meta.json", "names.json")
    ]
    assert about["real"] and about["one_person"]
    with open(photos / "refused.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["photo", "reason"] and sorted(Path(row[0]).name for row in rows[1:]) == ["d.jpg", "wall.png"]


def test_invented_people_and_photos_are_mixed_in_proportion(head, photos, tmp_path):
    drawing = Drawing(SIDE, seed=5, looks=1, supersampling=1, one_moment=0.4, one_sitting=0.3)
    draw_shards(drawing, head, tmp_path / "drawn", 6)
    stored, real = StoredFaces(tmp_path / "drawn", head, SIDE, 1), StoredFaces(photos, head, SIDE, 1, real=True)
    for drawn in (stored, drawing.faces(head)):
        batch = MixedFaces(drawn, real, 0.25).batch(2, 4)
        assert batch.real.tolist() == [False, False, False, True] and batch.photos.shape == (4, 3, SIDE, SIDE, 3)
        assert float(batch.trust["light"][:9].min()) == 1.0 and float(batch.trust["light"][9:].max()) == 0.0
        assert batch.truth.identity.shape[0] == batch.landmarks["ibug68"].shape[0] == 12
    for folder, kind in ((tmp_path / "drawn", True), (photos, False)):
        with pytest.raises(TrainingError, match="name it as data"):
            StoredFaces(folder, head, SIDE, 1, real=kind)


def test_a_run_with_photos_learns_from_them_and_goes_on_bit_for_bit(model, photos, tmp_path):
    losses = replace(TINY.losses, render=1.9, shape_prior=1e-4, albedo_prior=3e-4, light_prior=10.0)
    data = replace(TINY.data, photos=str(photos), photos_share=0.5)
    config = replace(TINY, data=data, losses=losses)
    train(config, model, tmp_path / "whole", ALONE, Options())
    train(config, model, tmp_path / "parts", ALONE, Options(stop_at=4))
    train(config, model, tmp_path / "parts", ALONE, Options(resume=checkpoint_path(tmp_path / "parts", 4)))
    train(replace(config, data=replace(data, photos="")), model, tmp_path / "without", ALONE, Options(stop_at=4))
    whole, parts = (load_file(checkpoint_path(tmp_path / name, 8)) for name in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    one, other = (load_file(checkpoint_path(tmp_path / name, 4)) for name in ("parts", "without"))
    assert not all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    # Other samples in the same place are another run.
    manifest = photos / "shards.json"
    kept = manifest.read_text()
    manifest.write_text(kept.replace('"seed": 1', '"seed": 2'))
    try:
        with pytest.raises(TrainingError, match="other stored samples"):
            train(config, model, tmp_path / "parts", ALONE, Options(resume=checkpoint_path(tmp_path / "parts", 4)))
    finally:
        manifest.write_text(kept)


def test_a_pack_holds_the_photos_and_trains_on_them(photos, tmp_path):
    """And nothing that makes photos is needed where it trains, OpenCV least of all."""
    data = replace(TINY.data, photos=str(photos), photos_share=0.5, shards=str(tmp_path))
    single = replace(TINY.losses, pixel=0.0, depth=0.0, epipolar=0.0)
    folder = tmp_path / "pack"
    size = pack(replace(TINY, data=data, losses=single, run=replace(TINY.run, steps=1)), folder)
    assert size < 60e6 and read_config(folder / "config.toml").data.photos == "photos"
    for path in photos.glob("*.tar"):
        assert (folder / "photos" / path.name).read_bytes() == path.read_bytes()
    (folder / "cv2.py").write_text("raise ImportError('OpenCV is not here')")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    command = ["sh", str(folder / "train.sh"), "--device", "cpu", "--json"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["steps"] == 1


def test_a_pack_that_is_too_large_says_what_to_do(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.train.pack.LARGEST", 1_000_000)
    with pytest.raises(OutputError, match=r"fewer photos \(train-data --triplets\)"):
        pack(replace(TINY, data=replace(TINY.data, photos=str(photos))), tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


# --- video ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """Three seconds: she is shown and moves a little to the right, then a wall, then she again, mirrored."""
    path = tmp_path_factory.mktemp("film") / "film.avi"
    pixels = cv2.cvtColor(load_photo(ASTRONAUT).pixels, cv2.COLOR_RGB2BGR)
    height, width = pixels.shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (width, height))
    for number in range(30):
        moved = np.roll(pixels, number, axis=1)
        wall = np.full_like(pixels, (40, 120, 60))
        writer.write(moved if number < 10 else wall if number < 20 else np.ascontiguousarray(pixels[:, ::-1]))
    writer.release()
    return path


def test_frames_are_taken_evenly_and_cuts_are_seen(film):
    taken = list(frames(film, per_second=5.0))
    assert [frame.second for frame in taken] == pytest.approx([0.2 * number for number in range(15)])
    assert [frame.second for frame in taken if frame.cut] == pytest.approx([0.0, 1.0, 2.0])


def test_a_video_becomes_runs_of_one_person(reader, film):
    told: list[float] = []
    groups, refused = read_video(film, reader, per_second=2.0, progress=told.append)
    assert [len(group.views) for group in groups] == [2, 2] and len(refused) == 2
    assert all("No face" in entry.reason and "film.avi at" in entry.name for entry in refused)
    assert groups[0].seconds == pytest.approx((0.0, 0.5)) and told == sorted(told)


def test_a_jump_a_zoom_a_pause_and_a_stranger_end_a_run(head, astronaut):
    def moved(**changes) -> PhotoView:
        return replace(astronaut, **changes)

    other = seen_from(astronaut, head, 0, identity=astronaut.numbers["identity"] + 0.6)
    near = moved(place=astronaut.place + 0.1 * astronaut.size)
    far = moved(place=astronaut.place + 2.0 * astronaut.size)
    cases = ((near, 0.2, []), (far, 0.2, []), (moved(size=2 * astronaut.size), 0.2, []), (near, 3.0, []))
    cases += ((other, 0.2, []), (near, 0.2, [0.1]))
    assert [breaks([astronaut, view], [0.0, when], cuts)[1] for view, when, cuts in cases] == [
        False, True, True, True, True, True,
    ]  # fmt: skip


def test_no_video_is_one_sentence_and_stops_no_other(tmp_path, film, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    config = tmp_path / "it.toml"
    config.write_text(config_text(TINY), "utf-8")
    command = ["train-data", "video", str(broken), str(film), "--per-second", "1", "--config", str(config)]
    with pytest.raises(SystemExit) as left:
        cli.app([*command, "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert left.value.code == 3 and "triplets of 64 pixels from 2 faces" in capsys.readouterr().out
    assert "no video that can be read" in (tmp_path / "out/refused.csv").read_text()
    with pytest.raises(SystemExit) as left:
        cli.app(["train-data", "video", str(tmp_path / "none.mp4"), "--out", str(tmp_path / "out")])
    assert left.value.code == 1 and "is missing" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        cli.app([*command, "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert left.value.code == 1 and "holds training data already" in capsys.readouterr().err
