from __future__ import annotations

import numpy as np
from small_head import build_head, grid_sphere, head_mesh

from backend.face_model.adapters.layout import (
    as_quads,
    azimuthal_eye_uv,
    compact,
    components,
    cylindrical_uv,
    eye_axis,
    mirror_pairs,
    weld_uv,
)
from backend.face_model.adapters.statistical import outward, side_by_side
from backend.geometry.mesh import triangle_normals, triangulate


def signed_area(uv: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    a, b, c = (uv[triangles[:, corner]] for corner in range(3))
    return 0.5 * ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])


def test_the_tests_head_is_sound() -> None:
    mean, faces, _ = head_mesh()
    sphere, sphere_faces = grid_sphere(16, 8)
    triangles = triangulate(sphere_faces)
    outside = (triangle_normals(sphere, triangles) * sphere[triangles].mean(axis=1)).sum(axis=1)
    assert (outside > 0).all()
    assert build_head().vertex_count == len(mean) and faces.max() == len(mean) - 1


def test_compact_keeps_the_faces() -> None:
    faces = np.array([[9, 4, 7, -1], [4, 7, 12, 9]])
    used, renumbered = compact(faces)
    assert used.tolist() == [4, 7, 9, 12]
    assert renumbered.tolist() == [[2, 0, 1, -1], [0, 1, 3, 2]]


def test_weld_uv() -> None:
    corners = np.array([[[0, 0], [1, 0], [1, 1], [0, 1]], [[1, 0], [2, 0], [2, 1], [1, 1]]], float)
    uv, faces = weld_uv(corners)
    assert len(uv) == 6
    np.testing.assert_array_equal(uv[faces], corners)


def test_components_of_the_head() -> None:
    mean, faces, material = head_mesh()
    piece = components(faces, len(mean))
    assert len(np.unique(piece)) == 4
    for slot, count in ((0, 1), (1, 1), (2, 2)):
        own = faces[material == slot]
        assert len(np.unique(piece[own[own >= 0]])) == count


def test_cylindrical_layout() -> None:
    mean, faces, material = head_mesh()
    uv, face_uv = cylindrical_uv(mean, faces[material == 0])
    assert uv.min() >= 0 and uv.max() <= 1
    np.testing.assert_array_equal(face_uv < 0, faces[material == 0] < 0)
    area = signed_area(uv, triangulate(face_uv))
    # The texture seen from outside: away from the poles no triangle is mirrored, and none is smeared over the seam.
    away = (np.abs(mean[triangulate(faces[material == 0])][:, :, 1]) < 0.095).all(axis=1)
    assert (area[away] > 0).all() and area.max() < 0.01
    nose, top = np.argmax(mean[:738, 2]), np.argmax(mean[:738, 1])
    at = {vertex: uv[face_uv[faces[material == 0] == vertex][0]] for vertex in (nose, top)}
    # Faces across the seam reach past the right edge, so the middle moves left a little.
    assert 0.38 < at[nose][0] < 0.5 and at[top][1] > 0.95


def test_eye_layout_is_the_equal_area_map() -> None:
    ball, faces = grid_sphere(48, 32)
    uv, face_uv = azimuthal_eye_uv(ball * 0.012 + [0.03, 0.02, 0.07], faces)
    for row in range(0, len(faces), 37):
        for corner in range(3):
            x, y, z = ball[faces[row, corner]]
            radius = 0.5 * np.sin(np.arccos(z) / 2)
            phi = np.arctan2(y, x)
            expected = [0.5 + radius * np.cos(phi), 0.5 + radius * np.sin(phi)]
            np.testing.assert_allclose(uv[face_uv[row, corner]], expected, atol=1e-6)
    # Equal area: a sphere's area of 4 pi becomes a disc of pi / 4.
    triangles, flat = triangulate(faces), triangulate(face_uv)
    front = (ball[triangles][:, :, 2] > -0.5).all(axis=1)
    solid = np.linalg.norm(triangle_normals(ball, triangles), axis=1) / 2
    ratio = signed_area(uv, flat)[front].sum() / solid[front].sum()
    assert abs(ratio * 16 - 1) < 0.02


def test_eye_axis_finds_the_cornea() -> None:
    ball, _ = grid_sphere(48, 32)
    axis = np.array([0.2, -0.1, 1.0]) / np.linalg.norm([0.2, -0.1, 1.0])
    rise = 0.15 * np.exp(-((np.arccos(np.clip(ball @ axis, -1, 1)) / 0.3) ** 2))
    centre, found = eye_axis(ball * (1 + rise)[:, None] * 0.012 + [0.03, 0.0, 0.05])
    np.testing.assert_allclose(centre, [0.03, 0.0, 0.05], atol=1e-5)
    assert np.degrees(np.arccos(found @ axis)) < 1
    np.testing.assert_array_equal(eye_axis(ball)[1], [0, 0, 1])


def test_mirror_pairs_against_brute_force() -> None:
    mean = head_mesh()[0]
    rng = np.random.default_rng(0)
    mean = mean[rng.permutation(len(mean))]
    pairs = mirror_pairs(mean)
    assert pairs is not None
    for vertex, partner in enumerate(pairs):
        distance = np.linalg.norm(mean - mean[vertex] * [-1, 1, 1], axis=1)
        assert distance[partner] <= distance.min() + 1e-9


def test_a_lopsided_head_has_no_mirror() -> None:
    mean = head_mesh()[0].copy()
    mean[mean[:, 0] > 0.05, 1] += 0.004
    assert mirror_pairs(mean) is None


def test_outward_turns_inside_out_heads() -> None:
    mean, faces, _ = head_mesh()
    corner_uv = np.random.default_rng(0).uniform(size=(*faces.shape, 2))
    same, same_uv = outward(mean, faces, corner_uv)
    assert same is faces and same_uv is corner_uv
    inside_out, inside_uv = faces[:, [0, 3, 2, 1]], corner_uv[:, [0, 3, 2, 1]]
    triangle = faces[:, 3] < 0
    inside_out[triangle], inside_uv[triangle] = faces[triangle][:, [0, 2, 1, 3]], corner_uv[triangle][:, [0, 2, 1, 3]]
    turned, turned_uv = outward(mean, inside_out, inside_uv)
    np.testing.assert_array_equal(turned, faces)
    np.testing.assert_array_equal(turned_uv, corner_uv)


def test_tiles_go_side_by_side() -> None:
    square = np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]])
    corner_uv = np.stack([square, square + np.array([3, 1]), square + np.array([1, 0])])
    laid = side_by_side(corner_uv, np.zeros((3, 4), int))
    for row, number in ((0, 0), (2, 1), (1, 2)):
        np.testing.assert_allclose(laid[row], (square + np.array([number, 0])) / [3, 1])
    alone = side_by_side(square[None] + [2, 0], np.zeros((1, 4), int))
    np.testing.assert_allclose(alone[0], square)


def test_as_quads() -> None:
    assert as_quads(np.array([[3, 1, 2]])).tolist() == [[3, 1, 2, -1]]
