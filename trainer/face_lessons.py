"""Faces that were seen (``see_faces.py``), as a network learns from them: crops, landmarks, and what is true of them.

Symbols as in ``backend/network/turned_heads.py``; N faces.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import nn

from backend.geometry.rotation import head_euler_degrees
from backend.network.turned_heads import FACE_LANDMARKS, RADIUS_MM, REACH, SIDE
from backend.vision.landmark_sets import MIRROR
from trainer.see_faces import STORED_REACH, STORED_SIDE, Seen

# A face whose landmarks are off by more, millimetres (median), is something else that the detector took for one.
NOT_A_FACE_MM = 25.0
# What is stored around what the network sees, pixels: both have as many pixels to a radius.
MARGIN = (STORED_SIDE - SIDE) // 2
assert STORED_SIDE * REACH == SIDE * STORED_REACH
# The part of crops in which something is pasted, and its radii in parts of half a side; the part that is seen with few
# pixels, and how few at least, in parts of a side; noise at most.
PASTED, PASTED_RADII = 0.3, (0.1, 0.6)
WITH_FEW_PIXELS, FEWEST_PIXELS, NOISE = 0.2, 0.25, 0.04


@dataclass
class Lesson:
    """Tensors of N faces, as in :class:`Seen`."""

    aligned: torch.Tensor
    wanted: torch.Tensor
    R: torch.Tensor
    crop: torch.Tensor
    identity: torch.Tensor

    def of(self, chosen: torch.Tensor) -> Lesson:
        return Lesson(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def mirrored(self) -> Lesson:
        """As seen in a mirror; not the identity."""
        across = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
        R, crop = across @ self.R @ across, self.crop.flip(2)
        return Lesson(mirrored(self.aligned), mirrored(self.wanted), R, crop, self.identity)

    def moves(self) -> torch.Tensor:
        """(N, L, 2) what is wanted less what is detected, radii."""
        return self.wanted - self.aligned

    def crops(self) -> torch.Tensor:
        """(N, S, S, 3) 0 to 1, as the network sees them."""
        return self.crop[:, MARGIN : MARGIN + SIDE, MARGIN : MARGIN + SIDE].float() / 255.0

    def yaw(self) -> np.ndarray:
        """(N,) degrees."""
        return np.array([head_euler_degrees(R)["yaw"] for R in self.R.double().numpy()])


def mirrored(points: torch.Tensor) -> torch.Tensor:
    """(N, L, 2) landmarks in a mirror."""
    return points[:, MIRROR] * torch.tensor([-1.0, 1.0])


def lesson(seen: Seen) -> Lesson:
    """Of those that are faces."""
    whole = Lesson(*(torch.from_numpy(getattr(seen, f.name)) for f in fields(Lesson)))
    faces = whole.moves()[:, :FACE_LANDMARKS].norm(dim=2).median(dim=1).values < NOT_A_FACE_MM / RADIUS_MM
    return whole.of(faces)


def together(lessons: list[Lesson]) -> Lesson:
    """All faces of several."""
    return Lesson(*(torch.cat([getattr(each, f.name) for each in lessons]) for f in fields(Lesson)))


# --- other cameras, other things before faces ----------------------------------------------------------------


def shaken(crops: torch.Tensor) -> torch.Tensor:
    """(B, S, S, 3) by another camera: other light, other white balance, noise; some without colour, some with few
    pixels."""
    count, side = crops.shape[:2]
    few = torch.rand(count) < WITH_FEW_PIXELS
    if few.any():
        pixels = int(side * float(torch.empty(()).uniform_(FEWEST_PIXELS, 1.0)))
        small = nn.functional.interpolate(crops[few].permute(0, 3, 1, 2), size=(pixels, pixels), mode="area")
        small = nn.functional.interpolate(small, size=(side, side), mode="bilinear")
        crops = crops.index_put((few,), small.permute(0, 2, 3, 1))
    values = crops ** torch.exp(0.3 * torch.randn(count, 1, 1, 1))
    values = values * (1.0 + 0.15 * torch.randn(count, 1, 1, 3))
    grey = torch.rand(count, 1, 1, 1) < 0.25
    values = torch.where(grey, values.mean(dim=3, keepdim=True), values)
    return values + NOISE * torch.rand(count, 1, 1, 1) * torch.randn_like(values)


def pasted(crops: torch.Tensor) -> torch.Tensor:
    """(B, S, S, 3) with an ellipse of another crop, or of a colour, in some of them: nothing seen is sure to stay."""
    chosen = torch.rand(len(crops)) < PASTED
    count, side = int(chosen.sum()), crops.shape[1]
    middle, turn = torch.empty(2, count, 1, 1).uniform_(-1.0, 1.0), np.pi * torch.rand(count, 1, 1)
    x, y = torch.linspace(-1.0, 1.0, side)[None, None] - middle[0], torch.linspace(-1.0, 1.0, side)[:, None] - middle[1]
    wide, high = torch.empty(2, count, 1, 1).uniform_(*PASTED_RADII)
    along, across = turn.cos() * x + turn.sin() * y, turn.cos() * y - turn.sin() * x
    inside = ((along / wide) ** 2 + (across / high) ** 2 < 1.0)[..., None]
    other = crops[torch.randint(len(crops), (count,))]
    other = torch.where(torch.rand(count, 1, 1, 1) < 0.5, other, torch.rand(count, 1, 1, 3))
    return crops.index_put((chosen,), torch.where(inside, other, crops[chosen]))
