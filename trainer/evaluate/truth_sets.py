"""People whose shape is known, and photos of them.

``meshmonk``: 45 scans-like faces in one topology of their own, painted here. ``james``: one real scan
with its own texture. ``synthetic``: people of a face model, drawn from seeds that nothing was tuned
on. ``synthetic_dev``: others, drawn from other seeds, for tuning. The first three are test material.

Symbols: V vertices, T triangles, N scan vertices.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from backend.errors import MgcFaceError
from backend.face_model.model import FaceModel
from backend.geometry.mesh import triangulate
from backend.vision.photo import Photo
from trainer.evaluate.face_paint import SKIN_TONES, Canvas, Contours, paint_face
from trainer.evaluate.now_protocol import Scan
from trainer.evaluate.truth_render import Surface, photograph, truth_camera

TRUTH_SETS = ("meshmonk", "james", "synthetic")
DEVELOPMENT_SETS = ("synthetic_dev",)

# Degrees that the head is turned in the truth renders.
YAWS = (0.0, 15.0, 30.0)

# Seeds of the invented people, far from any that a tuning script would count up to.
SYNTHETIC_SEED, SYNTHETIC_DEV_SEED = 9_100_000, 5_100_000
SYNTHETIC_PEOPLE, SYNTHETIC_SIZE = 50, 640

# Vertex numbers on the meshmonk topology, read off curvature pictures of the mean of the 45 faces (lid
# margins and lip line are where the colour changes from convex to concave). A landmark model
# registered onto six of the faces puts its own points within 2.5 mm of these.
# Order of now_protocol.LANDMARKS.
MESHMONK_LANDMARKS = np.array([1369, 2544, 4615, 5790, 3579, 2247, 4912])
MESHMONK_CONTOURS = {
    "upper_lid": [1369, 1542, 1701, 1891, 2013, 2146, 2268, 2397, 2469, 2544],
    "lower_lid": [1369, 1387, 1591, 1752, 1881, 2003, 2136, 2260, 2401, 2544],
    "brow": [1146, 1281, 1500, 1667, 1844, 2086, 2271, 2399, 2548],
    "upper_lip": [2247, 2305, 2440, 2635, 2846, 3103, 3282, 3572],
    "lip_line": [2247, 2452, 2694, 2930, 3176, 3419, 3566],
    "lower_lip": [2247, 2362, 2614, 2826, 3041, 3289, 3561],
    "nostril": [3019, 3129, 3195, 3378, 3303, 3101],
}
# How far the line from the eyes to the mouth leans out of the frontal plane, degrees, when a face looks straight
# ahead; read off the profile of the mean face.
EYE_MOUTH_LEAN = 14.0

# Distance between the outer eye corners that gives the james scan, whose unit is unknown, a plausible
# size: the adult mean (Farkas 1994, exocanthion breadth, men and women together).
OUTER_EYE_DISTANCE = 0.089

# The james file holds the 68 points group by group (chin, eyes, right brow, nose, left brow, mouth); this brings
# them into iBUG order.
JAMES_TO_IBUG68 = [*range(17), *range(29, 34), *range(43, 48), *range(34, 43), *range(17, 29), *range(48, 68)]

# iBUG-68 points behind now_protocol.LANDMARKS.
NOW_FROM_IBUG68 = [36, 39, 42, 45, 33, 48, 54]


class SetError(MgcFaceError):
    """A set is not known, or its files are not there."""

    code = "set"


@dataclass(frozen=True)
class TruthItem:
    """One photo of one known face.

    ``group`` names the row of the table it belongs to; ``scan`` is the neutral truth in metres;
    ``photo`` renders the picture when called.
    """

    set_name: str
    group: str
    name: str
    scan: Scan
    photo: Callable[[], Photo]


def truth_items(set_name: str, shared: Path, model: Callable[[], FaceModel] | None = None) -> list[TruthItem]:
    """All items of one set.

    Parameters
    ----------
    set_name : str
        One of :data:`TRUTH_SETS` or :data:`DEVELOPMENT_SETS`.
    shared : Path
        The folder that holds ``scans/``.
    model : callable, optional
        Returns the model that the invented people are drawn from; needed by the synthetic sets only.

    Raises
    ------
    SetError
    """
    if set_name == "meshmonk":
        return _meshmonk_items(_existing(shared / "scans/meshmonk/simulated_faces"))
    if set_name == "james":
        return _james_items(_existing(shared / "scans/james"))
    if set_name in ("synthetic", "synthetic_dev") and model is not None:
        seed = SYNTHETIC_SEED if set_name == "synthetic" else SYNTHETIC_DEV_SEED
        return _synthetic_items(set_name, model(), seed)
    known = ", ".join((*TRUTH_SETS, *DEVELOPMENT_SETS))
    raise SetError(f"There is no set of known faces called '{set_name}'; choose from {known}.")


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise SetError(f"The folder {folder} is missing; say with --data where the measuring material lies.")
    return folder


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V, 3), triangles (T, 3), texture coordinates (U, 2) and their indices (T, 3), in the file's unit.

    Only what the scans use: triangles, and one form of corner throughout a file. Texture indices are
    zeros where the file has none.
    """
    text = path.read_text()
    rows = {key: re.findall(rf"^{key} (.+)$", text, re.MULTILINE) for key in ("v", "vt", "f")}
    vertices = np.array(" ".join(rows["v"]).split(), np.float64).reshape(len(rows["v"]), -1)[:, :3]
    uv = np.zeros((1, 2))
    if rows["vt"]:
        uv = np.array(" ".join(rows["vt"]).split(), np.float64).reshape(len(rows["vt"]), -1)[:, :2]
    corners = " ".join(rows["f"]).split()
    first = [corner.split("/") for corner in corners]
    triangles = np.array([int(parts[0]) for parts in first]).reshape(-1, 3) - 1
    uv_triangles = np.array([int((parts[1] if len(parts) > 1 else "") or 1) for parts in first]).reshape(-1, 3) - 1
    return vertices, triangles, uv, uv_triangles


