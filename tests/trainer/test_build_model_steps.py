"""The steps of the build on small meshes made here; each against a slow and obvious twin or a known answer."""

# The check for optional packages has to stand before the imports that need them.
# ruff: noqa: E402

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import eye as identity_matrix

for package in ("igl", "pynanoinstantmeshes"):
    pytest.importorskip(package, reason=f"needs {package}, which the extra train installs")

from backend.geometry.mesh import triangulate
from trainer.build_model import bases, charts, check, layout, parts, pictures, shrinkwrap


def grid(columns: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat grid over x in [-1, 1] and y in [0, 1]: points (V, 3) and quads (F, 4), counter-clockwise from +Z."""
    x, y = np.meshgrid(np.linspace(-1, 1, columns + 1), np.linspace(0, 1, rows + 1))
    points = np.column_stack([x.ravel(), y.ravel(), 0 * x.ravel()])
    index = np.arange(len(points)).reshape(rows + 1, columns + 1)
    quads = np.stack([index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]], axis=-1).reshape(-1, 4)
    return points, quads


def grid_layout(columns: int = 6, rows: int = 4) -> tuple[layout.Layout, np.ndarray]:
    points, quads = grid(columns, rows)
    index = np.arange(len(points)).reshape(rows + 1, columns + 1)
    weights = identity_matrix(len(points), format="csr")
    return layout.Layout(quads, index[:, ::-1].ravel(), weights, np.zeros(len(quads), int)), points


def walk_chord(quads: np.ndarray, start: tuple[int, int]) -> set[frozenset]:
    """The slow twin of find_chords: follow opposite edges quad by quad."""
    found, todo = set(), [frozenset(start)]
    while todo:
        edge = todo.pop()
        if edge in found:
            continue
        found.add(edge)
        for quad in quads.tolist():
            sides = [frozenset((quad[k], quad[(k + 1) % 4])) for k in range(4)]
            todo += [sides[(k + 2) % 4] for k in range(4) if sides[k] == edge]
    return found


def test_chords_match_a_walk_over_the_quads():
    small, _ = grid_layout()
    chords = layout.find_chords(small.faces)
    for key in np.unique(chords.chord):
        edges = chords.edges[chords.chord == key]
        assert walk_chord(small.faces, tuple(edges[0])) == {frozenset(edge) for edge in edges.tolist()}
    # A grid of 6 by 4 quads has one chord per column and one per row.
    assert chords.chord.max() + 1 == 10


def test_removing_a_chord_keeps_quads_symmetry_and_weights():
    small, points = grid_layout()
    chords = layout.find_chords(small.faces)
    orbit = layout.mirror_orbits(chords, small.mirror)[chords.chord]
    # The orbit of the leftmost column is that column and the rightmost one.
    column = orbit[np.flatnonzero((np.sort(chords.edges, axis=1) == [0, 1]).all(axis=1))[0]]
    smaller = layout.remove_edges(small, chords, orbit == column)
    assert len(smaller.faces) == 4 * 4
    assert layout.is_sound(smaller.faces, holes=1)
    assert np.allclose(np.asarray(smaller.weights.sum(axis=1)), 1.0)
    moved = smaller.weights @ points
    assert np.allclose(moved[smaller.mirror], moved * [-1, 1, 1])
    assert np.array_equal(smaller.mirror[smaller.mirror], np.arange(len(moved)))


@pytest.mark.parametrize(
    "quads",
    [
        [[0, 1, 2, 2]],
        [[0, 1, 2, 3], [0, 1, 4, 5]],
        [[0, 1, 2, 3], [2, 1, 0, 4]],
    ],
    ids=["three corners", "same direction twice", "doublet"],
)
def test_unsound_quads_are_refused(quads):
    assert not layout.is_sound(np.array(quads), holes=1)


def test_symmetric_order_splits_mirrored_quads_alike():
    small, points = grid_layout()
    points = points + np.random.default_rng(0).normal(0, 0.02, points.shape)
    points = 0.5 * (points + points[small.mirror] * [-1, 1, 1])
    ordered = layout.make_symmetric(small, points)
    half = len(ordered.faces) // 2
    triangles = {frozenset(t) for t in triangulate(ordered.faces).tolist()}
    assert triangles == {frozenset(ordered.mirror[list(t)].tolist()) for t in triangles}
    diagonal = np.linalg.norm(points[ordered.faces[:half, 0]] - points[ordered.faces[:half, 2]], axis=1)
    other = np.linalg.norm(points[ordered.faces[:half, 1]] - points[ordered.faces[:half, 3]], axis=1)
    assert (diagonal <= other + 1e-12).all()


def test_rays_hit_what_arithmetic_says():
    points = np.array([[0, 0, 1], [4, 0, 1], [0, 4, 1], [0, 0, 2], [4, 0, 2], [0, 4, 2]], float)
    triangles = np.array([[0, 1, 2], [3, 4, 5]])
    origins = np.array([[1.0, 1, 0], [1, 1, 0], [9, 9, 0]])
    directions = np.array([[0.0, 0, 2], [0, 0, -1], [0, 0, 1]])
    for last, wanted, distance in ((False, 0, 0.5), (True, 1, 1.0)):
        hit, barycentric, t = shrinkwrap.cast_rays(origins, directions, points, triangles, last=last)
        assert hit.tolist() == [wanted, -1, -1]
        assert np.allclose(barycentric[0], [0.5, 0.25, 0.25])
        assert t[0] == pytest.approx(distance)


def test_closest_point_matches_a_dense_search():
    generator = np.random.default_rng(3)
    points, triangles = generator.normal(size=(9, 3)), np.arange(9).reshape(3, 3)
    targets = generator.normal(size=(20, 3))
    index, barycentric, distance = shrinkwrap.closest_on_surface(targets, points, triangles)
    share = np.linspace(0, 1, 61)
    u, v = (values.ravel() for values in np.meshgrid(share, share))
    weights = np.column_stack([1 - u - v, u, v])[u + v <= 1]
    dense = np.einsum("wk,tkc->twc", weights, points[triangles]).reshape(-1, 3)
    nearest = np.linalg.norm(targets[:, None] - dense, axis=2).min(axis=1)
    ours = np.linalg.norm(targets - np.einsum("nkc,nk->nc", points[triangles[index]], barycentric), axis=1)
    assert np.allclose(ours, distance, atol=1e-9)
    assert (ours <= nearest + 1e-9).all() and np.allclose(ours, nearest, atol=0.05)


def test_identity_modes_keep_the_gaussian():
    generator = np.random.default_rng(1)
    basis = generator.normal(size=(12, 30, 3)) * np.linspace(3, 0.1, 12)[:, None, None]
    area = generator.uniform(0.5, 2, 30)
    modes, rotation, share = bases.identity_modes(basis, area, kept=0.9)
    assert np.allclose(rotation @ rotation.T, np.eye(len(modes)))
    assert np.allclose(np.tensordot(rotation, basis, axes=1), modes, atol=1e-5)
    assert share[len(modes) - 1] >= 0.9 > share[len(modes) - 2]
    # The twin: variances of a singular value decomposition of the weighted basis.
    weighted = basis.reshape(12, -1) * np.sqrt(np.repeat(area, 3))
    expected = np.linalg.svd(weighted, compute_uv=False) ** 2
    assert np.allclose(((modes**2).sum(axis=2) @ area), expected[: len(modes)], rtol=1e-4)


def test_eyes_look_where_their_name_says():
    front = np.array([[0.03, 0.02, 0.08]])
    centre = np.array([0.03, 0.02, 0.068])
    for direction, axis, sign in (("Up", 1, 1), ("Down", 1, -1), ("Out", 0, 1), ("In", 0, -1)):
        move = bases.eye_rotation(front, centre, direction, side=1.0)
        assert np.sign(move[0, axis]) == sign
        # A rotation keeps the distance to the centre.
        assert np.linalg.norm(front + move - centre) == pytest.approx(0.012)
        other = bases.eye_rotation(front * [-1, 1, 1], centre * [-1, 1, 1], direction, side=-1.0)
        assert np.allclose(other, move * [-1, 1, 1])


def test_a_blink_that_leaves_a_slit_is_sealed():
    x = np.linspace(-0.014, 0.014, 29)
    upper = np.column_stack([x, 0.004 + 0 * x, 0 * x])
    lower = np.column_stack([x, -0.006 + 0 * x, 0 * x])
    points = np.concatenate([upper, lower])
    blink = np.zeros_like(points)
    blink[: len(x), 1] = -0.008
    corners = np.array([[-0.014, 0.0, 0.0], [0.014, 0.0, 0.0]])
    sealed = bases.seal_blink(points, blink, np.ones(len(points), bool), corners)
    closed = points + sealed
    assert (closed[: len(x), 1] < -0.006).all() and (closed[: len(x), 1] > -0.0075).all()
    assert not sealed[len(x) :].any()


def test_disc_grid_fills_the_disc_without_folds():
    points, quads, rim = parts.disc_grid(6)
    assert np.allclose(np.linalg.norm(points[rim], axis=1), 1.0)
    corners = points[triangulate(quads)]
    area = 0.5 * np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (area > 0).all()
    assert np.pi * 0.95 < area.sum() < np.pi


def test_cube_grid_is_closed_and_outward():
    points, quads = parts.cube_grid(3)
    assert (len(points), len(quads)) == (56, 54)
    corners = points[triangulate(quads)]
    volume = np.einsum("tk,tk->t", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert volume == pytest.approx(8.0)


def test_tutte_has_no_folds_and_stretch_sees_the_known_scale():
    points, quads = grid(8, 5)
    points[:, 2] = 0.4 * np.cos(2 * points[:, 0]) * points[:, 1]
    triangles = triangulate(quads)
    border = charts.boundary_loops(triangles)[0]
    flat = charts.tutte(triangles, points, border)
    _, small, _ = charts.stretch(points, triangles, flat, triangles)
    assert (small > 0).all() or (small < 0).all()
    plane, quads = grid(4, 4)
    large, small, area = charts.stretch(plane, triangulate(quads), plane[:, :2] * [6.0, 3.0], triangulate(quads))
    assert np.allclose(large / small, 2.0) and np.allclose(large * small, 1.0)
    assert area.sum() == pytest.approx(2.0)


def blob_chart() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A symmetric chart larger than the square: points, quads and border; wider than high, fuller below."""
    disc, quads, rim = parts.disc_grid(40)
    angle = np.arctan2(disc[:, 0], disc[:, 1])
    radius = 2.4 - 0.3 * np.cos(angle) - 0.2 * np.cos(2 * angle)
    return disc * radius[:, None], quads, rim


def test_squeeze_keeps_the_face_and_fills_the_square():
    flat, quads, rim = blob_chart()
    uv = charts.squeeze(flat, rim, np.zeros(2))
    _, small, _ = charts.stretch(np.column_stack([flat, 0 * flat[:, 0]]), triangulate(quads), uv, triangulate(quads))
    assert (small > 0).all()
    assert uv.min() >= charts.MARGIN - 1e-9 and uv.max() <= 1 - charts.MARGIN + 1e-9
    # Full size near the middle: one number turns differences before into differences after.
    near = np.linalg.norm(flat, axis=1) < charts.FACE_RADIUS
    middle = uv[near].mean(axis=0) - flat[near].mean(axis=0) * charts.FACE_REACH / charts.FACE_RADIUS
    assert np.allclose(uv[near] - middle, flat[near] * charts.FACE_REACH / charts.FACE_RADIUS, atol=1e-3)
    # The border lies on the rim, where its radius is exactly a sum of cosines.
    angle = np.arctan2(*(uv[rim] - middle).T)
    assert np.allclose(np.linalg.norm(uv[rim] - middle, axis=1), charts.rim_distance(angle), atol=2e-3)
    mirrored = charts.squeeze(flat * [-1, 1], rim, np.zeros(2))
    assert np.allclose(mirrored, [1, 0] + uv * [-1, 1], atol=1e-12)


def test_squeezed_steps_shrink_outward():
    flat, _, rim = blob_chart()
    line = np.column_stack([np.linspace(0, 2.5, 200), np.zeros(200)])
    uv = charts.squeeze(np.vstack([flat, line]), rim, np.zeros(2))[len(flat) :, 0]
    step = np.diff(uv)
    assert (step > 0).all() and (np.diff(step) < 1e-9).all()
    assert step[0] > 3 * step[-1]


def test_log_bend_solves_its_equation():
    length, wanted = np.array([1.5, 0.7, 2.0, 1.0]), np.array([0.4, 0.6, 0.1, 3.0])
    bend = charts.log_bend(length, wanted)
    assert np.allclose(np.log1p(bend * length)[:3] / bend[:3], wanted[:3], atol=1e-9)
    # Nothing is drawn larger than it is.
    assert np.log1p(bend[3] * length[3]) / bend[3] == pytest.approx(1.0, abs=1e-5)


def test_hidden_sky_of_a_pit_and_a_hill():
    # A plate with a pit: four times as deep as wide, open at the top.
    cube, quads = parts.cube_grid(4)
    pit = quads[(cube[quads][:, :, 2] < 1).any(axis=1)][:, ::-1]
    inner = pictures.hidden_sky(cube * [1, 1, 4], triangulate(pit))
    outer = pictures.hidden_sky(cube * [1, 1, 4], triangulate(quads))
    bottom = (cube == [0, 0, -1]).all(axis=1)
    # Seen from the bottom's middle the opening, 2 by 2 at height 8, is a small part of the half space.
    assert inner[bottom] > 0.85 and outer.max() < 0.02


def test_crossing_pairs_counts_what_cuts_through():
    points = np.array(
        [[-1, -1, 0], [1, -1, 0], [0, 1, 0], [0, 0, -1], [0.1, 0, 1], [0, 0.2, 1], [5, 5, 5], [6, 5, 5], [5, 6, 5]],
        float,
    )
    triangles = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    assert check.crossing_pairs(points, triangles) == 1
    assert check.crossing_pairs(points, triangles[[0, 2]]) == 0


def test_pictures_draw_quads_without_their_diagonals():
    small, points = grid_layout(2, 1)
    real = pictures.drawn_edges(small.faces)
    triangles = triangulate(small.faces)
    sides = [[(t[1], t[2]), (t[2], t[0]), (t[0], t[1])] for t in triangles.tolist()]
    drawn = {frozenset(side) for row, flags in zip(sides, real) for side, flag in zip(row, flags) if flag}
    loops = np.stack([small.faces, np.roll(small.faces, -1, axis=1)], axis=2).reshape(-1, 2)
    assert drawn == {frozenset(edge) for edge in loops.tolist()}
    assert len(points) == 6


def test_visible_triangles_leave_out_what_lies_behind():
    square = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], float) * 0.05
    points = np.concatenate([square, square * 0.1 - [0, 0, 0.001]])
    triangles = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    assert pictures.visible_triangles(points, triangles, 300).tolist() == [True, True, False, False]
