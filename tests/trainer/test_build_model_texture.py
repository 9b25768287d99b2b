"""Charts of the mouth and the search for overlaps, on small meshes and against slow twins."""

# The check for optional packages has to stand before the imports that need them.
# ruff: noqa: E402

from __future__ import annotations

import os

import numpy as np
import pytest

for package in ("igl", "pynanoinstantmeshes"):
    pytest.importorskip(package, reason=f"needs {package}, which the extra train installs")

from backend.geometry.mesh import triangulate
from trainer.build_model import atlas, charts, check_uv, parts, remesh


def common_area(one: np.ndarray, other: np.ndarray) -> float:
    """The slow twin: one triangle clipped by the sides of the other (Sutherland and Hodgman 1974)."""
    polygon = [*one]
    for p, q in zip(other, np.roll(other, -1, axis=0)):
        side = [(q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]) for r in polygon]
        clipped = []
        for k, corner in enumerate(polygon):
            before, here = side[k - 1], side[k]
            if (before > 0) != (here > 0):
                clipped.append(polygon[k - 1] + (corner - polygon[k - 1]) * before / (before - here))
            if here > 0:
                clipped.append(corner)
        polygon = clipped
    x, y = np.array(polygon).reshape(-1, 2).T
    return 0.5 * abs(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def upright(corners: np.ndarray) -> np.ndarray:
    return np.where((check_uv.signed_area(corners) < 0)[:, None, None], corners[:, ::-1], corners)


def test_overlapping_pairs_are_those_with_a_common_area():
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 1, (60, 1, 2)) + generator.normal(0, 0.1, (60, 3, 2))
    turned = upright(corners)
    slow = {(i, k) for i in range(60) for k in range(i + 1, 60) if common_area(turned[i], turned[k]) > 1e-12}
    assert 20 < len(slow) < 1000
    assert {tuple(sorted(pair)) for pair in check_uv.overlapping_pairs(corners).tolist()} == slow


def test_a_flat_mesh_only_touches_itself_until_one_vertex_moves():
    """Shared edges and corners are no overlap, at any angle and in the coarse numbers of a file."""
    disc, quads, _ = parts.disc_grid(8)
    triangles = triangulate(quads)
    for angle in np.linspace(0, 1, 7):
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        uv = (0.5 + 0.3 * disc @ turn).astype(np.float32).astype(float)
        assert len(check_uv.overlapping_pairs(uv[triangles])) == 0
        assert check_uv.overlapping_texels(uv[triangles], 512) == 0
        uv[40] += 0.1
        assert len(check_uv.overlapping_pairs(uv[triangles])) > 0
        assert check_uv.overlapping_texels(uv[triangles], 512) > 0


def test_an_overlap_below_the_rounding_is_found():
    """The tip of one triangle is the last bit of a number inside the other."""
    edge, middle = np.array([[0.25, 0.125], [0.75, 0.875]]), np.array([0.5, 0.5])
    touching = np.array([[*edge, [0.2, 0.9]], [middle, [0.9, 0.1], [0.9, 0.5]]])
    assert len(check_uv.overlapping_pairs(touching)) == 0
    inside = touching.copy()
    inside[1, 0, 0] = np.nextafter(np.nextafter(0.5, 0.0), 0.0)
    assert len(check_uv.overlapping_pairs(inside)) == 1
    outside = touching.copy()
    outside[1, 0, 0] = np.nextafter(np.nextafter(0.5, 1.0), 1.0)
    assert len(check_uv.overlapping_pairs(outside)) == 0


def assert_good_charts(faces: np.ndarray, points: np.ndarray, height: float = 1.0) -> np.ndarray:
    uv, face_uv = atlas.packed_charts(faces, points, height)
    corners = uv[triangulate(face_uv)]
    assert uv.min() >= 0 and uv.max() <= 1
    assert len(check_uv.overlapping_pairs(corners)) == 0 and check_uv.signed_area(corners).min() > 0
    # One scale for all: the plane is the rectangle's, not the square's.
    triangles = triangulate(face_uv)
    vertex = np.zeros(len(uv), int)
    vertex[face_uv] = faces
    large, small, area = charts.stretch(points, triangulate(faces), uv * [1.0, height], triangles)
    assert np.average(large / small, weights=area) < atlas.MOST_STRETCH**2
    assert np.array_equal(vertex[face_uv], faces)
    return face_uv


def test_a_closed_surface_comes_in_several_charts():
    points, faces = parts.cube_grid(6)
    ball = points / np.linalg.norm(points, axis=1, keepdims=True)
    for height in (1.0, 2.0):
        face_uv = assert_good_charts(faces, ball, height)
        assert face_uv.max() + 1 > len(ball)


def test_quads_with_two_common_edges_are_taken_apart():
    """Vertex 1 has two quads; split from 0 to 2 both of them hold the triangle 0 1 2."""
    points = np.array([[0, 0, 0], [1, 0.5, 0.2], [2, 0, 0], [1, 2, 0], [1, -2, 0]], float)
    faces = np.array([[0, 1, 2, 3], [2, 1, 0, 4]])
    assert atlas.neighbours(faces) == [[], []]
    assert_good_charts(faces, points)


def test_a_chart_that_touches_itself_gets_two_corners_there():
    points, faces = parts.disc_grid(2)[0], parts.disc_grid(2)[1]
    face_uv, vertex = atlas.corners_of_charts(faces[[0, 3]], np.zeros(2, int))
    assert len(vertex) == 8 and (np.bincount(vertex) == 2).sum() == 1
    assert len(points) == 9 and np.array_equal(vertex[face_uv], faces[[0, 3]])


def test_packed_boxes_keep_apart():
    sizes = np.random.default_rng(2).uniform(0.1, 1.0, (17, 2))
    for height in (1.0, 2.0):
        places, width = atlas.pack(sizes, height)
        assert places.min() >= atlas.GAP * width * 0.999
        assert ((places + sizes) <= np.array([1, height]) * width - atlas.GAP * width * 0.999).all()
        for one in range(len(sizes)):
            for other in range(one):
                between = np.maximum(
                    places[one] - places[other] - sizes[other], places[other] - places[one] - sizes[one]
                )
                assert between.max() >= atlas.GAP * width * 0.999
        assert sizes.prod(axis=1).sum() > 0.4 * width * width * height


def test_remeshing_a_ball_repeats_itself():
    points, faces = parts.cube_grid(8)
    ball, triangles = points / np.linalg.norm(points, axis=1, keepdims=True), triangulate(faces)
    first, second = (remesh.remesh(ball, triangles, 60) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    vertices, quads = first
    assert quads.shape[1] == 4 and quads.max() < len(vertices)
    assert np.abs(np.linalg.norm(vertices, axis=1) - 1).max() < 0.15


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot hold a process to one core")
def test_the_cores_of_this_process_stay_as_they_are():
    before = os.sched_getaffinity(0)
    points, faces = parts.cube_grid(4)
    remesh.remesh(points, triangulate(faces), 40)
    assert os.sched_getaffinity(0) == before


def test_the_most_frequent_answer_wins():
    answers = iter([0, 1, 1, 0, 1])
    vertices, _ = remesh.most_frequent(lambda: (np.array([next(answers)]), np.array([0])), 5)
    assert vertices.tolist() == [1]
