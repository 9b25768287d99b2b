"""The pictures and figures of ``docs/open-head.md``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from backend.export.eye_texture import eye_texture
from backend.face_model.model import MOUTH, SKIN, FaceModel
from trainer.build_model import check, check_uv
from trainer.build_model.pictures import View, checkerboard, draw, draw_chart, hidden_sky, save
from trainer.build_model.source import Source

REGION_TONES = {
    "scalp": (0.35, 0.42, 0.60),
    "neck": (0.45, 0.62, 0.52),
    "face": (0.80, 0.78, 0.74),
    "forehead": (0.86, 0.76, 0.45),
    "cheeks": (0.88, 0.58, 0.48),
    "ears": (0.60, 0.48, 0.72),
    "nose": (0.40, 0.68, 0.78),
    "mouth": (0.78, 0.48, 0.58),
    "eyes": (0.55, 0.75, 0.45),
    "brows": (0.42, 0.30, 0.22),
    "lips": (0.75, 0.25, 0.30),
    "eyelids": (0.28, 0.50, 0.30),
}
PEOPLE_SEED = 5
EYE, LIPS = (0.031, 0.030, 0.085), (0.0, -0.040, 0.090)


def write_report(model: FaceModel, source: Source, assembly: dict, folder: Path) -> dict:
    """Write ``open-head-*.jpg`` and ``open-head.json`` into a folder and return the figures."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    draw_pictures(model, folder)
    figures = measure(model, source, assembly)
    (folder / "open-head.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def measure(model: FaceModel, source: Source, assembly: dict, samples: int = check.HELD_OUT) -> dict:
    """All figures of :mod:`trainer.build_model.check`, rounded, and the spread of the landmarks."""
    spread = model.landmarks["mediapipe478"].spread_mm
    figures = {
        "quads": check.quad_figures(model),
        "texture": check.texture_figures(model),
        "overlaps": check_uv.overlap_figures(model),
        "see_through": check.see_through(model, posed(model)),
        "lids": check.lid_figures(model, source, assembly["rotation"]),
        "reproduction_mm": check.reproduction(model, source, assembly["rotation"], samples),
        "identity": {
            "modes": len(model.identity),
            "variance_kept": float(assembly["share"][len(model.identity) - 1]),
            "modes_for_99.5_percent": int(np.searchsorted(assembly["share"], 0.995) + 1),
        },
        "mediapipe478": {
            "people_found": model.info.extra["mediapipe_people_found"],
            "spread_mm_median": float(np.median(spread)),
            "spread_mm_p90": float(np.quantile(spread, 0.9)),
            "spread_mm_max": float(spread.max()),
        },
    }
    return {part: {name: round(value, 4) for name, value in values.items()} for part, values in figures.items()}


def posed(model: FaceModel, identity: np.ndarray | None = None, **shapes: float) -> np.ndarray:
    """(V, 3) float64 vertices of a head with some shapes on."""
    expression = np.zeros(len(model.expression))
    for name, value in shapes.items():
        expression[model.expression_names.index(name)] = value
    return model.vertices(identity, expression).astype(float)


def draw_pictures(model: FaceModel, folder: Path) -> None:
    """All pictures; see ``docs/open-head.md`` for what each shows."""
    rest = posed(model)
    eyes = eye_texture(512, iris_radius=float(model.info.extra["iris_radius_uv"])) / 255.0
    front, turned, side = View(), View(yaw=-40, width=0.34), View(yaw=-90, width=0.34)

    sky: dict[bytes, np.ndarray] = {}

    def plain(vertices: np.ndarray, view: View, **options) -> np.ndarray:
        hidden = sky.setdefault(vertices.tobytes(), hidden_sky(vertices, model.triangles))
        return draw(model, vertices, view, eye_texture=eyes, hidden=hidden, **options)

    save([[plain(rest, view) for view in (front, turned, side)]], folder / "open-head-wireframe.jpg")
    close = [View(centre=EYE, width=0.065), View(centre=LIPS, width=0.085), View(-90, 0, (0.07, 0.005, -0.012), 0.095)]
    save([[plain(rest, view) for view in close]], folder / "open-head-details.jpg")
    mouth_views = [View(centre=(0, -0.03, 0), width=0.22), View(-40, 0, (0, -0.03, 0), 0.24), View(0, 20, LIPS, 0.10)]
    wide, tongue = posed(model, jawOpen=1.0), posed(model, jawOpen=0.7, tongueOut=1.0)
    smile = posed(
        model, jawOpen=0.35, mouthSmileLeft=0.8, mouthSmileRight=0.8, mouthUpperUpLeft=0.6, mouthUpperUpRight=0.6
    )
    save(
        [
            [plain(v, view, edges=0.5) for view in mouth_views[:2]] + [plain(v, mouth_views[2], edges=0)]
            for v in (wide, smile, tongue)
        ],
        folder / "open-head-mouth.jpg",
    )
    shut = posed(model, eyeBlinkLeft=1.0, eyeBlinkRight=1.0)
    lids = [View(centre=(0, 0.02, 0.08), width=0.16), View(centre=EYE, width=0.06), View(-50, 0, EYE, 0.06)]
    looks = [posed(model, eyeLookOutLeft=1, eyeLookInRight=1), posed(model, eyeLookUpLeft=1, eyeLookUpRight=1)]
    looks.append(posed(model, eyeLookDownLeft=1, eyeLookDownRight=1))
    save(
        [[plain(shut, view, edges=0.6) for view in lids], [plain(v, lids[0], edges=0) for v in looks]],
        folder / "open-head-eyes.jpg",
    )
    board = checkerboard()
    save(
        [
            [draw_chart(model, name, 540) for name in (SKIN, MOUTH)],
            [draw(model, rest, v, edges=0, texture=board, eye_texture=eyes) for v in (front, turned)],
        ],
        folder / "open-head-texture.jpg",
    )
    tones = np.tile([0.7, 0.7, 0.7], (model.vertex_count, 1))
    for name, tone in REGION_TONES.items():
        tones[model.regions[name]] = tone
    save(
        [[draw(model, rest, view, tones=tones, edges=0) for view in (front, turned, side)]],
        folder / "open-head-regions.jpg",
    )
    save(
        [[draw(model, rest, front, edges=0.3, marks=e.points(rest), eye_texture=eyes) for e in landmark_sets(model)]],
        folder / "open-head-landmarks.jpg",
    )
    generator = np.random.default_rng(PEOPLE_SEED)
    rows = []
    for _ in range(2):
        people = [posed(model, generator.standard_normal(len(model.identity))) for _ in range(4)]
        rows.append([draw(model, v, View(yaw=-20, width=0.33), 400, edges=0, eye_texture=eyes) for v in people])
    save(rows, folder / "open-head-people.jpg")


def landmark_sets(model: FaceModel) -> list:
    """The embeddings in the order of the picture."""
    return [model.landmarks[name] for name in ("mediapipe478", "ibug68", "now7")]
