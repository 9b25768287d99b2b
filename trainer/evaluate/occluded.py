"""Things before a photographed face of known place: hair, glasses, a hand, a mask.

Everything is made of capsules (:mod:`trainer.data.occluders`) that are placed on the head by seven landmarks and
drawn over the finished photo; the head hides what lies behind it. Sizes are of adults.

Symbols: K capsules, H, W picture size.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from backend.geometry.camera import Camera
from backend.rendering.rasterize import rasterize
from backend.rendering.tone import linear_to_srgb, srgb_to_linear
from trainer.data.looks import draw_skin
from trainer.data.occluders import Capsules, draw_over, glasses_lines

OCCLUDERS = ("hair", "glasses", "hand", "mask")

# What lies on the face is this much nearer to the camera than the line it is drawn along, metres: faces bulge.
LYING_ON = 0.015

WIRE, LENS = 0.0012, 0.019
DARK_LENSES = 0.5


def occlude(
    pixels: np.ndarray,
    camera: Camera,
    vertices: np.ndarray,
    triangles: np.ndarray,
    landmarks: np.ndarray,
    kind: str,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw one of :data:`OCCLUDERS` over a photo.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
        sRGB.
    camera : Camera
        Of the photo.
    vertices, triangles : (V, 3) float, (T, 3) int
        The head, in the frame of the camera's pose; +Y is up.
    landmarks : (7, 3) float
        Of the NoW protocol, on the head.
    kind : str
    rng : numpy Generator

    Returns
    -------
    (H, W, 3) uint8
    """
    lines, radius, colour = {"hair": _hair, "glasses": _glasses, "hand": _hand, "mask": _mask}[kind](
        Frame(landmarks, camera), rng
    )
    ends = camera.project(lines.reshape(-1, 3)).reshape(-1, 4)
    away = camera.to_camera(lines).mean(axis=1)[:, 2]

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float32)[None]

    capsules = Capsules(tensor(ends), tensor(radius * camera.focal_px / away), tensor(colour), tensor(away - LYING_ON))
    picture = torch.as_tensor(srgb_to_linear(pixels / 255.0), dtype=torch.float32)[None]
    drawn, _ = draw_over(picture, _depth(vertices, triangles, camera), capsules)
    return (255.0 * linear_to_srgb(drawn[0].numpy().clip(0.0, 1.0))).round().astype(np.uint8)


class Frame:
    """Where things are on a head: eyes, nose, mouth, and the directions to its left, up and out of the face."""

    def __init__(self, landmarks: np.ndarray, camera: Camera) -> None:
        self.eyes = np.stack([landmarks[:2].mean(axis=0), landmarks[2:4].mean(axis=0)])  # right, left
        self.nose, self.mouth = landmarks[4], landmarks[5:].mean(axis=0)
        self.middle = self.eyes.mean(axis=0)
        left = self.eyes[1] - self.eyes[0]
        self.left = left / np.linalg.norm(left)
        up = self.middle - self.mouth
        up = up - (up @ self.left) * self.left
        self.up = up / np.linalg.norm(up)
        self.out = np.cross(self.left, self.up)
        # The side that the camera sees.
        self.side = 1.0 if (camera.centre - self.middle) @ self.left > 0 else -1.0
        self.camera = camera

    def at(self, origin: np.ndarray, left: float, up: float, out: float) -> np.ndarray:
        """(3,) a point beside another, metres."""
        return origin + left * self.left + up * self.up + out * self.out


Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]


def _hair(frame: Frame, rng: np.random.Generator) -> Drawn:
    """Locks that hang over one eye and cheek: lines (K, 2, 3), radius (K,), colour (K, 3)."""
    colour = rng.uniform(0.01, 0.25) * np.array([1.0, 0.75, 0.5])
    lines = []
    for across in np.linspace(-0.01, 0.055, 16):
        x = frame.side * (across + rng.normal(0.0, 0.002))
        bulge = 0.012 - 8.0 * x * x
        top = frame.at(frame.middle, x, 0.075, bulge)
        end = frame.at(frame.middle, x + frame.side * rng.normal(0.006, 0.004), -rng.uniform(0.02, 0.06), bulge)
        lines.append([top, end])
    shade = rng.uniform(0.6, 1.2, (len(lines), 1))
    return np.array(lines), np.full(len(lines), 0.0045), shade * colour


