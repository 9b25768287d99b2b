"""Folders: whole or not at all, names that every system takes, refusals in one sentence."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.errors import OutputError
from backend.export import folder
from backend.export.folder import FORMATS, OUR_FILES, folder_names, prepare_out_dir, safe_name, write_head
from backend.vision.photo import Photo

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "examples" / "astronaut.jpg"


@pytest.fixture(scope="module")
def photo(photo_pixels):
    return Photo(photo_pixels, Path("photos/astronaut.jpg"))


def test_all_files(reconstruction, photo, tmp_path):
    written = write_head(reconstruction, photo, tmp_path / "new" / "out")
    place = tmp_path / "new" / "out" / "astronaut"
    assert {path.name for path in written} == OUR_FILES == set(os.listdir(place))
    assert all(path.parent == place and path.stat().st_size > 0 for path in written)
    assert os.listdir(place.parent) == ["astronaut"], "nothing temporary stays"
    np.testing.assert_array_equal(np.asarray(Image.open(place / "texture.png")), reconstruction.texture.color)
    np.testing.assert_array_equal(np.asarray(Image.open(place / "confidence.png")), reconstruction.texture.confidence)
    assert Image.open(place / "overlay.jpg").size == (1938, 640)
    assert json.loads((place / "reconstruction.json").read_text("utf-8"))["format_version"] == 1
    for name in ("texture.png", "normal.png", "eyes.png"):
        assert name in (place / "head.mtl").read_text("ascii")


@pytest.mark.parametrize(
    "kind, files",
    [
        ("glb", {"head.glb"}),
        ("obj", {"head.obj", "neutral.obj", "head.mtl", "texture.png", "normal.png", "eyes.png"}),
        ("json", {"reconstruction.json", "offset.npz"}),
        ("texture", {"texture.png", "normal.png", "confidence.png"}),
        ("overlay", {"overlay.jpg"}),
    ],
)
def test_one_format(reconstruction, photo, tmp_path, kind, files):
    assert {path.name for path in write_head(reconstruction, photo, tmp_path, (kind,))} == files


def test_without_texture(reconstruction, photo, tmp_path):
    names = {path.name for path in write_head(replace(reconstruction, texture=None), photo, tmp_path)}
    assert names == OUR_FILES - {"texture.png", "normal.png", "confidence.png"}
    assert "texture.png" not in (tmp_path / "astronaut" / "head.mtl").read_text("ascii")


def test_an_earlier_result_is_replaced_whole(reconstruction, photo, tmp_path):
    write_head(reconstruction, photo, tmp_path)
    write_head(reconstruction, photo, tmp_path, ("json",))
    assert set(os.listdir(tmp_path / "astronaut")) == {"reconstruction.json", "offset.npz"}
    assert os.listdir(tmp_path) == ["astronaut"]


def test_somebody_elses_files_are_not_replaced(reconstruction, photo, tmp_path):
    place = tmp_path / "astronaut"
    place.mkdir()
    (place / "my_scene.blend").write_text("work of a week")
    with pytest.raises(OutputError, match=r"my_scene\.blend"):
        write_head(reconstruction, photo, tmp_path)
    assert os.listdir(tmp_path) == ["astronaut"] and os.listdir(place) == ["my_scene.blend"]


def test_a_file_in_the_way(reconstruction, photo, tmp_path):
    (tmp_path / "astronaut").write_text("a file")
    with pytest.raises(OutputError, match="in the way"):
        write_head(reconstruction, photo, tmp_path)
    assert (tmp_path / "astronaut").read_text() == "a file"
    with pytest.raises(OutputError, match="in its way"):
        write_head(reconstruction, photo, tmp_path / "astronaut")
    with pytest.raises(OutputError):
        write_head(reconstruction, photo, tmp_path / "astronaut" / "deeper")


def test_a_link_is_not_followed(reconstruction, photo, tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    try:
        (tmp_path / "astronaut").symlink_to(real, target_is_directory=True)
    except OSError:
        pytest.skip("this account may not make symbolic links")
    with pytest.raises(OutputError):
        write_head(reconstruction, photo, tmp_path)
    assert os.listdir(real) == []


def test_an_unknown_format(reconstruction, photo, tmp_path):
    with pytest.raises(OutputError, match="'fbx'"):
        write_head(reconstruction, photo, tmp_path, ("glb", "fbx"))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(reconstruction, photo, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="may not be written"):
            write_head(reconstruction, photo, tmp_path)
    finally:
        tmp_path.chmod(0o700)


def failing_write(file_name, error):
    """Stands in for the real write: writes half of ``file_name``, then raises."""

    def write(path, data):
        if path.name == file_name:
            path.write_bytes(data[: len(data) // 2])
            raise error
        path.write_bytes(data)

    return write


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(
    "error, raised, words",
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError, "disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), OutputError, "may not be written"),
        (OSError(errno.EIO, "Input/output error"), OutputError, "Input/output error"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_nothing_half_written_stays(reconstruction, photo, tmp_path, monkeypatch, earlier, error, raised, words):
    if earlier:
        write_head(reconstruction, photo, tmp_path, ("json",))
    monkeypatch.setattr(folder, "_write", failing_write("head.obj", error))
    with pytest.raises(raised, match=words):
        write_head(reconstruction, photo, tmp_path)
    assert os.listdir(tmp_path) == (["astronaut"] if earlier else [])
    if earlier:
        assert set(os.listdir(tmp_path / "astronaut")) == {"reconstruction.json", "offset.npz"}


def test_a_real_limit_of_the_system(reconstruction, photo, tmp_path):
    """The system itself refuses a file beyond 100 kB."""
    resource = pytest.importorskip("resource", reason="file-size limits are a POSIX thing")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OutputError, match="disk is full"):
            write_head(reconstruction, photo, tmp_path, ("json", "glb"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


# A disk of three megabytes: enough for the numbers and the mesh, not for the pictures.
SMALL_DISK = """
place=$1
shift
mount -t tmpfs -o size=3m tmpfs "$place" || exit 77
"$@"
status=$?
find "$place" -type f -printf 'left: %f\\n'
exit $status
"""


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="mounting a small disk needs root")
@pytest.mark.skipif(sys.platform != "linux", reason="mounting a small disk as Linux does")
def test_a_disk_that_is_full_while_a_texture_is_written(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    command = ["unshare", "--mount", "sh", "-c", SMALL_DISK, "sh", str(small), sys.executable, "-m", "backend.cli"]
    command += ["reconstruct", str(PHOTO), "--texture", "2048", "--quiet", "--out", str(small)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if answer.returncode == 77:
        pytest.skip("root may not mount here")
    assert answer.returncode == 3 and len(answer.stderr.splitlines()) == 1, answer.stderr
    assert "disk is full" in answer.stderr and "left:" not in answer.stdout


def test_the_old_result_comes_back_when_the_new_one_cannot_move_in(reconstruction, photo, tmp_path, monkeypatch):
    write_head(reconstruction, photo, tmp_path, ("json",))
    real_rename = os.rename

    def rename(source, target):
        if str(source).endswith(".part"):
            raise PermissionError(errno.EACCES, "in use")
        real_rename(source, target)

    monkeypatch.setattr(folder.os, "rename", rename)
    with pytest.raises(OutputError, match="close the program"):
        write_head(reconstruction, photo, tmp_path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["astronaut"]
    assert set(os.listdir(tmp_path / "astronaut")) == {"reconstruction.json", "offset.npz"}


def test_nan_leaves_nothing(reconstruction, photo, tmp_path):
    bad = replace(reconstruction, fit=replace(reconstruction.fit, rms_px=float("nan")))
    with pytest.raises(OutputError, match="rms_px"):
        write_head(bad, photo, tmp_path)
    assert os.listdir(tmp_path) == []


def test_prepare_makes_the_folder_and_leaves_it_empty(tmp_path):
    prepare_out_dir(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []


def test_names_of_one_call():
    photos = [("a/img.jpg", 1), ("b/img.png", 1), ("c/IMG.jpg", 2), ("img_2.jpg", 1), ("none.jpg", 0), (None, 1)]
    names = folder_names(photos)
    assert names == [["img"], ["img_2"], ["IMG_face1", "IMG_face2"], ["img_2_2"], [], ["photo"]]
    flat = [name.casefold() for group in names for name in group]
    assert len(set(flat)) == len(flat)


@pytest.mark.parametrize(
    "stem, name",
    [
        ("astronaut", "astronaut"),
        ("con", "_con"),
        ("COM1.front", "_COM1.front"),
        ("console", "console"),
        ('a<b>c:d"e|f?g*h\\i', "a_b_c_d_e_f_g_h_i"),
        (" .hidden. ", "hidden"),
        ("...", "photo"),
        ("", "photo"),
        ("tab\there", "tab_here"),
        ("\u0041\u030angstrom", "\u00c5ngstrom"),
        ("x" * 300, "x" * 100),
    ],
)
def test_safe_names(stem, name):
    assert safe_name(stem) == name


def test_long_and_broken_names_stay_text():
    name = safe_name("\u00e9" * 300)
    assert len(name.encode("utf-8")) <= 100 and set(name) == {"\u00e9"}
    safe_name("\udce9broken").encode("utf-8")


def test_formats_are_the_documented_ones():
    assert FORMATS == ("glb", "obj", "json", "texture", "overlay")
