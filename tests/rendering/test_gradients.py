"""Gradients against finite differences, and between backends."""

from __future__ import annotations

import math

import pytest
import torch
from raster_scenes import Scene, ball, camera_tensors, head, soup, sphere

from backend.rendering.antialias import (
    HORIZONTAL,
    VERTICAL,
    antialias,
    edge_neighbours,
    find_outlines,
    find_outlines_compiled,
)
from backend.rendering.backends import missing_reason
from backend.rendering.rasterize import interpolate, rasterize
from backend.rendering.transform import project_to_image

BACKENDS = ("torch", "cpu", "cuda")


def on_device(backend: str) -> str:
    reason = missing_reason(backend)
    if reason is not None:
        pytest.skip(reason)
    return "cuda" if backend == "cuda" else "cpu"


def numeric_gradient(function, vertices: torch.Tensor, entries: list[tuple[int, ...]], step: float) -> torch.Tensor:
    values = []
    for entry in entries:
        above, below = vertices.clone(), vertices.clone()
        above[entry] += step
        below[entry] -= step
        values.append((function(above) - function(below)) / (2 * step))
    return torch.stack(values)


@pytest.mark.parametrize("backend", BACKENDS)
def test_barycentric_and_depth(backend: str) -> None:
    """Two overlapping triangles in double precision; the coverage does not change within the step."""
    device = on_device(backend)
    corners = [[1.2, 1.1, 0.5], [9.3, 2.2, 0.8], [3.1, 8.7, 0.6], [2.2, 6.1, 0.9], [8.4, 3.3, 1.1], [9.2, 9.6, 0.7]]
    vertices = torch.tensor([corners], dtype=torch.float64, device=device)
    triangles = torch.tensor([[0, 1, 2], [3, 4, 5]])
    weights = torch.randn(1, 11, 11, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)

    def loss(points: torch.Tensor) -> torch.Tensor:
        found = rasterize(points, triangles, 11, 11, backend)
        return (torch.cat([found.barycentric, found.depth[..., None]], dim=-1) * weights).sum()

    leaf = vertices.clone().requires_grad_()
    loss(leaf).backward()
    entries = [(0, v, c) for v in range(6) for c in range(3)]
    expected = numeric_gradient(lambda points: loss(points).detach(), vertices, entries, 1e-6)
    torch.testing.assert_close(leaf.grad.reshape(-1), expected, atol=1e-6, rtol=1e-5)
    assert expected.abs().min() > 1e-3


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
@pytest.mark.parametrize("make", [soup, ball, head], ids=["soup", "ball", "head"])
def test_backends_give_the_same_gradient(backend: str, make) -> None:
    device = on_device(backend)
    scene: Scene = make(3) if make is soup else make(96)
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(1, scene.vertices.shape[1], 3, generator=generator)
    weights = torch.randn(1, scene.height, scene.width, 3, generator=generator)
    gradients = []
    for name, where in (("torch", "cpu"), (backend, device)):
        leaf = scene.vertices.to(where).requires_grad_()
        colors = values.to(where).requires_grad_()
        found = rasterize(leaf, scene.triangles.to(where), scene.height, scene.width, name)
        image = interpolate(colors, found, scene.triangles.to(where))
        smooth = antialias(image, found, leaf, scene.triangles.to(where))
        (smooth * weights.to(where)).sum().backward()
        gradients.append((leaf.grad.cpu(), colors.grad.cpu()))
    for expected, result in zip(*gradients):
        assert expected.abs().max() > 0 and bool(torch.isfinite(expected).all())
        torch.testing.assert_close(result, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("make", [soup, ball], ids=["soup", "ball"])
def test_compiled_gradient_of_weights_and_depth(make) -> None:
    """Slivers, clamped weights and corners behind the camera included; three images at once."""
    scene: Scene = make(8, batch=3) if make is soup else make(80, batch=3)
    if make is soup:
        scene.vertices[:, 1::9] = scene.vertices[:, 0::9] + torch.tensor([1e-3, 0, 0])
        scene.vertices[1, ::23, 2] = -0.2
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(3, scene.height, scene.width, 4, generator=generator)
    gradients = []
    for backend in ("torch", "cpu"):
        leaf = scene.vertices.clone().requires_grad_()
        found = rasterize(leaf, scene.triangles, scene.height, scene.width, backend)
        (torch.cat([found.barycentric, found.depth[..., None]], dim=-1) * weights).sum().backward()
        gradients.append(leaf.grad)
    expected, result = gradients
    assert expected.abs().max() > 0
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("axis", [HORIZONTAL, VERTICAL])
@pytest.mark.parametrize("make", [soup, ball, head], ids=["soup", "ball", "head"])
def test_compiled_outline_search(make, axis: int) -> None:
    scene: Scene = make(6, batch=2) if make is soup else make(72, batch=2)
    triangles = scene.triangles.long()
    found = rasterize(scene.vertices, triangles, scene.height, scene.width, "cpu")
    arguments = (found, scene.vertices, triangles, edge_neighbours(triangles), axis)
    expected, result = find_outlines(*arguments), find_outlines_compiled(*arguments)
    rows = []
    for pairs, triangle, edge in (expected, result):
        table = torch.stack([pairs.item, pairs.near, pairs.far, pairs.triangle, triangle, edge], dim=1).tolist()
        rows.append(sorted(map(tuple, table)))
    assert rows[0] == rows[1] and len(rows[0]) > 50


def test_background_pixels_and_dropped_triangles_leave_no_nan() -> None:
    points = torch.tensor(
        [[[1.0, 1, 1], [7, 1, 1], [1, 7, 1], [3, 3, 0.0], [5, 5, -1.0], [3, 3, 1.0]]]
    ).requires_grad_()
    triangles = torch.tensor([[0, 1, 2], [3, 4, 0], [5, 5, 5]])
    found = rasterize(points, triangles, 8, 8)
    (found.barycentric.sum() + found.depth.sum()).backward()
    assert bool(torch.isfinite(points.grad).all())


def test_projection_gradient_is_finite_at_the_lens() -> None:
    points = torch.zeros(1, 1, 3).requires_grad_()
    K, R, _ = camera_tensors(8)
    image = project_to_image(points, K, R, torch.zeros(3))
    image[..., 2].sum().backward()
    assert bool(torch.isfinite(points.grad).all())


def coverage(vertices: torch.Tensor, triangles: torch.Tensor, size: int, backend: str = "torch") -> torch.Tensor:
    """(1, H, W, 1) white mesh on black, silhouettes blended."""
    found = rasterize(vertices, triangles, size, size, backend)
    white = found.mask[..., None].to(vertices.dtype)
    return antialias(white, found, vertices, triangles)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_moving_a_triangle_moves_its_silhouette(backend: str) -> None:
    """A picture to match pulls the triangle there: analytic against finite differences, all coordinates."""
    corners = [[6.3, 5.2, 1.0], [25.7, 9.1, 1.0], [11.4, 26.6, 1.0]]
    vertices = torch.tensor([corners], dtype=torch.float64)
    triangles = torch.tensor([[0, 1, 2]])
    ramp = torch.linspace(0, 1, 32, dtype=torch.float64)
    target = (ramp[:, None] * 0.7 + ramp[None] * 0.3)[None, :, :, None]

    def loss(points: torch.Tensor) -> torch.Tensor:
        return (coverage(points, triangles, 32, backend) * target).sum()

    leaf = vertices.clone().requires_grad_()
    loss(leaf).backward()
    entries = [(0, v, c) for v in range(3) for c in range(2)]
    # The step is a multiple of the snapping grid: coverage may flip, the blend is continuous there.
    expected = numeric_gradient(lambda points: loss(points).detach(), vertices, entries, 2.0**-8)
    result = torch.stack([leaf.grad[entry] for entry in entries])
    torch.testing.assert_close(result, expected, rtol=0.06, atol=0.06 * float(expected.abs().max()))
    assert expected.abs().min() > 0.1


def test_blended_coverage_is_the_area() -> None:
    """Axis-aligned sides anywhere between pixel centres: the sum over pixels is the exact area."""
    for left, right in ((3.0, 12.0), (3.2, 12.9), (3.5, 12.5), (3.74, 12.01)):
        corners = [[left, 2.0, 1], [right, 2, 1], [right, 14, 1], [left, 14, 1]]
        vertices = torch.tensor([corners], dtype=torch.float64)
        picture = coverage(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]), 16)
        assert picture[0, 5:10].sum().item() == pytest.approx(5 * (right - left), abs=1e-9)


