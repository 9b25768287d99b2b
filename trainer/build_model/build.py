"""One command: from ICT-FaceKit's samples to ``open-head.safetensors``.

Symbols: V vertices, F quads, S source vertices.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.sparse import vstack

from backend.errors import ModelError
from backend.face_model.file_format import save_model
from backend.face_model.model import EYES, MOUTH, SKIN, FaceModel, ModelInfo
from backend.geometry.mesh import triangle_normals, triangulate
from trainer.build_model import charts, check_uv, landmarks, parts, regions
from trainer.build_model.bases import (
    ARKIT_NAMES,
    arkit_shapes,
    eye_rotation,
    identity_modes,
    seal_blink,
    tongue_out,
    transfer,
)
from trainer.build_model.layout import Layout, make_symmetric
from trainer.build_model.pictures import visible_triangles
from trainer.build_model.source import Source, read_source
from trainer.build_model.topology import MOUTH_LABEL, SKIN_LABEL, neighbour_average, skin_layout

NAME, VERSION = "open-head", "1.0.0"
LAYOUT_VERTICES = 11000
MATERIALS = (SKIN, MOUTH, EYES)
# A square millimetre of the face counts as much as this many of skull, neck and shoulders when identity
# modes are chosen.
FACE_WEIGHT = 4.0
# Tiles of the mouth's texture: lower left corner and size.
MOUTH_TILES = {
    "socket": ((0.0, 0.5), (0.5, 0.5)),
    "tongue": ((0.5, 0.5), (0.5, 0.5)),
    "teeth": ((0.0, 0.0), (0.5, 0.5)),
    "gums": ((0.5, 0.0), (0.5, 0.5)),
}
TILE_MARGIN = 0.02

ATTRIBUTION = (
    "The default head was learned from samples of ICT-FaceKit light "
    "(https://github.com/ICT-VGL/ICT-FaceKit). MIT License, Copyright (c) 2020 USC Institute for Creative "
    "Technologies. Permission is hereby granted, free of charge, to any person obtaining a copy of this software "
    'and associated documentation files (the "Software"), to deal in the Software without restriction, including '
    "without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell "
    "copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the "
    "following conditions: The above copyright notice and this permission notice shall be included in all copies "
    'or substantial portions of the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, '
    "EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR "
    "PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, "
    "DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN "
    "CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."
)


def build(source: Path, output: Path, report_dir: Path | None = None) -> FaceModel:
    """Build the default head from a folder with ``ict-facekit-light.npz`` and write it.

    ``report_dir`` gets the pictures and figures of ``docs/open-head.md``.
    """
    return run(source, output, report_dir, lambda stage, share: None)


def run(
    source: Path, output: Path, report: Path | None = None, progress: Callable[[str, float], None] | None = None
) -> FaceModel:
    """:func:`build` with progress: ``progress(stage, share)`` is called with shares from 0 to 1."""
    say = progress or (lambda stage, share: None)
    say("reading", 0.0)
    samples = read_source(source)
    model, assembly = assemble(samples, say)
    points, people = landmarks.mediapipe478(model, progress=lambda share: say("landmarks", 0.4 + 0.4 * share))
    model = model.replaced(landmarks={**model.landmarks, "mediapipe478": points})
    model.info.extra["mediapipe_people_found"] = people
    overlaps = check_uv.overlap_figures(model)
    if any(overlaps.values()):
        raise ModelError(f"The texture coordinates of the head that was built overlap: {overlaps}.")
    say("writing", 0.85)
    save_model(model, output)
    if report is not None:
        from trainer.build_model.report import write_report

        say("report", 0.9)
        write_report(model, samples, assembly, report)
    say("done", 1.0)
    return model


def assemble(samples: Source, say: Callable[[str, float], None] = lambda stage, share: None):
    """Everything but the measured landmarks: the model and what it was made from.

    Returns the FaceModel and a dict with ``weights`` (V, S), ``rotation`` (I, 100) and ``share`` (100,).
    """
    say("topology", 0.05)
    layout = skin_layout(samples, LAYOUT_VERTICES)
    layout = make_symmetric(layout, layout.weights @ samples.mean)
    mirror = parts.full_mirror(samples)
    tongue = parts.tongue(samples, mirror)
    pieces = [
        parts.eyeballs(samples, mirror),
        parts.teeth(samples, mirror),
        parts.gums(samples, mirror, tongue),
        tongue,
    ]
    starts = np.cumsum([layout.weights.shape[0]] + [piece.weights.shape[0] for piece in pieces])
    pairs = np.concatenate([layout.mirror] + [piece.mirror + start for piece, start in zip(pieces, starts)])
    weights = vstack([layout.weights] + [piece.weights for piece in pieces]).tocsr()
    weights.eliminate_zeros()
    mean = weights @ samples.mean
    mean = 0.5 * (mean + mean[pairs] * [-1.0, 1.0, 1.0])
    say("texture coordinates", 0.1)
    named = {piece.name: slice(start, start + piece.weights.shape[0]) for piece, start in zip(pieces, starts)}
    masks = region_masks(samples, mean, layout, named, pairs)
    quads = np.concatenate([layout.faces] + [piece.faces + start for piece, start in zip(pieces, starts)])
    triangles = triangulate(quads)
    visible = np.zeros(len(mean), bool)
    visible[np.unique(triangles[visible_triangles(mean, triangles)])] = True
    geometry = join(layout, pieces, starts, mean, pairs, masks["face"] & visible & visible[pairs])
    say("bases", 0.2)
    area = vertex_area(mean, geometry["faces"][geometry["face_material"] == 0])
    area *= np.where(masks["face"], FACE_WEIGHT, 1.0)
    modes, rotation, share = identity_modes(transfer(weights, samples.identity), area)
    expression = expressions(samples, weights, mean, named, pieces, masks["eyelids"])
    info = ModelInfo(
        name=NAME, version=VERSION, licence="MIT", commercial=True,
        terms="Free for any use, paid work included, as long as the notice travels with the model.",
        attribution=ATTRIBUTION,
        extra={
            "eye_uv": "azimuthal",
            "iris_radius_uv": 0.5 * float(np.sin(np.radians(parts.IRIS_ANGLE) / 2)),
            "identity_variance_kept": float(share[len(modes) - 1]),
        },
    )  # fmt: skip
    model = FaceModel(
        info=info, mean=mean.astype(np.float32), identity=modes, expression=expression,
        expression_names=tuple(ARKIT_NAMES),
        materials=MATERIALS, regions=masks, landmarks={}, mirror=pairs.astype(np.int32), **geometry,
    )  # fmt: skip
    points68 = landmarks.ibug68(model, samples.mean[samples.landmarks68])
    model = model.replaced(landmarks={"ibug68": points68, "now7": landmarks.now7(points68)})
    return model, {"weights": weights, "rotation": rotation, "share": share}


def join(
    layout: Layout, pieces: list, starts: np.ndarray, mean: np.ndarray, pairs: np.ndarray, face: np.ndarray
) -> dict:
    """faces, uv, face_uv and face_material of the whole head."""
    skin, socket = layout.faces[layout.label == SKIN_LABEL], layout.faces[layout.label == MOUTH_LABEL]
    uv, face_uv = charts.skin_chart(skin, mean[: starts[0]], pairs[: starts[0]], face[: starts[0]])
    disc, disc_faces, _ = charts.disc_chart(socket, mean)
    runs = [(skin, uv, face_uv, SKIN), (socket, tile(disc, "socket"), disc_faces, MOUTH)]
    for piece, start in zip(pieces, starts):
        material = EYES if piece.name == "eyes" else MOUTH
        chart = piece.uv if material == EYES else tile(piece.uv, piece.name)
        runs.append((piece.faces + start, chart, piece.face_uv, material))
    offsets = np.cumsum([0] + [len(run[1]) for run in runs])
    return {
        "faces": np.concatenate([run[0] for run in runs]).astype(np.int32),
        "uv": np.concatenate([run[1] for run in runs]).astype(np.float32),
        "face_uv": np.concatenate([run[2] + offset for run, offset in zip(runs, offsets)]).astype(np.int32),
        "face_material": np.concatenate([np.full(len(run[0]), MATERIALS.index(run[3])) for run in runs]).astype(
            np.uint8
        ),
    }


def tile(uv: np.ndarray, name: str) -> np.ndarray:
    """Unit-square coordinates moved into a tile of the mouth's texture."""
    corner, size = (np.array(value) for value in MOUTH_TILES[name])
    return corner + size * (TILE_MARGIN + (1 - 2 * TILE_MARGIN) * uv)


