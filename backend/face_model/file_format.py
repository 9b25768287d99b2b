"""The face-model file: one safetensors file with JSON metadata.

Everything is stored as it is in memory, except the bases: each mode is int16 times one float32 scale.
float16 takes the same room, but its error grows with the value (8 micrometres at the chin when the jaw
opens by 40 mm); the int16 error is the same everywhere, at most the mode's largest displacement over
65534 (0.6 micrometres for the same jaw). ``docs/face-models.md`` lists the tensors.

Symbols: V vertices, M modes.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from backend.errors import ModelError, OutputError
from backend.face_model.model import Embedding, FaceModel, ModelInfo
from backend.face_model.validation import check_finite, check_model, check_shape, fail

FORMAT_VERSION = 1
KIND = "face_model"

# The safetensors header keeps its entries in no fixed order, so all metadata goes into one entry:
# the same model then always gives the same bytes.
METADATA_KEY = "mgcface"

LARGEST_INT16 = 32767
BASES = ("identity", "expression", "albedo_basis")

# How a file of another kind begins, so that the message can say what it is.
SIGNATURES = (
    (b"PK\x03\x04", "a zip archive or an .npz file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a single NumPy array"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"glTF", "a GLB mesh"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"<", "a web page or XML"),
    (b"{", "a JSON file"),
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself"),
)


def save_model(model: FaceModel, path: str | Path) -> None:
    """Write a model; the file appears whole or not at all, and equal models give equal bytes.

    Raises :class:`ModelError` when the model does not hold together and :class:`OutputError` when the
    file cannot be written.
    """
    path = Path(path)
    check_model(model, model.info.name)
    content = save(_tensors(model), {METADATA_KEY: json.dumps(_metadata(model), sort_keys=True)})
    write_atomically(path, content)


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the target, then rename over it; nothing half-written stays after an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}); free some space or choose another folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def load_model(path: str | Path) -> FaceModel:
    """Read a model and check that it holds together; :class:`ModelError` says in one sentence what is wrong."""
    path = Path(path)
    tensors, metadata = _read(path)
    try:
        return _assemble(tensors, metadata, path.name)
    except (KeyError, TypeError, AttributeError) as error:
        raise fail(path.name, f"its metadata lacks or garbles {error}") from error


def read_metadata(path: str | Path) -> dict:
    """The metadata of a model file without its arrays: ``info``, ``expression_names`` and so on."""
    path = Path(path)
    with _open(path) as file:
        return _parse_metadata(file.metadata(), list(file.keys()), path.name)


def quantize(basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M, V, 3) float -> (M, V, 3) int16 and (M,) float32 scale with ``basis = int16 * scale``."""
    peak = np.abs(basis).max(axis=(1, 2)) if basis.size else np.zeros(len(basis))
    scale = (peak / LARGEST_INT16).astype(np.float32)
    divisor = np.where(scale > 0, scale, 1.0).astype(np.float64)[:, None, None]
    # The float32 scale may be a hair below the exact one, which would round the peak to 32768.
    steps = np.clip(np.rint(basis / divisor), -LARGEST_INT16, LARGEST_INT16)
    return steps.astype(np.int16), scale


