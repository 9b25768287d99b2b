"""Where the landmark sets lie on the default head.

iBUG's 68 points come from the source's own list, NoW's seven are seven of them. MediaPipe's 478 are
measured: many invented people are rendered, MediaPipe finds its points in the pictures, every point is
carried to the surface that its pixel shows and from there to the mean head, and the median over people
is kept.

Symbols: V vertices, T triangles, L landmarks, P people.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from scipy.optimize import linear_sum_assignment

from backend.face_model.model import EYES, MOUTH, SKIN, Embedding, FaceModel
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.mesh import vertex_normals
from backend.geometry.rotation import rotation_from_head_euler
from backend.rendering.rasterize import interpolate, rasterize
from trainer.build_model.shrinkwrap import closest_on_surface

# NoW's points among the 68: outer and inner corner of the right eye, inner and outer of the left, below
# the nose, corners of the mouth.
NOW7_OF_68 = (36, 39, 42, 45, 33, 48, 54)

PEOPLE, SEED = 120, 20250
IDENTITY_SPREAD = 0.8
PICTURE, DISTANCE = 640, 0.75
IRIS_POINTS = range(468, 478)
# MediaPipe's inner lip contour; measured on people with the mouth ajar, where upper and lower lip part.
INNER_LIPS = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415)
# A point further than this from the surface it belongs to is not counted for that person, pixels.
FARTHEST_SNAP = 14.0

SKIN_COLOUR, LIP_COLOUR, BROW_COLOUR = (0.80, 0.60, 0.50), (0.66, 0.36, 0.34), (0.30, 0.21, 0.17)
WHITE, IRIS_COLOUR, PUPIL_COLOUR, MOUTH_COLOUR = (
    (0.93, 0.92, 0.90),
    (0.33, 0.22, 0.14),
    (0.04, 0.03, 0.03),
    (0.28, 0.1, 0.1),
)
PUPIL_SHARE = 0.38


def closest_embedding(model: FaceModel, targets: np.ndarray, allowed: np.ndarray, spread=None) -> Embedding:
    """The points of some triangles, (T,) bool, that lie nearest to targets (L, 3) on the mean head."""
    triangles = model.triangles[allowed]
    index, barycentric, _ = closest_on_surface(targets, model.mean.astype(float), triangles)
    return Embedding(triangles[index].astype(np.int32), barycentric.astype(np.float32), spread)


def ibug68(model: FaceModel, targets: np.ndarray) -> Embedding:
    """The source's 68 points, (68, 3) on its mean, on our skin."""
    return closest_embedding(model, targets, model.triangle_material == model.materials.index(SKIN))


def now7(points68: Embedding) -> Embedding:
    """NoW's order, see :data:`NOW7_OF_68`."""
    rows = list(NOW7_OF_68)
    return Embedding(points68.corners[rows], points68.barycentric[rows])


def portrait_camera(yaw: float, pitch: float, roll: float, size: int = PICTURE, distance: float = DISTANCE) -> Camera:
    """A camera that sees the whole face, angles in degrees."""
    rotation = rotation_from_head_euler(yaw, pitch, roll)
    centre = np.array([0.0, 0.0, 0.07])
    return Camera(
        intrinsics(2.3 * size, size, size), rotation, np.array([0.0, 0.0, distance]) - rotation @ centre, size, size
    )


def vertex_colours(model: FaceModel) -> np.ndarray:
    """(V, 3) sRGB-like colours of a made-up portrait."""
    colours = np.tile(np.array(SKIN_COLOUR), (model.vertex_count, 1))
    colours[model.regions["lips"]] = LIP_COLOUR
    colours[model.regions["brows"]] = BROW_COLOUR
    for name, colour in ((MOUTH, MOUTH_COLOUR), (EYES, WHITE)):
        colours[np.unique(model.faces[model.face_material == model.materials.index(name)])] = colour
    if "teeth" in model.regions:
        colours[model.regions["teeth"]] = WHITE
    return colours


def portrait(model: FaceModel, vertices: np.ndarray, camera: Camera, colours: np.ndarray, tint: float):
    """A shaded picture (H, W, 3) uint8 with the triangle (H, W) and weights (H, W, 3) behind each pixel."""
    triangles = torch.as_tensor(model.triangles.astype(np.int64))
    inside = camera.to_camera(vertices)
    image = np.column_stack([camera.project(vertices), inside[:, 2]])
    fragments = rasterize(torch.as_tensor(image[None], dtype=torch.float32), triangles, camera.height, camera.width)
    normals = vertex_normals(vertices, model.triangles) @ camera.R.T
    light = np.clip(normals @ np.array([-0.35, -0.45, -0.82]), 0, 1)
    shade = 0.42 + 0.58 * light
    per_vertex = np.column_stack([colours * tint * shade[:, None]])
    picture = interpolate(torch.as_tensor(per_vertex[None], dtype=torch.float32), fragments, triangles)[0].numpy()
    owner = fragments.triangle[0].numpy()
    uv = interpolate(
        torch.as_tensor(model.uv[None], dtype=torch.float32),
        fragments,
        torch.as_tensor(model.triangles_uv.astype(np.int64)),
    )[0].numpy()
    material = np.where(owner >= 0, model.triangle_material[owner], 255)
    reach = np.linalg.norm(uv - 0.5, axis=2) / float(model.info.extra["iris_radius_uv"])
    eye = material == model.materials.index(EYES)
    picture[eye & (reach < 1)] = np.array(IRIS_COLOUR) * tint
    picture[eye & (reach < PUPIL_SHARE)] = PUPIL_COLOUR
    picture[owner < 0] = 0.72
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8), owner, fragments.barycentric[0].numpy()


