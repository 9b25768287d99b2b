"""ICT-FaceKit light (MIT) from the one-file npz or from its original folder of OBJ files.

Facts about the model are from its README (github.com/ICT-VGL/ICT-FaceKit, commit da5f95a): centimetres,
+X the subject's left, +Y up, +Z out of the face; parts are ranges of vertices and of polygons. Its
origin is kept: it lies between the ears, about 1.5 cm below the middle of the ears.

Symbols: V vertices, F faces, U texture coordinates.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.errors import Cancelled, ModelError
from backend.face_model.adapters.layout import azimuthal_eye_uv, compact, mirror_pairs
from backend.face_model.adapters.npz import open_npz, take
from backend.face_model.arkit import ARKIT_NAMES
from backend.face_model.embedding import embed_vertices, with_now7
from backend.face_model.model import EYES, MOUTH, SKIN, FaceModel, ModelInfo
from backend.face_model.validation import check_model
from backend.geometry.mesh import NO_CORNER, triangulate

NAME = "ict-facekit"
NPZ_NAME = "ict-facekit-light.npz"
COMMIT = "da5f95a607f5e6b37755b38d3385d7f2853732e5"

METRES_PER_CENTIMETRE = 0.01
VERTEX_COUNT = 26719
FACE_COUNT = 26384
IDENTITY_COUNT = 100

# Part borders of the README's table. The eyes are the outer balls: the iris balls inside them are seen
# only through a transparent cornea, and the shells that follow (lacrimal fluid, eye blend, eye
# occlusion, eyelashes) would cover the eyes when they are drawn opaque.
FACE_VERTICES = slice(0, 9409)
GUM_VERTICES = slice(14062, 17039)
TEETH_VERTICES = slice(17039, 21451)
SKIN_FACES = (slice(0, 11144), slice(13226, 14034))
MOUTH_FACES = (slice(11144, 13226), slice(14034, 21496))
EYE_FACES = (slice(21496, 22296), slice(23094, 23894))

# The u range of each texture tile of the source: 0 face, 1 head, neck and sockets, 2 gums, 3 teeth.
SKIN_TILES, MOUTH_TILES, FIRST_MOUTH_TILE = 2, 3, 1

# Half the sine of half the angle of the iris seen from the eyeball's centre: 5.9 mm (where the iris
# ball has its rim) on the outer ball, 17.2 mm from its centre there.
IRIS_RADIUS_UV = 0.087

# ICT's shapes that Apple has as one, as (Apple's name, ICT's two halves).
SPLIT_SHAPES = {name: (f"{name}_L", f"{name}_R") for name in ("browInnerUp", "cheekPuff")}

INFO = ModelInfo(
    name=NAME,
    version=f"light, commit {COMMIT[:7]}",
    licence="MIT",
    commercial=True,
    terms="Free for any use, also commercial, as long as the MIT notice goes along with copies of the model.",
    attribution="ICT-FaceKit, Copyright (c) 2020 USC Institute for Creative Technologies, MIT License.",
    extra={
        "source": "https://github.com/ICT-VGL/ICT-FaceKit",
        "notes": [
            "51 of Apple's 52 expressions: there is no tongueOut; browInnerUp and cheekPuff are the sums of the "
            "source's left and right halves.",
            "Inner iris balls, lacrimal fluid, eye blend, eye occlusion and eyelashes are left out: they need "
            "transparent shaders.",
            "The source's texture tiles lie side by side in one square per material, so the skin is squeezed to half "
            "its width; the eyes have the project's own layout.",
        ],
        "eye_uv": "azimuthal",
        "iris_radius_uv": IRIS_RADIUS_UV,
    },
)


@dataclass(frozen=True)
class Source:
    """What both forms of the source hold: centimetres, all 26,719 vertices, ICT's own shape names."""

    mean: np.ndarray
    identity: np.ndarray
    shapes: dict[str, np.ndarray]
    faces: np.ndarray
    uv: np.ndarray
    face_uv: np.ndarray
    landmarks68: np.ndarray


