"""Invented people: who they are, what their face does, where the camera stands.

Everything is drawn from a seeded generator, so that a person is a seed and sets with different seeds
never meet. Used to measure what detectors do to faces of known shape.

Symbols: V vertices, I identity modes, E expressions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from backend.face_model.model import FaceModel
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.reconstruction.priors import symmetric_pairs

# Spread of identity coefficients among the people drawn, in standard deviations of the model.
IDENTITY_SIGMA = 0.8

# What the camera of a drawn person looks at, model space, metres.
LOOKED_AT = np.array([0.0, 0.0, 0.05])

# Movements that come together: of a photo that shows one of them, the shapes and how strong at most.
TOGETHER = (
    {"mouthSmile": 1.0, "cheekSquint": 0.7, "eyeSquint": 0.5, "mouthDimple": 0.5, "mouthUpperUp": 0.5, "jawOpen": 0.25},
    {"mouthSmile": 0.6, "mouthDimple": 0.4, "mouthPress": 0.3, "cheekSquint": 0.3},
    {"browOuterUp": 1.0, "browInnerUp": 1.0, "eyeWide": 0.8, "jawOpen": 0.6},
    {"browDown": 0.9, "eyeSquint": 0.5, "mouthPress": 0.6, "noseSneer": 0.4},
    {"mouthFrown": 0.7, "mouthShrugLower": 0.5, "browInnerUp": 0.6, "mouthRollLower": 0.3},
)


@dataclass(frozen=True)
class Person:
    """One invented person in front of one camera: ``vertices`` as photographed, model space."""

    identity: np.ndarray
    expression: np.ndarray
    vertices: np.ndarray
    camera: Camera


def draw_expression(model: FaceModel, rng: np.random.Generator) -> np.ndarray:
    """(E,) coefficients in [0, 1]: at rest, or smiling and the like, or with a few movements of any kind."""
    count = len(model.expression_names)
    values = np.zeros(count)
    kind = rng.random()
    if kind < 0.33:
        return values
    if kind < 0.6:
        most = TOGETHER[rng.integers(len(TOGETHER))]
        strength, part = rng.beta(2.0, 1.5), {name: rng.uniform(0.0, 1.0) for name in most}
        for shape, name in enumerate(model.expression_names):
            for stem, limit in most.items():
                if name.startswith(stem):
                    values[shape] = np.clip(strength * limit * part[stem] * rng.normal(1.0, 0.1), 0.0, 1.0)
        return without_contradictions(model, values)
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
    translation = np.array([offset[0], offset[1], distance]) - rotation @ LOOKED_AT
    return Camera(intrinsics(pixels_per_metre * distance, size, size), rotation, translation, size, size)


def draw_person(model: FaceModel, seed: int, size: int = 320, neutral: bool = False) -> Person:
    """The person that belongs to a seed."""
    rng = np.random.default_rng(seed)
    identity = rng.normal(0.0, IDENTITY_SIGMA, len(model.identity))
    expression = np.zeros(len(model.expression)) if neutral else draw_expression(model, rng)
    camera = draw_camera(rng, size)
    return Person(identity, expression, model.vertices(identity, expression), camera)


def turned(person: Person, R: np.ndarray) -> Person:
    """The same before the same camera at the same place, the head turned to (3, 3) ``R``."""
    camera = person.camera
    place = camera.t + camera.R @ LOOKED_AT - R @ LOOKED_AT
    return replace(person, camera=replace(camera, R=R, t=place))
