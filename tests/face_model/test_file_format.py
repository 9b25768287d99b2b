from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from backend.errors import ModelError, OutputError
from backend.face_model import file_format
from backend.face_model.file_format import dequantize, load_model, quantize, read_metadata, save_model
from backend.face_model.model import FaceModel

PRECISION_M = 2e-6


@pytest.fixture
def saved(tmp_path: Path, head: FaceModel) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(head, path)
    return path


def tamper(path: Path, tensors: dict | None = None, **metadata: object) -> None:
    """Rewrite a model file with some tensors (None removes) and metadata fields (None removes) changed."""
    content, header = load_file(path), read_metadata(path)
    for store, changes in ((content, tensors or {}), (header, metadata)):
        for name, value in changes.items():
            store.pop(name, None)
            if value is not None:
                store[name] = value
    save_file(content, path, {file_format.METADATA_KEY: json.dumps(header)})


def assert_refused(path: Path, *fragments: str) -> None:
    """The message is one sentence and names what is wrong."""
    with pytest.raises(ModelError) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message.replace("mgcface.", "")
    for fragment in fragments:
        assert fragment in message


def test_round_trip(head: FaceModel, saved: Path) -> None:
    loaded = load_model(saved)
    for name in ("mean", "faces", "uv", "face_uv", "face_material", "mirror"):
        stored, original = getattr(loaded, name), getattr(head, name)
        assert stored.dtype == original.dtype
        np.testing.assert_array_equal(stored, original)
    for name in ("identity", "expression"):
        assert getattr(loaded, name).dtype == np.float32
        assert np.abs(getattr(loaded, name) - getattr(head, name)).max() < PRECISION_M
    for name in ("info", "expression_names", "materials", "expression_limits", "albedo_mean", "albedo_basis"):
        assert getattr(loaded, name) == getattr(head, name)
    assert loaded.regions.keys() == head.regions.keys()
    for name, mask in head.regions.items():
        np.testing.assert_array_equal(loaded.regions[name], mask)
    assert loaded.landmarks.keys() == head.landmarks.keys()
    for name, embedding in head.landmarks.items():
        for attribute in ("corners", "barycentric", "spread_mm"):
            np.testing.assert_array_equal(getattr(loaded.landmarks[name], attribute), getattr(embedding, attribute))


def test_albedo_goes_along(head: FaceModel, saved: Path) -> None:
    rng = np.random.default_rng(1)
    mean = rng.uniform(size=head.mean.shape).astype(np.float32)
    basis = rng.normal(size=(3, *head.mean.shape)).astype(np.float32) * np.float32(0.05)
    save_model(head.replaced(albedo_mean=mean, albedo_basis=basis, mirror=None), saved)
    loaded = load_model(saved)
    assert loaded.mirror is None and loaded.albedo_mean is not None and loaded.albedo_basis is not None
    np.testing.assert_array_equal(loaded.albedo_mean, mean)
    np.testing.assert_allclose(loaded.albedo_basis, basis, atol=1e-5)


def test_same_model_same_bytes(head: FaceModel, tmp_path: Path) -> None:
    reordered = head.replaced(
        regions=dict(reversed(list(head.regions.items()))), landmarks=dict(reversed(list(head.landmarks.items())))
    )
    save_model(head, tmp_path / "a.safetensors")
    save_model(reordered, tmp_path / "b.safetensors")
    save_model(load_model(tmp_path / "a.safetensors"), tmp_path / "c.safetensors")
    first = (tmp_path / "a.safetensors").read_bytes()
    assert first == (tmp_path / "b.safetensors").read_bytes()
    assert first == (tmp_path / "c.safetensors").read_bytes()


def test_quantize_against_its_slow_twin() -> None:
    rng = np.random.default_rng(2)
    basis = rng.normal(size=(4, 30, 3)).astype(np.float32) * np.array([0.04, 1e-9, 0.0, 1.0], np.float32)[:, None, None]
    steps, scale = quantize(basis)
    for mode in range(4):
        peak = max(abs(float(value)) for value in basis[mode].ravel())
        assert scale[mode] == np.float32(peak / 32767)
        for value, step in zip(basis[mode].ravel(), steps[mode].ravel()):
            expected = round(float(value) / float(scale[mode])) if peak else 0
            assert step == max(-32767, min(32767, expected))
    assert np.abs(dequantize(steps, scale) - basis).max(axis=(1, 2))[0] < 0.04 * 5 / 65534


def test_jaw_precision(head: FaceModel, saved: Path) -> None:
    """The largest displacement a face makes, 40 mm, stays within 2 micrometres everywhere."""
    expression = head.expression.copy()
    expression[3] = np.linspace(-0.04, 0.04, expression[3].size, dtype=np.float32).reshape(expression[3].shape)
    save_model(head.replaced(expression=expression), saved)
    assert np.abs(load_model(saved).expression[3] - expression[3]).max() < PRECISION_M


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04" + bytes(50), "an .npz file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file"),
        (b"\x80\x04\x95" + bytes(50), "a Python pickle"),
        (b"\x89PNG\r\n" + bytes(50), "a PNG picture"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "a JPEG picture"),
        (b"glTF" + bytes(50), "a GLB mesh"),
        (b"<!DOCTYPE html><html>not found</html>", "a web page"),
        (b'{"a": 1}', "a JSON file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"just some text in a file, long enough to be read", "is not a face model"),
        (b"ab", "is not a face model"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, fragment: str) -> None:
    path = tmp_path / "thing.safetensors"
    path.write_bytes(content)
    assert_refused(path, "thing.safetensors", fragment)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.999])
