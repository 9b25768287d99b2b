"""Invented people: who they are, what their face does, where the camera stands, how it looks.

Everything is drawn from a seeded generator, so that a person is a seed and sets with different seeds
never meet. Used to measure what detectors do to faces of known shape.

Symbols: V vertices, I identity modes, E expressions, H, W image size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from backend.face_model.model import EYES, MOUTH, FaceModel
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.mesh import vertex_normals
from backend.geometry.rotation import rotation_from_head_euler
from backend.reconstruction.priors import symmetric_pairs
from backend.rendering.rasterize import interpolate, rasterize
from backend.rendering.tone import linear_to_srgb

# Spread of identity coefficients among the people drawn, in standard deviations of the model.
IDENTITY_SIGMA = 0.8

# Linear RGB albedo of the darkest and lightest skin drawn; the tones between lie on a curve that
# bends towards red, as melanin and blood do. Read off colour charts of human skin.
DARK_SKIN = np.array([0.045, 0.025, 0.017])
LIGHT_SKIN = np.array([0.72, 0.50, 0.40])

# Mean linear brightness that a camera's meter aims at for a face, and how much of the difference it closes.
METERED, METERING = 0.3, 0.6

# Iris and limbus on the eyeball, as the angle from its front (adult cornea 11.7 mm wide on a 24 mm ball).
IRIS_ANGLE, PUPIL_ANGLE = np.radians(29.0), np.radians(10.0)


@dataclass(frozen=True)
class Person:
    """One invented person in front of one camera: ``vertices`` as photographed, model space."""

    identity: np.ndarray
    expression: np.ndarray
    vertices: np.ndarray
    camera: Camera


def draw_expression(model: FaceModel, rng: np.random.Generator) -> np.ndarray:
    """(E,) coefficients in [0, 1]: a third at rest, the others with a few, mostly symmetric, movements."""
    count = len(model.expression_names)
    values = np.zeros(count)
    if rng.random() < 0.33:
        return values
    partner = {a: b for pair in symmetric_pairs(model.expression_names) for a, b in (pair, pair[::-1])}
    for shape in rng.choice(count, rng.integers(1, 7), replace=False):
        strength = rng.beta(1.2, 2.0)
        values[shape] = strength
        if shape in partner and rng.random() < 0.85:
            values[partner[shape]] = np.clip(strength + rng.normal(0.0, 0.06), 0.0, 1.0)
    return without_contradictions(model, values)


def without_contradictions(model: FaceModel, values: np.ndarray) -> np.ndarray:
    """Lips cannot close over a jaw that is shut, eyes not look up and down: keep the stronger one."""
    index = {name: position for position, name in enumerate(model.expression_names)}
    rivals = [("jawLeft", "jawRight"), ("mouthLeft", "mouthRight"), ("mouthFunnel", "mouthPucker")]
    for side in ("Left", "Right"):
        rivals += [("eyeLookUp" + side, "eyeLookDown" + side), ("eyeLookIn" + side, "eyeLookOut" + side)]
        rivals += [("eyeBlink" + side, "eyeWide" + side), ("mouthSmile" + side, "mouthFrown" + side)]
    for a, b in rivals:
        if a in index and b in index:
            weaker = min(index[a], index[b], key=lambda position: values[position])
            values[weaker] = 0.0
    if "mouthClose" in index:
        values[index["mouthClose"]] = min(values[index["mouthClose"]], values[index["jawOpen"]])
    return values


def draw_camera(rng: np.random.Generator, size: int, yaw_sigma: float = 22.0) -> Camera:
    """A camera that looks at the head from 0.25 to 3 m, the face filling half to most of the picture."""
    yaw = rng.uniform(-65, 65) if rng.random() < 0.25 else rng.normal(0.0, yaw_sigma)
    rotation = rotation_from_head_euler(yaw, rng.normal(0.0, 10.0), rng.normal(0.0, 8.0))
    distance = float(np.exp(rng.normal(np.log(0.8), 0.6)).clip(0.25, 3.0))
    pixels_per_metre = size * rng.uniform(0.5, 0.75) / 0.2
    offset = rng.uniform(-0.02, 0.02, 2)
    translation = np.array([offset[0], offset[1], distance]) - rotation @ np.array([0.0, 0.0, 0.05])
    return Camera(intrinsics(pixels_per_metre * distance, size, size), rotation, translation, size, size)


def draw_person(model: FaceModel, seed: int, size: int = 320, neutral: bool = False) -> Person:
    """The person that belongs to a seed."""
    rng = np.random.default_rng(seed)
    identity = rng.normal(0.0, IDENTITY_SIGMA, len(model.identity))
    expression = np.zeros(len(model.expression)) if neutral else draw_expression(model, rng)
    camera = draw_camera(rng, size)
    return Person(identity, expression, model.vertices(identity, expression), camera)


class Painter:
    """Paints people plainly: skin of every tone with lips, brows and scalp, eyes, soft light, a background.

    No hair, no pores: enough for a landmark detector to see a face, and nothing borrowed from anyone.
    """

    def __init__(self, model: FaceModel) -> None:
        self.model = model
        self.triangles = torch.as_tensor(model.triangles)
        self.material = model.triangle_material
        self.eye_direction = self._eye_directions()

    def _eye_directions(self) -> np.ndarray:
        """(V, 3) unit vectors from the eyeball's centre on the mean head; zero off the eyes."""
        model = self.model
        result = np.zeros_like(model.mean)
        if EYES not in model.materials:
            return result
        used = np.unique(model.triangles[model.triangle_material == model.materials.index(EYES)])
        for side in (used[model.mean[used, 0] > 0], used[model.mean[used, 0] < 0]):
            ball = model.mean[side]
            centre = (ball.max(axis=0) + ball.min(axis=0)) / 2
            direction = ball - centre
            result[side] = direction / np.linalg.norm(direction, axis=1, keepdims=True)
        return result

    def albedo(self, rng: np.random.Generator) -> np.ndarray:
        """(V, 3) linear RGB of the skin and mouth of one person."""
        model = self.model
        tone = rng.uniform()
        skin = DARK_SKIN * (LIGHT_SKIN / DARK_SKIN) ** tone * rng.normal(1.0, 0.06, 3)
        colour = np.tile(skin, (model.vertex_count, 1))
        waves = rng.normal(0.0, 1.0, (3, 8))
        mottle = np.cos(model.mean @ rng.normal(0.0, 60.0, (3, 8)) + rng.uniform(0, 6.28, 8)) @ waves.T
        colour *= 1.0 + 0.02 * mottle
        masks = model.regions
        none = np.zeros(model.vertex_count, bool)
        lips = masks.get("lips", none)
        colour[lips] *= np.array([rng.uniform(0.7, 1.0), rng.uniform(0.45, 0.75), rng.uniform(0.45, 0.8)])
        hair = rng.uniform(0.01, 0.25) * np.array([1.0, rng.uniform(0.6, 0.9), rng.uniform(0.3, 0.7)])
        strength = rng.uniform(0.3, 0.95)
        brows = masks.get("brows", none)
        colour[brows] += strength * (np.minimum(hair, skin) - colour[brows])
        if rng.random() < 0.8:
            colour[masks.get("scalp", none)] = hair
        if MOUTH in model.materials:
            inside = np.unique(model.triangles[model.triangle_material == model.materials.index(MOUTH)])
            colour[inside] = np.array([0.10, 0.02, 0.02])
        return colour.clip(0.0, 1.0)

    def paint(self, person: Person, seed: int) -> np.ndarray:
        """(H, W, 3) uint8 sRGB picture of a person."""
        rng = np.random.default_rng([seed, 1])
        model, camera = self.model, person.camera
        points = torch.as_tensor(camera.to_camera(person.vertices.astype(np.float64)), dtype=torch.float32)
        pixels = torch.as_tensor(camera.project(person.vertices.astype(np.float64)), dtype=torch.float32)
        image = torch.cat([pixels, points[:, 2:]], dim=1)[None]
        fragments = rasterize(image, self.triangles, camera.height, camera.width)
        normals = vertex_normals(person.vertices.astype(np.float64), model.triangles)
        attributes = np.concatenate([self.albedo(rng), normals, self.eye_direction], axis=1)
        values = interpolate(torch.as_tensor(attributes, dtype=torch.float32)[None], fragments, self.triangles)
        values = values[0].numpy()
        triangle = fragments.triangle[0].numpy()
        albedo = self.with_eyes(values, triangle, rng)
        lit = albedo * light(values[..., 3:6], rng)[..., None]
        # A camera meters the face, but only part of the way: dark skin still comes out darker.
        metered = (METERED / lit[triangle >= 0].mean()) ** METERING if (triangle >= 0).any() else 1.0
        lit = lit * metered * rng.uniform(0.7, 1.4)
        picture = np.where((triangle >= 0)[..., None], lit, background(triangle.shape, rng))
        noise = rng.normal(0.0, rng.uniform(0.0, 0.01), picture.shape)
        return (255.0 * (linear_to_srgb(picture) + noise)).clip(0.0, 255.0).astype(np.uint8)

    def with_eyes(self, values: np.ndarray, triangle: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Albedo picture with sclera, iris and pupil drawn by the angle from the eyeball's front."""
        albedo = values[..., :3]
        if EYES not in self.model.materials:
            return albedo
        on_eye = (triangle >= 0) & (self.material[triangle] == self.model.materials.index(EYES))
        direction = values[..., 6:9]
        angle = np.arccos((direction[..., 2] / np.linalg.norm(direction, axis=-1).clip(1e-6)).clip(-1.0, 1.0))
        iris = rng.uniform(0.02, 0.25) * np.array([1.0, rng.uniform(0.6, 1.0), rng.uniform(0.3, 1.4)])
        white = rng.uniform(0.5, 0.75) * np.array([1.0, 0.95, 0.92])
        eye = np.where((angle < IRIS_ANGLE)[..., None], iris, white)
        eye = np.where((angle < PUPIL_ANGLE)[..., None], 0.01, eye)
        return np.where(on_eye[..., None], eye, albedo)


def light(normals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) normals in model space -> (H, W) irradiance: ambient and two soft directional lights."""
    length = np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-6)
    total = np.full(normals.shape[:2], rng.uniform(0.25, 0.6))
    for strength in (rng.uniform(0.3, 0.9), rng.uniform(0.0, 0.4)):
        direction = np.array([rng.normal(0.0, 0.6), rng.normal(0.5, 0.5), 1.0])
        direction /= np.linalg.norm(direction)
        # Wrapped diffuse: a light of some size reaches a little past the terminator.
        total += strength * ((normals / length) @ direction * 0.8 + 0.2).clip(0.0)
    return total


def background(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) linear gradient between two random colours."""
    rows = np.linspace(0.0, 1.0, shape[0])[:, None, None]
    return (1.0 - rows) * rng.uniform(0.0, 0.9, 3) + rows * np.ones((1, shape[1], 1)) * rng.uniform(0.0, 0.9, 3)
