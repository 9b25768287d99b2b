from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.geometry.mesh import triangulate
from backend.rendering.transform import project_to_image

SHARED = Path(__file__).parents[2].parent / "shared"


@dataclass(frozen=True)
class Scene:
    """Something to rasterize: vertices_image (B, V, 3), triangles (T, 3), image size."""

    vertices: torch.Tensor
    triangles: torch.Tensor
    height: int
    width: int


def soup(seed: int, batch: int = 1, count: int = 80, height: int = 37, width: int = 53, size: float = 20.0) -> Scene:
    """Triangles without connection, some off-screen, some behind the camera, both windings."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform((-10, -10, 0.4), (width + 10, height + 10, 1.2), (batch, count, 1, 3))
    corners = centre + rng.normal(size=(batch, count, 3, 3)) * np.array([size, size, 0.3])
    vertices = torch.from_numpy(corners.reshape(batch, -1, 3).astype(np.float32))
    return Scene(vertices, torch.arange(count * 3).reshape(-1, 3), height, width)


def sphere(rows: int = 24, columns: int = 48, radius: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """(V, 3) metres and (T, 3), counter-clockwise seen from outside, closed by duplicated poles."""
    polar, around = np.meshgrid(
        np.linspace(0, np.pi, rows + 1), np.linspace(0, 2 * np.pi, columns, endpoint=False), indexing="ij"
    )
    points = np.stack([np.sin(polar) * np.sin(around), np.cos(polar), np.sin(polar) * np.cos(around)], axis=-1)
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    after = (column + 1) % columns
    corners = [row * columns + column, (row + 1) * columns + column, (row + 1) * columns + after, row * columns + after]
    quads = np.stack([corner.ravel() for corner in corners], axis=1)
    return torch.from_numpy((points.reshape(-1, 3) * radius).astype(np.float32)), torch.from_numpy(triangulate(quads))


def camera_tensors(size: int, distance: float = 0.5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """K, R, t of a camera that looks straight at the model's front."""
    K = torch.tensor([[2.0 * size, 0, size / 2], [0, 2.0 * size, size / 2], [0, 0, 1.0]])
    return K, torch.diag(torch.tensor([1.0, -1.0, -1.0])), torch.tensor([0.0, 0.0, distance])


def head(size: int = 128, batch: int = 1) -> Scene:
    """The mean head of ICT-FaceKit, turned a little more for each item of the batch."""
    path = SHARED / "models/ict-facekit/ict-facekit-light.npz"
    if not path.exists():
        pytest.skip("../shared is not beside this checkout, so there is no ICT-FaceKit head to draw")
    with np.load(path, allow_pickle=False) as data:
        points, triangles = torch.from_numpy(data["mean"].astype(np.float32) / 100), triangulate(data["faces"])
    K, R, t = camera_tensors(size, 0.9)
    turns = torch.arange(batch) * 0.5
    zero, one = torch.zeros(batch), torch.ones(batch)
    rows = [[turns.cos(), zero, turns.sin()], [zero, one, zero], [-turns.sin(), zero, turns.cos()]]
    about_y = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    return Scene(
        project_to_image(points.expand(batch, -1, -1), K, R @ about_y, t), torch.from_numpy(triangles), size, size
    )


def ball(size: int = 64, batch: int = 1) -> Scene:
    points, triangles = sphere()
    vertices = project_to_image(points.expand(batch, -1, -1), *camera_tensors(size))
    return Scene(vertices + torch.arange(batch)[:, None, None] * torch.tensor([3.3, -1.7, 0.0]), triangles, size, size)