def test_inner_edges_are_not_blended() -> None:
    """A flat sheet of many triangles has no silhouette inside."""
    scene = ball(48)
    found = rasterize(scene.vertices, scene.triangles, 48, 48)
    picture = antialias(torch.rand(1, 48, 48, 2), found, scene.vertices, scene.triangles)
    untouched = antialias(found.mask[..., None].float(), found, scene.vertices, scene.triangles)[..., 0]
    inside = found.mask[:, 1:-1, 1:-1] & found.mask[:, :-2, 1:-1] & found.mask[:, 2:, 1:-1]
    inside &= found.mask[:, 1:-1, :-2] & found.mask[:, 1:-1, 2:]
    assert bool((untouched[:, 1:-1, 1:-1][inside] == 1).all())
    assert picture.shape == (1, 48, 48, 2)


def test_a_sphere_of_triangles_smaller_than_pixels_has_a_smooth_outline() -> None:
    """The walk crosses many triangles. Its summed coverage is the area of the projected outline."""
    points, triangles = sphere(200, 400)
    size, distance, radius = 40, 0.5, 0.1
    K, R, t = camera_tensors(size, distance)
    vertices = project_to_image(points[None].double(), K, R, t + torch.tensor([0.0013, 0.0007, 0]))
    picture = coverage(vertices, triangles, size)
    in_pixels = 2.0 * size * radius / math.sqrt(distance**2 - radius**2)
    assert picture.sum().item() == pytest.approx(math.pi * in_pixels**2, rel=2e-3)
    hard = rasterize(vertices, triangles, size, size).mask.sum().item()
    assert abs(picture.sum().item() - math.pi * in_pixels**2) < abs(hard - math.pi * in_pixels**2)


