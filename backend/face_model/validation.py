"""Does a face model hold together? One function that says yes or raises one sentence.

Symbols: V vertices, F faces, U texture coordinates, I identity modes, E expression shapes, L landmarks.
"""

from __future__ import annotations

import numpy as np

from backend.errors import ModelError
from backend.face_model.model import LANDMARK_SETS, SKIN, FaceModel
from backend.geometry.mesh import NO_CORNER

EXPRESSION_LIMITS = ("unit", "sigma")

# Barycentric weights are float32; three of them sum to 1 up to a few units in the last place.
BARYCENTRIC_TOLERANCE = 1e-3

# No head, and no displacement of a head, is longer than this; beyond it the unit is wrong.
LARGEST_HEAD_M = 2.0
SMALLEST_HEAD_M = 0.02


def check_model(model: FaceModel, source: str, bases: bool = True) -> None:
    """Raise :class:`ModelError` when a model cannot be used.

    Parameters
    ----------
    model : FaceModel
    source : str
        What to call the model in the message, usually its file name.
    bases : bool
        Also look for NaN in the identity and expression arrays. The file reader leaves this out: its
        bases are integers times scales that it has checked already.
    """
    _check_shapes(model, source)
    _check_finite(model, source, bases)
    _check_faces(model, source)
    _check_names(model, source)
    _check_landmarks(model, source)
    _check_size(model, source)


def fail(source: str, what: str) -> ModelError:
    """The one sentence of a model that does not hold together."""
    return ModelError(f"The face model {source} cannot be used because {what}; install it again or use another file.")


def _check_shapes(model: FaceModel, source: str) -> None:
    vertices = np.shape(model.mean)[0] if np.ndim(model.mean) else 0
    face_count = len(model.faces)
    expected: dict[str, tuple[np.ndarray | None, tuple[int | None, ...]]] = {
        "mean": (model.mean, (None, 3)),
        "identity": (model.identity, (None, vertices, 3)),
        "expression": (model.expression, (len(model.expression_names), vertices, 3)),
        "faces": (model.faces, (None, 4)),
        "uv": (model.uv, (None, 2)),
        "face_uv": (model.face_uv, (face_count, 4)),
        "face_material": (model.face_material, (face_count,)),
        "mirror": (model.mirror, (vertices,)),
        "albedo_mean": (model.albedo_mean, (vertices, 3)),
        "albedo_basis": (model.albedo_basis, (None, vertices, 3)),
    }
    expected |= {f"regions/{name}": (mask, (vertices,)) for name, mask in model.regions.items()}
    for name, (array, shape) in expected.items():
        if array is not None:
            check_shape(array.shape, shape, name, source)
    if vertices == 0 or face_count == 0:
        raise fail(source, "it has no vertices or no faces")


def check_shape(shape: tuple[int, ...], expected: tuple[int | None, ...], name: str, source: str) -> None:
    """Compare a shape with the expected one, in which ``None`` stands for any size."""
    if len(shape) != len(expected) or any(want is not None and want != got for want, got in zip(expected, shape)):
        wanted = " x ".join("any" if size is None else str(size) for size in expected)
        found = " x ".join(map(str, shape)) or "a single number"
        raise fail(source, f'its tensor "{name}" has the shape {found} where {wanted} is needed')


def _check_finite(model: FaceModel, source: str, bases: bool) -> None:
    arrays = {"mean": model.mean, "uv": model.uv, "albedo_mean": model.albedo_mean}
    if bases:
        arrays |= {"identity": model.identity, "expression": model.expression, "albedo_basis": model.albedo_basis}
    for name, embedding in model.landmarks.items():
        arrays[f"landmarks/{name}/barycentric"] = embedding.barycentric
    for name, array in arrays.items():
        if array is not None:
            check_finite(array, name, source)


def check_finite(array: np.ndarray, name: str, source: str) -> None:
    """Raise when an array holds NaN or infinity, naming the array."""
    if not np.isfinite(array).all():
        kind = "NaN" if np.isnan(array).any() else "infinity"
        raise fail(source, f'its tensor "{name}" holds {kind}')


def _check_faces(model: FaceModel, source: str) -> None:
    check_range(model.faces[:, :3], len(model.mean), "faces", source)
    check_range(model.face_uv[:, :3], len(model.uv), "face_uv", source)
    for name, corners, count in (("faces", model.faces, len(model.mean)), ("face_uv", model.face_uv, len(model.uv))):
        last = corners[:, 3]
        check_range(last[last != NO_CORNER], count, name, source)
    if ((model.faces[:, 3] == NO_CORNER) != (model.face_uv[:, 3] == NO_CORNER)).any():
        raise fail(source, '"faces" and "face_uv" disagree about which faces are triangles')
    check_range(model.face_material, len(model.materials), "face_material", source)
    if model.mirror is not None:
        check_range(model.mirror, len(model.mean), "mirror", source)


def check_range(indices: np.ndarray, count: int, name: str, source: str) -> None:
    """Raise when an index points outside ``[0, count)``."""
    if indices.size and (indices.min() < 0 or indices.max() >= count):
        raise fail(source, f'its tensor "{name}" holds an index outside 0 to {count - 1}')


def _check_names(model: FaceModel, source: str) -> None:
    if len(set(model.expression_names)) != len(model.expression_names):
        raise fail(source, "two of its expressions have the same name")
    if not model.materials or model.materials[0] != SKIN:
        raise fail(source, f'its first material is not "{SKIN}"')
    if model.expression_limits not in EXPRESSION_LIMITS:
        raise fail(source, f'its expression limits are "{model.expression_limits}" and not "unit" or "sigma"')
    if not model.info.name or not model.info.licence:
        raise fail(source, "it does not say its name and licence")


def _check_landmarks(model: FaceModel, source: str) -> None:
    for name, embedding in model.landmarks.items():
        if name not in LANDMARK_SETS:
            raise fail(source, f'"{name}" is not a landmark set that this version knows')
        count = LANDMARK_SETS[name]
        prefix = f"landmarks/{name}"
        check_shape(embedding.corners.shape, (count, 3), f"{prefix}/corners", source)
        check_shape(embedding.barycentric.shape, (count, 3), f"{prefix}/barycentric", source)
        if embedding.spread_mm is not None:
            check_shape(embedding.spread_mm.shape, (count,), f"{prefix}/spread_mm", source)
        check_range(embedding.corners, len(model.mean), f"{prefix}/corners", source)
        if np.abs(embedding.barycentric.sum(axis=1) - 1.0).max() > BARYCENTRIC_TOLERANCE:
            raise fail(source, f'the weights of its tensor "{prefix}/barycentric" do not sum to 1')


def _check_size(model: FaceModel, source: str) -> None:
    extent = float(np.ptp(model.mean, axis=0).max())
    if not SMALLEST_HEAD_M <= extent <= LARGEST_HEAD_M:
        raise fail(source, f"its mean head measures {extent:.3g} m, so its unit is wrong")
