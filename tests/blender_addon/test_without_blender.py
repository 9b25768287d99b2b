"""The parts of the add-on that need no Blender: what arrives is checked, converted and encoded right."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from backend.export.person_folder import PALETTE
from backend.geometry.camera import Camera as EngineCamera
from backend.geometry.camera import intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.rendering.shade import sh_basis
from blender_addon.link import installer, launcher, pasted, self_test
from blender_addon.scene import axes, confidence, harmonics, head_data
from blender_addon.scene.png import png_bytes


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 7, 3), (64, 64, 3), (3, 9)])
def test_png_reads_back_as_it_was(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(pixels)))), pixels)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)])
def test_png_refuses_what_is_no_picture(pixels):
    with pytest.raises(ValueError, match="no picture"):
        png_bytes(pixels)


def test_the_camera_stands_where_the_engine_says():
    camera = EngineCamera(
        intrinsics(900, 640, 480), rotation_from_head_euler(20, -8, 5), np.array([0.1, 0, 0.7]), 640, 480
    )
    matrix = axes.camera_matrix(camera.R, camera.t, scale=2.0)
    assert matrix[:3, 3] == pytest.approx(axes.BLENDER_FROM_MODEL @ camera.centre * 2.0)
    # What the engine's camera has straight ahead lies on Blender's -Z.
    ahead = axes.BLENDER_FROM_MODEL @ camera.R.T @ np.array([0, 0, 1.0])
    assert matrix[:3, :3] @ np.array([0, 0, -1.0]) == pytest.approx(ahead)
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1.0)


def test_as_seen_levels_the_camera():
    R, t = rotation_from_head_euler(20, -8, 5), np.array([0.1, 0, 0.7])
    level = axes.as_seen(R, t) @ axes.camera_matrix(R, t)
    assert level[:3, 3] == pytest.approx(0.0, abs=1e-12)
    assert level[:3, :3] @ np.array([0, 0, -1.0]) == pytest.approx([0, 1, 0])
    assert level[:3, :3] @ np.array([0, 1.0, 0]) == pytest.approx([0, 0, 1])


def test_the_basis_is_the_engines():
    import torch

    normals = harmonics.front_normals()
    assert harmonics.basis(normals) == pytest.approx(sh_basis(torch.from_numpy(normals)).numpy())


@pytest.mark.parametrize("direction", [(0.3, 0.2, 0.9), (-0.8, 0.1, 0.5), (0, 0, 1)])
def test_a_sun_and_an_even_light_are_found_again(direction):
    """Light made of a sun and an ambient part, turned into harmonics over the whole sphere and back."""
    direction = np.array(direction) / np.linalg.norm(direction)
    index = np.arange(4000) + 0.5
    z, angle = 1.0 - 2.0 * index / 4000, np.pi * (1 + 5**0.5) * index
    normals = np.stack([np.sqrt(1 - z * z) * np.cos(angle), np.sqrt(1 - z * z) * np.sin(angle), z], axis=1)
    sun, ambient = np.array([0.9, 0.8, 0.7]), np.array([0.2, 0.25, 0.3])
    light = ambient + sun * np.maximum(normals @ direction, 0.0)[:, None]
    gamma, *_ = np.linalg.lstsq(harmonics.basis(normals), light, rcond=None)
    found = harmonics.photo_light(gamma)
    assert found.direction @ direction > 0.999
    # Second-order harmonics blur the terminator, so a few per cent go from one part to the other.
    assert found.sun == pytest.approx(sun, abs=0.08)
    assert found.ambient == pytest.approx(ambient, abs=0.08)


def test_light_without_a_direction_is_all_ambient():
    gamma = np.zeros((9, 3))
    gamma[0] = 0.5
    found = harmonics.photo_light(gamma)
    assert not found.sun.any() and found.ambient == pytest.approx(0.5 * harmonics.A0 * np.ones(3))


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("/photos/a b.jpg\n", ["/photos/a b.jpg"]),
        ('"C:\\photos\\a.jpg"', ["C:\\photos\\a.jpg"]),
        ("file:///photos/a%20b.jpg\r\nfile:///photos/c.png", ["/photos/a b.jpg", "/photos/c.png"]),
        ("file:///C:/photos/a.jpg", ["C:/photos/a.jpg"]),
        ("  \n\n", []),
    ],
)
def test_pasted_paths(text, paths):
    assert pasted.paths_in(text) == paths


def small_model(**changes):
    header = {"expression_names": ["a"], "material_names": ["skin", "mouth", "eyes"], "region_names": ["teeth"]}
    arrays = {
        "quads": np.array([[0, 1, 2, 3], [4, 5, 6, -1], [2, 3, 4, 5]], np.int32),
        "uv_quads": np.array([[0, 1, 2, 3], [0, 1, 2, -1], [0, 1, 2, 3]], np.int32),
        "uv": np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32),
        "material": np.array([0, 2, 1], np.int32),
        "expression": np.ones((1, 7, 3), np.float32),
        "regions": np.array([[0, 0, 1, 1, 1, 1, 0]], np.uint8),
    }
    return head_data.FaceModel.from_message(header, arrays | changes)


def test_triangles_materials_and_regions_become_a_mesh():
    shape = head_data.layout(small_model(), True, 1.0)
    assert shape.face_start.tolist() == [0, 4, 7]
    assert shape.corner_vertex.tolist() == [0, 1, 2, 3, 4, 5, 6, 2, 3, 4, 5]
    assert [shape.materials[slot] for slot in shape.face_material] == ["skin", "eyes", "teeth"]
    assert shape.skin.tolist() == [True] * 4 + [False] * 3


def test_without_eyes_vertices_are_renumbered():
    shape = head_data.layout(small_model(), False, 1.0)
    assert shape.vertices.tolist() == [0, 1, 2, 3, 4, 5] and shape.moves.shape == (1, 6, 3)
    assert "eyes" not in shape.materials


@pytest.mark.parametrize(
    "wrong",
    [
        {"quads": np.full((3, 4), 9, np.int32)},
        {"uv_quads": np.full((3, 4), -7, np.int32)},
        {"material": np.array([0, 1, 3], np.int32)},
        {"material": np.array([0, 1], np.int32)},
        {"expression": np.ones((2, 7, 3), np.float32)},
    ],
)
def test_a_face_model_that_would_crash_blender_is_refused(wrong):
    with pytest.raises(head_data.HeadError, match="makes no sense"):
        small_model(**wrong)


def person_message(**changes):
    """A head of the second of three photos, the last of which was left out."""
    camera = {"K": np.eye(3).tolist(), "R": np.eye(3).tolist(), "t": [0.0, 0.0, 1.0]}
    shot = {"used": True, "width": 64, "height": 48, "camera": camera, "expression": {"a": 0.25}}
    photos = [shot, {**shot, "expression": {"a": 0.75}}, {"used": False, "reason": "Another person's."}]
    record = {"camera": camera, "photo": shot, "expression": {"a": 0.75}, "main_photo": 1, "photos": photos}
    header = {"photo": 1, "face": 0, "name": "anna.jpg", "record": record | changes}
    return header, {"neutral": np.zeros((7, 3), np.float32), "photo0": np.frombuffer(b"jpeg", np.uint8)}


def test_a_head_of_several_photos_knows_each_of_them():
    head = head_data.Head.from_message(small_model(), *person_message(), "/0.jpg", "/1.jpg", "/2.jpg")
    assert (head.photo, head.values, head.upright) == ("/1.jpg", [0.75], b"") and head.photos[2] == "/2.jpg"
    (other,) = head.others
    assert (other.photo, other.values, other.upright) == ("/0.jpg", [0.25], b"jpeg") and other.camera.width == 64


@pytest.mark.parametrize("wrong", [{"photos": []}, {"photos": [{"used": True}] * 3}, {"main_photo": None}])
def test_photos_that_make_no_sense_are_refused(wrong):
    paths = ["/0.jpg", "/1.jpg", "/2.jpg"]
    if "main_photo" in wrong:
        paths.pop()
    with pytest.raises(head_data.HeadError, match="makes no sense"):
        head_data.Head.from_message(small_model(), *person_message(**wrong), *paths)


def test_the_map_of_confidence_has_the_colours_of_the_file():
    """As ``sources.png`` shows them, black aside."""
    assert PALETTE[1:] == confidence.PALETTE
    assert confidence.photo_color(13) == confidence.photo_color(1) == PALETTE[2]


def test_the_map_says_which_photo_a_texel_came_from_and_how_sure_it_is():
    sure, sources = np.zeros((1024, 1024), np.uint8), np.zeros((256, 256), np.uint8)
    sure[:512], sources[:128] = 255, 1
    sure[:512, :512], sources[:128, :64] = 128, 3
    found = confidence.origin(sure, sources, main=0)
    assert found.pixels.shape == (512, 512, 3) and found.shares == {0: 0.75, 2: 0.25}
    assert found.pixels[10, 400].tolist() == list(confidence.photo_color(0))
    half = (np.array(confidence.COMPLETED) + confidence.photo_color(2)) / 2.0
    assert found.pixels[10, 10] == pytest.approx(half, abs=1.0)
    assert found.pixels[500, 10].tolist() == list(confidence.COMPLETED)


def test_a_backend_that_does_not_name_photos_is_taken_to_have_used_the_main_one():
    sure = np.zeros((8, 8), np.uint8)
    assert confidence.origin(sure, None, main=1).shares == {}
    sure[0] = 255
    found = confidence.origin(sure, None, main=1)
    assert found.shares == {1: 1.0} and found.pixels[0, 0].tolist() == list(confidence.photo_color(1))


def test_a_head_brings_its_map():
    header, arrays = person_message()
    paths = ["/0.jpg", "/1.jpg", "/2.jpg"]
    assert head_data.Head.from_message(small_model(), header, arrays, *paths).origin is None
    sure = np.full((8, 8), 255, np.uint8)
    for sources, shares in ((np.full((4, 4), 1, np.uint8), {0: 1.0}), (None, {1: 1.0})):
        more = {"confidence": sure} | ({} if sources is None else {"sources": sources})
        head = head_data.Head.from_message(small_model(), header, arrays | more, *paths)
        assert head.shares == shares and head.origin is not None
        picture = np.asarray(Image.open(io.BytesIO(head.origin.data)))
        assert (picture == confidence.photo_color(*shares)).all()
    with pytest.raises(head_data.HeadError, match="makes no sense"):
        more = {"confidence": sure, "sources": np.full((4, 4), 4, np.uint8)}
        head_data.Head.from_message(small_model(), header, arrays | more, *paths)


def test_each_photo_has_its_own_light():
    header, arrays = person_message()
    header["record"]["photos"][0] = {**header["record"]["photos"][0], "light": np.ones((9, 3)).tolist()}
    head = head_data.Head.from_message(small_model(), header, arrays, "/0.jpg", "/1.jpg", "/2.jpg")
    assert head.light is None and list(head.shots) == ["/1.jpg", "/0.jpg"]
    assert np.array_equal(head.shots["/0.jpg"].light, np.ones((9, 3)))


def test_the_environment_of_the_backend_is_clean(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/of/blender")
    monkeypatch.setenv("MGCFACE_KEPT", "yes")
    environment = launcher.clean_environment()
    assert "PYTHONPATH" not in environment and environment["MGCFACE_KEPT"] == "yes"
    assert environment["PYTHONNOUSERSITE"] == "1"


def test_a_launcher_without_a_backend_says_what_to_do(tmp_path):
    for python, words in (("", "Set Up Backend"), (str(tmp_path / "gone"), "is gone")):
        with pytest.raises(launcher.LaunchError, match=words):
            launcher.Launcher(python, tmp_path / "c.json", tmp_path / "log", "cpu").start()


def test_the_self_test_is_read_as_a_sentence():
    good = '{"checks": [{"name": "numpy", "state": "ok", "detail": "", "fix": ""}]}'
    assert self_test.verdict(good) == (True, "The backend is well: 1 checks passed.")
    bad = '{"checks": [{"name": "torch", "state": "missing", "detail": "not installed", "fix": ""}]}'
    assert self_test.verdict(bad)[1].startswith("The backend lacks torch (not installed): click Set Up Backend")
    assert not self_test.verdict("Traceback")[0]


def test_the_real_self_test_passes_here():
    test = self_test.SelfTest(sys.executable)
    answer = None
    while answer is None:
        answer = test.look()
    assert answer[0] is (
        "missing"
        not in subprocess.run(
            [sys.executable, "-m", "backend.cli", "doctor", "--json"], capture_output=True, text=True
        ).stdout
    ), answer[1]


def test_a_python_that_the_backend_cannot_use_is_passed_over(tmp_path):
    assert not installer.usable(str(tmp_path / "nothing"))
    assert installer.usable(sys.executable) is (f"{sys.version_info[0]}.{sys.version_info[1]}" in installer.SUPPORTED)


def test_an_environment_counts_only_with_its_stamp(tmp_path):
    python = tmp_path / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    python.parent.mkdir()
    python.touch()
    assert installer.environment_python(tmp_path) is None
    (tmp_path / installer.STAMP).write_text('{"bytes": 1000}')
    assert installer.environment_python(tmp_path) == python and installer.installed_size(tmp_path) == 1000


def test_too_little_disk_is_said_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(installer.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e9}))
    work = installer.Installation(tmp_path / "environment", tmp_path, tmp_path, sys.executable, tmp_path / "log")
    work.wait(20)
    assert work.finished and "1.0 GB are free" in work.error and not (tmp_path / "environment").exists()


def test_too_little_disk_for_a_new_one_leaves_the_backend_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(installer.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e9}))
    for name in ("environment", "python"):
        (tmp_path / name).mkdir()
    work = installer.Installation(tmp_path / "environment", tmp_path, tmp_path, sys.executable, tmp_path / "log")
    work.wait(20)
    assert work.error and (tmp_path / "environment").exists() and (tmp_path / "python").exists()
