from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from backend.errors import Cancelled, ModelError
from backend.face_model.adapters import ict_facekit
from backend.face_model.adapters.ict_facekit import read_ict_facekit, read_obj, source_file_names
from backend.face_model.adapters.layout import eye_axis
from backend.face_model.arkit import ARKIT_NAMES
from backend.face_model.file_format import load_model, save_model
from backend.face_model.install import ICT_MANIFEST
from backend.face_model.model import FaceModel


@pytest.fixture(scope="module")
def model() -> FaceModel:
    folder = Path(__file__).parents[2].parent / "shared" / "models" / "ict-facekit"
    if not folder.is_dir():
        pytest.skip("needs ../shared/models/ict-facekit, which is not part of the repository")
    return read_ict_facekit(folder)


def test_arkit_names_are_apples_52() -> None:
    assert len(set(ARKIT_NAMES)) == 52
    assert ARKIT_NAMES[0] == "eyeBlinkLeft" and ARKIT_NAMES[-1] == "tongueOut"
    sided = [name for name in ARKIT_NAMES if name.endswith("Left")]
    assert all(name.replace("Left", "Right") in ARKIT_NAMES for name in sided)


def test_source_files() -> None:
    names = source_file_names()
    assert len(names) == len(set(names)) == 1 + 1 + 100 + 53
    assert {"jawLeft.obj", "mouthRight.obj", "browInnerUp_L.obj", "cheekPuff_R.obj", "eyeBlink_L.obj"} < set(names)


def test_counts_and_space(model: FaceModel) -> None:
    assert len(model.identity) == 100
    assert model.expression_names == tuple(name for name in ARKIT_NAMES if name != "tongueOut")
    assert model.expression_limits == "unit"
    assert model.materials == ("skin", "mouth", "eyes")
    # A head of some 25 cm with shoulders of 25 cm, in metres; the nose looks along +Z.
    assert np.allclose(np.ptp(model.mean, axis=0), [0.248, 0.338, 0.223], atol=0.002)
    assert abs(model.mean[np.argmax(model.mean[:, 2]), 0]) < 0.002
    assert model.mirror is not None
    np.testing.assert_array_equal(model.mirror[model.mirror], np.arange(model.vertex_count))


def test_every_vertex_is_used(model: FaceModel) -> None:
    assert np.array_equal(np.unique(model.triangles), np.arange(model.vertex_count))
    assert np.array_equal(np.unique(model.triangles_uv), np.arange(len(model.uv)))
    assert (model.faces[:, 3] < 0).any() and (model.faces[:, 3] >= 0).sum() > 20000


def test_units_and_numbers_against_the_source(model: FaceModel, ict_source: Path) -> None:
    """Up to the inner iris balls, vertices keep their numbers; values are centimetres over 100."""
    with np.load(ict_source / "ict-facekit-light.npz", allow_pickle=False) as arrays:
        kept = slice(0, 22221)
        np.testing.assert_allclose(model.mean[kept] * 100, arrays["mean"][kept], atol=1e-5)
        np.testing.assert_allclose(model.identity[7, kept] * 100, arrays["identity"][7, kept], atol=1e-5)
        names = [str(name) for name in arrays["names"]]
        halves = [arrays["expression"][names.index(f"browInnerUp_{side}"), kept].astype(float) for side in "LR"]
        brows = model.expression[model.expression_names.index("browInnerUp"), kept]
        np.testing.assert_allclose(brows * 100, halves[0] + halves[1], atol=1e-5)
        points = model.landmark_points(model.mean, "ibug68")
        np.testing.assert_allclose(points * 100, arrays["mean"][arrays["landmarks68"]], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "side"), [("eyeBlinkLeft", 1), ("eyeBlinkRight", -1), ("mouthSmileLeft", 1), ("noseSneerRight", -1)]
)
def test_sides_are_the_subjects(model: FaceModel, name: str, side: int) -> None:
    moved = np.linalg.norm(model.expression[model.expression_names.index(name)], axis=1)
    assert side * model.mean[np.argmax(moved), 0] > 0.005