def invent(model: FaceModel, generator: np.random.Generator, ajar: bool) -> tuple[np.ndarray, Camera, float]:
    """One person: vertices, camera and skin brightness."""
    identity = generator.normal(0, IDENTITY_SPREAD, len(model.identity))
    expression = np.zeros(len(model.expression))
    if ajar:
        expression[model.expression_names.index("jawOpen")] = generator.uniform(0.15, 0.35)
    camera = portrait_camera(*generator.uniform([-22, -12, -6], [22, 12, 6]))
    return model.vertices(identity, expression).astype(float), camera, generator.uniform(0.55, 1.1)


def measure_mediapipe(model: FaceModel, people: int = PEOPLE, progress=None) -> tuple[np.ndarray, np.ndarray]:
    """(P, 478, 3) points on the mean head, NaN where a person does not show the point, and (P,) bool ajar."""
    import mediapipe as mp

    generator = np.random.default_rng(SEED)
    colours = vertex_colours(model)
    skin, eyes = (model.triangle_material == model.materials.index(name) for name in (SKIN, EYES))
    is_iris = np.isin(np.arange(478), IRIS_POINTS)
    found = np.full((people, 478, 3), np.nan)
    ajar = np.arange(people) % 2 == 1
    with mp.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True, max_num_faces=1) as detector:
        for person in range(people):
            vertices, camera, tint = invent(model, generator, bool(ajar[person]))
            picture, owner, barycentric = portrait(model, vertices, camera, colours, tint)
            answer = detector.process(cv2.GaussianBlur(picture, (0, 0), 0.8))
            if not answer.multi_face_landmarks:
                continue
            pixels = np.array([[p.x, p.y] for p in answer.multi_face_landmarks[0].landmark]) * PICTURE
            for chosen, allowed in ((~is_iris, skin), (is_iris, eyes)):
                found[person, chosen] = carry(pixels[chosen], owner, barycentric, allowed, model)
            if progress:
                progress(person / people)
    return found, ajar


def carry(pixels: np.ndarray, owner: np.ndarray, barycentric: np.ndarray, allowed: np.ndarray, model: FaceModel):
    """(L, 2) pixels -> (L, 3) points of the mean head behind the nearest pixel of the allowed triangles."""
    shown = (owner >= 0) & allowed[owner]
    far, (rows, columns) = distance_transform_edt(~shown, return_indices=True)
    column, row = np.clip(np.floor(pixels).astype(int), 0, owner.shape[0] - 1).T
    near_row, near_column = rows[row, column], columns[row, column]
    corners = model.triangles[owner[near_row, near_column]]
    points = np.einsum("lkc,lk->lc", model.mean[corners].astype(float), barycentric[near_row, near_column])
    points[far[row, column] > FARTHEST_SNAP] = np.nan
    return points


def mirror_pairs(points: np.ndarray) -> np.ndarray:
    """(L,) which point is whose mirror image: the cheapest one-to-one pairing of points and their images."""
    cost = np.linalg.norm(points[:, None] - points[None] * [-1.0, 1.0, 1.0], axis=2)
    partner = linear_sum_assignment(cost + cost.T)[1]
    if not np.array_equal(partner[partner], np.arange(len(points))):
        raise ValueError("the landmarks do not pair up")
    return partner


def mediapipe478(model: FaceModel, people: int = PEOPLE, progress=None) -> tuple[Embedding, int]:
    """The measured embedding and how many people the detector found."""
    found, ajar = measure_mediapipe(model, people, progress)
    seen = ~np.isnan(found[:, 1, 0])
    lips = np.isin(np.arange(478), INNER_LIPS)
    found[np.ix_(~ajar, lips)] = np.nan
    middle = np.nanmedian(found, axis=0)
    partner = np.empty(478, int)
    partner[:468] = mirror_pairs(middle[:468])
    partner[468:] = 468 + mirror_pairs(middle[468:])
    both = np.concatenate([found, found[:, partner] * [-1.0, 1.0, 1.0]])
    middle = np.nanmedian(both, axis=0)
    middle = 0.5 * (middle + middle[partner] * [-1.0, 1.0, 1.0])
    spread = 1000 * np.nanmedian(np.linalg.norm(found - middle, axis=2), axis=0)
    spread = (0.5 * (spread + spread[partner])).astype(np.float32)
    skin, eyes = (model.triangle_material == model.materials.index(name) for name in (SKIN, EYES))
    face, iris = (
        closest_embedding(model, middle[part], mask) for part, mask in ((slice(0, 468), skin), (slice(468, 478), eyes))
    )
    corners = np.concatenate([face.corners, iris.corners])
    return Embedding(corners, np.concatenate([face.barycentric, iris.barycentric]), spread), int(seen.sum())
