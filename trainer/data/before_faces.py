"""What stands before photographed faces: masks, scarves, hats, dark glasses, hands, locks of hair, things held up.

Drawn flat over a finished picture, around landmarks of known place: enough for a detector to see less than it wants.
Held-out heads wear other ones (``trainer/evaluate/occluded.py``), which are made of capsules on the head.

Symbols: H, W picture size, L MediaPipe landmarks, K corners.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageDraw

from backend.rendering.tone import linear_to_srgb, srgb_to_linear
from backend.vision.landmark_sets import LEFT_EYE, MESH_COUNT, MIRROR, RIGHT_EYE
from trainer.data.occluders import Capsules, draw_over, hands_and_locks

# Corners are drawn on a grid so many times as fine.
FINER = 3
# Upper edges of a mask from ear to nose, where it sits high and where it sits low.
HIGH_EDGE, LOW_EDGE = (234, 117, 118, 119, 197), (93, 123, 50, 101, 5)
JAW = (93, 132, 58, 172, 136, 150, 149, 176, 148, 152)
# Lower edge of a hat from temple to middle: at the top of the face and at the brows.
HIGH_BRIM, LOW_BRIM = (21, 54, 103, 67, 109, 10), (139, 70, 63, 105, 66, 9)
TOP, CHIN, TEMPLE = 10, 152, 127
# Squares in which hands and locks are drawn reach so many radii of the face from its middle.
REACH = 1.7
# Locks of hair are drawn with so many strands, in a colour from black over brown to fair.
STRANDS, BROWN = 18, np.array([1.0, 0.85, 0.65])
# Colour of cloth varies in patches of this part of a picture.
PATCHES = 6


class Face:
    """Where a face is: ``points`` (L, 2) pixels, its middle, the direction up, and its radius in pixels."""

    def __init__(self, landmarks: np.ndarray) -> None:
        self.points = landmarks.astype(np.float64)
        seen = self.points[:MESH_COUNT]
        self.middle = seen.mean(axis=0)
        self.radius = float(np.sqrt(((seen - self.middle) ** 2).sum(axis=1).mean()))
        up = self.points[TOP] - self.points[CHIN]
        self.up = up / max(float(np.linalg.norm(up)), 1e-9)

    def both_sides(self, high: tuple[int, ...], low: tuple[int, ...], share: float) -> np.ndarray:
        """(2 K - 1, 2) an edge between two others, from the subject's right to the left; the last corner is shared."""
        one = (1.0 - share) * self.points[list(high)] + share * self.points[list(low)]
        other = (1.0 - share) * self.points[MIRROR[list(high)]] + share * self.points[MIRROR[list(low)]]
        return np.concatenate([one, other[-2::-1]])

    def outward(self, corners: np.ndarray, by: float) -> np.ndarray:
        """Corners that much farther from the middle, in parts of the distance."""
        return corners + by * (corners - self.middle)


