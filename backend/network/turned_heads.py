"""Landmarks of heads that are turned far or covered, put right by a network that looks at the picture.

A detector guesses what it cannot see. Of a head in profile it makes one that is turned by 50 degrees, with both eyes
and the whole mouth: landmarks off by 11 mm, and a head that lies beside its face. Behind a mask or a hand it makes up
a mouth. What is seen, where the profile runs and how far the head is turned, is in the picture. This network sees the
face as the detector aligned it and the landmarks' shape, and answers with what moves them to where they are, hidden
ones too, and with the rotation. (A second look, at the face as its own landmarks align it, brings nothing.)

Landmarks of the face's outline go where the outline is, as the fit has it (``reconstruction/contour.py``), and not
to a fixed place on the cheek. Of a face that is bare and looks into the camera the detector knows better, and nothing
moves.

Symbols: B faces, L landmarks, S side of a crop, C numbers of the landmarks' shape, D directions in which they move,
H hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from backend.geometry.rotation import head_euler_degrees
from backend.network.backbone import Normalised, Unit
from backend.network.weights_file import load_weights
from backend.vision.crop import Reduced, Window
from backend.vision.landmark_sets import IRISES, ibug68_from_mediapipe
from backend.vision.photo import DetectedFace, Photo

FILE = Path(__file__).parent / "data" / "turned_heads.safetensors"
ARCHITECTURE = "mgcface-turned-heads"
LANDMARK_SET = "mediapipe478"

# S, and half the crop's side in radii of the face: root mean square distances of its landmarks from their middle.
SIDE, REACH = 112, 1.75
# Squares of so many pixels a side become one place with more channels; the stem and the first units halve the side
# each. What the last unit sees is narrowed and read place by place: landmarks have to be found, not only named.
SQUARE, STEM, WIDTHS, HALVING, NARROW = 2, 32, (48, 96, 128), (2, 2, 1), 48
SHAPE_NUMBERS, MOVES, HIDDEN = 64, 80, 384
# Part of the numbers that are left out while it learns.
DROPPED = 0.05
# The last landmarks are the irises, which say nothing of how a face lies.
FACE_LANDMARKS = min(IRISES)
# Numbers of the shape are bounded, in standard deviations: it has seen nothing beyond.
LARGEST_NUMBER = 6.0

# Degrees of yaw, as the network sees it, up to which nothing is moved, and from which on all that it says. (Landmarks
# would not tell: of a profile a detector sometimes makes a face that looks into the camera.)
TURNED_FROM, TURNED_WHOLLY = 25.0, 40.0
# The same for how far landmarks would move, millimetres on average, if they are those of a face of this radius.
OFF_FROM_MM, OFF_WHOLLY_MM, RADIUS_MM = 2.5, 4.0, 60.0


@dataclass(frozen=True)
class Alignment:
    """How landmarks of B faces lie in their photos: ``aligned = scale * Rot(roll) (pixels - middle)``.

    ``middle`` (B, 2) pixels, ``factor`` (B,) complex: radii per pixel times the turn.
    """

    middle: np.ndarray
    factor: np.ndarray

    def to_radii(self, points: np.ndarray) -> np.ndarray:
        """(B, L, 2) pixels -> radii, upright."""
        return _times(points - self.middle[:, None], self.factor)

    def moves_to_pixels(self, moves: np.ndarray) -> np.ndarray:
        """(B, L, 2) differences in radii -> pixels."""
        return _times(moves, 1.0 / self.factor)

    def upright(self, R: np.ndarray) -> np.ndarray:
        """(B, 3, 3) rotations into the photos' cameras -> into cameras that are rolled like the faces."""
        roll = np.zeros((len(self.factor), 3, 3))
        unit = self.factor / np.abs(self.factor)
        roll[:, 0, 0] = roll[:, 1, 1] = unit.real
        roll[:, 0, 1], roll[:, 1, 0] = -unit.imag, unit.imag
        roll[:, 2, 2] = 1.0
        return roll @ R

    def window(self, face: int, reach: float = REACH) -> Window:
        """The crop of one face, so many radii to each side."""
        unit = self.factor[face]
        return Window(*self.middle[face], size=2.0 * reach / abs(unit), angle=-float(np.angle(unit)))


