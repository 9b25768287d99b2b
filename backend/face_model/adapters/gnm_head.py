"""Google's GNM Head v3 (Apache-2.0) from its published npz.

Facts about the file (github.com/google/GNM, gnm/shape, and its tests): metres, +X the subject's left,
+Y up, +Z out of the face; coefficients are whitened, so one unit is one standard deviation. Skinning and
pose correctives are not read: the head stays in its bind pose.

Symbols: V vertices, Q quads, I identity modes, E expression shapes, G vertex groups.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from backend.errors import ModelError
from backend.face_model.adapters.npz import open_npz, take
from backend.face_model.adapters.statistical import Parts, assemble
from backend.face_model.model import EYES, MOUTH, SKIN, Embedding, FaceModel, ModelInfo
from backend.face_model.validation import check_model

NAME = "gnm-head"
FILE_NAME = "gnm_head.npz"
LANDMARK_FILE = "head_sparse_68.txt"

# A vertex belongs to a group from this weight on.
GROUP_WEIGHT = 0.5

# Groups that make up the material slots; names that a version lacks are passed over.
MOUTH_GROUPS = ("mouth_sock", "teeth", "gums", "tongue", "upper_teeth_and_gums", "lower_teeth_and_gums")
EYE_GROUP, EYE_SHELL_GROUP, IRIS_GROUP = "eyes", "eye_exteriors", "irises"
REGION_GROUPS = ("teeth", "gums", "tongue", "ears", "eyes")

INFO = ModelInfo(
    name=NAME,
    version="3.0",
    licence="Apache-2.0",
    commercial=True,
    terms="Free for any use, also commercial, as long as the Apache-2.0 notice goes along with copies of the model.",
    attribution="GNM Head v3, Copyright 2026 Google LLC, Apache License 2.0.",
    extra={
        "source": "https://huggingface.co/google/gnm-v3",
        "notes": [
            "Expressions are the source's statistical components, not Apple's shapes.",
            "The transparent outer shells of the eyes are left out, and the head stays in its bind pose.",
        ],
    },
)


def read_gnm_head(source: str | Path) -> FaceModel:
    """Read ``gnm_head.npz``, or a folder that holds it.

    Where ``head_sparse_68.txt`` of the same project lies beside it (rows of index, weight, index, weight,
    index, weight), it gives the iBUG 68 landmarks; otherwise the model comes without landmarks and
    :mod:`backend.face_model.transfer` finds them.
    """
    path = Path(source)
    if path.is_dir():
        path = path / FILE_NAME
    with open_npz(path, f"the file {FILE_NAME} of GNM Head v3") as arrays:
        mean = take(arrays, "template_vertex_positions", (None, 3), path)
        vertices = len(mean)
        quads = take(arrays, "quads", (None, 4), path).astype(np.int32)
        corner_uv = take(arrays, "quad_uvs", (len(quads), 4, 2), path)
        identity = take(arrays, "vertex_identity_basis", (None, vertices, 3), path)
        expression = take(arrays, "expression_basis", (None, vertices, 3), path)
        names = take(arrays, "expression_names", (len(expression),), path)
        group_names = take(arrays, "vertex_group_names", (None,), path)
        weights = take(arrays, "vertex_groups", (len(group_names), vertices), path)
    if quads.size and (quads.min() < 0 or quads.max() >= vertices):
        raise ModelError(f'The array "quads" of {path} points outside its {vertices} vertices; download it again.')
    groups = {str(name): own > GROUP_WEIGHT for name, own in zip(group_names, weights)}
    shown = ~_inside(quads, groups, (EYE_SHELL_GROUP,))
    model = assemble(
        _info(mean, groups),
        Parts(
            mean=mean,
            identity=identity,
            expression=expression,
            expression_names=tuple(str(name) for name in names),
            faces=quads[shown],
            corner_uv=corner_uv[shown],
            materials=(SKIN, MOUTH, EYES),
            face_material=_materials(quads[shown], groups),
            regions={name: groups[name] for name in REGION_GROUPS if name in groups},
            landmarks=_landmarks(path.with_name(LANDMARK_FILE), vertices),
        ),
    )
    check_model(model, path.name)
    return model


def _inside(quads: np.ndarray, groups: dict[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    """(Q,) bool: all four corners lie in one of the groups."""
    inside = np.zeros(len(quads), bool)
    for name in names:
        if name in groups:
            inside |= groups[name][quads].all(axis=1)
    return inside


def _materials(quads: np.ndarray, groups: dict[str, np.ndarray]) -> np.ndarray:
    material = np.zeros(len(quads), np.uint8)
    material[_inside(quads, groups, MOUTH_GROUPS)] = 1
    material[_inside(quads, groups, (EYE_GROUP,))] = 2
    return material


def _info(mean: np.ndarray, groups: dict[str, np.ndarray]) -> ModelInfo:
    """Adds how large the iris is in the texture: half the sine of half the angle its rim has at the eye's middle."""
    eye = groups.get(EYE_GROUP, np.zeros(len(mean), bool)) & (mean[:, 0] > 0)
    iris = groups.get(IRIS_GROUP, np.zeros(len(mean), bool)) & (mean[:, 0] > 0)
    if not eye.any() or not iris.any():
        return INFO
    ray = mean[iris] - (mean[eye].min(axis=0) + mean[eye].max(axis=0)) / 2
    angle = float(np.arctan2(np.hypot(ray[:, 0], ray[:, 1]), ray[:, 2]).max())
    return replace(INFO, extra={**INFO.extra, "iris_radius_uv": round(0.5 * float(np.sin(angle / 2)), 4)})


def _landmarks(path: Path, vertices: int) -> dict[str, Embedding]:
    if not path.is_file():
        return {}
    try:
        table = np.loadtxt(path, dtype=np.float64, ndmin=2)
        if table.shape != (68, 6):
            raise ValueError(f"{table.shape[0]} rows of {table.shape[1]} numbers")
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} is not GNM's list of 68 landmarks ({error}); remove it or get it again.") from error
    corners = table[:, ::2].astype(np.int32)
    if corners.min() < 0 or corners.max() >= vertices:
        raise ModelError(f"{path} points outside the model's {vertices} vertices; remove it or get the matching file.")
    return {"ibug68": Embedding(corners, table[:, 1::2].astype(np.float32))}
