"""Interpolation is exact for linear functions; texture space is covered once; projection is the camera's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from raster_scenes import ball, camera_tensors, soup, sphere

from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.rendering.rasterize import interpolate, rasterize
from backend.rendering.transform import project_to_image, uv_to_image


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_camera_coordinates_come_back_at_every_pixel(backend: str) -> None:
    """A function that is linear in space is reproduced under perspective: the point itself."""
    points, triangles = sphere(12, 16)
    size = 80
    K, R, t = camera_tensors(size, 0.25)  # close: strong perspective
    found = rasterize(project_to_image(points[None], K, R, t), triangles, size, size, backend, cull="back")
    camera = interpolate((points @ R.T + t)[None], found, triangles)
    row, column = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    rays = torch.stack([(column - size / 2) / K[0, 0], (row - size / 2) / K[1, 1], torch.ones_like(row)], dim=-1)
    expected = rays * found.depth[0, ..., None]
    torch.testing.assert_close(camera[0][found.mask[0]], expected[found.mask[0]], atol=2e-6, rtol=0)
    assert found.mask.float().mean() > 0.3


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_linear_functions_of_the_image_at_constant_depth(backend: str) -> None:
    scene = soup(4)
    flat = scene.vertices.clone()
    flat[..., 2] = 0.7
    found = rasterize(flat, scene.triangles, scene.height, scene.width, backend)
    plane = 3.0 * flat[..., :1] - 2.0 * flat[..., 1:2] + 5.0
    values = interpolate(plane, found, scene.triangles)[0, ..., 0]
    row, column = torch.meshgrid(torch.arange(scene.height) + 0.5, torch.arange(scene.width) + 0.5, indexing="ij")
    expected = 3.0 * column - 2.0 * row + 5.0
    torch.testing.assert_close(values[found.mask[0]], expected[found.mask[0]], atol=2e-2, rtol=0)
    torch.testing.assert_close(found.depth[found.mask], torch.full_like(found.depth[found.mask], 0.7))


def test_attributes_with_their_own_triangles() -> None:
    """Face-varying values: another index array over another table of values."""
    scene = ball(40)
    found = rasterize(scene.vertices, scene.triangles, 40, 40)
    split = torch.arange(scene.triangles.numel()).reshape(-1, 3)
    table = scene.vertices[:, scene.triangles.reshape(-1)]
    torch.testing.assert_close(
        interpolate(table, found, split), interpolate(scene.vertices, found, scene.triangles), atol=1e-5, rtol=1e-6
    )


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("size", [16, 61, 128])
def test_touching_charts_cover_every_texel_once(backend: str, size: int) -> None:
    """A jittered grid of triangles over the whole of texture space: no texel is missed, none drawn twice."""
    generator = np.random.default_rng(size)
    count = 9
    u, v = np.meshgrid(np.linspace(0, 1, count + 1), np.linspace(0, 1, count + 1), indexing="ij")
    places = np.stack([u, v], axis=-1)
    places[1:-1, 1:-1] += generator.uniform(-0.025, 0.025, (count - 1, count - 1, 2))
    uv = torch.from_numpy(places.reshape(-1, 2).astype(np.float32))
    i, j = np.meshgrid(np.arange(count), np.arange(count), indexing="ij")
    a, b = (i * (count + 1) + j).ravel(), ((i + 1) * (count + 1) + j).ravel()
    quads = np.stack([a, b, b + 1, a + 1], axis=1)
    triangles = torch.from_numpy(np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]))
    image = uv_to_image(uv, size, size)
    together = rasterize(image, triangles, size, size, backend)
    assert bool(together.mask.all())
    alone = torch.zeros(size, size, dtype=torch.int32)
    for number in range(len(triangles)):
        alone += rasterize(image, triangles[number : number + 1], size, size, backend).mask[0].int()
    assert bool((alone == 1).all())
    centres = (torch.arange(size) + 0.5) / size
    read = interpolate(uv[None], together, triangles)[0]
    torch.testing.assert_close(read[..., 0], centres.expand(size, size), atol=1e-5, rtol=0)
    torch.testing.assert_close(read[..., 1], 1 - centres[:, None].expand(size, size), atol=1e-5, rtol=0)


def test_projection_is_the_camera_s() -> None:
    camera = Camera(
        intrinsics(700.0, 640, 480), rotation_from_head_euler(20, 10, -5), np.array([0.01, 0.02, 0.6]), 640, 480
    )
    points = np.random.default_rng(0).normal(scale=0.1, size=(50, 3))
    parts = [torch.from_numpy(part) for part in (camera.K, camera.R, camera.t)]
    for batch in (1, 3):
        stacked = [part.expand(batch, *part.shape) for part in parts] if batch > 1 else parts
        result = project_to_image(torch.from_numpy(points).expand(batch, -1, -1), *stacked)
        np.testing.assert_allclose(result[-1, :, :2].numpy(), camera.project(points), atol=1e-9)
        np.testing.assert_allclose(result[-1, :, 2].numpy(), camera.to_camera(points)[:, 2], atol=1e-12)