@pytest.mark.parametrize(
    ("name", "axis", "sign"), [("jawLeft", 0, 1), ("jawRight", 0, -1), ("mouthLeft", 0, 1), ("jawOpen", 1, -1)]
)
def test_directions(model: FaceModel, name: str, axis: int, sign: int) -> None:
    shape = model.expression[model.expression_names.index(name)]
    assert sign * shape[np.argmax(np.linalg.norm(shape, axis=1)), axis] > 0.005


def test_now7_order(model: FaceModel) -> None:
    right_outer, right_inner, left_inner, left_outer, nose, right_mouth, left_mouth = model.landmark_points(
        model.mean, "now7"
    )
    assert right_outer[0] < right_inner[0] < 0 < left_inner[0] < left_outer[0]
    assert right_mouth[0] < 0 < left_mouth[0] and right_mouth[1] < nose[1] < right_inner[1]


def test_texture_layout(model: FaceModel) -> None:
    assert model.uv.min() >= 0 and model.uv.max() <= 1
    corners = model.face_uv[model.face_material == 2]
    eye_uv = model.uv[corners[corners >= 0]]
    assert np.linalg.norm(eye_uv - 0.5, axis=1).max() <= 0.5 + 1e-6
    # The top of the cornea, the vertex farthest from the eyeball's middle, is the middle of the iris.
    left = model.regions["eyes"] & (model.mean[:, 0] > 0)
    centre, axis = eye_axis(model.mean[left])
    assert 0.01 < np.degrees(np.arccos(axis[2])) < 10 and axis[0] > 0
    top = np.flatnonzero(left)[np.argmax(np.linalg.norm(model.mean[left] - centre, axis=1))]
    row, column = np.argwhere(model.faces == top)[0]
    assert np.linalg.norm(model.uv[model.face_uv[row, column]] - 0.5) < 0.02


def test_regions(model: FaceModel) -> None:
    assert {"face", "eyes", "mouth", "teeth", "gums"} <= model.regions.keys()
    assert model.regions["teeth"].sum() == 21451 - 17039
    assert not (model.regions["teeth"] & ~model.regions["mouth"]).any()


def test_round_trip_through_a_file(model: FaceModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "ict.safetensors")
    loaded = load_model(tmp_path / "ict.safetensors")
    assert np.abs(loaded.identity - model.identity).max() < 2e-6
    assert np.abs(loaded.expression - model.expression).max() < 2e-6


