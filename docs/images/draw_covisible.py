"""Draw docs/images/covisible.jpg, the picture of docs/losses.md, with the program as it is.

    .venv/bin/python docs/images/draw_covisible.py

A row for each invented person: target, source, the source carried into the target over all of the head, the same over
the covisible map, and the map.
"""

from pathlib import Path

import numpy as np
import torch

from backend.export.images import jpeg_bytes
from backend.face_model.registry import get_model
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.rendering.synthesis import View, covisible, draw_view, sample, warp_rigidly
from trainer.data.painter import Painter
from trainer.data.people import Person
from trainer.losses.covisible import published_covisible

PICTURE = Path(__file__).parent / "covisible.jpg"
# Side of a panel; pixels of the losses' pictures, so that a pixel of the map can be seen.
SIZE, ENLARGED = 150, 2
# Seeds of people with little hair, and how far the source's camera has gone round them.
PEOPLE = ((5, 40.0), (30, -65.0))
BOTH, ONE, PUBLISHED, NOTHING = (70, 160, 90), (190, 70, 60), (240, 190, 60), (40, 40, 44)


def camera(yaw: float) -> Camera:
    """0.7 m away, the face filling the picture."""
    rotation = rotation_from_head_euler(yaw=yaw)
    translation = np.array([0.0, 0.0, 0.7]) - rotation @ np.array([0.0, 0.0, 0.04])
    return Camera(intrinsics(2.3 * SIZE, SIZE, SIZE), rotation, translation, SIZE, SIZE)


def view(vertices: np.ndarray, triangles: torch.Tensor, at: Camera) -> View:
    K, R, t = (torch.from_numpy(value).float() for value in (at.K, at.R, at.t))
    return draw_view(torch.from_numpy(vertices).float()[None], triangles, K, R, t, SIZE, SIZE)


def row(painter: Painter, seed: int, yaw: float) -> np.ndarray:
    """(SIZE, 5 * SIZE, 3) uint8."""
    model = painter.model
    triangles = torch.from_numpy(model.triangles).long()
    identity = np.random.default_rng(seed).normal(0.0, 0.8, len(model.identity))
    expression = np.zeros(len(model.expression))
    vertices = np.asarray(model.vertices(identity, expression))
    cameras = camera(0.0), camera(yaw)
    photos = [painter.paint(Person(identity, expression, vertices, at), seed) for at in cameras]
    target, source = (view(vertices, triangles, at) for at in cameras)
    warp = warp_rigidly(target, source)
    seen = covisible(target, source, triangles, warp)[0].numpy()
    published = published_covisible(target, source, triangles)[0].numpy()
    head = target.fragments.mask[0].numpy()
    read = sample(torch.from_numpy(photos[1].copy()).float()[None], warp.pixels)[0].numpy().astype(np.uint8)
    whole = np.where(head[..., None], read, np.uint8(NOTHING))
    honest = np.where(seen[..., None], read, np.uint8(NOTHING))
    chart = np.full_like(read, NOTHING)
    chart[head], chart[published], chart[seen] = ONE, PUBLISHED, BOTH
    return np.concatenate([photos[0], photos[1], whole, honest, chart], axis=1)


def main() -> None:
    painter = Painter(get_model())
    rows = [row(painter, seed, yaw) for seed, yaw in PEOPLE]
    picture = np.concatenate(rows).repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
    PICTURE.write_bytes(jpeg_bytes(picture, quality=85))


if __name__ == "__main__":
    main()
