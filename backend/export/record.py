"""reconstruction.json: everything about a head that is not a picture or a mesh, and the way back.

The record, the file of offsets beside it and the face model give the same vertices again, bit for bit: coefficients are
written with as many digits as their float32 needs. The fields are explained in ``docs/reconstruction-format.md``.
Symbols: I identity modes, E expression shapes, L landmarks, V vertices.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import MgcFaceError, OutputError
from backend.face_model.model import FaceModel
from backend.geometry.camera import Camera
from backend.reconstruction.person import Person, PersonPhoto
from backend.reconstruction.result import Reconstruction, with_offset

FORMAT_VERSION = 1
UNITS = "metres"
# What a head has beyond its model, beside the record where it has something.
OFFSET_FILE = "offset.npz"


class RecordError(MgcFaceError):
    """A reconstruction.json is missing, is not one, comes from a newer version or belongs to another model."""

    code = "record"


@dataclass(frozen=True)
class Record:
    """What a reconstruction.json holds, as far as a head is rebuilt from it.

    Attributes
    ----------
    face_model : str
        Name of the model that the coefficients belong to.
    photo_path : str or None
    camera : Camera
    identity : (I,) float32
        Standard deviations.
    expression : dict of str to float
        Coefficient by shape name.
    fields : dict
        The whole file.
    offset : (V, 3) float32 or None
        Metres beyond the model, from the file beside the record.
    """

    face_model: str
    photo_path: str | None
    camera: Camera
    identity: np.ndarray
    expression: dict[str, float]
    fields: dict[str, Any]
    offset: np.ndarray | None = None

    def expression_vector(self, model: FaceModel) -> np.ndarray:
        """(E,) float32 in the order of the model's shapes."""
        if set(self.expression) != set(model.expression_names) or len(self.identity) > len(model.identity):
            raise RecordError(
                f"The reconstruction was made with the face model '{self.face_model}', whose shapes differ from "
                f"those of '{model.info.name}': load the model that it was made with."
            )
        return np.array([self.expression[name] for name in model.expression_names], np.float32)

    def vertices(self, model: FaceModel) -> np.ndarray:
        """(V, 3) float32, metres: the head as photographed."""
        vertices = model.vertices(self.identity, self.expression_vector(model))
        if self.offset is not None and self.offset.shape != vertices.shape:
            raise RecordError(
                f"The offsets beside the reconstruction belong to another head than '{model.info.name}': "
                "reconstruct the photo again."
            )
        return with_offset(vertices, self.offset)


def offset_rms_mm(offset: np.ndarray | None) -> float:
    """How far a head lies off its model where it does: root mean square, millimetres; 0 for one that does not."""
    moved = np.zeros(1) if offset is None else np.linalg.norm(offset, axis=1)
    return float(1e3 * np.sqrt((moved[moved > 0] ** 2).mean())) if (moved > 0).any() else 0.0


def offset_bytes(offset: np.ndarray) -> bytes:
    """The file of a head's offsets: NumPy's npz with the one array ``offset_m`` (V, 3) float32."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, offset_m=np.asarray(offset, np.float32))
    return buffer.getvalue()


def record_text(reconstruction: Reconstruction) -> str:
    """The file's text; raises OutputError that names the field when a value is not finite."""
    return fields_text(record_fields(reconstruction))