def test_cut_off(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    assert_refused(saved, "cut off or damaged")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.safetensors", "does not exist")
    assert_refused(tmp_path, "is a folder")


def test_other_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"conv1.weight": np.zeros((3, 3), np.float32)}, path)
    assert_refused(path, "another kind", "conv1.weight")
    save_file({"w": np.zeros(1, np.float32)}, path, {"mgcface": json.dumps({"kind": "network", "format_version": 1})})
    assert_refused(path, 'holds "network"')
    save_file({"w": np.zeros(1, np.float32)}, path, {"mgcface": "{not json"})
    assert_refused(path, "metadata is damaged")


def test_future_version(saved: Path) -> None:
    tamper(saved, format_version=99)
    assert_refused(saved, "format 99", "update mgcface")


@pytest.mark.parametrize(
    "field", ["info", "expression_names", "materials", "regions", "landmarks", "expression_limits"]
)
def test_missing_metadata(saved: Path, field: str) -> None:
    tamper(saved, **{field: None})
    assert_refused(saved, "metadata", field)


def test_garbled_metadata(saved: Path) -> None:
    tamper(saved, info={"name": "x"})
    assert_refused(saved, "metadata")


@pytest.mark.parametrize(
    "name",
    ["mean", "identity", "identity_scale", "faces", "uv", "regions/nose", "landmarks/ibug68/corners"],
)
def test_missing_tensor(saved: Path, name: str) -> None:
    tamper(saved, {name: None})
    assert_refused(saved, f'"{name}" is missing')


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mean", lambda array: array[:-1]),
        ("mean", lambda array: array[:, :2].copy()),
        ("identity", lambda array: array[:, :-1].copy()),
        ("identity_scale", lambda array: array[:-1].copy()),
        ("expression", lambda array: array[0].copy()),
        ("faces", lambda array: array[:, :3].copy()),
        ("face_uv", lambda array: array[:-1].copy()),
        ("face_material", lambda array: array[:-1].copy()),
        ("mirror", lambda array: array[:-1].copy()),
        ("regions/nose", lambda array: array[:-1].copy()),
        ("landmarks/ibug68/corners", lambda array: array[:-1].copy()),
        ("landmarks/mediapipe478/spread_mm", lambda array: array[:-1].copy()),
    ],
)
def test_wrong_shape(saved: Path, name: str, change) -> None:
    tamper(saved, {name: change(load_file(saved)[name])})
    assert_refused(saved, "shape", "needed")


def test_wrong_type(saved: Path) -> None:
    tamper(saved, {"mean": load_file(saved)["mean"].astype(np.float64)})
    assert_refused(saved, '"mean" holds float64 where float32')


@pytest.mark.parametrize("value", [-2, 10**6])
@pytest.mark.parametrize("name", ["faces", "face_uv", "mirror", "landmarks/now7/corners"])
def test_index_out_of_range(saved: Path, name: str, value: int) -> None:
    array = load_file(saved)[name].copy()
    array.flat[0] = value
    tamper(saved, {name: array})
    assert_refused(saved, f'"{name}" holds an index outside')


def test_material_out_of_range(saved: Path) -> None:
    tamper(saved, materials=["skin"])
    assert_refused(saved, '"face_material" holds an index outside')


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["mean", "uv", "identity_scale", "expression_scale", "landmarks/ibug68/barycentric"])
def test_not_finite(saved: Path, name: str, value: float) -> None:
    array = load_file(saved)[name].copy()
    array.flat[-1] = value
    tamper(saved, {name: array})
    assert_refused(saved, f'"{name}" holds', "NaN" if np.isnan(value) else "infinity")


@pytest.mark.parametrize("name", ["identity", "expression", "mean", "albedo_basis"])
def test_saving_nan_is_refused(head: FaceModel, tmp_path: Path, name: str) -> None:
    original = getattr(head, name)
    array = np.zeros((2, *head.mean.shape), np.float32) if original is None else original.copy()
    array.flat[5] = np.nan
    with pytest.raises(ModelError, match=f'"{name}" holds NaN'):
        save_model(head.replaced(**{name: array}), tmp_path / "bad.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"expression_limits": "percent"}, "percent"),
        ({"materials": ("eyes", "mouth", "skin")}, "first material"),
        ({"expression_names": ("a", "a", "b", "c")}, "same name"),
        ({"regions": {"nose": np.zeros(3, bool)}}, "regions/nose"),
    ],
)
def test_nonsense_is_refused(head: FaceModel, tmp_path: Path, change: dict, fragment: str) -> None:
    with pytest.raises(ModelError, match=fragment):
        save_model(head.replaced(**change), tmp_path / "bad.safetensors")


def test_wrong_unit_is_refused(head: FaceModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unit is wrong"):
        save_model(head.replaced(mean=head.mean * 1000), tmp_path / "bad.safetensors")


def test_weights_that_do_not_sum_to_one(head: FaceModel, tmp_path: Path) -> None:
    ibug = head.landmarks["ibug68"]
    landmarks = {"ibug68": dataclasses.replace(ibug, barycentric=ibug.barycentric * 2)}
    with pytest.raises(ModelError, match="do not sum to 1"):
        save_model(head.replaced(landmarks=landmarks), tmp_path / "bad.safetensors")


def test_full_disk_leaves_the_old_file(head: FaceModel, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file_format.os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        save_model(head.replaced(mean=head.mean * 1.1), saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_unwritable_place(head: FaceModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        save_model(head, tmp_path / "file" / "model.safetensors")
