"""Exact views of one invented person: a colour at every point of model space, seen by pinhole cameras."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from backend.face_model.model import FaceModel
from backend.face_model.registry import get_model
from backend.geometry.camera import intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.rendering.rasterize import interpolate
from backend.rendering.synthesis import View, draw_view

# Metres; the face fills most of the picture.
DISTANCE, FOCAL_IN_SIZES = 0.7, 2.6

# Metres of the shortest wave of the paint: several pixels of a 64-pixel picture.
SHORTEST_WAVE = 0.03


@dataclass(frozen=True)
class Pose:
    K: torch.Tensor
    R: torch.Tensor
    t: torch.Tensor

    def moved(self, vector: torch.Tensor, shift: torch.Tensor) -> Pose:
        """Turned by a rotation vector (3,) and shifted by (3,), both in the camera frame; differentiable."""
        x, y, z = vector.unbind()
        zero = torch.zeros_like(x)
        skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
        return Pose(self.K, torch.linalg.matrix_exp(skew) @ self.R, self.t + shift)


@lru_cache(maxsize=1)
def model() -> FaceModel:
    return get_model("open-head")


@lru_cache(maxsize=1)
def triangles() -> torch.Tensor:
    return torch.from_numpy(model().triangles).long()


@lru_cache(maxsize=1)
def basis() -> torch.Tensor:
    """(6, V, 3) the first identity modes."""
    return torch.from_numpy(model().identity[:6].astype(np.float32))


@lru_cache(maxsize=4)
def person(seed: int = 3) -> torch.Tensor:
    """(1, V, 3) somebody, metres."""
    identity = np.random.default_rng(seed).normal(0.0, 0.8, len(model().identity))
    return torch.from_numpy(np.asarray(model().vertices(identity), np.float32))[None]


def pose(size: int, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0, distance: float = DISTANCE) -> Pose:
    K = torch.from_numpy(intrinsics(FOCAL_IN_SIZES * size * distance / DISTANCE, size, size)).float()
    R = torch.from_numpy(rotation_from_head_euler(yaw, pitch, roll)).float()
    # Turn about a point inside the head.
    centre = torch.tensor([0.0, 0.0, 0.03])
    return Pose(K, R, torch.tensor([0.0, 0.0, distance]) - R @ centre)


def view(vertices: torch.Tensor, at: Pose, size: int) -> View:
    return draw_view(vertices, triangles(), at.K, at.R, at.t, size, size)


def paint(points: torch.Tensor) -> torch.Tensor:
    """(..., 3) model space, metres -> (..., 3) colours in (0, 1), smooth and different everywhere."""
    rng = np.random.default_rng(11)
    waves = rng.normal(size=(6, 3))
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    lengths = rng.uniform(SHORTEST_WAVE, 3 * SHORTEST_WAVE, 6)
    phase = torch.from_numpy(2 * np.pi * waves / lengths[:, None]).to(points)
    value = torch.sin(points @ phase.T + torch.from_numpy(rng.uniform(0, 6, 6)).to(points))
    mix = torch.from_numpy(rng.normal(size=(6, 3))).to(points)
    return torch.sigmoid(value @ mix)


def photo(vertices: torch.Tensor, at: Pose, size: int) -> torch.Tensor:
    """(1, H, W, 3) what the camera sees, the colour taken exactly at every pixel centre; grey behind."""
    drawn = view(vertices, at, size)
    picture = paint(interpolate(vertices, drawn.fragments, triangles()))
    return torch.where(drawn.fragments.mask[..., None], picture, torch.full_like(picture, 0.5))


def landmarks(vertices: torch.Tensor, at: Pose) -> torch.Tensor:
    """(1, 51, 2) inner iBUG landmarks in pixels; in double precision, since they are the truth."""
    points = model().landmark_points(vertices.double().numpy(), "ibug68")[:, 17:]
    camera = torch.from_numpy(points) @ at.R.double().T + at.t.double()
    image = camera @ at.K.double().T
    return image[..., :2] / image[..., 2:]


def angle(first: torch.Tensor, second: torch.Tensor) -> float:
    """Degrees between two rotations (3, 3)."""
    # From the chord: the arc cosine of the trace forgets small angles.
    chord = torch.linalg.norm((first - second).detach().double()) / 8**0.5
    return float(torch.rad2deg(2 * torch.asin(chord.clamp(max=1.0))))


def descend(loss, start: torch.Tensor, rate: float, steps: int) -> tuple[torch.Tensor, float, float]:
    """Adam with a falling rate from a start (P,): where it ends, first and last value."""
    leaf = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([leaf], lr=rate)
    falling = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.15 ** (1 / steps))
    values = []
    for _ in range(steps):
        optimiser.zero_grad()
        value = loss(leaf)
        value.backward()
        optimiser.step()
        falling.step()
        values.append(value.item())
    return leaf.detach(), values[0], values[-1]