def frontal(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (3, 3) and origin (3,) that bring a face with (7, 3) NoW landmarks into a frontal frame.

    ``(x - origin) @ rotation.T`` has +X to the subject's left, +Y up, +Z out of the face.
    """
    eyes, mouth = landmarks[:4].mean(axis=0), landmarks[5:].mean(axis=0)
    left = landmarks[3] - landmarks[0]
    left = left / np.linalg.norm(left)
    up = eyes - mouth
    up = up - (up @ left) * left
    up = up / np.linalg.norm(up)
    out = np.cross(left, up)
    lean = np.radians(EYE_MOUTH_LEAN)
    true_up = np.cos(lean) * up + np.sin(lean) * out
    return np.stack([left, true_up, np.cross(left, true_up)]), (eyes + mouth) / 2.0


def _posed(vertices: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rotation, origin = frontal(landmarks)
    return (vertices - origin) @ rotation.T, (landmarks - origin) @ rotation.T


@lru_cache(maxsize=2)
def meshmonk_faces(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(45, V, 3) metres in the frontal frame, and triangles (T, 3)."""
    faces = []
    for path in sorted(folder.glob("SIMPOP_*.obj")):
        vertices, triangles, _, _ = read_obj(path)
        faces.append(_posed(vertices / 1000.0, vertices[MESHMONK_LANDMARKS] / 1000.0)[0])
    return np.array(faces), triangles


def meshmonk_people(shared: Path) -> tuple[Callable[[int], Surface], list[Scan]]:
    """The painted surface of each of the 45 faces when called with its number, and their scans."""
    return _painted_meshmonk(_existing(shared / "scans/meshmonk/simulated_faces"))


def _painted_meshmonk(folder: Path) -> tuple[Callable[[int], Surface], list[Scan]]:
    faces, triangles = meshmonk_faces(folder)
    plane = 1000.0 * faces.mean(axis=0)[:, :2]
    canvas = Canvas(plane.min(axis=0) - 1.0, plane.max(axis=0) + 1.0)
    contours = Contours(**{name: plane[indices] for name, indices in MESHMONK_CONTOURS.items()})
    corner_texel = canvas.texels(plane)[triangles]

    @lru_cache(maxsize=1)  # one person's three pictures follow each other
    def surface(person: int) -> Surface:
        rng = np.random.default_rng([45, person])
        texture = paint_face(canvas, contours, person % len(SKIN_TONES), rng)
        return Surface(faces[person], triangles, corner_texel, texture)

    return surface, [Scan(face, face[MESHMONK_LANDMARKS]) for face in faces]


def _meshmonk_items(folder: Path) -> list[TruthItem]:
    surface, scans = _painted_meshmonk(folder)

    def picture(person: int, yaw: float) -> Photo:
        camera = truth_camera(scans[person].vertices.mean(axis=0), yaw)
        return Photo(photograph(surface(person), camera, np.random.default_rng([45, person, 1])))

    return [
        TruthItem(
            "meshmonk",
            f"meshmonk, yaw {yaw:.0f}",
            f"{person + 1:02d}",
            scans[person],
            lambda person=person, yaw=yaw: picture(person, yaw),
        )
        for person in range(len(scans))
        for yaw in YAWS
    ]


def james_surface(folder: Path) -> tuple[Surface, np.ndarray]:
    """The scan at a plausible size in the frontal frame, and its 68 landmarks (68, 3)."""
    vertices, triangles, uv, uv_triangles = read_obj(folder / "james.obj")
    points = json.loads((folder / "james.ljson").read_text())["groups"]["LJSON"]["landmarks"]["points"]
    landmarks = np.array(points, np.float64)[JAMES_TO_IBUG68]
    eyes = np.linalg.norm(landmarks[36] - landmarks[45])
    scale = OUTER_EYE_DISTANCE / eyes
    rotation, origin = frontal(scale * landmarks[NOW_FROM_IBUG68])
    texture = np.asarray(Image.open(folder / "james.jpg").convert("RGB"), np.float64) / 255.0
    size = np.array([texture.shape[1], texture.shape[0]])
    texel = np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1) * size
    posed = (scale * vertices - origin) @ rotation.T
    return Surface(posed, triangles, texel[uv_triangles], texture), (scale * landmarks - origin) @ rotation.T


