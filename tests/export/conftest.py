"""A small invented head: every export test builds on it, no file needed.

Skin and mouth are one quad sphere (the mouth is a patch of it), the eyes are two small spheres, one of
their faces a triangle so that triangles are met too. Offsets are made from smooth functions, so that the
52 shapes differ, move only a part of the head, and one of them moves nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.face_model.model import Embedding, FaceModel, ModelInfo
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.mesh import NO_CORNER, triangulate
from backend.geometry.rotation import rotation_from_head_euler
from backend.reconstruction.result import FitReport, Reconstruction, Texture

# Apple's ARKit blend-shape names (ARFaceAnchor.BlendShapeLocation).
ARKIT = tuple(
    """browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft
    cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight
    eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft
    eyeWideRight jawForward jawLeft jawOpen jawRight mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft
    mouthFrownRight mouthFunnel mouthLeft mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight
    mouthPucker mouthRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft
    mouthSmileRight mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight noseSneerLeft
    noseSneerRight tongueOut""".split()
)
# The shape that moves nothing, as tongueOut does on a head without a tongue.
STILL = ARKIT.index("tongueOut")
HEAD_RADII = np.array([0.075, 0.11, 0.09])


def quad_sphere(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Unit vertices (V, 3), quads (F, 4), uv (U, 2), face_uv (F, 4); a seam runs down the back, poles are open."""
    polar = np.linspace(0.05, np.pi - 0.05, rows)
    around = np.linspace(0.0, 2.0 * np.pi, columns, endpoint=False)
    theta, phi = np.meshgrid(polar, around, indexing="ij")
    vertices = np.stack([-np.sin(theta) * np.sin(phi), np.cos(theta), -np.sin(theta) * np.cos(phi)], axis=-1)
    row, column = (index.ravel() for index in np.indices((rows - 1, columns)))
    steps = [(0, 0), (1, 0), (1, 1), (0, 1)]
    faces = np.stack([(row + r) * columns + (column + c) % columns for r, c in steps], axis=1)
    face_uv = np.stack([(row + r) * (columns + 1) + column + c for r, c in steps], axis=1)
    u, v = np.meshgrid(np.linspace(0, 1, columns + 1), 1.0 - polar / np.pi)
    return vertices.reshape(-1, 3), faces, np.stack([u, v], axis=-1).reshape(-1, 2), face_uv