def read_ict_facekit(
    source: str | Path,
    progress: Callable[[float, str], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> FaceModel:
    """Read ICT-FaceKit light.

    Parameters
    ----------
    source : path
        ``ict-facekit-light.npz``, a folder that holds it, the ``FaceXModel`` folder, or a folder that
        holds that one.
    progress : callable, optional
        Called with the fraction done and the file being read.
    cancel : callable, optional
        Asked before each file; returning true raises :class:`Cancelled`.

    Returns
    -------
    FaceModel
        Metres; landmark sets ``ibug68`` and ``now7``; regions ``face``, ``eyes`` and ``mouth`` as far
        as the parts of the mesh tell them. :mod:`backend.face_model.transfer` adds the others.
    """
    path = Path(source)
    if path.is_dir() and (path / NPZ_NAME).is_file():
        path = path / NPZ_NAME
    if path.is_file():
        raw = _read_npz(path)
    else:
        raw = _read_folder(_model_folder(path), progress or (lambda _fraction, _text: None), cancel or (lambda: False))
    model = _assemble(raw)
    check_model(model, path.name)
    return model


def _assemble(raw: Source) -> FaceModel:
    parts = (SKIN_FACES, MOUTH_FACES, EYE_FACES)
    keep = [np.concatenate([np.arange(FACE_COUNT)[piece] for piece in slices]) for slices in parts]
    material = np.repeat(np.arange(3, dtype=np.uint8), [len(rows) for rows in keep])
    vertices, faces = compact(raw.faces[np.concatenate(keep)])
    expression, names = _arkit_shapes(raw.shapes)
    mean = _metres(raw.mean, vertices)
    uv, face_uv = _texture_layout(raw, keep, mean, faces[material == 2])
    landmarks = np.searchsorted(vertices, raw.landmarks68)
    return FaceModel(
        info=INFO,
        mean=mean,
        identity=_metres(raw.identity, vertices),
        expression=_metres(expression, vertices),
        expression_names=names,
        faces=faces,
        uv=uv,
        face_uv=face_uv,
        face_material=material,
        materials=(SKIN, MOUTH, EYES),
        regions=_regions(vertices, faces, material),
        landmarks=with_now7({"ibug68": embed_vertices(landmarks, triangulate(faces))}),
        mirror=mirror_pairs(mean),
    )


def _metres(values: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    return values[..., vertices, :].astype(np.float32) * np.float32(METRES_PER_CENTIMETRE)


def _texture_layout(
    raw: Source, keep: list[np.ndarray], mean: np.ndarray, eye_faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The tiles of each material side by side in one square, (U, 2) and (F, 4)."""
    layouts = []
    for rows, first, tiles in ((keep[0], 0, SKIN_TILES), (keep[1], FIRST_MOUTH_TILE, MOUTH_TILES)):
        used, face_uv = compact(raw.face_uv[rows])
        square = (raw.uv[used] - [first, 0.0]) / [tiles, 1.0]
        layouts.append((square, face_uv))
    layouts.append(azimuthal_eye_uv(mean, eye_faces))
    offsets = np.cumsum([0, *(len(uv) for uv, _ in layouts)])
    face_uv = [np.where(own == NO_CORNER, NO_CORNER, own + offset) for (_, own), offset in zip(layouts, offsets)]
    return np.concatenate([uv for uv, _ in layouts]).astype(np.float32), np.concatenate(face_uv).astype(np.int32)


def _arkit_shapes(shapes: dict[str, np.ndarray]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(E, V, 3) in Apple's order, and the names of those that ICT has."""
    arranged = {}
    for name in ARKIT_NAMES:
        if name in SPLIT_SHAPES:
            halves = [shapes.get(half) for half in SPLIT_SHAPES[name]]
            if all(half is not None for half in halves):
                arranged[name] = np.add(*(np.asarray(half, np.float32) for half in halves))
            continue
        own = name[:-4] + "_L" if name.endswith("Left") else name[:-5] + "_R" if name.endswith("Right") else name
        # jawLeft, mouthLeft and their right twins keep their names in ICT.
        found = shapes.get(name, shapes.get(own))
        if found is not None:
            arranged[name] = np.asarray(found, np.float32)
    missing = [name for name in ARKIT_NAMES if name not in arranged and name != "tongueOut"]
    if missing:
        raise ModelError(f"The ICT-FaceKit source lacks the expression {missing[0]}; download it again whole.")
    return np.stack(list(arranged.values())), tuple(arranged)


def _regions(vertices: np.ndarray, faces: np.ndarray, material: np.ndarray) -> dict[str, np.ndarray]:
    """What the parts of the mesh tell by themselves; ``vertices`` are the source's numbers of those kept."""
    ranges = {"face": FACE_VERTICES, "gums": GUM_VERTICES, "teeth": TEETH_VERTICES}
    regions = {name: (vertices >= part.start) & (vertices < part.stop) for name, part in ranges.items()}
    for name, slot in (("mouth", 1), ("eyes", 2)):
        regions[name] = np.isin(np.arange(len(vertices)), faces[material == slot])
    return regions


def _read_npz(path: Path) -> Source:
    with open_npz(path, f"the file {NPZ_NAME}") as arrays:
        mean = take(arrays, "mean", (VERTEX_COUNT, 3), path)
        expression = take(arrays, "expression", (None, VERTEX_COUNT, 3), path)
        names = take(arrays, "names", (len(expression),), path)
        return Source(
            mean=mean,
            identity=take(arrays, "identity", (None, VERTEX_COUNT, 3), path),
            shapes={str(name): shape for name, shape in zip(names, expression)},
            faces=take(arrays, "faces", (FACE_COUNT, 4), path),
            uv=take(arrays, "uv", (None, 2), path),
            face_uv=take(arrays, "face_uv", (FACE_COUNT, 4), path),
            landmarks68=take(arrays, "landmarks68", (68,), path),
        )


def _model_folder(path: Path) -> Path:
    for folder in (path, path / "FaceXModel"):
        if (folder / "generic_neutral_mesh.obj").is_file():
            return folder
    raise ModelError(
        f"{path} holds neither {NPZ_NAME} nor generic_neutral_mesh.obj; name the FaceXModel folder of ICT-FaceKit."
    )


def source_file_names() -> list[str]:
    """The files of the original folder that the reader needs, in the order it reads them."""
    shapes = []
    for name in ARKIT_NAMES:
        if name in SPLIT_SHAPES:
            shapes += SPLIT_SHAPES[name]
        elif name.startswith(("jaw", "mouthLeft", "mouthRight")) or not name.endswith(("Left", "Right")):
            shapes += [name] if name != "tongueOut" else []
        else:
            shapes.append(name[:-4] + "_L" if name.endswith("Left") else name[:-5] + "_R")
    identities = [f"identity{mode:03d}" for mode in range(IDENTITY_COUNT)]
    return ["vertex_indices.json", *(f"{name}.obj" for name in ("generic_neutral_mesh", *identities, *shapes))]


def _read_folder(folder: Path, progress: Callable[[float, str], None], cancel: Callable[[], bool]) -> Source:
    names = source_file_names()
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder} lacks {missing[0]} and {len(missing) - 1} more of the {len(names)} files of ICT-FaceKit; "
            "download the FaceXModel folder whole."
        )
    landmarks = _read_landmarks(folder / names[0])
    mean, uv, faces, face_uv = read_obj(folder / names[1])
    if mean.shape != (VERTEX_COUNT, 3) or faces.shape != (FACE_COUNT, 4):
        raise ModelError(
            f"{folder / names[1]} has {len(mean)} vertices and {len(faces)} faces where ICT-FaceKit light has "
            f"{VERTEX_COUNT} and {FACE_COUNT}; download it again."
        )
    offsets = {}
    for index, name in enumerate(names[2:], start=2):
        if cancel():
            raise Cancelled("Reading ICT-FaceKit was cancelled; nothing was installed.")
        progress(index / len(names), name)
        vertices = read_obj_vertices(folder / name)
        if vertices.shape != mean.shape:
            raise ModelError(
                f"{folder / name} has {len(vertices)} vertices where {len(mean)} are needed; get it again."
            )
        offsets[Path(name).stem] = vertices - mean
    identity = np.stack([offsets.pop(f"identity{mode:03d}") for mode in range(IDENTITY_COUNT)])
    return Source(mean, identity, offsets, faces, uv, face_uv, landmarks)


def _read_landmarks(path: Path) -> np.ndarray:
    try:
        landmarks = np.asarray(json.loads(path.read_text("utf-8"))["idx_to_landmark_verts"], np.int64)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ModelError(f"{path} is not the vertex list of ICT-FaceKit; download it again.") from error
    if landmarks.shape != (68,) or landmarks.min() < 0 or landmarks.max() >= FACE_VERTICES.stop:
        raise ModelError(f"{path} does not list 68 landmark vertices of the head; download it again.")
    return landmarks


def read_obj_vertices(path: Path) -> np.ndarray:
    """(V, 3) float32: only the ``v`` lines of an OBJ file."""
    try:
        lines = path.read_bytes().split(b"\n")
        values = np.array(b" ".join(line[2:] for line in lines if line.startswith(b"v ")).split(), np.float32)
        return values.reshape(-1, 3)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as an OBJ file ({error}); download it again.") from error


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V, 3), uv (U, 2), faces (F, 4) and face_uv (F, 4) of an OBJ file with ``f v/vt`` corners.

    Numbers are 0-based on return, and -1 marks a triangle's missing corner. Not a general reader: a mesh
    library would triangulate the quads or merge the texture seams, and both must stay as they are.
    """
    vertices = read_obj_vertices(path)
    uv, faces, face_uv = [], [], []
    try:
        for line in path.read_text("ascii").splitlines():
            if line.startswith("vt "):
                uv.append([float(value) for value in line.split()[1:3]])
            elif line.startswith("f "):
                corners = [[int(number) - 1 for number in corner.split("/")[:2]] for corner in line.split()[1:]]
                corners += [[NO_CORNER, NO_CORNER]] * (4 - len(corners))
                faces.append([corner[0] for corner in corners])
                face_uv.append([corner[1] for corner in corners])
        return (
            vertices,
            np.array(uv, np.float32).reshape(-1, 2),
            np.array(faces, np.int32).reshape(-1, 4),
            np.array(face_uv, np.int32).reshape(-1, 4),
        )
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read as an OBJ file ({error}); download it again.") from error
