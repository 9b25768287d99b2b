"""BFM 2009 with expressions in the HDF5 form that MGCNet was published with (the user brings the file).

Facts about the file: vectors are interleaved xyz, shapes in micrometres, colours from 0 to 255; columns
of each basis count in standard deviations ``|pcaVariance|``; triangles are numbered from 1 and landmark
vertices from 0; +X the subject's left, +Y up, +Z out of the face. Only the first 80, 80 and 64 columns
of shape, colour and expression were ever used.

Symbols: V vertices, K columns of a basis.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import DependencyError, ModelError
from backend.face_model.adapters.layout import as_quads
from backend.face_model.adapters.statistical import Parts, assemble
from backend.face_model.embedding import embed_vertices
from backend.face_model.model import FaceModel, ModelInfo
from backend.face_model.validation import check_model

NAME = "bfm09"
METRES_PER_MICROMETRE = 1e-6
LARGEST_COLOUR = 255.0
SHAPE_COLUMNS, COLOUR_COLUMNS, EXPRESSION_COLUMNS = 80, 80, 64

# The sRGB transfer function, IEC 61966-2-1.
SRGB_KNEE, SRGB_SLOPE, SRGB_OFFSET, SRGB_GAMMA = 0.04045, 12.92, 0.055, 2.4

INFO = ModelInfo(
    name=NAME,
    version="2009, MGCNet's file",
    licence="LicenseRef-BFM-2009",
    commercial=False,
    terms="For non-commercial research only, under the licence that you signed with the University of Basel.",
    attribution="Basel Face Model 2009 (Paysan, Knothe, Amberg, Romdhani, Vetter), University of Basel.",
    extra={
        "source": "https://faces.dmi.unibas.ch",
        "notes": [
            "Expressions are the source's statistical components, not Apple's shapes.",
            "The face has no eyeballs and no mouth interior.",
            "Colours were sRGB; the albedo basis is their derivative at the mean, exact to first order.",
        ],
    },
)


def read_bfm09(source: str | Path) -> FaceModel:
    """Read ``bfm09_trim_exp_uv_presplit.h5``; needs the optional package h5py."""
    path = Path(source)
    try:
        import h5py
    except ImportError as error:
        raise DependencyError('Reading bfm09 needs h5py; install it with: pip install "mgcface[bfm]"') from error
    try:
        with h5py.File(path, "r") as file:
            parts = _read(file, path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read as an HDF5 file; name MGCNet's BFM 2009 .h5 file.") from error
    model = assemble(INFO, parts)
    check_model(model, path.name)
    return model


def _read(file: Any, path: Path) -> Parts:
    mean = _array(file, "shape/model/mean", path).reshape(-1, 3) * METRES_PER_MICROMETRE
    vertices = len(mean)
    triangles = _array(file, "shape/representer/tri", path).reshape(-1, 3).astype(np.int64) - 1
    if triangles.min() < 0 or triangles.max() >= vertices:
        raise ModelError(f'The data set "shape/representer/tri" of {path} is not numbered from 1; it is another file.')
    landmarks = _array(file, "shape/representer/idx_lm68", path).astype(np.int64).ravel()
    if landmarks.shape != (68,) or landmarks.min() < 0 or landmarks.max() >= vertices:
        raise ModelError(f'The data set "shape/representer/idx_lm68" of {path} does not list 68 vertices.')
    expression = _basis(file, "expression", vertices, EXPRESSION_COLUMNS, path) * METRES_PER_MICROMETRE
    faces = as_quads(triangles)
    uv = _array(file, "color/model/uv", path).reshape(-1, 2)
    if len(uv) != vertices:
        raise ModelError(f'The data set "color/model/uv" of {path} has {len(uv)} rows where {vertices} are needed.')
    albedo_mean, albedo_basis = _linear_albedo(
        _array(file, "color/model/mean", path).reshape(-1, 3) / LARGEST_COLOUR,
        _basis(file, "color", vertices, COLOUR_COLUMNS, path) / LARGEST_COLOUR,
    )
    return Parts(
        mean=mean,
        identity=_basis(file, "shape", vertices, SHAPE_COLUMNS, path) * METRES_PER_MICROMETRE,
        expression=expression,
        expression_names=tuple(f"expression{number:03d}" for number in range(len(expression))),
        faces=faces,
        corner_uv=uv[faces],
        landmarks={"ibug68": embed_vertices(landmarks, triangles)},
        albedo_mean=albedo_mean,
        albedo_basis=albedo_basis,
    )


def _array(file: Any, name: str, path: Path) -> np.ndarray:
    if name not in file:
        raise ModelError(f'{path} has no data set "{name}"; name MGCNet\'s BFM 2009 .h5 file.')
    return np.asarray(file[name][()])


def _basis(file: Any, group: str, vertices: int, columns: int, path: Path) -> np.ndarray:
    """(K, V, 3) per standard deviation."""
    basis = _array(file, f"{group}/model/pcaBasis", path)
    sigma = np.abs(_array(file, f"{group}/model/pcaVariance", path)).ravel()[:columns]
    if basis.ndim != 2 or basis.shape[0] != 3 * vertices or basis.shape[1] < len(sigma):
        raise ModelError(f'The data set "{group}/model/pcaBasis" of {path} does not fit its {vertices} vertices.')
    return (basis[:, : len(sigma)] * sigma).T.reshape(len(sigma), vertices, 3)


def _linear_albedo(mean: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sRGB mean and basis -> linear mean, and the basis times the slope of the transfer function there."""
    mean = np.clip(mean, 0.0, 1.0)
    low = mean <= SRGB_KNEE
    root = (mean + SRGB_OFFSET) / (1.0 + SRGB_OFFSET)
    linear = np.where(low, mean / SRGB_SLOPE, root**SRGB_GAMMA)
    slope = np.where(low, 1.0 / SRGB_SLOPE, SRGB_GAMMA / (1.0 + SRGB_OFFSET) * root ** (SRGB_GAMMA - 1.0))
    return linear, basis * slope