def fields_text(fields: dict[str, Any]) -> str:
    """A record's text, a line per field; raises OutputError that names the field when a value is not finite."""
    place = _not_finite(fields)
    if place is not None:
        raise OutputError(
            f"The reconstruction has a value that is not a number ({place}), so it was not written: "
            "try another photo of the person or another detector."
        )
    lines = (f"  {json.dumps(key)}: {_compact(value)}" for key, value in fields.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def record_fields(reconstruction: Reconstruction) -> dict[str, Any]:
    """The record as plain lists, dicts and numbers, in the order in which it is written."""
    model, camera, fit = reconstruction.model, reconstruction.camera, reconstruction.fit
    path = reconstruction.photo_path
    return {
        "format_version": FORMAT_VERSION,
        "photo": {
            "path": None if path is None else _readable(path),
            "width": int(reconstruction.photo_width),
            "height": int(reconstruction.photo_height),
        },
        "face_model": model.info.name,
        "units": UNITS,
        "camera": {"K": _numbers(camera.K), "R": _numbers(camera.R), "t": _numbers(camera.t)},
        "identity": _numbers(reconstruction.identity),
        "expression": dict(zip(model.expression_names, _numbers(reconstruction.expression))),
        "pose_euler_degrees": reconstruction.pose_euler_degrees,
        "landmarks_2d_mediapipe478": _detected(reconstruction, "mediapipe478"),
        "landmarks_2d_ibug68": _detected(reconstruction, "ibug68"),
        "landmarks_3d_ibug68": _on_model(reconstruction, reconstruction.vertices),
        "landmarks_3d_ibug68_neutral": _on_model(reconstruction, reconstruction.neutral_vertices),
        "fit": {
            "rms_px": float(fit.rms_px),
            "rms_relative": float(fit.rms_relative),
            "sigma_identity": _numbers(fit.sigma_identity),
            "offset_rms_mm": offset_rms_mm(reconstruction.offset),
        },
        "timings_ms": {stage: round(float(value), 3) for stage, value in reconstruction.timings_ms.items()},
        "warnings": list(reconstruction.warnings),
    }


def person_fields(person: Person) -> dict[str, Any]:
    """The record of the main photo's head, and ``photos`` with what each photo has of its own."""
    fields = record_fields(person.head)
    fields["photos"] = [_photo_fields(photo) for photo in person.photos]
    fields["main_photo"] = person.main
    return fields


def _photo_fields(photo: PersonPhoto) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "path": None if photo.path is None else _readable(photo.path),
        "used": photo.used,
        "reason": photo.reason,
    }
    head = photo.head
    if head is None:
        return fields
    camera = head.camera
    return fields | {
        "width": int(head.photo_width),
        "height": int(head.photo_height),
        "camera": {"K": _numbers(camera.K), "R": _numbers(camera.R), "t": _numbers(camera.t)},
        "expression": dict(zip(head.model.expression_names, _numbers(head.expression))),
        "pose_euler_degrees": head.pose_euler_degrees,
        "light": None if photo.light is None else _numbers(np.asarray(photo.light, np.float32)),
        "landmarks_2d_mediapipe478": _detected(head, "mediapipe478"),
        "landmarks_2d_ibug68": _detected(head, "ibug68"),
        "fit": {"rms_px": float(head.fit.rms_px), "rms_relative": float(head.fit.rms_relative)},
    }


def read_record(path: Path | str) -> Record:
    """Reads a reconstruction.json; raises RecordError in one sentence when it cannot be used."""
    path = Path(path)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not a reconstruction.json: choose a file that mgcface wrote.") from error
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if version != FORMAT_VERSION:
        raise RecordError(
            f"{path} has the format version {version!r} where this program reads {FORMAT_VERSION}: "
            "update mgcface or reconstruct the photo again."
        )
    try:
        return replace(_record(fields), offset=_read_offset(path.with_name(OFFSET_FILE)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(f"{path} is damaged ({error}): reconstruct the photo again.") from error


def _record(fields: dict[str, Any]) -> Record:
    if fields["units"] != UNITS:
        raise ValueError(f"units are {fields['units']!r}")
    photo, camera = fields["photo"], fields["camera"]
    shapes = {"K": (3, 3), "R": (3, 3), "t": (3,)}
    K, R, t = (np.array(camera[name], np.float64).reshape(shape) for name, shape in shapes.items())
    return Record(
        face_model=str(fields["face_model"]),
        photo_path=photo["path"],
        camera=Camera(K, R, t, int(photo["width"]), int(photo["height"])),
        identity=np.array(fields["identity"], np.float32).reshape(-1),
        expression={str(name): float(value) for name, value in fields["expression"].items()},
        fields=fields,
    )


def _read_offset(path: Path) -> np.ndarray | None:
    """(V, 3) float32, None where there is no such file; ValueError for one that is damaged."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            offset = file["offset_m"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name}: {error}") from error
    if offset.ndim != 2 or offset.shape[1] != 3 or offset.dtype != np.float32 or not np.isfinite(offset).all():
        raise ValueError(f"{path.name} does not hold offsets")
    return offset


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _detected(reconstruction: Reconstruction, name: str) -> list | None:
    points = reconstruction.landmarks.get(name)
    return None if points is None else _numbers(points)


def _on_model(reconstruction: Reconstruction, vertices: np.ndarray) -> list | None:
    if "ibug68" not in reconstruction.model.landmarks:
        return None
    return _numbers(reconstruction.model.landmark_points(vertices, "ibug68").astype(np.float32))


def _numbers(values: np.ndarray) -> list:
    """Nested lists of floats; a float32 gets the shortest decimal that reads back as the same float32."""
    values = np.asarray(values)
    if values.dtype == np.float32:
        values = values.astype(str)
    return values.astype(np.float64).tolist()


def _readable(path: Path) -> str:
    """The path as text that UTF-8 can hold; a byte that is not text in its file system becomes a mark."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _compact(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(", ", ": "))


def _not_finite(value: Any, place: str = "") -> str | None:
    """Where the first NaN or infinity is, as in ``camera.K.0.2``; None when all is well."""
    if isinstance(value, float):
        return None if math.isfinite(value) else place
    if isinstance(value, (list, dict)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            found = _not_finite(item, f"{place}.{key}" if place else str(key))
            if found is not None:
                return found
    return None