def cover(picture: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one of :data:`DRAWN` over a face.

    Parameters
    ----------
    picture : (H, W, 3) uint8
        sRGB.
    landmarks : (L, 2) float
        Where the face's are, pixels.
    rng : numpy Generator

    Returns
    -------
    (H, W, 3) uint8
    """
    names = list(DRAWN)
    kind = names[rng.choice(len(names), p=[DRAWN[name][1] for name in names])]
    return DRAWN[kind][0](picture, Face(landmarks), rng)


def _mask(picture: np.ndarray, face: Face, rng: np.random.Generator) -> np.ndarray:
    """Cloth over nose, mouth and chin, with bands to the ears."""
    top = face.both_sides(HIGH_EDGE, LOW_EDGE, rng.uniform(0.0, 1.0))
    jaw = face.outward(face.both_sides(JAW, JAW, 0.0), rng.uniform(0.0, 0.12))
    shape = filled([np.concatenate([top, jaw[::-1]])], picture)
    for start in (top[0], top[-1]):
        away = start - face.points[5]
        shape = np.maximum(shape, filled([_line(start, start + 0.35 * away, 0.02 * face.radius)], picture))
    return painted(picture, shape, cloth(picture, rng))


def _scarf(picture: np.ndarray, face: Face, rng: np.random.Generator) -> np.ndarray:
    """Cloth from below the nose or the mouth to below the neck."""
    edge = face.outward(face.both_sides((58, 216, 2), (172, 211, 18), rng.uniform(0.0, 1.0)), rng.uniform(0.0, 0.2))
    wide = rng.uniform(0.2, 0.6)
    ends = [edge[-1] + wide * (edge[-1] - face.middle), edge[0] + wide * (edge[0] - face.middle)]
    low = [end - rng.uniform(1.2, 2.2) * face.radius * face.up for end in ends]
    return painted(picture, filled([np.concatenate([edge, [ends[0]], low, [ends[1]]])], picture), cloth(picture, rng))


def _hat(picture: np.ndarray, face: Face, rng: np.random.Generator) -> np.ndarray:
    """A cap down to the forehead or the brows, some with a visor."""
    edge = face.outward(face.both_sides(HIGH_BRIM, LOW_BRIM, rng.uniform(0.0, 1.0)), 0.05)
    crown = face.outward(edge[::-1], rng.uniform(0.05, 0.3)) + rng.uniform(0.5, 1.3) * face.radius * face.up
    shape = filled([np.concatenate([edge, crown])], picture)
    if rng.random() < 0.5:
        visor = face.outward(edge, rng.uniform(0.0, 0.35)) - rng.uniform(0.0, 0.15) * face.radius * face.up
        shape = np.maximum(shape, filled([np.concatenate([edge, visor[::-1]])], picture))
    return painted(picture, shape, cloth(picture, rng))


def _dark_glasses(picture: np.ndarray, face: Face, rng: np.random.Generator) -> np.ndarray:
    """Two lenses, a bridge, and a temple to each side of the head."""
    size, flat = rng.uniform(0.85, 1.3), rng.uniform(0.6, 1.0)
    corners = []
    for eye, temple in ((RIGHT_EYE, TEMPLE), (LEFT_EYE, MIRROR[TEMPLE])):
        ring = face.points[list(eye)]
        centre, across = ring.mean(axis=0), size * (ring[8] - ring[0])
        angle = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
        # Wide along the eye, as tall as faces have it whatever their yaw.
        tall = flat * size * 0.42 * face.radius * face.up
        corners.append(centre + np.cos(angle)[:, None] * across + np.sin(angle)[:, None] * tall)
        corners.append(_line(centre - across, face.points[temple], 0.03 * face.radius))
    between = [face.points[list(eye)].mean(axis=0) for eye in (RIGHT_EYE, LEFT_EYE)]
    corners.append(_line(between[0], between[1], 0.03 * face.radius))
    shape = filled(corners, picture) * rng.choice([1.0, rng.uniform(0.5, 0.9)])
    return painted(picture, shape, np.full((*picture.shape[:2], 3), rng.uniform(0.0, 40.0)))


def _thing(picture: np.ndarray, face: Face, rng: np.random.Generator) -> np.ndarray:
    """A cup, a microphone, a book: a box or a disc before some part of the face."""
    middle = face.points[rng.integers(MESH_COUNT)] + rng.normal(0.0, 0.15, 2) * face.radius
    size = rng.uniform(0.2, 0.7, 2) * face.radius
    turn = rng.uniform(0.0, np.pi)
    count = 4 if rng.random() < 0.5 else 24
    angle = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False) + np.pi / 4
    flat = np.stack([np.cos(angle), np.sin(angle)], axis=1) * size
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return painted(picture, filled([middle + flat @ spin.T], picture), cloth(picture, rng))


def _hand(picture: np.ndarray, face: Face, rng: np.random.Generator) -> np.ndarray:
    """A hand that reaches in from anywhere."""
    return _capsules(picture, face, hands_and_locks(1, 1, rng, torch.device("cpu"), hands=1.0, locked=0.0))


def _locks(picture: np.ndarray, face: Face, rng: np.random.Generator) -> np.ndarray:
    """Hair that hangs from above the forehead over some breadth of the face."""
    right = np.array([-face.up[1], face.up[0]])
    top = face.points[TOP] + rng.uniform(0.1, 0.6) * face.radius * face.up
    start, breadth = rng.uniform(-1.2, 0.6), rng.uniform(0.3, 1.2)
    long, lean = rng.uniform(0.6, 2.6), rng.normal(0.0, 0.3)
    colour = rng.uniform(5.0, 200.0) * BROWN
    for _ in range(STRANDS):
        root = top + (start + breadth * rng.random()) * face.radius * right
        end = root + face.radius * (rng.normal(lean, 0.12) * right - long * rng.uniform(0.7, 1.1) * face.up)
        shape = filled([_line(root, end, rng.uniform(0.02, 0.06) * face.radius)], picture)
        picture = painted(picture, shape, np.broadcast_to(colour * rng.uniform(0.7, 1.2), picture.shape))
    return picture


# What is drawn, and how often.
Covering = Callable[[np.ndarray, Face, np.random.Generator], np.ndarray]
DRAWN: dict[str, tuple[Covering, float]] = {
    "mask": (_mask, 0.25),
    "scarf": (_scarf, 0.08),
    "hat": (_hat, 0.1),
    "dark glasses": (_dark_glasses, 0.12),
    "thing": (_thing, 0.12),
    "hand": (_hand, 0.18),
    "locks": (_locks, 0.15),
}


def _capsules(picture: np.ndarray, face: Face, capsules: Capsules) -> np.ndarray:
    """Capsules of a unit square, drawn where the face is."""
    side = 2.0 * REACH * face.radius
    corner = np.tile(face.middle - side / 2.0, 2)
    there = Capsules(
        capsules.ends * side + torch.as_tensor(corner, dtype=torch.float32),
        capsules.radius * side,
        capsules.colour,
        capsules.depth,
    )
    linear = torch.as_tensor(srgb_to_linear(picture / 255.0), dtype=torch.float32)[None]
    drawn, _ = draw_over(linear, torch.zeros(linear.shape[:3]), there)
    return (255.0 * linear_to_srgb(drawn[0].numpy().clip(0.0, 1.0))).round().astype(np.uint8)


def filled(polygons: list[np.ndarray], picture: np.ndarray) -> np.ndarray:
    """(H, W) how much of each pixel lies in one of the polygons, (K, 2) pixels each."""
    height, width = picture.shape[:2]
    canvas = Image.new("L", (FINER * width, FINER * height))
    for corners in polygons:
        ImageDraw.Draw(canvas).polygon([(x, y) for x, y in (FINER * corners).tolist()], fill=255)
    return np.asarray(canvas.reduce(FINER), np.float64) / 255.0


def _line(start: np.ndarray, end: np.ndarray, half_width: float) -> np.ndarray:
    """(4, 2) corners of a thick line."""
    along = end - start
    across = half_width * np.array([-along[1], along[0]]) / max(float(np.linalg.norm(along)), 1e-9)
    return np.stack([start - across, start + across, end + across, end - across])


def cloth(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) sRGB, 0 to 255: a colour in soft folds, some with stripes; dark, white and pale blue are frequent."""
    height, width = picture.shape[:2]
    colour = [rng.uniform(0.0, 255.0, 3), rng.uniform(10.0, 50.0), rng.uniform(190.0, 250.0), [120.0, 170.0, 205.0]]
    base = np.broadcast_to(np.asarray(colour[rng.integers(len(colour))], np.float64), (3,))
    folds = Image.fromarray(rng.uniform(0.7, 1.15, (PATCHES, PATCHES)).astype(np.float32))
    shade = np.asarray(folds.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    if rng.random() < 0.3:
        wave = rng.uniform(0.1, 0.6, 2) @ np.indices((height, width)).reshape(2, -1)
        shade = shade * (0.85 + 0.15 * np.sign(np.sin(wave))).reshape(height, width)
    return (base * shade[..., None] + rng.normal(0.0, 3.0, (height, width, 3))).clip(0.0, 255.0)


def painted(picture: np.ndarray, shape: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A picture with colours (H, W, 3) over it where ``shape`` (H, W) says."""
    return (picture + shape[..., None] * (colours - picture)).round().astype(np.uint8)
