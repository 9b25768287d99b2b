"""Mesh operations on shapes whose answers are known."""

from __future__ import annotations

import numpy as np

from backend.geometry.mesh import (
    boundary_edges,
    edges,
    interpolate_on_triangles,
    triangle_faces,
    triangle_normals,
    triangulate,
    vertex_normals,
)

# A unit cube of quads, counter-clockwise from outside, and the same with one face cut into a triangle.
CUBE = np.array([[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)])
QUADS = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])


def test_quads_and_triangles_mix():
    faces = np.array([[0, 1, 2, 3], [4, 5, 6, -1], [7, 8, 9, 10]])
    expected = [[0, 1, 2], [4, 5, 6], [7, 8, 9], [0, 2, 3], [7, 9, 10]]
    np.testing.assert_array_equal(triangulate(faces), expected)
    np.testing.assert_array_equal(triangle_faces(faces), [0, 1, 2, 0, 2])


def test_a_closed_cube_has_no_border_and_twelve_edges():
    triangles = triangulate(QUADS)
    assert len(boundary_edges(triangles)) == 0
    assert len(edges(QUADS)) == 12
    assert len(boundary_edges(triangulate(QUADS[:-1]))) == 4


def test_normals_point_outward_and_have_twice_the_area():
    triangles = triangulate(QUADS)
    normals = triangle_normals(CUBE, triangles)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0)
    middles = CUBE[triangles].mean(axis=1) - 0.5
    assert ((normals * middles).sum(axis=1) > 0).all()
    corner = vertex_normals(CUBE, triangles)
    assert ((corner * (CUBE - 0.5)).sum(axis=1) > 0.5).all()


def test_a_vertex_without_faces_has_no_normal():
    vertices = np.concatenate([CUBE, [[5.0, 5.0, 5.0]]])
    np.testing.assert_array_equal(vertex_normals(vertices, triangulate(QUADS))[-1], 0.0)


def test_interpolation_is_exact_for_linear_values_and_keeps_batches():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 8, (5, 3))
    weights = rng.dirichlet(np.ones(3), 5)
    points = interpolate_on_triangles(CUBE, corners, weights)
    linear = CUBE @ np.array([[1.0], [2.0], [3.0]])
    batch = np.stack([linear, 2.0 * linear])
    np.testing.assert_allclose(
        interpolate_on_triangles(batch, corners, weights)[1], 2.0 * points @ [[1.0], [2.0], [3.0]]
    )