def _james_items(folder: Path) -> list[TruthItem]:
    surface, landmarks = james_surface(folder)
    scan = Scan(surface.vertices, landmarks[NOW_FROM_IBUG68])

    def picture(yaw: float) -> Photo:
        return Photo(photograph(surface, truth_camera(landmarks[27:].mean(axis=0), yaw), np.random.default_rng(68)))

    return [
        TruthItem("james", "james", f"yaw {yaw:+.0f}", scan, lambda yaw=yaw: picture(yaw))
        for yaw in (-30.0, -15.0, 0.0, 15.0, 30.0)
    ]


def _synthetic_items(set_name: str, model: FaceModel, first_seed: int) -> list[TruthItem]:
    """People with expressions, cameras, lights and colours of their own; the truth is their neutral face."""
    from trainer.data.painter import Painter
    from trainer.data.people import draw_person

    seen = np.unique(triangulate(model.faces)[model.triangle_material == 0])

    def item(seed: int) -> TruthItem:
        person = draw_person(model, seed, SYNTHETIC_SIZE)
        neutral = model.vertices(person.identity).astype(np.float64)
        scan = Scan(neutral[seen], model.landmark_points(neutral, "now7"))
        return TruthItem(set_name, set_name, str(seed), scan, lambda: Photo(Painter(model).paint(person, seed)))

    return [item(first_seed + offset) for offset in range(SYNTHETIC_PEOPLE)]