def align(landmarks: np.ndarray, shape: np.ndarray) -> Alignment:
    """The similarity that takes (B, L, 2) pixels nearest to a shape (L, 2), without its last points."""
    seen, wanted = landmarks[:, :FACE_LANDMARKS], shape[:FACE_LANDMARKS]
    middle = seen.mean(axis=1)
    source = (seen - middle[:, None]) @ [1.0, 1j]
    target = (wanted - wanted.mean(axis=0)) @ [1.0, 1j]
    factor = (source.conj() @ target) / (np.abs(source) ** 2).sum(axis=1).clip(1e-12)
    return Alignment(middle, factor)


def _times(points: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """(B, L, 2) points of the complex plane times (B,)."""
    turned = (points @ [1.0, 1j]) * factor[:, None]
    return np.stack([turned.real, turned.imag], axis=-1)


class TurnedHeadsNetwork(nn.Module):
    """Crop and landmark shape to moves and rotation; what stands around the network is in its buffers.

    Buffers
    -------
    shape (L, 2)
        Mean landmarks, radii.
    shape_rows (C, 2 L)
        Read aligned landmarks less the mean shape, in standard deviations.
    moves (D, 2 L)
        Directions in which landmarks are moved, radii.
    """

    shape: torch.Tensor
    shape_rows: torch.Tensor
    moves: torch.Tensor

    def __init__(self, landmarks: int = 478) -> None:
        super().__init__()
        self.register_buffer("shape", torch.zeros(landmarks, 2))
        self.register_buffer("shape_rows", torch.zeros(SHAPE_NUMBERS, 2 * landmarks))
        self.register_buffer("moves", torch.zeros(MOVES, 2 * landmarks))
        self.stem = Normalised(3 * SQUARE**2, STEM, 5, 2)
        widths = pairwise((STEM, *WIDTHS))
        self.units = nn.Sequential(*(Unit(before, after, by) for (before, after), by in zip(widths, HALVING)))
        self.narrow = Normalised(WIDTHS[-1], NARROW, 1)
        places = (SIDE // (2 * SQUARE * math.prod(HALVING))) ** 2
        self.drop = nn.Dropout(DROPPED)
        self.gather = nn.Linear(NARROW * places + SHAPE_NUMBERS, HIDDEN)
        self.more = nn.Linear(HIDDEN, HIDDEN)
        self.answer = nn.Linear(HIDDEN, MOVES + 6)
        # Untrained it moves nothing and sees a head that looks into the camera.
        nn.init.normal_(self.answer.weight, std=0.01)
        nn.init.zeros_(self.answer.bias)
        with torch.no_grad():
            self.answer.bias[MOVES:] = torch.tensor([1.0, 0.0, 0.0, 0.0, -1.0, 0.0])

    def numbers(self, aligned: torch.Tensor) -> torch.Tensor:
        """(B, L, 2) landmarks in radii -> (B, C)."""
        return ((aligned - self.shape).flatten(1) @ self.shape_rows.mT).clamp(-LARGEST_NUMBER, LARGEST_NUMBER)

    def forward(self, crops: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What moves landmarks, and the rotation.

        Parameters
        ----------
        crops : (B, S, S, 3) float
            sRGB, 0 to 1.
        numbers : (B, C) float

        Returns
        -------
        along : (B, D)
            How far along each of ``moves``.
        R : (B, 3, 3)
            Into a camera that is rolled like the face: two rows, orthonormal (Zhou et al. 2019, "On the continuity of
            rotation representations"), and their cross product.
        """
        # Brightness, contrast and white balance of a photo say nothing about the pose.
        mean, spread = crops.mean(dim=(1, 2, 3), keepdim=True), crops.std(dim=(1, 2, 3), keepdim=True)
        x = nn.functional.pixel_unshuffle(((crops - mean) / (spread + 0.05)).permute(0, 3, 1, 2), SQUARE)
        x = x.contiguous(memory_format=torch.channels_last)
        seen = torch.relu(self.narrow(self.units(torch.relu(self.stem(x))))).flatten(1)
        hidden = torch.relu(self.gather(self.drop(torch.cat([seen, numbers], dim=1))))
        hidden = hidden + torch.relu(self.more(self.drop(hidden)))
        answer = self.answer(hidden)
        first, second = answer[:, MOVES : MOVES + 3], answer[:, MOVES + 3 :]
        first = nn.functional.normalize(first, dim=1)
        second = nn.functional.normalize(second - (first * second).sum(dim=1, keepdim=True) * first, dim=1)
        return answer[:, :MOVES], torch.stack([first, second, torch.linalg.cross(first, second, dim=1)], dim=1)

    def moved(self, along: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, L, 2) what is added to aligned landmarks, radii."""
        return (along @ self.moves).unflatten(1, (-1, 2))


def stored(network: TurnedHeadsNetwork) -> dict[str, torch.Tensor]:
    """What a weights file holds: all but how many batches a normalisation has seen, which matters to nobody."""
    return {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}


class TurnedHeads:
    """The network that comes with the project, ready to be asked.

    Parameters
    ----------
    network : TurnedHeadsNetwork, optional
        Another one; on the CPU.
    """

    def __init__(self, network: TurnedHeadsNetwork | None = None) -> None:
        self.given = network

    @property
    def network(self) -> TurnedHeadsNetwork:
        """Loaded when the first face is there."""
        return shipped_network() if self.given is None else self.given

    def put_right(self, photo: Photo, faces: Sequence[DetectedFace]) -> list[DetectedFace]:
        """The same faces; of those that are turned far, landmarks where they are, ``as_detected`` where they were."""
        if not faces or any(LANDMARK_SET not in face.landmarks for face in faces):
            return list(faces)
        return [self._put_right(photo, face) for face in faces]

    def _put_right(self, photo: Photo, face: DetectedFace) -> DetectedFace:
        detected = face.landmarks[LANDMARK_SET].astype(np.float64)
        points, yaw = self.look(photo, detected)
        part = how_much(yaw, RADIUS_MM * apart(detected, points))
        if part == 0.0:
            return face
        return with_landmarks(face, (detected + part * (points - detected)).astype(np.float32), part)

    @torch.no_grad()
    def look(self, photo: Photo, points: np.ndarray) -> tuple[np.ndarray, float]:
        """Landmarks (L, 2), pixels -> where the network has them, and the yaw that it sees, degrees."""
        network = self.network
        lies = align(points[None], network.shape.double().numpy())
        numbers = network.numbers(torch.as_tensor(lies.to_radii(points[None]), dtype=torch.float32))
        window = lies.window(0)
        crop = Reduced(photo.pixels, window, SIDE).crop(window)
        along, R = network(torch.from_numpy(crop[None]).float() / 255.0, numbers)
        moves = lies.moves_to_pixels(network.moved(along).double().numpy())[0]
        return points + moves, head_euler_degrees(R[0].double().numpy())["yaw"]


def how_much(yaw: float, off_mm: float) -> float:
    """The part of the moves that is made, 0 to 1."""
    turned = (abs(yaw) - TURNED_FROM) / (TURNED_WHOLLY - TURNED_FROM)
    off = (off_mm - OFF_FROM_MM) / (OFF_WHOLLY_MM - OFF_FROM_MM)
    return float(np.clip(max(turned, off), 0.0, 1.0))


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Mean distance of the face's landmarks (L, 2) of two guesses, in radii of the second."""
    seen = other[:FACE_LANDMARKS]
    radius = np.sqrt(((seen - seen.mean(axis=0)) ** 2).sum(axis=1).mean())
    return float(np.linalg.norm(one[:FACE_LANDMARKS] - seen, axis=1).mean() / max(radius, 1e-9))


def with_landmarks(face: DetectedFace, landmarks: np.ndarray, part: float) -> DetectedFace:
    """A face whose (478, 2) landmarks are elsewhere; it remembers where the detector had them."""
    box = np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)])
    found = {**face.landmarks, LANDMARK_SET: landmarks, "ibug68": ibug68_from_mediapipe(landmarks)}
    return replace(face, box=box, landmarks=found, as_detected=face.landmarks[LANDMARK_SET], moved=part)


def read_turned_heads(path: Path) -> TurnedHeadsNetwork:
    """Read a weights file, to go on learning; raises :class:`WeightsError` when it is none of this network."""
    network = TurnedHeadsNetwork()
    tensors, _ = load_weights(path, ARCHITECTURE, {name: tuple(t.shape) for name, t in stored(network).items()})
    network.load_state_dict(tensors, strict=False)
    return network


def load_turned_heads(path: Path) -> TurnedHeadsNetwork:
    """Read a weights file, to be asked; raises :class:`WeightsError` when it is none of this network."""
    network = read_turned_heads(path).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, Normalised):
            module.fuse()
    return network


@lru_cache(maxsize=1)
def shipped_network() -> TurnedHeadsNetwork:
    """The one that comes with the project; raises :class:`WeightsError` when its file is broken."""
    return load_turned_heads(FILE)
