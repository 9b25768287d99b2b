"""Pictures of invented people: head, hair, glasses, eyes, light, a background, a camera's faults.

Enough for a landmark detector to see a face, and nothing borrowed from anyone.

Symbols: V vertices, T triangles, H, W image size, C channels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageFilter

from backend.face_model.model import EYES, FaceModel
from backend.geometry.camera import Camera
from backend.geometry.mesh import vertex_normals
from backend.rendering.rasterize import interpolate, rasterize
from backend.rendering.tone import linear_to_srgb
from trainer.data.looks import Look, Looks
from trainer.data.people import Person

# Mean linear brightness that a camera's meter aims at for a face, and how much of the difference it closes.
METERED, METERING = 0.3, 0.6

# Iris and limbus on the eyeball, as the angle from its front (adult cornea 11.7 mm wide on a 24 mm ball).
IRIS_ANGLE, PUPIL_ANGLE = np.radians(29.0), np.radians(10.0)

# Rims of glasses: how far in front of the lids, thickness of the wire, and corners of a rim and of its wire.
RIM_AHEAD, RIM_WIRE, RIM_CORNERS, WIRE_CORNERS = 0.012, 0.0012, 32, 6

# Part of the pictures that are blurred, and that went through JPEG.
BLURRED, COMPRESSED = 0.3, 0.4


@dataclass(frozen=True)
class Surface:
    """Triangles to draw: ``attributes`` (V, 9) are linear albedo, normal, and direction on the eyeball."""

    points: np.ndarray
    triangles: np.ndarray
    attributes: np.ndarray


class Painter:
    """Paints people of one model, each in a look that belongs to a seed; ``skins`` as in :class:`Looks`."""

    def __init__(self, model: FaceModel, skins: np.ndarray | None = None) -> None:
        self.model = model
        self.looks = Looks(model, skins)
        self.is_eye = np.zeros(len(model.triangles), bool)
        if EYES in model.materials:
            self.is_eye = model.triangle_material == model.materials.index(EYES)
        self.eye_direction, self.eye_centres = self._eyes()

    def _eyes(self) -> tuple[np.ndarray, np.ndarray]:
        """(V, 3) unit vectors from the eyeball's centre on the mean head, zero off the eyes; a vertex of each."""
        model = self.model
        result = np.zeros_like(model.mean)
        used = np.unique(model.triangles[self.is_eye])
        sides = [used[model.mean[used, 0] > 0], used[model.mean[used, 0] < 0]] if len(used) else []
        for side in sides:
            ball = model.mean[side]
            centre = (ball.max(axis=0) + ball.min(axis=0)) / 2
            direction = ball - centre
            result[side] = direction / np.linalg.norm(direction, axis=1, keepdims=True)
        return result, np.array([side[model.mean[side, 2].argmax()] for side in sides], int)

    def paint(self, person: Person, seed: int, moment: int | None = None) -> np.ndarray:
        """(H, W, 3) uint8 sRGB picture of a person.

        ``moment`` numbers the pictures of one person: skin, hair and eyes belong to the seed alone; light,
        background and the camera's faults to the moment.
        """
        rng = iris_rng = np.random.default_rng([seed, 1])
        look = self.looks.draw(rng)
        if moment is not None:
            rng, iris_rng = np.random.default_rng([seed, 3, moment]), np.random.default_rng([seed, 2])
        surface, eye_triangles = self.surface(person.vertices.astype(np.float64), look)
        values, triangle = visible(surface, person.camera)
        albedo = self.with_eyes(values, (triangle >= 0) & (triangle < eye_triangles), iris_rng)
        lit = albedo * light(values[..., 3:6], rng)
        # A camera meters the face, but only part of the way: dark skin still comes out darker.
        metered = (METERED / lit[triangle >= 0].mean()) ** METERING if (triangle >= 0).any() else 1.0
        lit = lit * metered * rng.uniform(0.7, 1.4)
        behind = background(person, rng)
        picture = np.where((triangle >= 0)[..., None], lit, behind)
        return developed(linear_to_srgb(picture), rng)

    def surface(self, vertices: np.ndarray, look: Look) -> tuple[Surface, int]:
        """Head, hair and glasses in one mesh, eyes first; returns it and the number of eye triangles."""
        triangles = self.model.triangles
        normals = vertex_normals(vertices, triangles)
        kept = look.shown[triangles].all(axis=1)
        eyes, skin = triangles[kept & self.is_eye], triangles[kept & ~self.is_eye]
        hairy = triangles[kept & (look.hair[triangles] > 0).all(axis=1)]
        points = [vertices, vertices + look.hair[:, None] * normals]
        attributes = [
            np.concatenate([look.albedo, normals, self.eye_direction], axis=1),
            np.concatenate([look.hair_albedo, normals, np.zeros_like(normals)], axis=1),
        ]
        faces = [eyes, skin, hairy + len(vertices)]
        if look.glasses > 0 and len(self.eye_centres):
            for vertex in self.eye_centres:
                rim, rim_faces = torus(vertices[vertex] + [0.0, 0.0, RIM_AHEAD], look.glasses)
                faces.append(rim_faces + sum(len(part) for part in points))
                points.append(rim)
                dark = np.concatenate([np.full_like(rim, 0.03), vertex_normals(rim, rim_faces), 0.0 * rim], axis=1)
                attributes.append(dark)
        return Surface(np.concatenate(points), np.concatenate(faces), np.concatenate(attributes)), len(eyes)

    def with_eyes(self, values: np.ndarray, on_eye: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Albedo picture with sclera, iris and pupil drawn by the angle from the eyeball's front."""
        direction = values[..., 6:9]
        angle = np.arccos((direction[..., 2] / np.linalg.norm(direction, axis=-1).clip(1e-6)).clip(-1.0, 1.0))
        iris = rng.uniform(0.02, 0.25) * np.array([1.0, rng.uniform(0.6, 1.0), rng.uniform(0.3, 1.4)])
        white = rng.uniform(0.5, 0.75) * np.array([1.0, 0.95, 0.92])
        eye = np.where((angle < IRIS_ANGLE)[..., None], iris, white)
        eye = np.where((angle < PUPIL_ANGLE)[..., None], 0.01, eye)
        return np.where(on_eye[..., None], eye, values[..., :3])


def visible(surface: Surface, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, C) attributes and (H, W) triangle, -1 for the background."""
    points = camera.to_camera(surface.points)
    image = np.concatenate([camera.project(surface.points), points[:, 2:]], axis=1)
    triangles = torch.as_tensor(np.ascontiguousarray(surface.triangles, np.int32))
    fragments = rasterize(torch.as_tensor(image, dtype=torch.float32)[None], triangles, camera.height, camera.width)
    attributes = torch.as_tensor(surface.attributes, dtype=torch.float32)[None]
    return interpolate(attributes, fragments, triangles)[0].numpy(), fragments.triangle[0].numpy()


def torus(centre: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles of a wire ring in the frontal plane."""
    around, across = np.meshgrid(
        np.linspace(0.0, 2 * np.pi, RIM_CORNERS, endpoint=False),
        np.linspace(0.0, 2 * np.pi, WIRE_CORNERS, endpoint=False),
        indexing="ij",
    )
    reach = radius + RIM_WIRE * np.cos(across)
    ring = np.stack([reach * np.cos(around), 0.8 * reach * np.sin(around), RIM_WIRE * np.sin(across)], axis=-1)
    i, j = np.meshgrid(np.arange(RIM_CORNERS), np.arange(WIRE_CORNERS), indexing="ij")
    corner = lambda a, b: (a % RIM_CORNERS) * WIRE_CORNERS + b % WIRE_CORNERS  # noqa: E731
    a, b, c, d = corner(i, j), corner(i + 1, j), corner(i + 1, j + 1), corner(i, j + 1)
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return ring.reshape(-1, 3) + centre, faces


def light(normals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) normals in model space -> (H, W, 3) irradiance: ambient and two directional lights, soft to hard."""
    unit = normals / np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-6)
    total = np.full((*normals.shape[:2], 3), rng.uniform(0.15, 0.6))
    for strength in (rng.uniform(0.3, 1.2), rng.uniform(0.0, 0.5)):
        direction = np.array([rng.normal(0.0, 0.8), rng.normal(0.5, 0.5), 1.0])
        direction /= np.linalg.norm(direction)
        # Wrapped diffuse: a light of some size reaches a little past the terminator.
        wrap = rng.uniform(0.0, 0.3)
        fall = (unit @ direction * (1.0 - wrap) + wrap).clip(0.0)
        # Sheen towards the camera, which stands in front more often than not.
        halfway = direction + np.array([0.0, 0.0, 1.0])
        sheen = (unit @ (halfway / np.linalg.norm(halfway))).clip(0.0) ** rng.uniform(10.0, 60.0)
        colour = strength * rng.normal(1.0, 0.08, 3)
        total += (fall + rng.uniform(0.0, 0.3) * sheen)[..., None] * colour
    return total


def background(person: Person, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) linear gradient between two random colours, at times with long hair behind the head."""
    height, width = person.camera.height, person.camera.width
    rows = np.linspace(0.0, 1.0, height)[:, None, None]
    picture = (1.0 - rows) * rng.uniform(0.0, 0.9, 3) + rows * np.ones((1, width, 1)) * rng.uniform(0.0, 0.9, 3)
    if rng.random() < 0.3:
        centre = person.camera.project(person.vertices.mean(axis=0, keepdims=True).astype(np.float64))[0]
        mm = person.camera.focal_px / person.camera.t[2] / 1000.0
        x, y = np.meshgrid(np.arange(width) - centre[0], np.arange(height) - centre[1])
        wide, high = rng.uniform(80, 130) * mm, rng.uniform(100, 220) * mm
        picture[(x / wide) ** 2 + (y / high) ** 2 < 1.0] = rng.uniform(0.01, 0.25) * np.array([1.0, 0.8, 0.5])
    return picture


def developed(srgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 with the noise, blur and compression of some camera."""
    noisy = srgb + rng.normal(0.0, rng.uniform(0.0, 0.015), srgb.shape)
    picture = Image.fromarray((255.0 * noisy).clip(0.0, 255.0).astype(np.uint8))
    if rng.random() < BLURRED:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    if rng.random() < COMPRESSED:
        encoded = io.BytesIO()
        picture.save(encoded, "JPEG", quality=int(rng.integers(30, 96)))
        picture = Image.open(encoded)
    return np.asarray(picture)
