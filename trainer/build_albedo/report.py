"""Figures and pictures of an albedo; every picture shows statistics or invented skins, never a person.

Symbols: K modes, S side of the texture, N heads.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from backend.export.eye_texture import eye_texture
from backend.export.images import jpeg_bytes
from backend.export.overlay import above_neck, head_window, window_camera
from backend.export.preview import Previewer
from backend.face_model.albedo import Albedo
from backend.face_model.model import EYES, SKIN, FaceModel
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.rendering.tone import linear_to_srgb8
from backend.rendering.viewer import over
from trainer.build_albedo.build import Built

# Pixels: width of a head's picture; texels that the albedo is enlarged to, since the preview takes the nearest one.
PANEL, ENLARGED = 200, 1024
BACKGROUND = (88, 90, 94)
QUALITY = 84
# Modes shown, at this many standard deviations; seeds of the invented people.
SHOWN, FAR = 7, 2.0
SEEDS = range(11, 23)
# Part of a head's picture above the neck that is cut off at its lower end.
LOWER_CUT = 0.04


def write_report(model: FaceModel, built: Built, folder: Path) -> None:
    """``albedo.json`` and the pictures of ``docs/albedo.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "albedo.json").write_text(json.dumps(built.figures, indent=2) + "\n", encoding="utf-8")
    save(modes_picture(model, built.albedo), folder / "albedo-modes.jpg")
    save(people_picture(model, built.albedo), folder / "albedo-people.jpg")
    save(tones_picture(model, built.albedo), folder / "albedo-tones.jpg")
    save(histogram_picture(built.figures["ita_histogram"]), folder / "albedo-ita.jpg")


def modes_picture(model: FaceModel, albedo: Albedo) -> np.ndarray:
    """The mean, and below each other the first modes added and taken away."""
    heads = Heads(model, np.asarray(model.mean, float))
    columns = []
    for mode in range(min(SHOWN, len(albedo.sigma))):
        ends = []
        for sign in (1.0, -1.0):
            coefficients = np.zeros(len(albedo.sigma))
            coefficients[mode] = sign * FAR
            ends.append(heads.draw(albedo.albedo(coefficients)))
        columns.append(np.concatenate(ends))
    mean = heads.draw(albedo.mean)
    blank = np.full_like(mean, BACKGROUND)
    return np.concatenate([np.concatenate([mean, blank]), *columns], axis=1)


def people_picture(model: FaceModel, albedo: Albedo) -> np.ndarray:
    """Invented people: shape and skin of each from one seed, seen a little from the side."""
    pictures = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        vertices = model.vertices(rng.normal(0.0, 0.8, len(model.identity)))
        skin = albedo.albedo(albedo.draw(rng, 1)[0])
        pictures.append(Heads(model, vertices, yaw=-20.0 if seed % 2 else 20.0).draw(skin))
    half = len(pictures) // 2
    return np.concatenate([np.concatenate(row, axis=1) for row in (pictures[:half], pictures[half:])])


def tones_picture(model: FaceModel, albedo: Albedo) -> np.ndarray:
    """The mean skin of tones from the darkest to the lightest, in even steps of their typology angle."""
    heads = Heads(model, np.asarray(model.mean, float))
    chosen = albedo.tone_curve[np.linspace(0, len(albedo.tones) - 1, 8).round().astype(int)]
    return np.concatenate([heads.draw(albedo.albedo(each)) for each in chosen], axis=1)


class Heads:
    """Draws one head in any skin."""

    def __init__(self, model: FaceModel, vertices: np.ndarray, yaw: float = 0.0) -> None:
        self.previewer = Previewer(model, vertices)
        shown = np.asarray(vertices, float)[above_neck(model, vertices)]
        rotation = rotation_from_head_euler(yaw=yaw)
        away = np.array([0.0, 0.0, 1.6]) - rotation @ ((shown.min(axis=0) + shown.max(axis=0)) / 2.0)
        camera = Camera(intrinsics(2000.0, PANEL, PANEL), rotation, away, PANEL, PANEL)
        self.camera = window_camera(camera, head_window(camera.project(shown)))
        radius = model.info.extra.get("iris_radius_uv")
        self.eyes = {} if radius is None else {EYES: eye_texture(512, iris_radius=float(radius))}

    def draw(self, albedo: np.ndarray) -> np.ndarray:
        """(S, S, 3) linear -> a picture :data:`PANEL` pixels wide."""
        large = cv2.resize(albedo, (ENLARGED, ENLARGED), interpolation=cv2.INTER_CUBIC)
        seen = self.previewer.draw(self.camera, {SKIN: linear_to_srgb8(large), **self.eyes})
        picture = over(seen, np.full((*seen.shape[:2], 3), BACKGROUND, np.uint8))
        height = round(PANEL * picture.shape[0] / picture.shape[1])
        small = cv2.resize(picture, (PANEL, height), interpolation=cv2.INTER_AREA)
        return small[: round(height * (1.0 - LOWER_CUT))]


def histogram_picture(histogram: dict) -> np.ndarray:
    """Three rows of bars over the typology angle: the people, the skins that were lent, and invented ones."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    edges = np.array(histogram["edges"])
    figure, axes = plt.subplots(1, 3, figsize=(9.0, 2.3), sharex=True, sharey=True, dpi=100)
    titles = {"people": "photographed", "lent": "after lending tones", "drawn": "1000 invented skins"}
    for axis, (name, title) in zip(axes, titles.items()):
        axis.bar(edges[:-1], histogram[name], width=10.0, align="edge", color="#a8745a", edgecolor="white")
        axis.set_title(title, fontsize=10)
        axis.set_xlim(90, -90)
        axis.set_xlabel("ITA, degrees (light to dark)", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[0].set_ylabel("part of the skins", fontsize=8)
    figure.tight_layout()
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]
    plt.close(figure)
    return pixels


def save(picture: np.ndarray, path: Path) -> None:
    """Write a JPEG."""
    path.write_bytes(jpeg_bytes(picture, QUALITY))
