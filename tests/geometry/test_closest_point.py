"""Closest points against an exhaustive search that samples every triangle."""

from __future__ import annotations

import numpy as np

from backend.geometry.closest_point import ClosestPoint, closest_barycentric


def bumpy_sheet(side: int = 14) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    vertices = np.stack([x, y, 0.3 * np.sin(3 * x) * np.cos(2 * y)], axis=-1).reshape(-1, 3)
    corner = np.arange(side * side).reshape(side, side)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]
    triangles = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return vertices, triangles


def test_agrees_with_looking_at_every_triangle():
    vertices, triangles = bumpy_sheet()
    queries = np.random.default_rng(0).uniform(-1.2, 1.2, (200, 3))
    corners, weights = ClosestPoint(vertices, triangles).embed(queries)
    found = np.einsum("nk,nkc->nc", weights, vertices[corners])
    for query, point in zip(queries, found):
        every = closest_barycentric(query, vertices[triangles])
        best = np.linalg.norm(np.einsum("tk,tkc->tc", every, vertices[triangles]) - query, axis=1).min()
        assert np.linalg.norm(point - query) <= best + 1e-6


def test_one_triangle_by_brute_sampling():
    rng = np.random.default_rng(1)
    samples = rng.dirichlet(np.ones(3), 40_000)
    samples = np.concatenate([samples, np.eye(3)])
    for _ in range(20):
        triangle, query = rng.normal(size=(1, 3, 3)), rng.normal(size=3)
        weights = closest_barycentric(query, triangle)[0]
        assert weights.min() >= 0.0 and np.isclose(weights.sum(), 1.0)
        distance = np.linalg.norm(weights @ triangle[0] - query)
        sampled = np.linalg.norm(samples @ triangle[0] - query, axis=1).min()
        assert distance <= sampled + 1e-9 and distance > sampled - 0.05


def test_a_degenerate_triangle_still_answers():
    flat = np.array([[[0.0, 0, 0], [1, 0, 0], [2, 0, 0]], [[1.0, 1, 1], [1, 1, 1], [1, 1, 1]]])
    weights = closest_barycentric(np.array([1.5, 1.0, 0.0]), flat)
    np.testing.assert_allclose(weights[0] @ flat[0], [1.5, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(weights[1] @ flat[1], [1.0, 1.0, 1.0], atol=1e-12)
