"""FLAME 2020, 2023 and 2023 Open from an .npz that the user has made from the published file.

A pickle can run any code when it is opened, so the published ``.pkl`` is refused; ``docs/face-models.md``
has the few lines that turn it into an .npz on the user's own machine. Facts about the arrays: metres,
+X the subject's left, +Y up, +Z out of the face; ``shapedirs`` holds 300 identity directions and then
the expressions, each per standard deviation; joint 2 is the jaw.

Symbols: V vertices, T triangles, J joints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from backend.errors import ModelError
from backend.face_model.adapters.layout import as_quads, components
from backend.face_model.adapters.npz import open_npz, take
from backend.face_model.adapters.statistical import Parts, assemble
from backend.face_model.model import EYES, SKIN, Embedding, FaceModel, ModelInfo
from backend.face_model.validation import check_model
from backend.geometry.rotation import matrix_from_rotation_vector

NAME = "flame"
OPEN_NAME = "flame-open"
IDENTITY_COUNT = 300

# The jaw is a joint in FLAME and a linear shape here: its displacement for this rotation about +X
# (radians, opening), taken as one standard deviation.
JAW_JOINT = 2
JAW_STEP = 0.1
JAW_SHAPE = "jawRotation"

INFO = ModelInfo(
    name=NAME,
    version="as in the file given",
    licence="LicenseRef-FLAME",
    commercial=False,
    terms="For non-commercial research only, under the licence that you accepted at flame.is.tue.mpg.de.",
    attribution="FLAME, Max Planck Institute for Intelligent Systems (Li, Bolkart, Black, Li, Romero 2017).",
    extra={
        "source": "https://flame.is.tue.mpg.de",
        "notes": ["Expressions are the source's statistical components, not Apple's shapes."],
    },
)
OPEN_INFO = replace(
    INFO,
    name=OPEN_NAME,
    licence="CC-BY-4.0",
    commercial=True,
    terms="For the file FLAME 2023 Open alone: any use, also commercial, with attribution.",
)


def read_flame(source: str | Path, open_licence: bool = False) -> FaceModel:
    """Read a converted FLAME file.

    Parameters
    ----------
    source : path
        An .npz with ``v_template`` (V, 3), ``shapedirs`` (V, 3, more than 300), ``f`` (T, 3) and
        optionally ``J_regressor`` (J, V) and ``weights`` (V, J) for the jaw, ``vt`` and ``ft`` for the
        texture, ``lmk_faces`` (68,) and ``lmk_barycentric`` (68, 3) for iBUG 68.
    open_licence : bool
        The file is FLAME 2023 Open (CC-BY-4.0). The arrays do not tell, so the user has to.
    """
    path = Path(source)
    with open_npz(path, "the .npz made from FLAME's .pkl as docs/face-models.md shows") as arrays:
        mean = take(arrays, "v_template", (None, 3), path)
        vertices = len(mean)
        triangles = take(arrays, "f", (None, 3), path).astype(np.int32)
        directions = take(arrays, "shapedirs", (vertices, 3, None), path)
        if directions.shape[2] <= IDENTITY_COUNT:
            raise ModelError(
                f'The array "shapedirs" of {path} has {directions.shape[2]} directions where FLAME has 300 for the '
                "identity and more for expressions; convert the original file again."
            )
        if triangles.size and (triangles.min() < 0 or triangles.max() >= vertices):
            raise ModelError(f'The array "f" of {path} points outside its {vertices} vertices; convert it again.')
        corner_uv = _texture(arrays, len(triangles), path)
        landmarks = _landmarks(arrays, triangles, path)
        jaw = _jaw_shape(arrays, mean, path)
    expression = np.moveaxis(directions[:, :, IDENTITY_COUNT:], 2, 0)
    names = tuple(f"expression{number:03d}" for number in range(len(expression)))
    faces = as_quads(triangles)
    eyes = _eyeballs(mean, faces)
    model = assemble(
        OPEN_INFO if open_licence else INFO,
        Parts(
            mean=mean,
            identity=np.moveaxis(directions[:, :, :IDENTITY_COUNT], 2, 0),
            expression=np.concatenate([expression, jaw]),
            expression_names=names + (JAW_SHAPE,) * len(jaw),
            faces=faces,
            corner_uv=corner_uv,
            materials=(SKIN, EYES) if eyes.any() else (SKIN,),
            face_material=eyes[faces[:, 0]].astype(np.uint8),
            regions={"eyes": eyes} if eyes.any() else {},
            landmarks=landmarks,
        ),
    )
    check_model(model, path.name)
    return model


def _eyeballs(mean: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V,) bool: FLAME's eyeballs are pieces of their own beside the large piece of the skin."""
    piece = components(faces, len(mean))
    return piece != np.bincount(piece).argmax()


def _texture(arrays: Mapping[str, np.ndarray], triangle_count: int, path: Path) -> np.ndarray | None:
    if "vt" not in arrays or "ft" not in arrays:
        return None
    uv = take(arrays, "vt", (None, 2), path)
    corners = take(arrays, "ft", (triangle_count, 3), path).astype(np.int64)
    if corners.min() < 0 or corners.max() >= len(uv):
        raise ModelError(f'The array "ft" of {path} points outside "vt"; convert the file again.')
    return uv[as_quads(corners)]


def _landmarks(arrays: Mapping[str, np.ndarray], triangles: np.ndarray, path: Path) -> dict[str, Embedding]:
    if "lmk_faces" not in arrays:
        return {}
    faces = take(arrays, "lmk_faces", (68,), path).astype(np.int64)
    weights = take(arrays, "lmk_barycentric", (68, 3), path)
    if faces.min() < 0 or faces.max() >= len(triangles):
        raise ModelError(f'The array "lmk_faces" of {path} points outside its triangles; convert the file again.')
    return {"ibug68": Embedding(triangles[faces].astype(np.int32), weights.astype(np.float32))}


def _jaw_shape(arrays: Mapping[str, np.ndarray], mean: np.ndarray, path: Path) -> np.ndarray:
    """(1, V, 3) displacement of a slightly opened jaw, or (0, V, 3) where the file has no joints."""
    if "J_regressor" not in arrays or "weights" not in arrays:
        return np.zeros((0, *mean.shape))
    regressor = take(arrays, "J_regressor", (None, len(mean)), path)
    weights = take(arrays, "weights", (len(mean), len(regressor)), path)
    joint = regressor[JAW_JOINT] @ mean
    rotation = matrix_from_rotation_vector(np.array([JAW_STEP, 0.0, 0.0]))
    turned = (mean - joint) @ rotation.T + joint
    return (weights[:, JAW_JOINT, None] * (turned - mean))[None]
