"""``mgcface reconstruct`` end to end: the files, the words, the exit codes, and everything that can be wrong."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import bad_photos as photos
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from backend.commands import reconstruct
from backend.commands.reconstruct import FolderNames
from backend.face_model.registry import PACKAGED, get_model
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.rendering.viewer import render_mesh

ALL_FILES = {
    "head.glb",
    "head.obj",
    "neutral.obj",
    "texture.png",
    "confidence.png",
    "overlay.jpg",
    "reconstruction.json",
}


def folders(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def test_one_photo_becomes_a_folder_of_files(mgcface, tmp_path, capfd):
    assert mgcface("reconstruct", photos.EXAMPLE, "--out", tmp_path / "new" / "out") == 0
    head = tmp_path / "new" / "out" / "astronaut"
    assert {path.name for path in head.iterdir()} >= ALL_FILES
    said = capfd.readouterr()
    assert said.out.startswith(str(head))
    assert said.err == ""


def test_quiet_says_nothing_at_all(mgcface, warm, tmp_path, capfd):
    assert mgcface("reconstruct", photos.EXAMPLE, "--out", tmp_path, "--quiet") == 0
    assert capfd.readouterr() == ("", "")


def test_json_is_one_document_on_stdout(mgcface, warm, tmp_path, capfd):
    photos.no_face(tmp_path / "noise.png")
    out = tmp_path / "out"
    code = mgcface("reconstruct", photos.EXAMPLE, tmp_path / "noise.png", "--out", out, "--json", "--formats", "json")
    document = json.loads(capfd.readouterr().out)
    assert code == 3
    assert (document["photos"], document["failed"]) == (2, 1)
    done, failed = document["results"]
    (head,) = done["heads"]
    assert done["error"] is None and [Path(file).name for file in head["files"]] == [
        "reconstruction.json",
        "offset.npz",
    ]
    assert 0 < head["rms_relative"] < 0.02
    assert failed["error"]["code"] == "no_face" and failed["heads"] == []


def test_formats_and_stages_are_obeyed(mgcface, tmp_path):
    arguments = ("--formats", "glb", "--stages", "detect", "--texture", "none")
    assert mgcface("reconstruct", photos.EXAMPLE, "--out", tmp_path, *arguments) == 0
    assert folders(tmp_path / "astronaut") == ["head.glb"]


@pytest.mark.parametrize("size", [1024, 2048])
def test_texture_has_the_size_asked_for(mgcface, tmp_path, size):
    code = mgcface("reconstruct", photos.EXAMPLE, "--out", tmp_path, "--texture", size, "--formats", "texture")
    assert code == 0
    for name in ("texture.png", "confidence.png"):
        assert Image.open(tmp_path / "astronaut" / name).size == (size, size)


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (photos.no_face, "noise.png", "No face"),
        (photos.drawing, "house.png", "No face"),
        (photos.one_pixel, "one.png", "1 x 1"),
        (photos.truncated, "half.jpg", "truncated"),
        (photos.text_file, "diary.jpg", "not a photo"),
        (photos.folder, "holiday.jpg", "folder"),
        (photos.missing, "gone.jpg", "does not exist"),
    ],
)
def test_a_bad_photo_is_one_line_and_the_rest_is_done(mgcface, warm, tmp_path, capfd, make, name, words):
    bad, out = tmp_path / name, tmp_path / "out"
    make(bad)
    assert mgcface("reconstruct", bad, photos.EXAMPLE, "--out", out, "--formats", "json") == 3
    assert folders(out) == ["astronaut"]
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("mgcface: ") and str(bad) in line and words in line


def test_a_face_cut_at_the_border_is_done_with_a_warning(mgcface, warm, tmp_path, capfd):
    photos.cut_at_border(tmp_path / "cut.png")
    out = tmp_path / "out"
    assert mgcface("reconstruct", tmp_path / "cut.png", "--out", out, "--formats", "json") == 0
    assert "border" in capfd.readouterr().err
    assert folders(out) == ["cut"]


def test_a_profile_view_is_done_or_refused_in_one_line(mgcface, warm, tmp_path, capfd):
    """A head of the model seen from its side: whatever the detector says, nothing breaks."""
    model = get_model("open-head")
    camera = Camera(
        intrinsics(1500.0, 800, 800), rotation_from_head_euler(yaw=88.0), np.array([0.0, 0.0, 0.9]), 800, 800
    )
    picture = render_mesh(model.vertices(), model.triangles, camera)
    Image.fromarray(picture[..., :3]).save(tmp_path / "profile.png")
    out = tmp_path / "out"
    code = mgcface("reconstruct", tmp_path / "profile.png", "--out", out, "--formats", "json")
    said = capfd.readouterr()
    assert "Traceback" not in said.err
    if code == 0:
        yaw = json.loads((out / "profile" / "reconstruction.json").read_text())["pose_euler_degrees"]["yaw"]
        assert yaw > 45
    else:
        assert code == 3 and "No face" in said.err and folders(out) == []


def test_twenty_faces(mgcface, warm, tmp_path):
    photos.many_people(tmp_path / "crowd.png")
    out = tmp_path / "out"
    assert mgcface("reconstruct", tmp_path / "crowd.png", "--out", out, "--formats", "json", "--all-faces") == 0
    assert folders(out) == sorted(f"crowd_face{number}" for number in range(1, 21))
    assert mgcface("reconstruct", tmp_path / "crowd.png", "--out", tmp_path / "one", "--formats", "json") == 0
    assert folders(tmp_path / "one") == ["crowd"]


def test_an_enormous_photo(mgcface, warm, tmp_path):
    photos.enormous(tmp_path / "wall.jpg")
    assert mgcface("reconstruct", tmp_path / "wall.jpg", "--out", tmp_path / "out", "--formats", "json") == 0
    record = json.loads((tmp_path / "out" / "wall" / "reconstruction.json").read_text())
    assert (record["photo"]["width"], record["photo"]["height"]) == (8000, 6000)


# -- output ----------------------------------------------------------------------------------------


def test_output_that_cannot_be_written(mgcface, tmp_path, capfd):
    (tmp_path / "file").write_text("in the way")
    assert mgcface("reconstruct", photos.EXAMPLE, "--out", tmp_path / "file" / "out") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "--out" in line and "Traceback" not in line


def test_foreign_files_are_never_replaced(mgcface, warm, tmp_path, capfd):
    (tmp_path / "astronaut").mkdir()
    (tmp_path / "astronaut" / "thesis.doc").write_text("ten years of work")
    assert mgcface("reconstruct", photos.EXAMPLE, "--out", tmp_path, "--formats", "json") == 3
    assert (tmp_path / "astronaut" / "thesis.doc").read_text() == "ten years of work"
    assert folders(tmp_path / "astronaut") == ["thesis.doc"]


def test_photos_of_one_name_get_folders_of_their_own(mgcface, warm, tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        shutil.copy(photos.EXAMPLE, tmp_path / place / "me.jpg")
    sources = (tmp_path / "a" / "me.jpg", tmp_path / "b" / "me.jpg")
    assert mgcface("reconstruct", *sources, "--out", tmp_path / "out", "--formats", "json") == 0
    assert folders(tmp_path / "out") == ["me", "me_2"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file names that are not text")
def test_a_file_name_that_is_no_text(mgcface, warm, tmp_path, capfd):
    name = os.fsdecode(b"caf\xe9 \x1b.jpg")
    shutil.copy(photos.EXAMPLE, tmp_path / name)
    out = tmp_path / "out"
    assert mgcface("reconstruct", tmp_path / name, "--out", out, "--formats", "json,glb,obj", "--json") == 0
    (result,) = json.loads(capfd.readouterr().out)["results"]
    assert result["photo"] == str(tmp_path / name)
    assert len(folders(out)) == 1


def test_folder_names_never_meet():
    names = FolderNames([Path("crew.jpg"), Path("crew_face2.jpg"), Path("CREW.png")])
    given = [*names.of_faces(0, 3), *names.of_faces(1, 1), *names.of_faces(2, 2)]
    assert given[0] == "crew_face1" and given[3] == "crew_face2"
    assert len({name.casefold() for name in given}) == len(given) == 6


# -- models ----------------------------------------------------------------------------------------


def corrupt(path: Path) -> None:
    data = bytearray((PACKAGED / "open-head.safetensors").read_bytes())
    path.write_bytes(data[: len(data) // 2])


def another_kind(path: Path) -> None:
    save_file({"weight": np.zeros((3, 3), np.float32)}, path)


def with_nan(path: Path) -> None:
    with safe_open(PACKAGED / "open-head.safetensors", framework="numpy") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    tensors["mean"] = tensors["mean"].copy()
    tensors["mean"][7] = np.nan
    save_file(tensors, path, metadata)


def a_picture(path: Path) -> None:
    shutil.copy(photos.EXAMPLE, path)


@pytest.mark.parametrize("make", [corrupt, another_kind, with_nan, a_picture])
def test_a_bad_model_is_one_sentence(mgcface, tmp_path, capfd, make):
    model = tmp_path / "model.safetensors"
    make(model)
    assert mgcface("reconstruct", photos.EXAMPLE, "--out", tmp_path / "out", "--model", model) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("mgcface: ") and "model.safetensors" in line and "report it" not in line
    assert folders(tmp_path / "out") == []


def test_an_unknown_model_names_the_known_ones(mgcface, tmp_path, capfd):
    assert mgcface("reconstruct", photos.EXAMPLE, "--out", tmp_path, "--model", "nosuch", "--json") == 1
    said = capfd.readouterr()
    assert "open-head" in said.err
    assert json.loads(said.out)["error"]["code"] == "model"


# -- what the user typed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        ("--formats", "glb,fbx"),
        ("--stages", "detect,dream"),
        ("--stages", "fit"),
        ("--device", "toaster"),
        ("--detector", "eyes"),
        ("--texture", "1000"),
        ("--nosuch",),
    ],
)
def test_wrong_usage_is_exit_2_before_anything_is_made(mgcface, tmp_path, capfd, wrong):
    assert mgcface("reconstruct", photos.EXAMPLE, "--out", tmp_path / "out", *wrong) == 2
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in capfd.readouterr().err


def test_photos_and_out_are_required(mgcface, tmp_path):
    assert mgcface("reconstruct", "--out", tmp_path) == 2
    assert mgcface("reconstruct", photos.EXAMPLE) == 2


def test_cuda_without_a_gpu_is_one_sentence(mgcface, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert mgcface("reconstruct", photos.EXAMPLE, "--out", tmp_path, "--device", "cuda") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "--device cpu" in line


def test_stages_are_those_of_the_pipeline():
    from backend.reconstruction import pipeline

    assert reconstruct.STAGES == pipeline.STAGES