def test_growing_sphere_by_its_silhouette() -> None:
    """d(coverage)/d(radius) of a sphere on black is the derivative of the disc's area."""
    points, triangles = sphere(60, 120, radius=1.0)
    size, distance = 64, 0.5
    K, R, t = camera_tensors(size, distance)
    radius = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    vertices = project_to_image(points[None].double() * radius, K, R, t)
    coverage(vertices, triangles, size, "cpu").sum().backward()
    focal = 2.0 * size
    # area = pi f^2 r^2 / (d^2 - r^2), so d(area)/dr = 2 pi f^2 r d^2 / (d^2 - r^2)^2
    expected = 2 * math.pi * focal**2 * 0.1 * distance**2 / (distance**2 - 0.01) ** 2
    assert radius.grad.item() == pytest.approx(expected, rel=0.03)


def test_one_surface_before_another_is_blended_at_the_nearer_outline() -> None:
    """A near square over a far one: only the near square's outline receives a gradient in the picture's middle."""
    near = [[8.3, 8.3, 0.5], [16.6, 8.3, 0.5], [16.6, 16.6, 0.5], [8.3, 16.6, 0.5]]
    far = [[2.0, 2.0, 1.0], [22, 2, 1], [22, 22, 1], [2, 22, 1]]
    vertices = torch.tensor([near + far], dtype=torch.float64).requires_grad_()
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    found = rasterize(vertices.detach(), triangles, 24, 24)
    image = (found.triangle[..., None] < 2).to(torch.float64) * 2.0
    smooth = antialias(image, found, vertices, triangles)
    smooth[:, 10:14, 5:20].sum().backward()
    moved = vertices.grad[0].abs().sum(dim=1)
    assert bool((moved[:4] > 0.1).all()) and bool((moved[4:] == 0).all())


def test_neighbours_against_a_dictionary() -> None:
    """Borders, closed surfaces, and edges that three triangles share."""
    strip = torch.tensor([[0, 1, 2], [2, 1, 3], [2, 3, 4], [1, 3, 5], [7, 3, 1], [8, 9, 10]])
    for triangles in (strip, sphere(6, 8)[1], torch.zeros(0, 3, dtype=torch.int64)):
        sides: dict[frozenset[int], list[int]] = {}
        for number, corners in enumerate(triangles.tolist()):
            for k in range(3):
                sides.setdefault(frozenset((corners[k], corners[(k + 1) % 3])), []).append(number)
        expected = []
        for number, corners in enumerate(triangles.tolist()):
            owners = [sides[frozenset((corners[k], corners[(k + 1) % 3]))] for k in range(3)]
            expected.append([sum(o) - number if len(o) == 2 else -1 for o in owners])
        assert edge_neighbours(triangles).tolist() == expected
