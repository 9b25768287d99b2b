"""View synthesis: conventions, planes whose answer is known, gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.rendering.rasterize import interpolate
from backend.rendering.synthesis import (
    View,
    covisible,
    depth_gap,
    draw_view,
    pixel_centres,
    sample,
    sample_depth,
    warp_over_surface,
    warp_rigidly,
)
from backend.rendering.two_views import cross_matrix, epipolar_distance, essential_matrix, rays, relative_pose


def bowl(bump: float = 0.02) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, V, 3) a square sheet that bulges towards +z, outside towards +z, and its triangles."""
    line = torch.linspace(-0.1, 0.1, 21, dtype=torch.float64)
    y, x = torch.meshgrid(line.flip(0), line, indexing="ij")
    points = torch.stack([x, y, bump * torch.cos(15 * x) * torch.cos(12 * y)], dim=-1).reshape(1, -1, 3)
    row, column = torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
    corner = (row * 21 + column).reshape(-1)
    return points, torch.cat(
        [torch.stack([corner, corner + 21, corner + 22], 1), torch.stack([corner, corner + 22, corner + 1], 1)]
    )


def camera(yaw: float, pitch: float = 0.0, distance: float = 0.5, size: int = 40) -> Camera:
    rotation = rotation_from_head_euler(yaw, pitch, 7.0)
    return Camera(intrinsics(1.8 * size, size, size), rotation, np.array([0.01, -0.005, distance]), size, size)


def look(points: torch.Tensor, triangles: torch.Tensor, at: Camera, turn: torch.Tensor | None = None) -> View:
    """``turn`` (6,): a small rotation vector and a shift of the camera frame."""
    K, R, t = (torch.from_numpy(value).to(points) for value in (at.K, at.R, at.t))
    if turn is not None:
        R, t = torch.linalg.matrix_exp(cross_matrix(turn[:3])) @ R, t + turn[3:]
    return draw_view(points, triangles, K, R, t, at.height, at.width)


def test_relative_pose_and_epipolar_lines_agree_with_the_camera() -> None:
    first, second = camera(-20, 5), camera(35, -10, 0.7)
    R, t = relative_pose(*(torch.from_numpy(value)[None] for value in (first.R, first.t, second.R, second.t)))
    points = np.random.default_rng(1).uniform(-0.1, 0.1, (30, 3))
    carried = torch.from_numpy(first.to_camera(points)) @ R[0].T + t[0]
    np.testing.assert_allclose(carried.numpy(), second.to_camera(points), atol=1e-12)
    seen = [torch.from_numpy(at.project(points))[None] for at in (first, second)]
    K = [torch.from_numpy(at.K)[None] for at in (first, second)]
    directions = [rays(pixels, k) for pixels, k in zip(seen, K)]
    products = torch.einsum("bli,bij,blj->bl", directions[1], essential_matrix(R, t), directions[0])
    assert products.abs().max() < 1e-12
    assert epipolar_distance(*seen, *K, R, t).max() < 1e-9
    # The matrix of the published code belongs to another motion.
    wrong = torch.einsum("bli,bij,blj->bl", directions[1], R @ cross_matrix(t), directions[0])
    assert wrong.abs().min() > 1e-3


def test_reading_at_pixel_centres_is_the_picture_itself() -> None:
    picture = torch.rand(2, 7, 9, 3, dtype=torch.float64)
    centres = pixel_centres(7, 9, picture)
    assert centres[1, 0, 0].tolist() == [0.5, 0.5]
    torch.testing.assert_close(sample(picture, centres), picture)
    between = sample(picture, centres[:, :-1, :-1] + 0.5)
    expected = (picture[:, 1:, 1:] + picture[:, :-1, 1:] + picture[:, 1:, :-1] + picture[:, :-1, :-1]) / 4
    torch.testing.assert_close(between, expected)


def test_a_plane_is_carried_and_compared_exactly() -> None:
    """1 / depth of a plane is linear in the picture, so nothing is left but rounding."""
    points, triangles = bowl(0.0)
    first, second = look(points, triangles, camera(-15, 4)), look(points, triangles, camera(25, -8))
    warp = warp_rigidly(first, second)
    seen = covisible(first, second, triangles, warp)
    assert int(seen.sum()) > 300
    assert depth_gap(warp, second)[seen].abs().max() < 1e-9
    over = warp_over_surface(first, second, triangles)
    torch.testing.assert_close(over.pixels[seen], warp.pixels[seen], atol=1e-7, rtol=0)
    torch.testing.assert_close(over.depth[seen], warp.depth[seen], atol=1e-9, rtol=0)


def test_skin_seen_too_steeply_is_no_evidence() -> None:
    """A plane under 75 degrees counts; under 87 a pixel of the source spans more than eight of its widths."""
    points, triangles = bowl(0.0)
    first = look(points, triangles, camera(0))
    counts = []
    for yaw in (75.0, 87.0):
        source = look(points, triangles, camera(yaw, distance=4.0, size=900))
        assert int(source.fragments.mask.sum()) > 100
        counts.append(int(covisible(first, source, triangles).sum()))
    assert counts[0] > 0.5 * int(first.fragments.mask.sum()) and counts[1] == 0