def _glasses(frame: Frame, rng: np.random.Generator) -> Drawn:
    """Rims, bridge and temples, half of them with dark lenses."""
    ears = np.stack([frame.at(eye, side * 0.035, -0.005, -0.085) for eye, side in zip(frame.eyes, (-1.0, 1.0))])
    eyes = frame.eyes + 0.004 * frame.out
    radius = rng.uniform(0.02, 0.026)
    lines = glasses_lines(
        torch.as_tensor(eyes[None]), torch.as_tensor(ears[None]), torch.as_tensor([radius], dtype=torch.float64)
    )[0].numpy()
    thick, dark = [WIRE] * len(lines), [np.full(3, 0.02)] * len(lines)
    if rng.random() < DARK_LENSES:
        lenses = [[frame.at(eye, -0.004, 0.0, 0.013), frame.at(eye, 0.004, 0.0, 0.013)] for eye in frame.eyes]
        lines = np.concatenate([np.array(lenses), lines])
        thick, dark = [LENS] * 2 + thick, [np.full(3, 0.03)] * 2 + dark
    return lines, np.array(thick), np.array(dark)


def _hand(frame: Frame, rng: np.random.Generator) -> Drawn:
    """A palm at the lower cheek and four fingers over the mouth, flat towards the camera."""
    R = frame.camera.R
    right, down = R[0], R[1]  # of the picture, in the head's frame
    towards = -R[2]
    start = frame.mouth + 0.01 * towards
    sign = rng.choice([-1.0, 1.0])
    palm = start + sign * 0.055 * right + 0.03 * down + 0.03 * towards
    lines, radius = [[palm + sign * 0.06 * right + 0.09 * down, palm]], [0.036]
    for finger, spread in enumerate(np.linspace(-0.03, 0.03, 4)):
        root = palm + spread * down
        reach = (0.075, 0.085, 0.08, 0.065)[finger] + rng.normal(0.0, 0.004)
        lines.append([root, root - sign * reach * right - 0.02 * down + rng.normal(0.0, 0.004) * down])
        radius.append(0.0095)
    skin = draw_skin(rng) * rng.uniform(0.7, 1.1)
    shade = np.array([0.9, 1.0, 0.92, 1.0, 0.94])[:, None]
    return np.array(lines), np.array(radius), skin * shade


def _mask(frame: Frame, rng: np.random.Generator) -> Drawn:
    """Cloth from the middle of the nose to below the chin, and a band to each ear."""
    colour = np.array([0.35, 0.55, 0.7]) if rng.random() < 0.6 else rng.uniform(0.02, 0.8, 3)
    height = float((frame.nose - frame.mouth) @ frame.up)
    across = np.linspace(-0.058, 0.058, 9)
    lines, shade = [], []
    for row, up in enumerate(np.arange(0.018, -height - 0.05, -0.007)):
        # Down to the chin the cloth goes back with the face.
        out = 0.010 - 0.35 * max(-up - height, 0.0)
        points = [frame.at(frame.nose, x, up, out - 13.0 * x * x) for x in across]
        lines += [list(pair) for pair in pairwise(points)]
        shade += [0.85 if row % 3 == 2 else 1.0] * (len(points) - 1)
    for side in (-1.0, 1.0):
        lines.append([frame.at(frame.nose, 0.058 * side, 0.01, -0.03), frame.at(frame.nose, 0.075 * side, 0.03, -0.09)])
        shade.append(1.0)
    radius = np.full(len(lines), 0.0062)
    radius[-2:] = 0.002
    return np.array(lines), radius, np.array(shade)[:, None] * colour


def _depth(vertices: np.ndarray, triangles: np.ndarray, camera: Camera) -> torch.Tensor:
    """(1, H, W) metres to the head; 0 where the background shows."""
    image = np.concatenate([camera.project(vertices), camera.to_camera(vertices)[:, 2:]], axis=1)
    fragments = rasterize(
        torch.as_tensor(image, dtype=torch.float32)[None],
        torch.as_tensor(np.ascontiguousarray(triangles, np.int32)),
        camera.height,
        camera.width,
    )
    return torch.where(fragments.mask, fragments.depth, torch.zeros_like(fragments.depth))