def make_model(rows: int = 25, columns: int = 32) -> FaceModel:
    """V = rows * columns + 2 * 96 vertices."""
    unit, faces, uv, face_uv = quad_sphere(rows, columns)
    eye, eye_faces, eye_uv, eye_face_uv = quad_sphere(8, 12)
    eye_centres = [np.array([side * 0.03, 0.03, 0.075]) for side in (1, -1)]
    head = unit * HEAD_RADII
    mean = np.concatenate([head, *(eye * 0.012 + centre for centre in eye_centres)])
    offsets = [len(head), len(head) + len(eye)]
    all_faces = np.concatenate([faces, *(eye_faces + offset for offset in offsets)])
    all_face_uv = np.concatenate([face_uv, *(eye_face_uv + len(uv) for _ in offsets)])
    all_faces[-1, 3] = all_face_uv[-1, 3] = NO_CORNER
    middle = head[faces].mean(axis=1)
    mouth = (np.abs(middle[:, 0]) < 0.025) & (np.abs(middle[:, 1] + 0.045) < 0.015) & (middle[:, 2] > 0)
    material = np.concatenate([mouth.astype(np.uint8), np.full(2 * len(eye_faces), 2, np.uint8)])
    teeth = np.zeros(len(mean), bool)
    teeth[faces[mouth][: mouth.sum() // 2].ravel()] = True
    return FaceModel(
        info=ModelInfo("test-head", "1.0", "CC0-1.0", True, "Free for any use.", "Invented for tests."),
        mean=mean.astype(np.float32),
        identity=identity_shapes(mean),
        expression=expression_shapes(mean, len(head)),
        expression_names=ARKIT,
        faces=all_faces.astype(np.int32),
        uv=np.concatenate([uv, eye_uv]).astype(np.float32),
        face_uv=all_face_uv.astype(np.int32),
        face_material=material,
        materials=("skin", "mouth", "eyes"),
        regions={"teeth": teeth, "face": mean[:, 2] > 0.03},
        landmarks=landmark_sets(all_faces, mean),
    )


def identity_shapes(mean: np.ndarray, count: int = 6) -> np.ndarray:
    """(I, V, 3) float32: stretches and waves of a few millimetres."""
    waves = [np.sin(mean * (20.0 + 7.0 * k) + k) for k in range(count)]
    return (np.stack(waves) * 0.002).astype(np.float32)


def expression_shapes(mean: np.ndarray, head_count: int) -> np.ndarray:
    """(52, V, 3) float32: each a bump of a centimetre somewhere on the face; only the eye shapes move eyes."""
    rng = np.random.default_rng(52)
    shapes = np.zeros((len(ARKIT), *mean.shape), np.float32)
    for index, name in enumerate(ARKIT):
        if index == STILL:
            continue
        centre = np.array([rng.uniform(-0.05, 0.05), rng.uniform(-0.08, 0.05), 0.08])
        fall = np.exp(-((mean - centre) ** 2).sum(axis=1) / (2 * 0.02**2))
        fall[fall < 0.02] = 0.0
        if not name.startswith("eyeLook"):
            fall[head_count:] = 0.0
        shapes[index] = fall[:, None] * rng.uniform(-0.01, 0.01, 3)
    return shapes


def landmark_sets(faces: np.ndarray, mean: np.ndarray) -> dict[str, Embedding]:
    """iBUG 68 on triangles at the front of the head; MediaPipe's set is left out on purpose."""
    triangles = triangulate(faces)
    front = np.flatnonzero(mean[triangles][:, :, 2].min(axis=1) > 0.02)
    lowest = front[mean[triangles[front]][:, :, 1].mean(axis=1).argmin()]
    front = front[:68].copy()
    # Point 8 is the chin; nothing else here depends on which point is where.
    front[8] = lowest
    weights = np.random.default_rng(68).dirichlet(np.ones(3), 68).astype(np.float32)
    return {"ibug68": Embedding(triangles[front], weights)}


def make_reconstruction(model: FaceModel, texture: bool = True, size: int = 64) -> Reconstruction:
    """A turned head in a 640x480 photo, half smiling."""
    rng = np.random.default_rng(1)
    expression = np.clip(rng.normal(0.0, 0.3, len(model.expression_names)), 0, 1).astype(np.float32)
    rotation = rotation_from_head_euler(20.0, -8.0, 5.0)
    camera = Camera(intrinsics(900.0, 640, 480), rotation, np.array([0.02, -0.01, 0.7]), 640, 480)
    vertices = model.vertices(expression=expression)
    points = camera.project(model.landmark_points(vertices, "ibug68")) + rng.normal(0, 0.5, (68, 2))
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    color = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], np.uint8(120)), axis=-1)
    return Reconstruction(
        model=model,
        photo_path=Path("photos/astronaut.jpg"),
        photo_width=640,
        photo_height=480,
        camera=camera,
        identity=rng.normal(0, 1, len(model.identity)).astype(np.float32),
        expression=expression,
        landmarks={"ibug68": points.astype(np.float32)},
        fit=FitReport(1.25, 0.011, 0.009, np.full(len(model.identity), 0.4, np.float32), 9, True),
        texture=Texture(color, np.full((size, size), 200, np.uint8)) if texture else None,
        timings_ms={"decode": 4.0, "fit": 31.5},
        offset=rng.normal(0, 1e-4, model.mean.shape).astype(np.float32),
    )


@pytest.fixture(scope="session")
def model() -> FaceModel:
    return make_model()


@pytest.fixture(scope="session")
def reconstruction(model: FaceModel) -> Reconstruction:
    return make_reconstruction(model)


@pytest.fixture(scope="session")
def photo_pixels() -> np.ndarray:
    """(480, 640, 3) uint8: soft stripes, so that a blend shows."""
    y, x = np.mgrid[0:480, 0:640]
    return np.stack([x % 256, y % 256, (x + y) % 256], axis=-1).astype(np.uint8)


@pytest.fixture(scope="session")
def reconstruct_with():
    """A function (model, texture, size) -> Reconstruction, for tests that bring a model of their own."""
    return make_reconstruction
