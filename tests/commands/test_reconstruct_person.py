"""``mgcface reconstruct --same-person``: one folder from several photos, and everything that can be wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import bad_photos as photos
import jsonschema
import numpy as np
import pygltflib
import pytest
from PIL import Image, ImageEnhance

from backend.errors import Cancelled
from backend.export.record import read_record
from backend.face_model.registry import get_model
from backend.reconstruction import person as person_module
from backend.reconstruction.person import PersonError, reconstruct_person
from backend.vision.decode import load_photo

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "reconstruction.schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> list[Path]:
    """The example photo as it is, darker and tilted, and cut closer: one person for certain."""
    folder = tmp_path_factory.mktemp("series")
    picture = Image.open(photos.EXAMPLE).convert("RGB")
    wide, high = picture.size
    versions = {
        "a.png": picture,
        "b.png": ImageEnhance.Brightness(picture.rotate(8.0, Image.Resampling.BICUBIC)).enhance(0.8),
        "c.png": picture.crop((wide // 8, 0, wide - wide // 6, high * 3 // 4)),
    }
    for name, version in versions.items():
        version.save(folder / name)
    return [folder / name for name in versions]


def test_three_photos_become_one_folder(mgcface, series, tmp_path, capfd):
    out = tmp_path / "out"
    assert mgcface("reconstruct", *series, "--same-person", "--out", out) == 0
    names = {path.name for path in out.iterdir()}
    assert {"head.glb", "head.obj", "texture.png", "confidence.png", "sources.png", "reconstruction.json"} <= names
    assert {"overlay_01.jpg", "overlay_02.jpg", "overlay_03.jpg"} <= names
    fields = json.loads((out / "reconstruction.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(SCHEMA).validate(fields)
    assert [Path(photo["path"]).name for photo in fields["photos"]] == ["a.png", "b.png", "c.png"]
    assert all(photo["used"] and photo["reason"] is None for photo in fields["photos"])
    assert all(np.shape(photo["light"]) == (9, 3) for photo in fields["photos"])
    # The head that readers of single photos find is that of the main photo.
    record = read_record(out / "reconstruction.json")
    main = fields["photos"][fields["main_photo"]]
    assert main["camera"] == fields["camera"] and main["expression"] == fields["expression"]
    assert record.vertices(get_model("open-head")).shape == (get_model("open-head").vertex_count, 3)
    sources = np.asarray(Image.open(out / "sources.png"))
    assert set(np.unique(sources)) <= {0, 1, 2, 3} and len(np.unique(sources)) > 1
    document = pygltflib.GLTF2.load_from_bytes((out / "head.glb").read_bytes())
    assert [camera.name for camera in document.cameras] == ["photo_01", "photo_02", "photo_03"]
    assert {node.camera for node in document.nodes if node.camera is not None} == {0, 1, 2}
    assert "one head from 3 of 3 photos" in capfd.readouterr().out
    # Again into the same folder: it is ours and is replaced.
    assert mgcface("reconstruct", *series[:2], "--same-person", "--out", out, "--formats", "json,overlay") == 0
    assert {path.name for path in out.iterdir()} == {
        "reconstruction.json",
        "offset.npz",
        "overlay_01.jpg",
        "overlay_02.jpg",
    }


def test_photos_that_cannot_be_used_are_named(mgcface, warm, series, tmp_path, capfd):
    photos.no_face(tmp_path / "noise.png")
    photos.text_file(tmp_path / "text.jpg")
    out = tmp_path / "out"
    bad = (tmp_path / "noise.png", tmp_path / "text.jpg")
    code = mgcface("reconstruct", series[0], *bad, series[2], "--same-person", "--out", out, "--json")
    assert code == 3
    said = capfd.readouterr()
    document = json.loads(said.out)
    assert [photo["used"] for photo in document["results"]] == [True, False, False, True]
    assert document["failed"] == 2 and document["same_person"]
    assert "noise.png: No face was found" in said.err and "text.jpg" in said.err
    fields = json.loads((out / "reconstruction.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(SCHEMA).validate(fields)
    assert [photo["used"] for photo in fields["photos"]] == [True, False, False, True]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("--same-person", "--all-faces"), "exclude each other"),
        (("--same-person", "--stages", "detect"), "needs the stage fit"),
        (("--keep-all",), "add --same-person"),
    ],
)
def test_wrong_usage_gets_one_sentence(mgcface, warm, tmp_path, capfd, extra, words):
    assert mgcface("reconstruct", photos.EXAMPLE, "--out", tmp_path / "out", *extra) == 2
    assert words in capfd.readouterr().err


def test_no_usable_photo_is_an_error_and_leaves_no_folder(mgcface, warm, tmp_path, capfd):
    for name in ("one.png", "two.png"):
        photos.no_face(tmp_path / name)
    out = tmp_path / "out"
    assert mgcface("reconstruct", tmp_path / "one.png", tmp_path / "two.png", "--same-person", "--out", out) == 1
    assert "None of the 2 photos can be used" in capfd.readouterr().err
    assert not list(out.iterdir())


def test_a_folder_of_somebody_elses_is_not_touched(mgcface, warm, series, tmp_path, capfd):
    (tmp_path / "diary.txt").write_text("mine")
    assert mgcface("reconstruct", *series[:2], "--same-person", "--out", tmp_path) == 1
    assert "diary.txt" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_too_many_photos(warm, series):
    with pytest.raises(PersonError, match="up to 100"):
        reconstruct_person(warm, series * 40)


def test_a_photo_whose_landmarks_disagree_is_left_out_unless_kept(warm, series, monkeypatch):
    """The detector's points of one photo are stretched into a face that is nobody's."""
    real = person_module.observe

    def stretched(photo, face, name):
        seen = real(photo, face, name)
        if photo.path is not None and photo.path.name == "b.png":
            middle = seen.landmarks.mean(axis=0)
            wave = 0.12 * np.ptp(seen.landmarks[:, 1]) * np.sin(np.arange(len(seen.landmarks)) * 2.4)
            return replace(seen, landmarks=middle + (seen.landmarks - middle) + wave[:, None])
        return seen

    monkeypatch.setattr(person_module, "observe", stretched)
    monkeypatch.setattr(person_module, "leave_out_strangers", lambda *_: None)
    left = reconstruct_person(warm, series)
    assert [photo.used for photo in left.photos] == [True, False, True]
    assert "disagree" in str(left.photos[1].reason)
    kept = reconstruct_person(warm, series, keep_all=True)
    assert all(photo.used for photo in kept.photos)


def test_pixels_are_read_again_where_memory_is_short(warm, series, monkeypatch):
    monkeypatch.setattr(person_module, "KEPT_MEGAPIXELS", 0.2)
    found = reconstruct_person(warm, series)
    kept = [photo for photo in found.used if photo.photo is not None]
    assert len(kept) < 3
    for photo in found.used:
        np.testing.assert_array_equal(photo.pixels().pixels, load_photo(photo.path).pixels)


def test_all_photos_share_the_identity(warm, series):
    found = reconstruct_person(warm, series)
    first, *others = [photo.head for photo in found.used]
    assert all((head.identity == first.identity).all() for head in others)
    assert found.head.photo_path == found.photos[found.main].path


def test_progress_is_told_and_a_request_to_stop_is_heard(warm, series):
    told: list[tuple[int, str, float]] = []
    reconstruct_person(warm, series, progress=lambda *what: told.append(what))
    assert {index for index, _, _ in told} == {0, 1, 2}
    assert [stage for _, stage, _ in told][-1] == "refine"
    for answers in ([False, False, True], [False] * 9 + [True]):
        asked = iter(answers)
        with pytest.raises(Cancelled):
            reconstruct_person(warm, series, cancel=lambda asked=asked: next(asked))