def dequantize(steps: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The inverse of :func:`quantize`, (M, V, 3) float32."""
    return np.multiply(steps, scale[:, None, None], dtype=np.float32)


def _tensors(model: FaceModel) -> dict[str, np.ndarray]:
    tensors = {
        "mean": np.asarray(model.mean, np.float32),
        "faces": np.asarray(model.faces, np.int32),
        "uv": np.asarray(model.uv, np.float32),
        "face_uv": np.asarray(model.face_uv, np.int32),
        "face_material": np.asarray(model.face_material, np.uint8),
    }
    for name in BASES:
        basis = getattr(model, name)
        if basis is not None:
            tensors[name], tensors[f"{name}_scale"] = quantize(basis)
    if model.mirror is not None:
        tensors["mirror"] = np.asarray(model.mirror, np.int32)
    if model.albedo_mean is not None:
        tensors["albedo_mean"] = np.asarray(model.albedo_mean, np.float32)
    for name, mask in model.regions.items():
        tensors[f"regions/{name}"] = np.asarray(mask, bool)
    for name, embedding in model.landmarks.items():
        tensors[f"landmarks/{name}/corners"] = np.asarray(embedding.corners, np.int32)
        tensors[f"landmarks/{name}/barycentric"] = np.asarray(embedding.barycentric, np.float32)
        if embedding.spread_mm is not None:
            tensors[f"landmarks/{name}/spread_mm"] = np.asarray(embedding.spread_mm, np.float32)
    return {name: np.ascontiguousarray(array) for name, array in tensors.items()}


def _metadata(model: FaceModel) -> dict:
    return {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "info": asdict(model.info),
        "units": {"length": "metre", "identity": "standard deviation", "expression": model.expression_limits},
        "expression_names": list(model.expression_names),
        "expression_limits": model.expression_limits,
        "materials": list(model.materials),
        "regions": sorted(model.regions),
        "landmarks": sorted(model.landmarks),
    }


def _open(path: Path) -> safe_open:
    start = b""
    try:
        if path.is_dir():
            raise ModelError(f"{path} is a folder and not a face model; name the .safetensors file in it.")
        with open(path, "rb") as file:
            start = file.read(64)
        return safe_open(path, framework="numpy")
    except FileNotFoundError as error:
        raise ModelError(f'The face model {path} does not exist; "mgcface models list" shows what is there.') from error
    except OSError as error:
        raise ModelError(f"The face model {path} cannot be read ({error.strerror}); check its permissions.") from error
    except SafetensorError as error:
        raise _not_safetensors(path, start, str(error)) from error


def _not_safetensors(path: Path, start: bytes, reason: str) -> ModelError:
    if not start:
        return fail(path.name, "the file is empty")
    for signature, kind in SIGNATURES:
        if start.lstrip().startswith(signature):
            return ModelError(
                f'{path.name} is {kind} and not a face model; "mgcface models install" turns known files into models.'
            )
    # A safetensors file begins with the length of its header and then the header itself.
    if start[8:9] == b"{":
        return fail(path.name, "the file is cut off or damaged")
    return ModelError(f"{path.name} is not a face model ({reason}); name a .safetensors file made by mgcface.")


def _parse_metadata(metadata: dict[str, str] | None, names: list[str], source: str) -> dict:
    text = (metadata or {}).get(METADATA_KEY)
    if text is None:
        some = ", ".join(sorted(names)[:3])
        raise ModelError(
            f"{source} is a safetensors file of another kind (tensors {some} ...) and not a face model; "
            "name a face-model file."
        )
    try:
        parsed = json.loads(text)
        kind, version = parsed["kind"], int(parsed["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise fail(source, "its metadata is damaged") from error
    if kind != KIND:
        raise ModelError(f'{source} holds "{kind}" and not a face model; name a face-model file.')
    if version > FORMAT_VERSION:
        raise ModelError(
            f"The face model {source} has format {version} and this version reads up to {FORMAT_VERSION}; "
            "update mgcface."
        )
    return parsed


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    with _open(path) as file:
        names = list(file.keys())
        metadata = _parse_metadata(file.metadata(), names, path.name)
        try:
            return {name: file.get_tensor(name) for name in names}, metadata
        except (SafetensorError, TypeError, AttributeError) as error:
            raise fail(path.name, f"its tensors cannot be read ({error})") from error


def _assemble(tensors: dict[str, np.ndarray], metadata: dict, source: str) -> FaceModel:
    def take(name: str, dtype: type, optional: bool = False) -> np.ndarray | None:
        array = tensors.get(name)
        if array is None:
            if optional:
                return None
            raise fail(source, f'its tensor "{name}" is missing')
        if array.dtype != dtype:
            raise fail(source, f'its tensor "{name}" holds {array.dtype} where {np.dtype(dtype)} is needed')
        return array

    def basis(name: str, optional: bool = False) -> np.ndarray | None:
        steps = take(name, np.int16, optional)
        if steps is None:
            return None
        scale = take(f"{name}_scale", np.float32)
        assert scale is not None
        check_shape(steps.shape, (None, None, 3), name, source)
        check_shape(scale.shape, (len(steps),), f"{name}_scale", source)
        check_finite(scale, f"{name}_scale", source)
        return dequantize(steps, scale)

    def embedding(name: str) -> Embedding:
        prefix = f"landmarks/{name}"
        return Embedding(
            take(f"{prefix}/corners", np.int32),  # type: ignore[arg-type]
            take(f"{prefix}/barycentric", np.float32),  # type: ignore[arg-type]
            take(f"{prefix}/spread_mm", np.float32, optional=True),
        )

    model = FaceModel(
        info=ModelInfo(**metadata["info"]),
        mean=take("mean", np.float32),  # type: ignore[arg-type]
        identity=basis("identity"),  # type: ignore[arg-type]
        expression=basis("expression"),  # type: ignore[arg-type]
        expression_names=tuple(metadata["expression_names"]),
        faces=take("faces", np.int32),  # type: ignore[arg-type]
        uv=take("uv", np.float32),  # type: ignore[arg-type]
        face_uv=take("face_uv", np.int32),  # type: ignore[arg-type]
        face_material=take("face_material", np.uint8),  # type: ignore[arg-type]
        materials=tuple(metadata["materials"]),
        regions={name: take(f"regions/{name}", np.bool_) for name in metadata["regions"]},  # type: ignore[misc]
        landmarks={name: embedding(name) for name in metadata["landmarks"]},
        mirror=take("mirror", np.int32, optional=True),
        albedo_mean=take("albedo_mean", np.float32, optional=True),
        albedo_basis=basis("albedo_basis", optional=True),
        expression_limits=metadata["expression_limits"],
    )
    check_model(model, source, bases=False)
    return model
