"""What the server says of face models: the list in `hello`, and a whole model for the client to build heads on.

Runs in the server's own process, so nothing of this imports PyTorch.
Symbols: V vertices, F faces, U texture coordinates, E expression shapes, R regions.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import ModelError
from backend.export.parts import LOOKS
from backend.face_model.registry import DEFAULT_MODEL, find_model, get_model, known_models, list_models

LONGEST_NAME = 60


def model_list() -> list[dict[str, Any]]:
    """The installed models, the default first."""
    return [
        {
            "name": entry.name,
            "version": entry.version,
            "licence": entry.licence,
            "commercial": entry.commercial,
            "terms": entry.terms,
            "default": entry.name == DEFAULT_MODEL,
        }
        for entry in list_models()
        if entry.path is not None and not entry.problem
    ]


def installed_model(name: str) -> Path:
    """The file of an installed model; a path in a message is never followed. Raises :class:`ModelError`."""
    names = [entry.name for entry in list_models()]
    if name not in names:
        raise ModelError(f"There is no face model {name[:LONGEST_NAME]!r}; known are {', '.join(names)}.")
    path = find_model(name)
    if not path.is_file() and name in known_models():
        raise ModelError(f'The face model {name} is not installed; run "mgcface models install {name}".')
    return path


def model_message(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Body and arrays of the message ``model``, as in :mod:`backend.protocol.messages`."""
    path = installed_model(name)
    status = path.stat()
    sha256 = file_sha256(path, status.st_mtime_ns, status.st_size)
    model = get_model(path)
    body: dict[str, Any] = {
        "name": model.info.name,
        "version": model.info.version,
        "sha256": sha256,
        "licence": model.info.licence,
        "commercial": model.info.commercial,
        "terms": model.info.terms,
        "attribution": model.info.attribution,
        "expression_names": list(model.expression_names),
        "expression_limits": model.expression_limits,
        "material_names": list(model.materials),
        "region_names": list(model.regions),
        "landmark_sets": {key: len(embedding.corners) for key, embedding in model.landmarks.items()},
        "looks": {key: {"color": list(look.color), "roughness": look.roughness} for key, look in LOOKS.items()},
    }
    arrays = {
        "mean": np.asarray(model.mean, np.float32),
        "quads": np.asarray(model.faces, np.int32),
        "uv": np.asarray(model.uv, np.float32),
        "uv_quads": np.asarray(model.face_uv, np.int32),
        "material": np.asarray(model.face_material, np.int32),
        "expression": np.asarray(model.expression, np.float32),
        "regions": np.array(list(model.regions.values()), np.uint8).reshape(len(model.regions), len(model.mean)),
    }
    for key, embedding in model.landmarks.items():
        arrays[f"landmarks_{key}_corners"] = np.asarray(embedding.corners, np.int32)
        arrays[f"landmarks_{key}_barycentric"] = np.asarray(embedding.barycentric, np.float32)
    return body, arrays


@lru_cache(maxsize=8)
def file_sha256(path: Path, _modified_ns: int, _size: int) -> str:
    """Hexadecimal; asked again only when the file has changed."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
