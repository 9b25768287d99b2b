"""reconstruction.json: schema, exact way back, refusals."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from backend.errors import OutputError
from backend.export.record import OFFSET_FILE, RecordError, offset_bytes, read_record, record_fields, record_text

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "reconstruction.schema.json").read_text("utf-8"))
FIELDS = """format_version photo face_model units camera identity expression pose_euler_degrees
landmarks_2d_mediapipe478 landmarks_2d_ibug68 landmarks_3d_ibug68 landmarks_3d_ibug68_neutral fit timings_ms
warnings""".split()


def valid(fields):
    jsonschema.Draft202012Validator(SCHEMA).validate(fields)


@pytest.fixture
def written(reconstruction, tmp_path):
    path = tmp_path / "reconstruction.json"
    path.write_text(record_text(reconstruction), encoding="utf-8")
    path.with_name(OFFSET_FILE).write_bytes(offset_bytes(reconstruction.offset))
    return path


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_written_file_is_valid_and_has_the_fields_in_order(written):
    fields = json.loads(written.read_text("utf-8"))
    valid(fields)
    assert list(fields) == FIELDS
    assert fields["landmarks_2d_mediapipe478"] is None, "the detector gave only iBUG 68"
    assert np.shape(fields["landmarks_2d_ibug68"]) == (68, 2)


def test_all_landmark_sets(reconstruction):
    points = np.random.default_rng(0).random((478, 2)).astype(np.float32)
    full = replace(reconstruction, landmarks={"mediapipe478": points}, warnings=("The face is cut.",))
    fields = json.loads(record_text(full))
    valid(fields)
    assert fields["landmarks_2d_ibug68"] is None
    np.testing.assert_array_equal(np.float32(fields["landmarks_2d_mediapipe478"]), points)
    bare = replace(reconstruction, model=reconstruction.model.replaced(landmarks={}))
    fields = json.loads(record_text(bare))
    valid(fields)
    assert fields["landmarks_3d_ibug68"] is None and fields["landmarks_3d_ibug68_neutral"] is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda fields: fields.pop("camera"),
        lambda fields: fields.update(extra=1),
        lambda fields: fields.update(units="mm"),
        lambda fields: fields.update(format_version=2),
        lambda fields: fields["camera"]["K"].pop(),
        lambda fields: fields["landmarks_2d_ibug68"].pop(),
        lambda fields: fields["fit"].update(rms_px=None),
        lambda fields: fields["expression"].update(jawOpen="wide"),
        lambda fields: fields["photo"].update(width=0),
    ],
)
def test_the_schema_refuses(reconstruction, damage):
    fields = json.loads(record_text(reconstruction))
    damage(fields)
    with pytest.raises(jsonschema.ValidationError):
        valid(fields)


def test_the_head_comes_back_exactly(written, reconstruction):
    record = read_record(written)
    np.testing.assert_array_equal(record.identity, reconstruction.identity)
    np.testing.assert_array_equal(record.expression_vector(reconstruction.model), reconstruction.expression)
    np.testing.assert_array_equal(record.vertices(reconstruction.model), reconstruction.vertices)
    for name in ("K", "R", "t"):
        np.testing.assert_array_equal(getattr(record.camera, name), getattr(reconstruction.camera, name))
    assert (record.camera.width, record.camera.height) == (640, 480)
    assert record.face_model == "test-head"


def test_awkward_float32_survive(reconstruction, tmp_path):
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 2**32, 4000, dtype=np.uint32).view(np.float32)
    awkward = bits[np.isfinite(bits)]
    path = tmp_path / "r.json"
    path.write_text(record_text(replace(reconstruction, identity=awkward[:6])), "utf-8")
    text = json.dumps(record_fields(replace(reconstruction, fit=replace(reconstruction.fit, sigma_identity=awkward))))
    np.testing.assert_array_equal(np.float32(json.loads(text)["fit"]["sigma_identity"]), awkward)
    np.testing.assert_array_equal(read_record(path).identity, awkward[:6])


def test_landmarks_3d_project_near_the_detected(reconstruction):
    fields = json.loads(record_text(reconstruction))
    points = np.array(fields["landmarks_3d_ibug68_neutral"])
    assert np.abs(points - np.array(fields["landmarks_3d_ibug68"])).max() > 1e-4
    np.testing.assert_allclose(
        points, reconstruction.model.landmark_points(reconstruction.neutral_vertices, "ibug68"), atol=1e-7
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(reconstruction, bad):
    identity = reconstruction.identity.copy()
    identity[2] = bad
    with pytest.raises(OutputError, match=r"identity\.2"):
        record_text(replace(reconstruction, landmarks={}, identity=identity))
    with pytest.raises(OutputError, match=r"fit\.rms_px"):
        record_text(replace(reconstruction, fit=replace(reconstruction.fit, rms_px=bad)))


@pytest.mark.parametrize(
    "content",
    ["", "hello", "[]", "{}", '{"format_version": 1}', '{"format_version": 9}', "[" * 100_000, '{"units": NaN}'],
)
def test_files_that_are_no_records(tmp_path, content):
    path = tmp_path / "reconstruction.json"
    path.write_text(content, "utf-8")
    with pytest.raises(RecordError):
        read_record(path)


def test_missing_file_folder_and_binary(tmp_path):
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00\x01")
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "b.json"):
        with pytest.raises(RecordError):
            read_record(path)


def test_nan_in_a_file_is_refused(written):
    text = written.read_text("utf-8")
    written.write_text(text.replace("640", "NaN", 1), "utf-8")
    with pytest.raises(RecordError):
        read_record(written)


def test_another_model_is_refused(written, model):
    other = model.replaced(expression_names=("blink", *model.expression_names[1:]))
    with pytest.raises(RecordError, match="test-head"):
        read_record(written).vertices(other)


def test_a_path_that_is_not_text(reconstruction, tmp_path):
    strange = Path("photos") / b"caf\xe9 \xc3\xbc.jpg".decode("utf-8", "surrogateescape")
    text = record_text(replace(reconstruction, photo_path=strange))
    assert "ü" in text
    text.encode("utf-8")
    valid(json.loads(text))
    assert json.loads(record_text(replace(reconstruction, photo_path=None)))["photo"]["path"] is None


# --- what lies beyond the model ---------------------------------------------------------------------------


def test_offsets_come_back_and_are_counted(written, reconstruction):
    record = read_record(written)
    np.testing.assert_array_equal(record.offset, reconstruction.offset)
    size = np.linalg.norm(reconstruction.offset, axis=1)
    assert record.fields["fit"]["offset_rms_mm"] == pytest.approx(1e3 * np.sqrt((size**2).mean()), rel=1e-5)
    plain = record_fields(replace(reconstruction, offset=None))
    assert plain["fit"]["offset_rms_mm"] == 0.0
    # Without the file the head is the model's.
    written.with_name(OFFSET_FILE).unlink()
    assert read_record(written).offset is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nothing",
        npz(offset_m=np.zeros((4, 2), np.float32)),
        npz(other=np.zeros(3)),
        npz(offset_m=np.full((3, 3), np.nan, np.float32)),
        npz(offset_m=np.array([object()])),
    ],
)
def test_damaged_offsets_are_one_sentence(written, content):
    written.with_name(OFFSET_FILE).write_bytes(content)
    with pytest.raises(RecordError, match=r"damaged .*offset.npz.*reconstruct the photo again"):
        read_record(written)


def test_offsets_of_another_head_are_refused(written, reconstruction):
    written.with_name(OFFSET_FILE).write_bytes(npz(offset_m=np.zeros((3, 3), np.float32)))
    with pytest.raises(RecordError, match="belong to another head"):
        read_record(written).vertices(reconstruction.model)