def vertex_area(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V,) a third of the area of the triangles round each vertex, 0 away from the faces."""
    triangles = triangulate(faces)
    area = np.linalg.norm(triangle_normals(points, triangles), axis=1) / 6
    return np.bincount(triangles.ravel(), weights=np.repeat(area, 3), minlength=len(points))


def expressions(samples: Source, weights, mean: np.ndarray, named: dict, pieces: list, lids: np.ndarray) -> np.ndarray:
    """(52, V, 3) float32: the source's shapes, rotating eyeballs and the tongue."""
    table = arkit_shapes(samples)
    shapes = transfer(weights, np.einsum("ab,bvc->avc", table, samples.expression))
    eyes, half = named["eyes"], (named["eyes"].stop - named["eyes"].start) // 2
    centre, _ = parts.left_eye_frame(samples)
    for row, name in enumerate(ARKIT_NAMES):
        if name.startswith("eyeLook"):
            left = name.endswith("Left")
            side = 1.0 if left else -1.0
            run = slice(eyes.start, eyes.start + half) if left else slice(eyes.start + half, eyes.stop)
            direction = name.removeprefix("eyeLook").removesuffix("Left").removesuffix("Right")
            shapes[row, run] += eye_rotation(mean[run], centre * [side, 1, 1], direction, side)
    for name, side in (("eyeBlinkLeft", 1.0), ("eyeBlinkRight", -1.0)):
        row = ARKIT_NAMES.index(name)
        corners = samples.mean[samples.landmarks68[[42, 45]]] * [side, 1, 1]
        shapes[row] = seal_blink(mean, shapes[row].astype(float), lids & (mean[:, 0] * side > 0), corners)
    shapes[ARKIT_NAMES.index("tongueOut"), named["tongue"]] = tongue_out(mean[named["tongue"]], pieces[-1].along)
    return shapes


def region_masks(samples: Source, mean: np.ndarray, layout: Layout, named: dict, pairs: np.ndarray) -> dict:
    """All masks, the parts of the mouth included."""
    is_skin = np.zeros(len(mean), bool)
    is_skin[np.unique(layout.faces[layout.label == SKIN_LABEL])] = True
    masks = regions.skin_regions(mean, is_skin, samples.mean[samples.landmarks68])
    average = neighbour_average(layout)
    for name, mask in masks.items():
        if name not in ("lips", "eyelids"):
            mask[: len(layout.mirror)] = regions.evened(mask[: len(layout.mirror)], average)
    masks = {name: mask & mask[pairs] & is_skin for name, mask in masks.items()}
    # Evening out may have made neighbours overlap.
    masks["mouth"] &= ~masks["nose"]
    masks["scalp"] &= ~(masks["face"] | masks["ears"] | masks["neck"])
    for name in ("teeth", "gums", "tongue"):
        masks[name] = np.zeros(len(mean), bool)
        masks[name][named[name]] = True
    return masks
