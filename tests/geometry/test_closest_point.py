"""The tree of boxes against its slow twin, which looks at every triangle, and that twin against sampling."""

from __future__ import annotations

import numpy as np
import pytest

from backend.geometry.closest_point import SurfaceTree


def brute_force(points: np.ndarray, vertices: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest points (N, 3) and their distances (N,): every point on every triangle's edges and plane."""
    a, b, c = (np.asarray(vertices, np.float64)[triangles[:, corner]] for corner in range(3))
    nearest = np.zeros((len(points), 3))
    for row, point in enumerate(points):
        candidates = np.concatenate(
            [on_edges(point, a, b), on_edges(point, b, c), on_edges(point, c, a), in_planes(point, a, b, c)]
        )
        nearest[row] = candidates[np.nanargmin(((candidates - point) ** 2).sum(axis=1))]
    return nearest, np.linalg.norm(nearest - points, axis=1)


def on_edges(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(T, 3) nearest point of each edge."""
    along = end - start
    length = np.maximum((along**2).sum(axis=1), np.finfo(np.float64).tiny)
    fraction = np.clip(((point - start) * along).sum(axis=1) / length, 0.0, 1.0)
    return start + fraction[:, None] * along


def in_planes(point: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """(T, 3) foot of the perpendicular on each triangle's plane; NaN where it falls outside."""
    normal = np.cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        foot = point - ((point - a) * normal).sum(axis=1, keepdims=True) / (normal**2).sum(1, keepdims=True) * normal
    inside = np.ones(len(a), bool)
    for start, end in ((a, b), (b, c), (c, a)):
        inside &= (np.cross(end - start, foot - start) * normal).sum(axis=1) >= 0.0
    return np.where(inside[:, None], foot, np.nan)


def bumpy_sheet(side: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """A wavy square whose columns grow from narrow to wide: triangles of very different sizes and shapes."""
    x, y = np.meshgrid(np.linspace(0, 1, side) ** 3 * 2 - 1, np.linspace(-1, 1, side))
    vertices = np.stack([x, y, 0.3 * np.sin(3 * x) * np.cos(2 * y)], axis=-1).reshape(-1, 3)
    corner = np.arange(side * side).reshape(side, side)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]
    triangles = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return vertices, triangles


def assert_like_brute_force(points: np.ndarray, vertices: np.ndarray, triangles: np.ndarray, guess=None) -> None:
    found = SurfaceTree(vertices, triangles).query(points, guess)
    _, distances = brute_force(points, vertices, triangles)
    np.testing.assert_allclose(found.distances, distances, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(found.points - points, axis=1), distances, atol=1e-12)
    assert found.barycentric.min() >= 0.0
    np.testing.assert_allclose(found.barycentric.sum(axis=1), 1.0, atol=1e-12)
    corners = np.asarray(vertices, np.float64)[np.asarray(triangles)[found.triangles]]
    np.testing.assert_allclose(np.einsum("nk,nkc->nc", found.barycentric, corners), found.points, atol=1e-12)


@pytest.mark.parametrize("guessed", [False, True])
def test_the_tree_answers_like_brute_force(guessed):
    vertices, triangles = bumpy_sheet()
    generator = np.random.default_rng(0)
    points = generator.uniform(-1.2, 1.2, (300, 3))
    points[:50] = vertices[generator.choice(len(vertices), 50)]
    guess = generator.integers(0, len(triangles), 300) if guessed else None
    assert_like_brute_force(points, vertices, triangles, guess)


def test_many_loose_triangles_answer_like_brute_force():
    """Triangles that cross and touch each other everywhere; whatever is nearest is found."""
    generator = np.random.default_rng(3)
    vertices = generator.normal(size=(180, 3))
    assert_like_brute_force(generator.normal(size=(300, 3)), vertices, np.arange(180).reshape(60, 3))


def test_one_triangle_by_brute_sampling():
    generator = np.random.default_rng(1)
    samples = np.concatenate([generator.dirichlet(np.ones(3), 40_000), np.eye(3)])
    for _ in range(20):
        triangle, point = generator.normal(size=(3, 3)), generator.normal(size=(1, 3))
        distance = SurfaceTree(triangle, np.array([[0, 1, 2]])).query(point).distances[0]
        sampled = np.linalg.norm(samples @ triangle - point, axis=1).min()
        assert sampled - 0.05 < distance <= sampled + 1e-9
        np.testing.assert_allclose(distance, brute_force(point, triangle, np.array([[0, 1, 2]]))[1], atol=1e-12)


def test_triangles_without_area_are_lines_and_points():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0]])
    triangles = np.array([[0, 1, 3], [0, 0, 0], [0, 1, 2]])
    points = np.array([[1.5, 0.0, 1.0], [0.2, 0.2, -2.0], [-1.0, -1.0, 0.0]])
    assert_like_brute_force(points, vertices, triangles)
    # The same two corners in every order.
    generator = np.random.default_rng(4)
    for corners in ((0, 0, 2), (0, 2, 0), (2, 0, 0), (2, 2, 0)):
        assert_like_brute_force(generator.normal(size=(20, 3)), vertices, np.array([corners]))


def test_nearly_flat_triangles():
    generator = np.random.default_rng(5)
    line = generator.normal(size=(40, 2, 3))
    third = line[:, 0] + generator.uniform(-0.5, 1.5, (40, 1)) * (line[:, 1] - line[:, 0])
    for height in (1e-7, 1e-10, 1e-14):
        vertices = np.concatenate([line, (third + height * generator.normal(size=(40, 3)))[:, None]], axis=1)
        points, triangles = generator.normal(size=(60, 3)), np.arange(120).reshape(40, 3)
        found = SurfaceTree(vertices.reshape(-1, 3), triangles).query(points)
        _, distances = brute_force(points, vertices.reshape(-1, 3), triangles)
        # The twin's plane of a sliver has a rounded normal, so the two agree to the sliver's width.
        np.testing.assert_allclose(found.distances, distances, atol=1e-7)


def test_embedding_names_vertices_and_weights():
    vertices, triangles = bumpy_sheet()
    points = np.random.default_rng(6).uniform(-1.2, 1.2, (100, 3))
    corners, weights = SurfaceTree(vertices, triangles[:, [1, 2, 0]]).embed(points)
    assert corners.dtype == np.int32 and weights.dtype == np.float32
    np.testing.assert_allclose(
        np.einsum("nk,nkc->nc", weights, vertices[corners]), brute_force(points, vertices, triangles)[0], atol=1e-6
    )
