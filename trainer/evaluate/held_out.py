"""Heads whose shape is known and that no network here was trained on: what the network says, the fit, and both.

People are those of another face model (``ict-facekit``, painted by our painter), the 45 ``meshmonk`` faces and
``james``. Each is photographed once in every range of yaw, and once with something before the face
(:mod:`trainer.evaluate.occluded`). Their shape is scored by the NoW protocol; the rotation is compared after the same
alignment, since every model has its own idea of a face that looks straight ahead.

All methods see the same photos through the same detector. A photo without a detected face counts for none of them
and is counted.

Symbols: V vertices, T triangles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np

from backend.errors import MgcFaceError
from backend.face_model.adapters.ict_facekit import read_ict_facekit
from backend.face_model.model import FaceModel
from backend.face_model.registry import get_model
from backend.face_model.transfer import complete
from backend.geometry.camera import Camera
from backend.geometry.mesh import triangulate
from backend.reconstruction.opinion import to_middle
from backend.reconstruction.result import Reconstruction
from backend.vision.photo import Photo
from trainer.evaluate import now_protocol
from trainer.evaluate.face_paint import SKIN_TONES, Canvas, Contours, paint_face
from trainer.evaluate.markdown import table
from trainer.evaluate.now_protocol import Prediction, Scan
from trainer.evaluate.occluded import OCCLUDERS, occlude
from trainer.evaluate.photo_sets import Reconstruct
from trainer.evaluate.truth_render import Surface, photograph, truth_camera
from trainer.evaluate.truth_sets import (
    MESHMONK_CONTOURS,
    MESHMONK_LANDMARKS,
    NOW_FROM_IBUG68,
    SetError,
    james_surface,
    meshmonk_faces,
)

# Ranges of yaw, degrees; the last ends where the detector hardly ever finds a face.
YAW_BINS = ((0.0, 30.0), (30.0, 60.0), (60.0, 85.0))
# How far heads with something before them turn, and what counts as turned far.
OCCLUDED_YAW, FAR_YAW = 40.0, 45.0

# People of the other face model: their seeds, far from others, how many, and the spread of their identity.
ICT_SEED, ICT_PEOPLE, ICT_SIGMA = 9_300_000, 40, 0.8
ICT_FILE = "models/ict-facekit/ict-facekit-light.npz"
ICT_PICTURE = 800

# What the methods are called on the page; the order of the columns.
METHODS = {
    "mean_face": "mean face",
    "regress": "encoder alone",
    "fit": "fit alone",
    "both": "encoder and fit",
    "turned": "landmarks put right, fit",
    "refined": "as shipped: that, refined",
}

# What is compared with the fit alone, which no network helps.
GAINS = {"both": "gain of the encoder", "refined": "gain as shipped"}
# The goal, in per cent of the shape's error.
WANTED_GAIN, WORST_LOSS = 15.0, 2.0


@dataclass(frozen=True)
class HeldOut:
    """One photo of a known head.

    Attributes
    ----------
    source : str
        ``ict-facekit``, ``meshmonk`` or ``james``.
    name : str
    yaw : float
        Degrees.
    occluder : str
        One of :data:`~trainer.evaluate.occluded.OCCLUDERS`, or empty.
    scan : Scan
        The neutral truth, in the frame of the camera's pose.
    camera : Camera
        The photo's.
    picture : callable -> (H, W, 3) uint8
    """

    source: str
    name: str
    yaw: float
    occluder: str
    scan: Scan
    camera: Camera
    picture: Callable[[], np.ndarray]


@dataclass(frozen=True)
class HeldOutResult:
    """What became of one photo: shape in millimetres (median) and rotation in degrees, by method."""

    source: str
    name: str
    yaw: float
    occluder: str
    error: str | None = None
    shape_mm: Mapping[str, float] | None = None
    rotation_degrees: Mapping[str, float] | None = None


def load(data: Path) -> list[HeldOut]:
    """All photos, in order of the people; raises :class:`SetError` where a source is missing."""
    needed = (ICT_FILE, "scans/meshmonk/simulated_faces", "scans/james")
    for place in needed:
        if not (data / place).exists():
            raise SetError(f"{data / place} is missing; say with --data where the measuring material lies.")
    return [*_ict(data / needed[0]), *_meshmonk(data / needed[1]), *_james(data / needed[2])]


def views(person: int, seed: int) -> list[tuple[float, str]]:
    """Yaw and occluder of the photos of one person: one in each range of yaw, one with something before the face."""
    rng = np.random.default_rng([seed, person])
    yaws = [rng.uniform(*limits) * rng.choice([-1.0, 1.0]) for limits in YAW_BINS]
    occluded = rng.uniform(-OCCLUDED_YAW, OCCLUDED_YAW)
    return [*((yaw, "") for yaw in yaws), (occluded, OCCLUDERS[person % len(OCCLUDERS)])]


def _photographs(
    source: str,
    name: str,
    person: int,
    scan: Scan,
    shown: Callable[[], tuple[np.ndarray, np.ndarray, np.ndarray]],
    draw: Callable[[Camera, int], np.ndarray],
    centre: np.ndarray,
    size: int,
    seed: int,
) -> list[HeldOut]:
    """The photos of one person; ``shown`` gives vertices, triangles and landmarks of the head as it is drawn."""

    def picture(camera: Camera, number: int, occluder: str) -> np.ndarray:
        pixels = draw(camera, number)
        if not occluder:
            return pixels
        rng = np.random.default_rng([seed, person, number])
        return occlude(pixels, camera, *shown(), occluder, rng)

    result = []
    for number, (yaw, occluder) in enumerate(views(person, seed)):
        camera = truth_camera(centre, yaw).resized(size, size)
        words = f"{name}, yaw {yaw:+.1f}" + (f", {occluder}" if occluder else "")
        drawn = lambda camera=camera, number=number, occluder=occluder: picture(camera, number, occluder)  # noqa: E731
        result.append(HeldOut(source, words, yaw, occluder, scan, camera, drawn))
    return result


def _ict(path: Path) -> list[HeldOut]:
    from trainer.data.painter import Painter
    from trainer.data.people import Person, draw_expression

    model = complete(read_ict_facekit(path), get_model("open-head"))
    painter = lru_cache(maxsize=1)(lambda: Painter(model))
    seen = np.unique(triangulate(model.faces)[model.triangle_material == 0])
    skin = model.triangles[model.triangle_material != model.materials.index("mouth")]
    found = []
    for person in range(ICT_PEOPLE):
        rng = np.random.default_rng([ICT_SEED, person])
        identity = rng.normal(0.0, ICT_SIGMA, len(model.identity))
        expression = draw_expression(model, rng)
        neutral = model.vertices(identity).astype(np.float64)
        vertices = model.vertices(identity, expression)
        scan = Scan(neutral[seen], model.landmark_points(neutral, "now7"))

        def draw(camera, number, person=person, identity=identity, expression=expression, vertices=vertices):
            who = Person(identity, expression, vertices, camera)
            return painter().paint(who, 10 * (ICT_SEED + person) + number)

        def shown(vertices=vertices):
            moved = vertices.astype(np.float64)
            return moved, skin, model.landmark_points(moved, "now7")

        centre = model.landmark_points(vertices.astype(np.float64), "ibug68")[17:].mean(axis=0)
        found += _photographs(
            "ict-facekit", f"ict {person + 1:02d}", person, scan, shown, draw, centre, ICT_PICTURE, ICT_SEED
        )
    return found


def _meshmonk(folder: Path) -> list[HeldOut]:
    faces, triangles = meshmonk_faces(folder)
    plane = 1000.0 * faces.mean(axis=0)[:, :2]
    canvas = Canvas(plane.min(axis=0) - 1.0, plane.max(axis=0) + 1.0)
    contours = Contours(**{name: plane[indices] for name, indices in MESHMONK_CONTOURS.items()})
    corner_texel = canvas.texels(plane)[triangles]

    @lru_cache(maxsize=1)
    def surface(person: int) -> Surface:
        texture = paint_face(canvas, contours, person % len(SKIN_TONES), np.random.default_rng([46, person]))
        return Surface(faces[person], triangles, corner_texel, texture)

    found = []
    for person, face in enumerate(faces):
        landmarks = face[MESHMONK_LANDMARKS]

        def draw(camera, number, person=person):
            return photograph(surface(person), camera, np.random.default_rng([46, person, number]))

        def shown(face=face, landmarks=landmarks):
            return face, triangles, landmarks

        found += _photographs(
            "meshmonk",
            f"meshmonk {person + 1:02d}",
            person,
            Scan(face, landmarks),
            shown,
            draw,
            face.mean(axis=0),
            1000,
            46,
        )
    return found


def _james(folder: Path) -> list[HeldOut]:
    surface, points = james_surface(folder)
    landmarks = points[NOW_FROM_IBUG68]
    scan = Scan(surface.vertices, landmarks)

    def draw(camera, number):
        return photograph(surface, camera, np.random.default_rng([69, number]))

    def shown():
        return surface.vertices, surface.triangles, landmarks

    # One person, as often as there are things to hide behind.
    return [
        photo
        for turn in range(len(OCCLUDERS))
        for photo in _photographs("james", "james", turn, scan, shown, draw, points[27:].mean(axis=0), 1000, 69)
    ]


# --- one photo --------------------------------------------------------------------------------------------


def measure(item: HeldOut, methods: Mapping[str, Reconstruct]) -> HeldOutResult:
    """Reconstruct one photo by every method and compare with what is true."""
    about = (item.source, item.name, item.yaw, item.occluder)
    photo = Photo(item.picture())
    shape, rotation = {}, {}
    try:
        for name, method in methods.items():
            head = method(photo)[0]
            score = now_protocol.score(item.scan, _prediction(head.model, head.neutral_vertices))
            shape[name], rotation[name] = score.median_mm, rotation_error(head, score, item.camera)
            if "mean_face" not in shape:
                shape["mean_face"] = now_protocol.score(item.scan, _prediction(head.model, head.model.mean)).median_mm
    except MgcFaceError as error:
        return HeldOutResult(*about, error=str(error))
    return HeldOutResult(*about, None, shape, rotation)


def rotation_error(head: Reconstruction, score: now_protocol.FaceScore, camera: Camera) -> float:
    """Degrees between the rotation that was found and the true one.

    With the alignment ``X_scan = s A X_head + ...`` the true rotation of the head's own frame is ``R A``. A camera
    whose principal point lies beside the photo's middle is turned to one that looks there.
    """
    true = camera.R @ score.alignment.rotation
    found = to_middle(head.camera) @ head.camera.R
    return float(np.degrees(np.arccos(np.clip((np.trace(found @ true.T) - 1.0) / 2.0, -1.0, 1.0))))


def _prediction(model: FaceModel, vertices: np.ndarray) -> Prediction:
    from trainer.evaluate.accuracy import prediction

    return prediction(model, vertices)


# --- figures ----------------------------------------------------------------------------------------------


def rows() -> dict[str, Callable[[HeldOutResult], bool]]:
    """What a row of the table holds."""
    result: dict[str, Callable[[HeldOutResult], bool]] = {}
    for low, high in pairwise((*(low for low, _ in YAW_BINS), 90.0)):
        result[f"yaw {low:.0f} to {high:.0f}"] = lambda item, low=low, high=high: (
            not item.occluder and low <= abs(item.yaw) < high
        )
    result[f"yaw beyond {FAR_YAW:.0f}"] = lambda item: not item.occluder and abs(item.yaw) > FAR_YAW
    for kind in OCCLUDERS:
        result[kind] = lambda item, kind=kind: item.occluder == kind
    result["any occluder"] = lambda item: bool(item.occluder)
    return result


def figures(results: Sequence[HeldOutResult]) -> dict:
    """By source, and all together: rows with the means of each method over the photos with a face."""
    sources = list(dict.fromkeys(item.source for item in results))
    return {
        "sources": {
            name: _rows([item for item in results if item.source == name or name == "all"])
            for name in (*sources, "all")
        },
        "failures": {f"{item.source}, {item.name}": item.error for item in results if item.error is not None},
    }


def _rows(results: Sequence[HeldOutResult]) -> dict[str, dict]:
    table_rows = {}
    for name, belongs in rows().items():
        mine = [item for item in results if belongs(item)]
        found = [item for item in mine if item.error is None and item.shape_mm and item.rotation_degrees]
        if not mine:
            continue
        row: dict = {"photos": len(mine), "found": len(found), "shape_mm": {}, "rotation_degrees": {}}
        if found:
            for figure in ("shape_mm", "rotation_degrees"):
                first = getattr(found[0], figure)
                row[figure] = {method: fmean(getattr(item, figure)[method] for item in found) for method in first}
        table_rows[name] = row
    return table_rows


def gain(row: dict, method: str) -> float | None:
    """Per cent of the shape's error that a method takes from the fit's; negative where it adds."""
    shape = row["shape_mm"]
    return 100.0 * (1.0 - shape[method] / shape["fit"]) if {method, "fit"} <= set(shape) else None


def page(found: dict) -> str:
    """The figures as Markdown."""
    parts = ["## Held-out heads: the fit alone, and what networks and refinement add"]
    for source, lines in found["sources"].items():
        shown = [name for name in METHODS if any(name in row["shape_mm"] for row in lines.values())]
        turned = [name for name in shown if name != "mean_face"]
        columns = ["", "faces found", *(f"{METHODS[name]}, mm" for name in shown), *GAINS.values()]
        columns += [f"{METHODS[name]}, degrees" for name in turned]
        cells = []
        for name, row in lines.items():
            line = [name, f"{row['found']} of {row['photos']}"]
            line += [f"{row['shape_mm'][method]:.3f}" if row["shape_mm"] else "" for method in shown]
            line += ["" if won is None else f"{won:+.1f} %" for won in (gain(row, method) for method in GAINS)]
            line += [f"{row['rotation_degrees'][method]:.2f}" if row["rotation_degrees"] else "" for method in turned]
            cells.append(line)
        parts.append(f"### {source}\n\n" + table(columns, cells))
    parts.append(_verdict(found["sources"].get("all", {})))
    parts += [f"* {name}: {reason}" for name, reason in found["failures"].items()]
    return "\n\n".join(parts)


def _verdict(everyone: dict[str, dict]) -> str:
    """What was wanted, and whether it was reached."""
    wanted = {f"yaw beyond {FAR_YAW:.0f}": WANTED_GAIN, "any occluder": WANTED_GAIN, "yaw 0 to 30": -WORST_LOSS}
    sentences = []
    for method in GAINS:
        said = []
        for name, least in wanted.items():
            won = gain(everyone[name], method) if name in everyone else None
            if won is not None:
                reached = "reached" if won >= least else "missed"
                said.append(f"{name} {won:+.1f} % (at least {least:+.0f} % is wanted: {reached})")
        label = METHODS[method]
        sentences.append(f"{label[0].upper()}{label[1:]}, against the fit alone, all sources: {'; '.join(said)}.")
        if not said:
            sentences[-1] = f"{label[0].upper()}{label[1:]}: not measured."
    return " ".join(sentences)