def test_the_warp_over_the_surface_follows_a_face_that_moved() -> None:
    """The source's sheet bulges the other way: its own pictures of the spots are found, the rigid ones are not."""
    points, triangles = bowl()
    other, _ = bowl(-0.02)
    at = camera(0), camera(30)
    first, second = look(points, triangles, at[0]), look(other, triangles, at[1])
    over, rigid = warp_over_surface(first, second, triangles), warp_rigidly(first, second)
    seen = covisible(first, second, triangles)
    assert depth_gap(over, second)[seen].abs().max() < 1e-3
    assert depth_gap(rigid, second)[seen].abs().median() > 5e-3
    assert (over.pixels - rigid.pixels)[seen].norm(dim=-1).median() > 0.5


def test_sizes_and_focal_lengths_may_differ() -> None:
    points, triangles = bowl()
    first = look(points, triangles, camera(0))
    wide = look(points, triangles, camera(20, distance=0.9, size=65))
    warp = warp_rigidly(first, wide)
    seen = covisible(first, wide, triangles, warp)
    assert seen.shape == (1, 40, 40) and int(seen.sum()) > 200
    assert depth_gap(warp, wide)[seen].abs().max() < 1e-3
    picture, truth = (interpolate(points, seen_by.fragments, triangles) for seen_by in (wide, first))
    assert (sample(picture, warp.pixels) - truth)[seen].abs().max() < 1e-3


@pytest.mark.parametrize("which", ["target", "source"])
def test_gradients_of_both_poses(which: str) -> None:
    """Places, depths and depth differences of pixels well inside, against finite differences."""
    points, triangles = bowl()
    at = camera(-10, 3), camera(20, -5)
    still = covisible(look(points, triangles, at[0]), look(points, triangles, at[1]), triangles)
    inner = -torch.nn.functional.max_pool2d(-still[:, None].double(), 5, 1, 2)[:, 0] > 0
    generator = torch.Generator().manual_seed(3)
    mix = torch.randn(int(inner.sum()), 4, generator=generator, dtype=torch.float64)

    def value(turn: torch.Tensor) -> torch.Tensor:
        first = look(points, triangles, at[0], turn if which == "target" else None)
        second = look(points, triangles, at[1], turn if which == "source" else None)
        warp = warp_rigidly(first, second)
        read = sample_depth(second, warp.pixels)
        table = torch.stack([warp.pixels[..., 0], warp.pixels[..., 1], 100 * warp.depth, 100 * read], dim=-1)
        return (table[inner] * mix).sum()

    turn = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(turn), turn)
    step = 1e-7
    expected = []
    for k in range(6):
        offset = torch.zeros(6, dtype=torch.float64)
        offset[k] = step
        expected.append((value(offset) - value(-offset)).item() / (2 * step))
    torch.testing.assert_close(
        gradient, torch.tensor(expected).double(), rtol=2e-2, atol=2e-2 * max(map(abs, expected))
    )


def test_gradient_of_depth_and_shape() -> None:
    """Vertices of the target moved towards the camera move the place in the source along its epipolar line."""
    points, triangles = bowl()
    at = camera(0), camera(30)
    second = look(points, triangles, at[1])
    push = torch.zeros(1, dtype=torch.float64, requires_grad=True)

    def place(amount: torch.Tensor) -> torch.Tensor:
        # Along the rays of the target, so that its pixels keep their triangles.
        centre = torch.from_numpy(at[0].centre)
        moved = points + amount * (points - centre)
        return warp_rigidly(look(moved, triangles, at[0]), second).pixels[0, 18:22, 18:22].mean(dim=(0, 1))

    jacobian = torch.stack([torch.autograd.grad(part, push, retain_graph=True)[0] for part in place(push)])
    numeric = (place(torch.tensor([1e-6]).double()) - place(torch.tensor([-1e-6]).double())) / 2e-6
    torch.testing.assert_close(jacobian[:, 0], numeric, rtol=1e-4, atol=1e-4)
    assert numeric.norm() > 10


def test_points_behind_the_source_leave_no_nan() -> None:
    points, triangles = bowl()
    first = look(points, triangles, camera(0))
    turn = torch.tensor([0.0, 0, 0, 0, 0, -0.5], dtype=torch.float64, requires_grad=True)
    inside = look(points, triangles, camera(20), turn)
    warp = warp_rigidly(first, inside)
    total = warp.pixels.sum() + depth_gap(warp, inside).sum()
    total.backward()
    assert turn.grad is not None and bool(torch.isfinite(turn.grad).all())
    assert not bool(covisible(first, inside, triangles, warp)[warp.depth <= 0].any())


def test_double_precision_gives_the_same_map() -> None:
    """It runs the portable formulas of weights and depth, single precision the compiled ones."""
    points, triangles = bowl(0.04)
    maps = []
    for kind in (torch.float64, torch.float32):
        first, second = (look(points.to(kind), triangles, camera(yaw)) for yaw in (-30, 30))
        maps.append(covisible(first, second, triangles, warp_rigidly(first, second)))
    assert int(maps[0].sum()) > 150 and int((maps[0] != maps[1]).sum()) <= 2