@pytest.fixture
def obj_folder(ict_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real OBJ files that are at hand; the shapes that are not stand in as the neutral head."""
    monkeypatch.setattr(ict_facekit, "IDENTITY_COUNT", 2)
    folder = tmp_path / "FaceXModel"
    folder.mkdir()
    for name in source_file_names():
        original = ict_source / "FaceXModel" / name
        present = original if original.is_file() else ict_source / "FaceXModel" / "generic_neutral_mesh.obj"
        (folder / name).symlink_to(present)
    return folder


def test_obj_folder_agrees_with_the_npz(model: FaceModel, obj_folder: Path) -> None:
    steps = []
    from_obj = read_ict_facekit(obj_folder.parent, progress=lambda share, _name: steps.append(share))
    np.testing.assert_array_equal(from_obj.faces, model.faces)
    np.testing.assert_array_equal(from_obj.face_uv, model.face_uv)
    np.testing.assert_allclose(from_obj.uv, model.uv, atol=1e-5)
    np.testing.assert_allclose(from_obj.mean, model.mean, atol=1e-7)
    # The npz holds float16 offsets in centimetres: a relative error of 2**-11.
    np.testing.assert_allclose(from_obj.identity, model.identity[:2], atol=2e-5, rtol=1e-3)
    for name in ("eyeBlinkLeft", "jawOpen"):
        at = model.expression_names.index(name)
        np.testing.assert_allclose(from_obj.expression[at], model.expression[at], atol=2e-5, rtol=1e-3)
    assert np.abs(from_obj.expression[model.expression_names.index("mouthPucker")]).max() == 0
    np.testing.assert_array_equal(from_obj.landmarks["ibug68"].corners, model.landmarks["ibug68"].corners)
    assert steps == sorted(steps) and len(steps) == 55


def test_obj_folder_can_be_cancelled(obj_folder: Path) -> None:
    with pytest.raises(Cancelled):
        read_ict_facekit(obj_folder, cancel=lambda: True)


def test_incomplete_obj_folder(obj_folder: Path) -> None:
    (obj_folder / "jawOpen.obj").unlink()
    with pytest.raises(ModelError, match=r"lacks jawOpen\.obj"):
        read_ict_facekit(obj_folder)


def test_damaged_obj(obj_folder: Path, ict_source: Path) -> None:
    (obj_folder / "jawOpen.obj").unlink()
    content = (ict_source / "FaceXModel" / "jawOpen.obj").read_bytes()
    (obj_folder / "jawOpen.obj").write_bytes(content[: len(content) // 4])
    with pytest.raises(ModelError, match=r"jawOpen\.obj"):
        read_ict_facekit(obj_folder)


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds neither"):
        read_ict_facekit(tmp_path)


def test_npz_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, mean=np.zeros((5, 3)))
    with pytest.raises(ModelError, match=r'"mean".* is 5 x 3 where 26719 x 3'):
        read_ict_facekit(path)
    np.savez(path, weights=np.zeros((5, 3)))
    with pytest.raises(ModelError, match='no array "mean"'):
        read_ict_facekit(path)


def test_nan_in_the_source(ict_source: Path, tmp_path: Path) -> None:
    with np.load(ict_source / "ict-facekit-light.npz", allow_pickle=False) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    content["identity"][3, 100, 1] = np.nan
    np.savez(tmp_path / "nan.npz", **content)
    with pytest.raises(ModelError, match='"identity" holds NaN'):
        read_ict_facekit(tmp_path / "nan.npz")


def test_cut_off_npz(ict_source: Path, tmp_path: Path) -> None:
    path = tmp_path / "ict-facekit-light.npz"
    shutil.copyfile(ict_source / path.name, path)
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(ModelError, match="cut off or damaged"):
        read_ict_facekit(tmp_path)


def test_small_obj(tmp_path: Path) -> None:
    path = tmp_path / "small.obj"
    path.write_text(
        "# note\nmtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1e-1 0\nvt 0 0\nvt 1 0.5\nusemtl x\n"
        "f 1/1 2/2 3/1 4/2\nf 1/2 2/2/9 3/1\n"
    )
    vertices, uv, faces, face_uv = read_obj(path)
    np.testing.assert_allclose(vertices, [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0.1, 0]])
    np.testing.assert_allclose(uv, [[0, 0], [1, 0.5]])
    assert faces.tolist() == [[0, 1, 2, 3], [0, 1, 2, -1]]
    assert face_uv.tolist() == [[0, 1, 0, 1], [1, 1, 0, -1]]


def test_manifest_has_what_the_reader_needs() -> None:
    files = json.loads(ICT_MANIFEST.read_text("utf-8"))["files"]
    assert sorted(files) == sorted(f"FaceXModel/{name}" for name in source_file_names())


def test_manifest_against_the_files_at_hand(ict_source: Path) -> None:
    files = json.loads(ICT_MANIFEST.read_text("utf-8"))["files"]
    present = [path for path in (ict_source / "FaceXModel").iterdir() if path.is_file()]
    assert present
    for path in present:
        entry = files[f"FaceXModel/{path.name}"]
        content = path.read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["bytes"], entry["sha256"])
