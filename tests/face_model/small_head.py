"""A small head that the tests make: an egg with a nose, two eyeballs and a mouth plate."""

from __future__ import annotations

import numpy as np

from backend.face_model.adapters.layout import azimuthal_eye_uv, cylindrical_uv, mirror_pairs
from backend.face_model.embedding import embed_vertices, with_now7
from backend.face_model.model import EYES, MOUTH, SKIN, Embedding, FaceModel, ModelInfo
from backend.geometry.mesh import triangulate


def grid_sphere(columns: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit sphere of quads with triangles at the poles (+Y and -Y), outward faces."""
    around = np.arange(columns) * 2 * np.pi / columns
    down = np.linspace(0, np.pi, rows + 1)[1:-1]
    ring = np.stack([np.sin(around), np.zeros(columns), np.cos(around)], axis=1)
    body = [ring * np.sin(angle) + [0, np.cos(angle), 0] for angle in down]
    points = np.concatenate([*body, [[0, 1, 0], [0, -1, 0]]])
    top, bottom = len(points) - 2, len(points) - 1
    faces = []
    for row in range(rows - 2):
        for column in range(columns):
            right = (column + 1) % columns
            upper, lower = row * columns, (row + 1) * columns
            faces.append([upper + column, lower + column, lower + right, upper + right])
    for column in range(columns):
        right = (column + 1) % columns
        faces.append([top, column, right, -1])
        faces.append([bottom, (rows - 2) * columns + right, (rows - 2) * columns + column, -1])
    return points, np.array(faces, np.int32)


def head_mesh() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices in metres, faces, and the material of each face (0 skin, 1 mouth, 2 eyes)."""
    skin, skin_faces = grid_sphere(32, 24)
    nose = np.exp(-((skin[:, 0] / 0.2) ** 2) - ((skin[:, 1] + 0.05) / 0.2) ** 2) * (skin[:, 2] > 0)
    skin = skin * [0.075, 0.11, 0.09] + nose[:, None] * [0, 0, 0.025]
    ball, ball_faces = grid_sphere(12, 8)
    pieces, faces, material = [skin], [skin_faces], [np.zeros(len(skin_faces), np.uint8)]
    plate = np.array([[-0.02, -0.05, 0.06], [0.02, -0.05, 0.06], [0.02, -0.04, 0.06], [-0.02, -0.04, 0.06]])
    for piece, own, slot in (
        (plate, np.array([[0, 1, 2, 3]]), 1),
        (ball * 0.013 + [0.03, 0.035, 0.07], ball_faces, 2),
        (ball * 0.013 + [-0.03, 0.035, 0.07], ball_faces, 2),
    ):
        offset = sum(map(len, pieces))
        faces.append(np.where(own < 0, -1, own + offset))
        material.append(np.full(len(own), slot, np.uint8))
        pieces.append(piece)
    return np.concatenate(pieces), np.concatenate(faces).astype(np.int32), np.concatenate(material)


def build_head(seed: int = 0, name: str = "open-head") -> FaceModel:
    """A complete model of some 900 vertices; the same seed gives the same model."""
    rng = np.random.default_rng(seed)
    mean, faces, material = head_mesh()
    layouts = [
        cylindrical_uv(mean, faces[material == 0]),
        (np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32), np.array([[0, 1, 2, 3]], np.int32)),
        azimuthal_eye_uv(mean, faces[material == 2]),
    ]
    offsets = np.cumsum([0, *(len(uv) for uv, _ in layouts)])
    face_uv = np.concatenate([np.where(own < 0, -1, own + at) for (_, own), at in zip(layouts, offsets)])
    front = np.flatnonzero((mean[:, 2] > 0.03) & (np.abs(mean[:, 1]) < 0.09) & (np.arange(len(mean)) < 738))
    ibug = embed_vertices(rng.choice(front, 68, replace=False), triangulate(faces))
    on_skin = triangulate(faces[material == 0])
    on_skin = on_skin[(mean[on_skin][:, :, 2] > 0.03).all(axis=1)]
    weights = rng.dirichlet([1, 1, 1], 478).astype(np.float32)
    dense = Embedding(rng.choice(on_skin, 478).astype(np.int32), weights, rng.uniform(0, 3, 478).astype(np.float32))
    phases = rng.normal(size=(9, 3, 3))
    waves = np.sin(np.einsum("mij,vj->mvi", phases, mean * 40)).astype(np.float32)
    expression = waves[5:] * 0.01
    # The last expression opens the jaw: what lies below the mouth drops.
    expression[3] = 0
    expression[3, :, 1] = np.where(mean[:, 1] < -0.045, -0.03, 0)
    return FaceModel(
        info=ModelInfo(name, "1", "CC0-1.0", True, "Anything goes.", "Made by a test.", {"iris_radius_uv": 0.1}),
        mean=mean.astype(np.float32),
        identity=waves[:5] * np.float32(0.004),
        expression=expression,
        expression_names=("eyeBlinkLeft", "eyeBlinkRight", "mouthLeft", "jawOpen"),
        faces=faces,
        uv=np.concatenate([uv for uv, _ in layouts]).astype(np.float32),
        face_uv=face_uv.astype(np.int32),
        face_material=material,
        materials=(SKIN, MOUTH, EYES),
        regions={"face": mean[:, 2] > 0, "nose": mean[:, 2] > 0.1, "neck": mean[:, 1] < -0.09},
        landmarks=with_now7({"ibug68": ibug, "mediapipe478": dense}),
        mirror=mirror_pairs(mean),
    )
