"""The torch backend against a rasterizer in exact Python arithmetic, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from raster_scenes import Scene, soup

from backend.rendering.fragments import GRID
from backend.rendering.rasterize import rasterize


def brute_force(scene: Scene, cull_back: bool = False) -> np.ndarray:
    """(H, W) triangle ids by the words of ``fragments.py``, with Python's unlimited integers."""
    points = scene.vertices[0].double().tolist()
    best = np.zeros((scene.height, scene.width), np.float32)
    ids = np.full((scene.height, scene.width), -1)
    for number, corners in enumerate(scene.triangles.tolist()):
        chosen = [points[c] for c in corners]
        if not all(1e-3 <= p[2] <= 1e9 and abs(p[0]) <= 2**18 and abs(p[1]) <= 2**18 for p in chosen):
            continue
        grid = [(math.floor(p[0] * GRID + 0.5), math.floor(p[1] * GRID + 0.5), 1.0 / p[2]) for p in chosen]
        (ax, ay, _), (bx, by, _), (cx, cy, _) = grid
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0 or (cull_back and area > 0):
            continue
        if area < 0:
            grid = [grid[0], grid[2], grid[1]]
        for row in range(scene.height):
            for column in range(scene.width):
                nearness = covers(grid, column * GRID + GRID // 2, row * GRID + GRID // 2)
                if nearness is not None and nearness > best[row, column]:
                    best[row, column], ids[row, column] = nearness, number
    return ids


def covers(grid: list, px: int, py: int) -> np.float32 | None:
    """1 / depth at a point of the grid, None outside."""
    for k in range(3):
        (x0, y0, _), (x1, y1, _) = grid[k], grid[(k + 1) % 3]
        side = (x1 - x0) * (py - y0) - (y1 - y0) * (px - x0)
        top_or_left = y1 < y0 or (y1 == y0 and x1 > x0)
        if side < 0 or (side == 0 and not top_or_left):
            return None
    (ax, ay, a), (bx, by, b), (cx, cy, c) = grid
    bx, by, cx, cy = bx - ax, by - ay, cx - ax, cy - ay
    area = float(bx * cy - by * cx)
    slope_x, slope_y = ((b - a) * cy - (c - a) * by) / area, ((c - a) * bx - (b - a) * cx) / area
    return np.float32(min(max(a + (slope_x * (px - ax) + slope_y * (py - ay)), min(a, b, c)), max(a, b, c)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cull", ["none", "back"])
def test_reference_follows_the_rule(seed: int, cull: str) -> None:
    scene = soup(seed, count=25, height=23, width=19, size=6.0)
    found = rasterize(scene.vertices, scene.triangles, scene.height, scene.width, "torch", cull)
    expected = brute_force(scene, cull == "back")
    assert (expected >= 0).mean() > 0.2
    np.testing.assert_array_equal(found.triangle[0].numpy(), expected)


def test_vertices_on_pixel_centres_follow_the_top_left_rule() -> None:
    """Corners and edges exactly on centres: each triangle of a fan owns its share, none twice."""
    points = torch.tensor([[[4.5, 4.5, 1], [8.5, 4.5, 1], [8.5, 8.5, 1], [4.5, 8.5, 1], [0.5, 8.5, 1], [0.5, 4.5, 1]]])
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]])
    scene = Scene(points, triangles, 10, 10)
    found = rasterize(points, triangles, 10, 10, "torch").triangle[0]
    np.testing.assert_array_equal(found.numpy(), brute_force(scene))
    # The rectangle is x from 0.5 to 8.5, y from 4.5 to 8.5: left and top borders belong to it, the others do not.
    assert (found >= 0).sum() == 8 * 4
    assert bool((found[4:8, 0:8] >= 0).all())


def test_a_tie_goes_to_the_lower_id() -> None:
    points = torch.tensor([[[1.0, 1, 1], [9, 1, 1], [1, 9, 1]]])
    triangles = torch.tensor([[0, 1, 2], [1, 2, 0], [0, 2, 1]])
    for backend in ("torch", "cpu"):
        found = rasterize(points, triangles, 10, 10, backend).triangle
        assert set(found.unique().tolist()) == {-1, 0}


def test_the_front_is_counter_clockwise_as_displayed() -> None:
    up_left_down = torch.tensor([[[8.0, 1, 1], [1, 1, 1], [1, 8, 1]]])
    triangles = torch.tensor([[0, 1, 2]])
    for backend in ("torch", "cpu"):
        assert (rasterize(up_left_down, triangles, 9, 9, backend, cull="back").triangle >= 0).any()
        assert not (rasterize(up_left_down, triangles.flip(1), 9, 9, backend, cull="back").triangle >= 0).any()
        assert (rasterize(up_left_down, triangles.flip(1), 9, 9, backend).triangle >= 0).any()
